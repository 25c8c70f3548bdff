"""Logging the page in: links, cookie and key, roles, ends; and what is no authority at all."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from hub_support import HubProcess, Raw, hub_process, short_folder, wait_for
from test_hub_doors import WRONG_SITES, each_route, path_of
from test_hub_tokens import Hand, socket_of, ticket
from websockets.exceptions import ConnectionClosed

from thopter.fleet.page_sessions import PageSessions
from thopter.hub.holders import ADMIN, ALL_SCOPES, APPROVE, OPERATE, READ
from thopter.hub.routes import Route
from thopter.hub.sessions import IDLE_MS, LIFE_MS, LOGIN, ORIGIN_KEY, ROLES, Sessions, cookie_name, set_cookie
from thopter.kit.clock import SystemClock
from thopter.store.store import Store

PHONE = "Mozilla/5.0 (Linux; Android 15) AppleWebKit/537.36 Chrome/140.0 Mobile Safari/537.36"


_CLOSED_LATER = contextlib.ExitStack()


@pytest.fixture(autouse=True, scope="module")
def closed() -> Iterator[None]:
    """The browsers' connections end with their tests."""
    yield
    _CLOSED_LATER.close()
    _PAGES.clear()


class Browser:
    """A page that is logged in: what its browser sends."""

    def __init__(self, hub: HubProcess, role: str = "admin", **login: Any) -> None:
        self.hub = hub
        made = hub.post("/v1/sessions/links", {"role": role})
        self.host = hub.tcp.removeprefix("http://")
        self.client = _CLOSED_LATER.enter_context(httpx2.Client(base_url=hub.tcp, verify=False, timeout=60))
        assert made.status_code == 201, made.text
        self.link = made.json()
        self.code = self.link["url"].partition("#")[2]
        self.answer = self.log_in(self.code, **login)
        assert self.answer.status_code == 201, self.answer.text
        self.key = self.answer.json()["key"]
        self.id = self.answer.json()["session"]["id"]
        self.cookie = self.answer.headers["set-cookie"].partition(";")[0]

    def log_in(self, code: str, device: str = "", **headers: str) -> httpx2.Response:
        sent = {"Origin": self.hub.tcp, "Sec-Fetch-Site": "same-origin", "User-Agent": PHONE, **headers}
        with httpx2.Client(base_url=self.hub.tcp, verify=False, timeout=60) as client:
            return client.post("/v1/sessions", json={"code": code, "device": device}, headers=sent)

    def headers(self, **more: str) -> dict[str, str]:
        found = {"Cookie": self.cookie, "X-Thopter": self.key, "Sec-Fetch-Site": "same-origin"}
        return {k: v for k, v in (found | more).items() if v}

    def ask(self, method: str, path: str, body: Any = None, **more: str) -> httpx2.Response:
        own = {} if method == "GET" else {"Origin": self.hub.tcp}
        self.client.cookies.clear()
        return self.client.request(method, path, json=body, headers=self.headers(**{**own, **more}))


@pytest.fixture(scope="module")
def hub() -> Iterator[HubProcess]:
    with short_folder() as root, hub_process(root, "--listen", "127.0.0.1:0") as found:
        yield found


def ids(hub: HubProcess) -> set[str]:
    return {s["id"] for s in hub.get("/v1/sessions").json()["sessions"]}


def test_a_link_logs_in_once_and_the_login_is_kept_as_digests(hub: HubProcess) -> None:
    page = Browser(hub, device="my phone")
    assert page.link["url"].startswith(hub.tcp + "/login#") and page.link["local"]
    assert 0 < page.link["expires_ms"] - time.time() * 1000 <= 300_000
    size = len(page.link["qr"])
    assert size >= 21 and all(len(row) == size and set(row) <= {"0", "1"} for row in page.link["qr"])
    cookie = page.answer.headers["set-cookie"]
    assert {"HttpOnly", "SameSite=Strict", "Path=/"} <= set(cookie.split("; ")) and "Domain" not in cookie
    assert "Secure" not in cookie, "http on loopback"
    listed = page.ask("GET", "/v1/sessions").json()["sessions"]
    mine = next(s for s in listed if s["current"])
    assert (mine["id"], mine["device"], mine["role"], mine["agent"]) == (page.id, "my phone", "admin", PHONE)
    again = page.log_in(page.code)
    assert again.status_code == 401 and again.json()["error"]["data"]["reason"] == "link"
    assert Browser(hub).answer.json()["session"]["device"] == "Chrome on Android"
    secrets = [page.code, page.key, page.cookie.partition("=")[2]]
    raw = b"".join(f.read_bytes() for f in hub.state.rglob("*") if f.is_file()) + str(hub.log()).encode()
    assert not [s for s in secrets if s.encode() in raw]


