"""A secret bound to a host, end to end: tools in a real box use it, and it is nowhere it must not be."""

from __future__ import annotations

import base64
import gzip
import http.server
import os
import secrets
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from canary_hunt import Hunt, processes_with
from e2e_lab import Lab, lab

from thopter.gateway.egress.authority import Mint, make_authority
from thopter.mesh.client import HubClient

HOST, ELSEWHERE = "127.0.0.2", "127.0.0.3"
CANARY = "cnry-" + secrets.token_urlsafe(24)


class Site:
    """A TLS server that repeats what it is asked, as careless ones do."""

    def __init__(self, host: str, context: ssl.SSLContext) -> None:
        self.asked: list[tuple[str, str, dict[str, str]]] = []
        site = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                site.asked.append((self.command, self.path, {k.lower(): v for k, v in self.headers.items()}))
                body = str(self.headers).encode()
                away = self.path.startswith("/away")
                self.send_response(302 if away else 200)
                if away:
                    self.send_header("location", f"https://{ELSEWHERE}:{self.path.rpartition('=')[2]}/taken")
                self.send_header("x-echo", self.headers.get("authorization", "-"))
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            do_POST = do_GET

            def log_message(self, *args: Any) -> None:
                return

        class Server(http.server.ThreadingHTTPServer):
            def get_request(self) -> Any:
                sock, peer = super().get_request()
                return context.wrap_socket(sock, server_side=True), peer

            def handle_error(self, *args: Any) -> None:
                return

        self.server = Server((host, 0), Handler)
        self.port = self.server.server_address[1]
        self.url = f"https://{host}:{self.port}"
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.05})
        self.thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


class World:
    def __init__(self, made: Lab, site: Site, elsewhere: Site) -> None:
        self.lab, self.site, self.elsewhere = made, site, elsewhere

    def curl(self, *argv: str) -> str:
        return str(self.lab.run("exec", "nemo", "--", "curl", "-sS", "-m", "60", *argv).stdout)


@pytest.fixture(scope="module")
def w() -> Iterator[World]:
    with lab() as made:
        cert, key = make_authority("test servers", time.time())
        mint = Mint(cert, key)
        trust = made.folder / "trust.pem"
        trust.write_text(cert)
        made.env |= {"SSL_CERT_FILE": str(trust), "THOPTER_SECRETS_BACKEND": "file"}
        sites = [Site(h, mint.context(h, time.time())) for h in (HOST, ELSEWHERE)]
        found = World(made, *sites)
        config = made.folder / "config"
        config.mkdir(exist_ok=True, mode=0o700)
        text = '# ours\n[policies.default]\nextends = "default"\n[[policies.default.hosts]]\ninspect = true\n'
        text += f'host = "{ELSEWHERE}"\nports = [{sites[1].port}]\naddresses = ["127.0.0.0/8"]\n'
        (config / "policy.toml").write_text(text)
        try:
            made.run("secrets", "set", "tracker.token", stdin=CANARY)
            where = ("--host", f"{HOST}:{found.site.port}", "--address", "127.0.0.0/8")
            said = made.run("secrets", "bind", "tracker.token", *where, "--path", "/api/*", "--path", "/away")
            assert "for boxes of policy default" in said.stdout
            made.run("run", "--name", "nemo", "-d", "say hello")
            made.rest("nemo")
            yield found
        finally:
            for site in sites:
                site.close()


def events(w: World, kind: str = "") -> list[dict[str, Any]]:
    """What the hub tells, until it has been silent for a while."""
    found: list[dict[str, Any]] = []
    silent = 0
    with HubClient(w.lab.paths.hub_socket) as client:
        for event in client.events(after=0, kinds=kind, tick=0.5):
            silent = 0 if event else silent + 1
            if silent > 3:
                break
            if event is not None:
                found.append(msgspec.to_builtins(event))
    return found


@pytest.mark.battery("E11")
def test_a_tool_in_the_box_uses_the_secret_by_its_placeholder_and_never_sees_it(w: World) -> None:
    held = w.lab.run("exec", "nemo", "--", "sh", "-lc", "echo $TRACKER_TOKEN").stdout.strip()
    assert held == "thopter-secret-tracker.token"
    said = w.curl("-i", "-H", f"Authorization: Bearer {held}", f"{w.site.url}/api/issues")
    assert w.site.asked[-1][2]["authorization"] == f"Bearer {CANARY}", "the control: the far side has got it"
    assert CANARY not in said and CANARY[4:] not in said and "Bearer ****" in said
    assert "thopter: that path" in w.curl(f"{w.site.url}/other")
    event = w.lab.until("its use is an event", lambda: events(w, "secret.used"), 60)[0]
    assert event["data"]["secret"] == event["data"]["credential"] == "tracker.token"
    assert (event["data"]["host"], event["data"]["name"]) == (HOST, "nemo")


