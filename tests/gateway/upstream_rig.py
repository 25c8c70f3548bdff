"""Real upstreams for pushes: git http-backend behind TLS and a password, that can misbehave, and an sshd."""

from __future__ import annotations

import base64
import contextlib
import http.server
import os
import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gateway_support import commit, git, make_repo, until
from test_model_gateway import make_certificate

from thopter.gateway.mirror import Mirrors
from thopter.gateway.upstream import Upstreams

TOKEN = "canary-" + "4f6d1b" * 6
NAME = "flag"
REF = f"refs/heads/thopter/{NAME}"


class Handler(http.server.BaseHTTPRequestHandler):
    """``mode``: "" serves; a number answers that; ``redirect`` leads elsewhere; ``cut`` closes early."""

    root: Path
    mode: str
    tokens: set[str]
    asked: list[str]
    given: list[str]
    seen: list[str]

    def do_GET(self) -> None:
        self._serve()

    def do_POST(self) -> None:
        self._serve()

    def log_message(self, *_args: Any) -> None:
        pass

    def may_pass(self, auth: str) -> bool:
        """Whether git's request comes with a password that is good for it."""
        return auth.removeprefix("Basic ") in type(self).tokens

    def _plain(self, status: int, *headers: tuple[str, str]) -> None:
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _serve(self) -> None:
        kind = type(self)
        kind.asked.append(self.path)
        auth = self.headers.get("Authorization") or ""
        if auth:
            kind.given.append(base64.b64decode(auth.removeprefix("Basic ")).decode())
            kind.seen += secret_in_processes(kind.given[-1].partition(":")[2])
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if kind.mode.isdecimal():
            return self._plain(int(kind.mode), ("WWW-Authenticate", 'Basic realm="x"'))
        if kind.mode == "redirect":
            return self._plain(
                302, ("Location", f"https://localhost:{self.server.server_port}/evil{self.path}")
            )
        if not self.may_pass(auth):
            return self._plain(401, ("WWW-Authenticate", 'Basic realm="x"'))
        path, _, query = self.path.partition("?")
        env = {"PATH": os.environ["PATH"], "GIT_PROJECT_ROOT": str(self.root), "GIT_HTTP_EXPORT_ALL": "1"}
        env |= {"PATH_INFO": path, "QUERY_STRING": query, "REQUEST_METHOD": self.command, "REMOTE_USER": "x"}
        env |= {"CONTENT_TYPE": self.headers.get("Content-Type") or "", "HOME": "/nonexistent"}
        env |= {"GIT_PROTOCOL": self.headers.get("Git-Protocol") or "", "CONTENT_LENGTH": str(len(body))}
        env |= {"HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding") or ""}
        done = subprocess.run(["git", "http-backend"], input=body, env=env, capture_output=True, check=False)
        head, _, answer = done.stdout.partition(b"\r\n\r\n")
        lines = [line for line in head.decode().split("\r\n") if line]
        status = next((int(x.split()[1]) for x in lines if x.lower().startswith("status:")), 200)
        self.send_response(status)
        for line in lines:
            if not line.lower().startswith("status:"):
                name, _, value = line.partition(":")
                self.send_header(name, value.strip())
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        if kind.mode == "cut" and self.command == "POST":
            self.wfile.flush()
            self.connection.close()
            return None
        self.wfile.write(answer)
        return None