@pytest.mark.battery("H5")
def test_the_cookie_alone_or_the_key_alone_opens_nothing(hub: HubProcess) -> None:
    """A cookie is sent to every port of its host, so a preview of a box's port may have it."""
    page, other = Browser(hub), Browser(hub)
    assert page.ask("GET", "/v1/thopters").status_code == 200
    name = page.cookie.partition("=")[0]
    wrong: list[dict[str, str]] = [
        {"X-Thopter": ""},
        {"Cookie": ""},
        {"X-Thopter": other.key},
        {"X-Thopter": "1"},
        {"X-Thopter": page.key + "x"},
        {"Cookie": f"{name}=ths_{'a' * 43}"},
        {"Cookie": f"{page.cookie}; {other.cookie}"},
        {"Cookie": page.cookie.replace(name, "thopter")},
        {"Cookie": f"token={hub.token}"},
        {"Cookie": "", "X-Thopter": page.cookie.partition("=")[2]},
    ]
    for headers in wrong:
        answer = page.ask("GET", "/v1/thopters", **headers)
        assert answer.status_code in (401, 429), headers
        assert answer.status_code == 429 or answer.json()["error"]["data"]["reason"] == "session"
    by_query = httpx2.get(f"{hub.tcp}/v1/thopters?key={page.key}", headers={"Cookie": page.cookie})
    assert by_query.status_code in (401, 429)


@pytest.mark.battery("H4", "H5")
@each_route
def test_no_route_changes_anything_for_a_page_elsewhere(hub: HubProcess, route: Route) -> None:
    """Even one that had cookie and key: where it comes from is told by the browser."""
    page = _shared(hub)
    if route.kind == "exec":
        headers = page.headers(Origin=hub.tcp)
        headers |= {"Connection": "upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13"}
        headers["Sec-WebSocket-Key"] = "AAAAAAAAAAAAAAAAAAAAAA=="
        assert page.client.get(path_of(route), headers=headers).status_code in (401, 429)
        return
    elsewhere: list[dict[str, str]] = [{"Sec-Fetch-Site": site} for site in (*WRONG_SITES[:3], "none")]
    elsewhere += [{"Origin": origin} for origin in ("http://evil.test", "null", "http://127.0.0.1:1")]
    if route.method != "GET":
        elsewhere.append({"Origin": ""})
    for headers in elsewhere:
        answer = page.ask(route.method, path_of(route), {"text": "x", "prompt": "x"}, **headers)
        want = (401, 403, 429, 422) if route.scope == LOGIN else (401, 403, 429)
        assert answer.status_code in want, (headers, answer.text)
    assert hub.get("/v1/thopters").json() == {"thopters": []}


_PAGES: dict[str, Browser] = {}


def _shared(hub: HubProcess) -> Browser:
    return _PAGES.setdefault(hub.tcp, Browser(hub)) if hub.tcp not in _PAGES else _PAGES[hub.tcp]


