"""How tools in a box find the way out: variables, apt's configuration, and whom they trust.

The model, the hooks and the repository stay direct: they are on loopback. The hub's certificate is
trusted only in boxes whose policy opens TLS. A box that shares the machine's network and files
(isolation ``none``) is left as it is: nothing could hold it to a policy.
"""

from __future__ import annotations

from typing import Any

from thopter.kit.channel import BoxLink
from thopter.model.errors import ProviderError
from thopter.model.nouns import Box, Isolation
from thopter.model.sockets import FileSpec

EGRESS_PORT = 8403
PROXY = f"http://127.0.0.1:{EGRESS_PORT}"
CA_FILE = "/etc/thopter/hub-ca.pem"
BUNDLE_FILE = "/etc/thopter/ca-bundle.pem"
_DIRECT = "localhost,127.0.0.1,::1"
_PROXIES = ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
_BUNDLES = (
    "SSL_CERT_FILE", "CURL_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "PIP_CERT", "GIT_SSL_CAINFO",
    "CARGO_HTTP_CAINFO", "AWS_CA_BUNDLE", "npm_config_cafile",
)  # fmt: skip

# Run in the box: what the system trusts, and the hub.
_BUNDLE = """
for f in /etc/ssl/certs/ca-certificates.crt /etc/pki/tls/certs/ca-bundle.crt /etc/ssl/cert.pem; do
  [ -s "$f" ] && { cat "$f"; echo; break; }
done > "$2.new"
cat "$1" >> "$2.new" && chmod 644 "$2.new" && mv "$2.new" "$2"
"""


def chosen(box: Box) -> dict[str, Any]:
    """The policy that was chosen for a box: ``name``, ``why``, ``ca`` (it opens TLS), and ``env``, the
    placeholders of the secrets that may be used."""
    found = box.memory.get("policy")
    return dict(found) if isinstance(found, dict) else {}


def shares_the_machine(box: Box) -> bool:
    """Whether the box has no network of its own."""
    return box.isolation is Isolation.NONE


def variables(box: Box) -> dict[str, str]:
    """What every process of the box gets."""
    if shares_the_machine(box):
        return {}
    found = {name: PROXY for name in _PROXIES} | {"no_proxy": _DIRECT, "NO_PROXY": _DIRECT}
    found |= {str(k): str(v) for k, v in (chosen(box).get("env") or {}).items()}
    if chosen(box).get("ca"):
        found |= {name: BUNDLE_FILE for name in _BUNDLES} | {"NODE_EXTRA_CA_CERTS": CA_FILE}
    return found


def files(box: Box, ca: str) -> list[FileSpec]:
    """Configuration of what does not read variables, and the variables for login shells."""
    apt = [f'Acquire::{s}::Proxy "{PROXY}";' for s in ("http", "https")]
    apt += [f'Acquire::{s}::Proxy::127.0.0.1 "DIRECT";' for s in ("http", "https")]
    shell = [f"export {name}='{value}'" for name, value in variables(box).items()]
    found = []
    if chosen(box).get("ca"):
        apt.append(f'Acquire::https::CAInfo "{BUNDLE_FILE}";')
        found.append(FileSpec(path=CA_FILE, content=ca.encode(), mode=0o644))
    found.append(_text("/etc/apt/apt.conf.d/90thopter", apt))
    found.append(_text("/etc/profile.d/thopter-egress.sh", shell))
    return found


def _text(path: str, lines: list[str]) -> FileSpec:
    return FileSpec(path=path, content=("\n".join(lines) + "\n").encode(), mode=0o644)


async def install(link: BoxLink, box: Box, ca: str) -> None:
    """Put all that into the box; doing it twice is doing it once."""
    if shares_the_machine(box):
        return
    for file in files(box, ca):
        await link.put(file.path, file.content, mode=file.mode)
    if chosen(box).get("ca"):
        done = await link.exec(["/bin/sh", "-c", _BUNDLE, "sh", CA_FILE, BUNDLE_FILE], cwd="/", timeout=60.0)
        if done.exit != 0:
            raise ProviderError("the box's bundle of certificates could not be written")