def secret_in_processes(secret: str) -> list[str]:
    """Arguments and environments, of every process but our own, that hold ``secret``."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        if entry.name == str(os.getpid()):
            continue
        for name in ("cmdline", "environ"):
            with contextlib.suppress(OSError):
                if secret.encode() in (entry / name).read_bytes():
                    found.append(f"{entry.name}/{name}")
    return found


def basic(user: str, password: str) -> str:
    return base64.b64encode(f"{user}:{password}".encode()).decode()


@contextlib.contextmanager
def https(
    root: Path, folder: Path, handler: type[Handler] = Handler, more: dict[str, Any] | None = None
) -> Iterator[tuple[str, Path, type[Handler]]]:
    """Serve the repositories below ``root``; yields the address, the CA's file and what was seen."""
    cert, key = make_certificate(folder)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    fresh: dict[str, Any] = {"root": root, "mode": "", "asked": [], "given": [], "seen": []}
    fresh |= {"tokens": {basic("x-access-token", TOKEN)}} | (more or {})
    kind = type("Server", (handler,), fresh)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), kind) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"https://localhost:{server.server_address[1]}", cert, kind
        finally:
            server.shutdown()
            thread.join()


@contextlib.contextmanager
def sshd(folder: Path) -> Iterator[tuple[int, Path]]:
    """A real sshd on loopback for our own user; yields its port and the client's configuration."""
    folder.mkdir()
    for name in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)], check=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    lines = [f"Port {port}", "ListenAddress 127.0.0.1", f"HostKey {folder}/host", f"PidFile {folder}/pid"]
    lines += [f"AuthorizedKeysFile {folder}/user.pub", "StrictModes no", "UsePAM no", "PermitRootLogin yes"]
    (folder / "sshd_config").write_text("\n".join(lines) + "\n")
    host_key = (folder / "host.pub").read_text().split()[:2]
    (folder / "known").write_text(f"[127.0.0.1]:{port} {' '.join(host_key)}\n")
    client = folder / "config"
    client.write_text(f"IdentityFile {folder}/user\nIdentitiesOnly yes\nUserKnownHostsFile {folder}/known\n")
    if os.getuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)
    program = shutil.which("sshd", path=os.pathsep.join((os.environ["PATH"], "/usr/sbin")))
    assert program, "./dev setup installs one"
    with (folder / "log").open("w") as log:
        process = subprocess.Popen([program, "-D", "-e", "-f", str(folder / "sshd_config")], stderr=log)
    try:
        until(lambda: _listens(port), 30)
        yield port, client
    finally:
        process.terminate()
        process.wait()


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except ConnectionRefusedError:
        return False
    return True


class Rig:
    """A bare upstream with one commit on main, its mirror, and commits ``a`` and ``b`` in the mirror."""

    def __init__(self, root: Path) -> None:
        self.root = root
        work = root / "work"
        make_repo(work)
        self.bare = root / "up" / "proj.git"
        git("clone", "-q", "--bare", str(work), str(self.bare))
        git("config", "http.receivepack", "true", cwd=self.bare)
        self.updates = root / "updates"
        self.hook("post-receive", f"cat >> {self.updates}")
        self.work = work
        self.slug = ""
        self.base = git("rev-parse", "HEAD", cwd=work).strip()

    def hook(self, name: str, script: str) -> None:
        path = self.bare / "hooks" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    def moves(self) -> list[str]:
        """Every update of a ref upstream, oldest first: ``old new ref``."""
        return self.updates.read_text().splitlines() if self.updates.exists() else []

    async def mirrored(self, env: dict[str, str] | None = None) -> Path:
        """Make the mirror from the bare repository itself, with two commits more in it than upstream has."""
        mirrors = Mirrors(self.root / "mirrors", env or {})
        ref, _ = await mirrors.prepare(str(self.bare))
        self.slug = ref.slug
        self.a = commit(self.work, "a", a="a")
        self.b = commit(self.work, "b", b="b")
        kept = f"{self.b}:refs/dropped/x/{self.b}"
        git("push", "-q", str(mirrors.path(ref.slug)), kept, cwd=self.work)
        return mirrors.path(ref.slug)

    def upstreams(self, env: dict[str, str] | None = None, password: str | None = None) -> Upstreams:
        return Upstreams(self.root / "mirrors", self.root / "notes", lambda _p, _s: password, env or {})

    def at(self) -> str:
        """Where the branch is upstream."""
        return git("rev-parse", "--verify", "-q", REF, cwd=self.bare, ok=None).strip()