def test_roles_are_scopes_that_the_server_gives(hub: HubProcess) -> None:
    assert {r: set(s) for r, s in ROLES.items()} == {
        "viewer": {READ},
        "operator": {READ, OPERATE, APPROVE},
        "admin": {ADMIN},
    }
    asked = [
        ("GET", "/v1/thopters", None, (200, 200, 200)),
        ("POST", "/v1/thopters/nobody/done", {}, (403, 404, 404)),
        ("POST", "/v1/approvals/nothing", {"digest": "x", "decision": "allow"}, (403, None, None)),
        ("POST", "/v1/variables", {"values": {"A": "b"}}, (403, 403, 200)),
        ("POST", "/v1/sessions/links", {"role": "admin"}, (403, 403, 201)),
        ("POST", "/v1/sessions/end-all", {}, (403, 403, None)),
    ]
    for role, at in (("viewer", 0), ("operator", 1), ("admin", 2)):
        page = Browser(hub, role)
        for method, path, body, want in asked:
            if want[at] is not None:
                answer = page.ask(method, path, body)
                assert answer.status_code == want[at], (role, path, answer.text)
    for role in ("root", "", "ADMIN"):
        assert hub.post("/v1/sessions/links", {"role": role}).status_code == 422


def test_a_page_ends_its_own_session_and_an_admin_any(hub: HubProcess) -> None:
    viewer, admin = Browser(hub, "viewer"), Browser(hub)
    assert [s["id"] for s in viewer.ask("GET", "/v1/sessions").json()["sessions"]] == [viewer.id]
    assert viewer.ask("DELETE", f"/v1/sessions/{admin.id}").status_code == 404
    assert admin.ask("DELETE", "/v1/sessions/ses_nothing").status_code == 404
    assert hub.request("DELETE", "/v1/sessions/current").status_code == 400
    gone = viewer.ask("DELETE", "/v1/sessions/current")
    assert gone.status_code == 200 and "Max-Age=0" in gone.headers["set-cookie"]
    assert viewer.ask("GET", "/v1/thopters").status_code in (401, 429)
    other = Browser(hub)
    assert admin.ask("DELETE", f"/v1/sessions/{other.id}").status_code == 200
    assert other.ask("GET", "/v1/thopters").status_code in (401, 429)
    assert admin.id in ids(hub) and not {viewer.id, other.id} & ids(hub)


@pytest.mark.battery("H3")
def test_logging_out_everywhere_ends_what_is_open_and_what_was_not_used_yet(own: HubProcess) -> None:
    hub = own.start("--listen", "127.0.0.1:0")
    page, other = Browser(hub), Browser(hub, "operator")
    link = hub.post("/v1/sessions/links", {"role": "viewer"}).json()["url"].partition("#")[2]
    hub.post("/v1/thopters", {"name": "talks"})
    path = "/v1/thopters/talks/exec"
    made = [other.ask("POST", "/v1/tickets", {"path": path}).json()["ticket"] for _ in range(2)]
    with (
        Raw(("127.0.0.1", hub.tcp_port)) as stream,
        socket_of(hub, path, f"?ticket={made[0]}") as shell,
    ):
        head = "GET /v1/events HTTP/1.1\r\nHost: " + page.host + "\r\n"
        head += "".join(f"{k}: {v}\r\n" for k, v in page.headers().items())
        assert b" 200 " in stream.send(head.encode() + b"\r\n").head()
        shell.send('{"argv":["sleep","600"]}')
        assert "started" in shell.recv()
        answer = page.ask("POST", "/v1/sessions/end-all", {})
        assert answer.json() == {"ended": 2} and "Max-Age=0" in answer.headers["set-cookie"]
        stream.rest()  # it ends
        with pytest.raises(ConnectionClosed):
            while True:
                shell.recv(timeout=60)
    for gone in (page, other):
        assert gone.ask("GET", "/v1/thopters").status_code in (401, 429)
    assert page.log_in(link).status_code in (401, 429)
    with pytest.raises(Exception, match=r"40[13]|429"), socket_of(hub, path, f"?ticket={made[1]}"):
        pass
    with contextlib.closing(sqlite3.connect(hub.state / "hub.db")) as db:
        kinds = [kind for (kind,) in db.execute("SELECT kind FROM audit")]
    assert kinds.count("session.begun") == 2 and kinds.count("session.ended") == 2 and "session.link" in kinds