@pytest.mark.battery("E11", "E13")
def test_it_goes_nowhere_else_not_even_by_a_redirect(w: World) -> None:
    before = len(w.elsewhere.asked)
    w.curl(
        "-L",
        "--location-trusted",
        "-H",
        "Authorization: Bearer mine",
        f"{w.site.url}/away?to={w.elsewhere.port}",
    )
    w.curl("-H", "Authorization: Bearer thopter-secret-tracker.token", f"{w.elsewhere.url}/direct")
    assert [p for _, p, _ in w.elsewhere.asked[before:]] == ["/taken", "/direct"]
    assert all("authorization" not in h and CANARY not in str(h) for _, _, h in w.elsewhere.asked[before:])
    assert any(p.startswith("/away") and h["authorization"] == f"Bearer {CANARY}" for _, p, h in w.site.asked)


def test_what_is_listed_names_bindings_and_masks_them(w: World) -> None:
    shown = w.lab.run("secrets", "list").stdout
    assert "tracker.token" in shown and "authorization: Bearer ****" in shown and "$TRACKER_TOKEN" in shown
    found = next(s for s in w.lab.json("secrets", "list") if s["name"] == "tracker.token")
    assert found["stored"] and found["bindings"][0]["host"] == HOST
    assert (w.lab.folder / "config/policy.toml").read_text().startswith("# ours\n")


@pytest.mark.battery("E11", "H17")
def test_the_secret_is_nowhere_but_in_its_file_and_at_the_far_side(w: World, tmp_path: Path) -> None:
    w.curl(f"{w.site.url}/api/again")
    hunt = Hunt(CANARY, base64.b64encode(CANARY.encode()).decode().rstrip("="))
    w.lab.run("snapshot", "create", "nemo", "saved")
    w.lab.run("snapshot", "export", "saved", str(tmp_path / "saved.out"))
    raw = (tmp_path / "saved.out").read_bytes()
    hunt.bytes("the snapshot's export", gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw)
    secret_file = w.lab.folder / "config/secrets.json"
    goldens = w.lab.paths.state / "goldens"  # shared with other labs, and made before there was a secret
    hunt.tree(w.lab.folder, secret_file, goldens)
    family = processes_with(os.fsencode(w.lab.folder))
    boxed = processes_with(b"THOPTER_NAME=nemo")
    assert w.lab.hub_pid() in family and len(family) >= 4
    for pid in family:
        hunt.process(pid, memory=False)
    for pid in boxed:
        hunt.process(pid, memory=True)
    for place in ("tmp", "run", "dev/shm", "root", "var/tmp", "var/log", "etc", "work"):
        hunt.tree(Path(f"/proc/{boxed[0]}/root/{place}"))
    for argv in (("logs", "nemo"), ("hub", "logs"), ("status", "nemo", "--json"), ("egress", "nemo", "--all"),
                 ("policy", "show", "default"), ("doctor",)):  # fmt: skip
        done = w.lab.run(*argv, check=False)
        hunt.bytes(" ".join(argv), (done.stdout + done.stderr).encode())
    hunt.bytes("the events", str(events(w)).encode())
    assert hunt.hits == [], hunt.hits
    assert hunt.looked > 10 << 20, "there was something to look at"
    print(f"secrets found: 0 in {hunt.looked} bytes; {len(family)} processes, {len(boxed)} of the box")
    assert CANARY in secret_file.read_text(), "the control: the hunt's word is the right one"
    other = "cnry-" + secrets.token_urlsafe(24)
    with subprocess.Popen(["sleep", "600"], env={"PATH": os.environ["PATH"], "X": other}) as careless:
        found = Hunt(other)
        found.process(careless.pid, memory=True)
        careless.kill()
    assert found.hits == [f"/proc/{careless.pid}/environ", f"memory of {careless.pid}"], "the hunt sees them"
    control = Hunt(CANARY)
    control.tree(w.lab.folder, goldens)
    assert control.hits == [str(secret_file)]
    assert secret_file.stat().st_mode & 0o777 == 0o600


def test_rotation_counts_from_the_next_request_and_removal_at_once(w: World) -> None:
    fresh = "cnry-" + secrets.token_urlsafe(24)
    w.lab.run("secrets", "set", "tracker.token", stdin=fresh)
    said = w.curl(f"{w.site.url}/api/rotated")
    assert w.site.asked[-1][2]["authorization"] == f"Bearer {fresh}"
    assert fresh not in said
    w.lab.kill_hub()  # the gateway outlives it, with the secret
    w.lab.run("secrets", "delete", "tracker.token")
    count = len(w.site.asked)
    assert "has no secret" in w.curl(f"{w.site.url}/api/deleted")
    assert len(w.site.asked) == count
    w.lab.run("secrets", "set", "tracker.token", stdin=fresh)
    w.curl(f"{w.site.url}/api/back")
    assert w.site.asked[-1][1] == "/api/back"
    w.lab.run("secrets", "unbind", "tracker.token")
    done = w.lab.run("exec", "nemo", "--", "curl", "-sS", f"{w.site.url}/api/unbound", check=False)
    assert (done.returncode != 0, "403" in done.stderr) == (True, True)
    assert w.site.asked[-1][1] == "/api/back"
    done = w.lab.run("secrets", "unbind", "tracker.token", check=False)
    assert (done.returncode, "bound nowhere" in done.stderr) == (3, True)
