"""Running npm to put a package into a golden: the operator's own npm with the operator's network
configuration, but none of the package's code.

Install scripts are ignored here (``--ignore-scripts``): they run later, inside a box that has no
network and no secret. npm itself runs as the user of the hub, because only that user's npm
configuration (mirror, certificates, credentials of a private registry) is known to work.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import signal
from collections.abc import Mapping
from pathlib import Path

from thopter.model.errors import ProviderError, TimedOut
from thopter.model.sockets import GoldenPart

_KEPT = re.compile(
    r"HOME|PATH|LANG|LC_\w+|(https?|all|no)_proxy|SSL_CERT_(FILE|DIR)|NODE_EXTRA_CA_CERTS|npm_config_\w+",
    re.IGNORECASE,
)
_LIMIT_S = 900.0
_LAST_LINES = 6
_NEEDED_BYTES = 1 << 30
_USERINFO = re.compile(r"//[^/@\s]+@")


def find_npm() -> str:
    """The npm of this machine, or ProviderError that says how to get one."""
    found = shutil.which("npm")
    for name, path in (("npm", found), ("node", shutil.which("node"))):  # npm is a script for node
        if path is None:
            raise ProviderError(
                f"there is no {name} on this machine", hint="install nodejs and npm (apt install npm)"
            )
    assert found is not None
    return found


def clean_env(env: Mapping[str, str]) -> dict[str, str]:
    """What npm may see of the environment: where programs are and how to reach the network."""
    return {k: v for k, v in env.items() if _KEPT.fullmatch(k)}


async def install(part: GoldenPart, prefix: Path, env: Mapping[str, str] | None = None) -> None:
    """Install ``part`` below the new folder ``prefix``, so that ``prefix/bin`` has its commands.

    Raises ProviderError with npm's last words, TimedOut after 15 minutes. Cancelled = npm is killed.
    """
    free = shutil.disk_usage(prefix.parent).free
    if free < _NEEDED_BYTES:
        raise ProviderError(
            f"only {free >> 20} MiB are free for {part.name}", hint=f"free at least {_NEEDED_BYTES >> 20} MiB"
        )
    argv = [
        find_npm(), "install", "--global", "--prefix", str(prefix), "--ignore-scripts", "--no-fund",
        "--no-audit", "--no-update-notifier", "--loglevel=error", "--", f"{part.npm}@{part.version}",
    ]  # fmt: skip
    code, said = await _run(argv, clean_env(os.environ if env is None else env), prefix.parent)
    if code == 0:
        return
    words = _USERINFO.sub("//", said)
    if "ENOSPC" in words:
        raise ProviderError(f"no space left while npm installed {part.npm}", hint="free some disk space")
    lines = [line for line in words.splitlines() if line.strip() and "complete log" not in line]
    raise ProviderError(
        f"npm could not install {part.npm}@{part.version}: " + " / ".join(lines[-_LAST_LINES:]),
        hint="check the network and 'npm config list', then try again",
    )


async def _run(argv: list[str], env: dict[str, str], cwd: Path) -> tuple[int, str]:
    process = await asyncio.create_subprocess_exec(
        *argv, env=env, cwd=cwd, start_new_session=True, stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    try:
        async with asyncio.timeout(_LIMIT_S):
            said, _ = await process.communicate()
    except BaseException as e:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
        if isinstance(e, TimeoutError):
            raise TimedOut(f"npm took more than {_LIMIT_S / 60:.0f} minutes") from None
        raise
    return process.returncode or 0, said[-16384:].decode("utf-8", "replace")