def test_sessions_outlive_the_hub_and_ended_ones_do_not_come_back(own: HubProcess) -> None:
    own.start("--listen", "127.0.0.1:0")
    page, gone = Browser(own), Browser(own)
    gone.ask("DELETE", "/v1/sessions/current")
    port = own.tcp_port
    assert own.process is not None
    own.process.kill()
    own.end()
    own.__dict__.pop("tcp", None)
    own.start("--listen", f"127.0.0.1:{port}")
    assert page.ask("GET", "/v1/thopters").status_code == 200
    assert gone.ask("GET", "/v1/thopters").status_code == 401
    assert page.log_in(page.code).status_code == 401, "a link does not outlive the hub"
    with contextlib.closing(sqlite3.connect(own.state / "hub.db")) as db:
        (ses,) = db.execute("SELECT id FROM page_sessions").fetchone()
        db.execute("UPDATE page_sessions SET seen_ms = seen_ms - ?", (IDLE_MS,))
        device = ("dev_1", ses, "https://x/", "p", "a", "", "", "a lost phone", "admin", 1)
        db.execute(f"INSERT INTO push_subscriptions VALUES ({', '.join('?' * len(device))})", device)
        db.commit()
    own.process.kill()
    own.end()
    own.__dict__.pop("tcp", None)
    own.start("--listen", f"127.0.0.1:{port}")
    assert page.ask("GET", "/v1/thopters").status_code == 401, "not used for too long"
    wait_for(lambda: not devices_in(own))  # nobody asked: a lost phone gets no notes any more
    assert own.get("/v1/sessions").json() == {"sessions": []}


def devices_in(hub: HubProcess) -> list[Any]:
    with contextlib.closing(sqlite3.connect(hub.state / "hub.db")) as db:
        return db.execute("SELECT id FROM push_subscriptions").fetchall()


def test_who_logs_in_while_all_are_logged_out_is_out_too(tmp_path: Path) -> None:
    async def run() -> None:
        store = await Store.open(tmp_path / "hub.db")
        try:
            pages, sessions = PageSessions(lambda: store, SystemClock()), Sessions(SystemClock())
            rows = [sessions.fresh("admin", "", PHONE).row for _ in range(3)]
            *_, gone = await asyncio.gather(*map(pages.begin, rows), pages.end(None, "lost"))
            assert set(gone) == {row.id for row in rows} and await pages.all() == []
        finally:
            await store.close()

    asyncio.run(run())


@pytest.mark.battery("H16")
def test_guessing_links_is_throttled_and_a_right_one_still_logs_in(own: HubProcess) -> None:
    own.start("--listen", "127.0.0.1:0")
    page = Browser(own)
    statuses = [page.log_in("a" * 43).status_code for _ in range(40)]
    assert set(statuses) == {401, 429} and statuses.count(401) <= 30
    assert Browser(own).ask("GET", "/v1/thopters").status_code == 200
    assert page.log_in("a" * 43, Origin="").status_code in (401, 403, 429), "only pages log in"
    typed = {"Origin": own.tcp, "Content-Type": "text/plain"}
    plain = httpx2.post(own.tcp + "/v1/sessions", content='{"code":"x"}', headers=typed)
    assert plain.status_code == 415
    long = {"Origin": own.tcp, "Content-Type": "application/json"}
    assert httpx2.post(own.tcp + "/v1/sessions", content=b" " * 5000, headers=long).status_code == 413


def test_links_and_sessions_end_by_themselves() -> None:
    clock = Hand()
    sessions = Sessions(clock)
    code, _ = sessions.link("viewer")
    clock.at += 301
    assert sessions.redeem(code) is None
    codes = [sessions.link("viewer")[0] for _ in range(200)]
    assert sum(sessions.redeem(code) is not None for code in codes) == 64
    made = sessions.fresh("operator", "", PHONE)
    sessions.add(made.row)
    cookie = f"thopter-1={made.cookie}".encode()
    scope = {
        ORIGIN_KEY: "http://127.0.0.1:1",
        "headers": [(b"cookie", cookie), (b"x-thopter", made.key.encode())],
    }
    used = sessions.holder(scope, clock.now_ms())
    assert used is not None and used.scopes == ALL_SCOPES - {ADMIN}
    assert list(sessions.take_untold()) == [made.row.id] and not sessions.take_untold()
    assert sessions.holder(scope, clock.now_ms() + IDLE_MS) is None
    for day in range(1, 29):
        assert sessions.holder(scope, clock.now_ms() + day * 86_400_000) is used
    assert sessions.holder(scope, clock.now_ms() + LIFE_MS) is None


