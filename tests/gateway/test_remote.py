"""Mirrors of repositories elsewhere: real https with a password, ssh, and plain words when it fails."""

from __future__ import annotations

import base64
import contextlib
import http.server
import os
import shlex
import ssl
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from gateway_support import commit, git, in_loop, make_repo
from test_model_gateway import make_certificate

from thopter.gateway.mirror import Mirrors
from thopter.model.errors import NotAllowed, NotFound, Refused, ThopterError

TOKEN = "ghp-canary-token-41"


class _Server(http.server.BaseHTTPRequestHandler):
    """Real ``git http-backend`` behind basic authentication."""

    root: Path
    asked: list[str]

    def do_GET(self) -> None:
        self._serve()

    def do_POST(self) -> None:
        self._serve()

    def log_message(self, *_args: Any) -> None:
        pass

    def _serve(self) -> None:
        self.asked.append(self.path)
        if self.headers.get("Authorization") != "Basic " + base64.b64encode(f"me:{TOKEN}".encode()).decode():
            self.send_response(401)
            self.send_header("WWW-Authenticate", 'Basic realm="x"')
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        path, _, query = self.path.partition("?")
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        env = {"PATH": os.environ["PATH"], "GIT_PROJECT_ROOT": str(self.root), "GIT_HTTP_EXPORT_ALL": "1"}
        env |= {"PATH_INFO": path, "QUERY_STRING": query, "REQUEST_METHOD": self.command}
        env |= {"CONTENT_TYPE": self.headers.get("Content-Type") or "", "HOME": "/nonexistent"}
        env |= {"GIT_PROTOCOL": self.headers.get("Git-Protocol") or ""}
        env |= {
            "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding") or "",
            "CONTENT_LENGTH": str(len(body)),
        }
        done = subprocess.run(["git", "http-backend"], input=body, env=env, capture_output=True, check=False)
        head, _, answer = done.stdout.partition(b"\r\n\r\n")
        status = 200
        for line in head.decode().split("\r\n"):
            if line.lower().startswith("status:"):
                status = int(line.split()[1])
        self.send_response(status)
        for line in head.decode().split("\r\n"):
            if line and not line.lower().startswith("status:"):
                self.send_header(*(part.strip() for part in line.split(":", 1)))  # type: ignore[arg-type]
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)


@contextlib.contextmanager
def https_server(root: Path, folder: Path) -> Iterator[tuple[int, Path, list[str]]]:
    """Serve the repositories below ``root``; yields port, the CA file and the list of paths asked."""
    cert, key = make_certificate(folder)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    kind = type("Server", (_Server,), {"root": root, "asked": []})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), kind) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield server.server_address[1], cert, kind.asked  # type: ignore[attr-defined]
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.battery("G10")
@in_loop
async def test_a_private_https_repository_is_read_with_the_users_own_login_which_stays_out_of_the_mirror(
    tmp_path: Path,
) -> None:
    work, home = tmp_path / "work", tmp_path / "home"
    home.mkdir()
    make_repo(work, branch="trunk")
    commit(work, "second")
    (tmp_path / "served").mkdir()
    git("clone", "-q", "--bare", str(work), str(tmp_path / "served" / "app.git"))
    with https_server(tmp_path / "served", tmp_path) as (port, ca, asked):
        url = f"https://localhost:{port}/app.git"
        helper = f"!f() {{ echo username=me; echo password={TOKEN}; }}; f"
        for key, value in (("http.sslCAInfo", str(ca)), ("credential.helper", helper)):
            git("config", "--file", str(home / ".gitconfig"), "--add", key, value)
        m = Mirrors(tmp_path / "mirrors", {"HOME": str(home)})
        ref, dirty = await m.prepare(url)
        assert (ref.branch, dirty, ref.source) == ("trunk", 0, url)
        assert ref.base == git("rev-parse", "HEAD", cwd=work).strip()
        new = commit(work, "third")
        git("push", "-q", str(tmp_path / "served" / "app.git"), "trunk", cwd=work)
        assert (await m.prepare(url, "trunk"))[0].base == new
        with pytest.raises(NotFound, match="no branch 'nope'"):
            await m.prepare(url, "nope")
        with pytest.raises(NotFound):
            await m.prepare(f"https://localhost:{port}/missing.git")
        stranger = Mirrors(tmp_path / "mirrors2", {"HOME": str(tmp_path)})
        (tmp_path / ".gitconfig").write_text(f"[http]\n\tsslCAInfo = {ca}\n[credential]\n\thelper =\n")
        with pytest.raises(NotAllowed) as caught:
            await stranger.prepare(url)
        assert "credential helper" in caught.value.hint
        assert all(path.startswith(("/app.git", "/missing.git")) for path in asked)
    everything = b"".join(p.read_bytes() for p in (tmp_path / "mirrors").rglob("*") if p.is_file())
    assert TOKEN.encode() not in everything and b"Written by thopter" in everything
    assert [p.name for p in (tmp_path / "mirrors").glob(".git-*")] == []


@in_loop
async def test_an_untrusted_certificate_and_a_dead_host_are_said_plainly(tmp_path: Path) -> None:
    make_repo(tmp_path / "served" / "r")
    m = Mirrors(tmp_path / "mirrors", {"HOME": str(tmp_path)})
    with https_server(tmp_path / "served", tmp_path) as (port, _ca, asked):
        with pytest.raises(Refused, match="certificate"):
            await m.prepare(f"https://localhost:{port}/r")
        assert asked == []
    with pytest.raises((Refused, ThopterError), match=r"refused|connect"):
        await m.prepare(f"https://localhost:{port}/r")
    with pytest.raises(ThopterError, match="resolve"):
        await m.prepare("https://no-such-host.invalid/r")
    assert [p.name for p in m.folder.iterdir() if not p.name.endswith(".lock")] == []


@in_loop
async def test_an_ssh_repository_is_read_by_the_users_ssh_command_without_a_question(tmp_path: Path) -> None:
    work, home = tmp_path / "it's work", tmp_path / "home"
    home.mkdir()
    head = make_repo(work)
    script, seen = tmp_path / "ssh", tmp_path / "seen"
    script.write_text(
        f'#!/bin/sh\necho "$@" >> {shlex.quote(str(seen))}\nfor last; do :; done\nexec sh -c "$last"\n'
    )
    script.chmod(0o755)
    git("config", "--file", str(home / ".gitconfig"), "core.sshCommand", str(script))
    m = Mirrors(tmp_path / "mirrors", {"HOME": str(home)})
    ref, _ = await m.prepare(f"git@host.test:{work}")
    assert (ref.branch, ref.base) == ("main", head)
    told = seen.read_text()
    assert "-oBatchMode=yes" in told and "git@host.test" in told and "git-upload-pack" in told
    script.write_text("#!/bin/sh\necho 'git@host.test: Permission denied (publickey).' >&2\nexit 255\n")
    with pytest.raises(NotAllowed, match="Permission denied") as caught:
        await m.prepare(f"git@host.test:{work}")
    assert "ssh-add" in caught.value.hint