def test_cookies_are_named_by_port_and_guarded_by_https() -> None:
    for origin, name in (
        ("http://127.0.0.1:8480", "thopter-8480"),
        ("http://[::1]:8480", "thopter-8480"),
        ("https://laptop.example.ts.net", "__Host-thopter"),
        ("https://laptop.example.ts.net:8443", "__Host-thopter-8443"),
    ):
        assert cookie_name({ORIGIN_KEY: origin}).decode() == name
        text = set_cookie(origin, "x", 5).decode()
        assert text.startswith(f"{name}=x; Path=/;") and ("Secure" in text) == origin.startswith("https")


def test_a_hub_that_listens_nowhere_opens_an_address_and_keeps_it(own: HubProcess) -> None:
    own.start()
    assert not [each for each in own.get("/v1/hub").json()["listeners"] if each.startswith("http")]
    page = Browser(own)
    assert page.ask("GET", "/v1/thopters").status_code == 200
    headers = {"Authorization": f"Bearer {own.token}"}
    assert httpx2.get(own.tcp + "/v1/thopters", headers=headers).status_code == 200
    at = own.tcp
    assert Browser(own).hub.tcp == at, "one is enough"
    assert own.process is not None
    os.kill(own.process.pid, 9)
    own.end()
    own.start()
    wait_for(lambda: page.ask("GET", "/v1/thopters").status_code == 200)
    assert own.get("/v1/hub").json()["listeners"][1:] == [at]


def test_a_ticket_of_a_page_dies_with_its_session(hub: HubProcess) -> None:
    page = Browser(hub)
    made = page.ask("POST", "/v1/tickets", {"path": "/v1/events"}).json()["ticket"]
    page.ask("DELETE", "/v1/sessions/current")
    assert httpx2.get(f"{hub.tcp}/v1/events?ticket={made}").status_code in (401, 429)
    assert ticket(hub, hub.token, "/v1/events").startswith("tht_")


def test_the_page_begins_with_who_it_is_and_where_events_stand(hub: HubProcess) -> None:
    page = Browser(hub, "viewer")
    told = page.ask("GET", "/v1/page").json()
    assert told["session"]["id"] == page.id and told["session"]["current"] and told["scopes"] == ["read"]
    assert told["event"] > 0 and abs(told["now_ms"] - time.time() * 1000) < 60_000
    assert set(told["on"]) <= set(told["kinds"])
    by_token = httpx2.get(hub.tcp + "/v1/page", headers={"Authorization": f"Bearer {hub.token}"}).json()
    assert by_token["session"] is None and by_token["scopes"] == sorted(ALL_SCOPES)


def test_a_page_subscribes_itself_alone_and_its_address_is_never_shown(hub: HubProcess) -> None:
    viewer, other = Browser(hub, "viewer"), Browser(hub, "operator")
    body = {"endpoint": "https://push.example/secret-path", "keys": {"p256dh": "B" * 87, "auth": "a" * 22}}
    made = viewer.ask("POST", "/v1/push/subscriptions", {**body, "kinds": ["done"]})
    assert made.status_code == 201 and made.json()["service"] == "push.example"
    mine = made.json()["id"]
    assert "secret-path" not in made.text + viewer.ask("GET", "/v1/push/subscriptions").text
    assert other.ask("GET", "/v1/push/subscriptions").json() == {"devices": []}
    assert other.ask("DELETE", f"/v1/push/subscriptions/{mine}").status_code == 404
    assert hub.post("/v1/push/subscriptions", body).status_code == 422, "there is no page to ring"
    assert [d["id"] for d in hub.get("/v1/push/subscriptions").json()["devices"]] == [mine]
    assert viewer.ask("DELETE", f"/v1/push/subscriptions/{mine}").status_code == 200
    assert viewer.ask("GET", "/v1/push/subscriptions").json() == {"devices": []}
