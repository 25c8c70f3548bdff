"""Tokens and tickets: every route against every scope, and what a ticket is not good for."""

from __future__ import annotations

import contextlib
import json
import re
import secrets
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from hub_support import HubProcess, Raw, hub_process, short_folder
from test_hub_doors import ask, assert_refused, raw_request
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from thopter.hub.api import ROUTES
from thopter.hub.auth import ADMIN, ALL_SCOPES, APPROVE, OPERATE, READ, Throttle, expanded
from thopter.hub.guard import caller_source
from thopter.hub.routes import Route
from thopter.hub.sessions import LOGIN
from thopter.hub.tickets import Tickets

MAY = {
    "reader": [READ],
    "worker": [OPERATE],
    "approver": [APPROVE],
    "both": [OPERATE, APPROVE],
    "admin": [ADMIN],
}
each_route = pytest.mark.parametrize("route", ROUTES, ids=[f"{r.method} {r.path}" for r in ROUTES])
Issued = dict[str, str]


def make(hub: HubProcess, name: str, scopes: list[str], seconds: int = 0) -> str:
    made = hub.post("/v1/tokens", {"name": name, "scopes": scopes, "seconds": seconds})
    assert made.status_code == 201, made.text
    return str(made.json()["token"])


@pytest.fixture(scope="module")
def issued(hub: HubProcess) -> Issued:
    """A token of each kind, and some that are good for nothing."""
    found = {name: make(hub, name, scopes) for name, scopes in MAY.items()}
    found["expired"] = make(hub, "expired", [ADMIN], 1)
    found["revoked"] = make(hub, "revoked", [ADMIN])
    assert hub.post("/v1/tokens/revoke", {"name": "revoked"}).status_code == 200
    found["a box's"] = secrets.token_urlsafe(32)  # as boxes get them for their hooks
    time.sleep(1.1)  # the expiry itself is what is waited for
    return found


def tcp(hub: HubProcess, route: Route, token: str) -> tuple[int, dict[str, str], Any]:
    host = f"127.0.0.1:{hub.tcp_port}"
    return ask(hub, raw_request(route, host, f"Authorization: Bearer {token}"))


@pytest.mark.battery("H2")
@each_route
def test_every_route_refuses_every_token_that_lacks_its_scope(
    hub: HubProcess, issued: Issued, route: Route
) -> None:
    for name, scopes in MAY.items():
        if route.scope not in expanded(scopes):
            assert_refused(tcp(hub, route, issued[name]), 403)
    for name in ("expired", "revoked", "a box's"):
        assert_refused(tcp(hub, route, issued[name]), 401, 429)
    assert hub.get("/v1/thopters").json() == {"thopters": []}


@pytest.mark.battery("H2")
def test_each_scope_does_what_it_says_and_no_more(hub: HubProcess, issued: Issued) -> None:
    """The control of the test above, and the table in one place: who may what."""
    allowed = {n: {f"{r.method} {r.path}" for r in ROUTES if r.scope in expanded(s)} for n, s in MAY.items()}
    assert allowed["reader"] < allowed["worker"] < allowed["both"] < allowed["admin"]
    assert allowed["admin"] == {f"{r.method} {r.path}" for r in ROUTES if r.scope != LOGIN}
    approving = allowed["approver"] - allowed["reader"]
    assert "POST /v1/thopters/{name}/egress/allow" in approving and not approving & allowed["worker"]
    for secret in (
        "POST /v1/secrets/bind",
        "POST /v1/tokens",
        "GET /v1/tokens",
        "POST /v1/thopters/{name}/egress/always",
        "POST /v1/variables",
    ):
        assert [n for n in MAY if secret in allowed[n]] == ["admin"], secret
    assert {r.scope for r in ROUTES} <= ALL_SCOPES | {LOGIN}
    for name in MAY:
        with httpx2.Client(base_url=hub.tcp, headers={"Authorization": f"Bearer {issued[name]}"}) as client:
            assert client.get("/v1/thopters").status_code == 200
            told = client.post("/v1/thopters/nobody/done", json={}).status_code
            assert told == (404 if OPERATE in expanded(MAY[name]) else 403), name
            told = client.post("/v1/variables", json={"values": {"A": "b"}}).status_code
            assert told == (200 if ADMIN in expanded(MAY[name]) else 403), name
    listed = {t["name"]: t for t in hub.get("/v1/tokens").json()["tokens"]}
    assert listed["reader"]["scopes"] == ["read"] and listed["reader"]["used_ms"] > 0
    assert listed["hub"]["scopes"] == ["admin"]


def test_the_reference_names_the_routes_of_each_scope() -> None:
    page = (Path(__file__).parents[2] / "docs/reference/api.md").read_text("utf-8")
    part = page.partition("Tokens have scopes")[2].partition("| method path")[0]
    told = {
        m[1]: set(re.findall(r"`([A-Z]+ /[^`]+)`", m[2]))
        for m in re.finditer(r"^- `(\w+)`: (.*?)(?=^- |\Z)", part, re.M | re.S)
    }
    has = {s: {f"{r.method} {r.path[3:]}" for r in ROUTES if r.scope == s} for s in ALL_SCOPES}
    assert told["admin"] == has["admin"] and told["approve"] == has["approve"]
    assert told["operate"] == {r for r in has["operate"] if r.startswith("GET ")}
    assert told["read"] == {r for r in has["read"] if not r.startswith("GET ")}


def test_a_token_is_told_once_and_kept_as_a_digest(hub: HubProcess, issued: Issued) -> None:
    again = hub.post("/v1/tokens", {"name": "reader", "scopes": ["admin"]}, **{"Idempotency-Key": "k1"})
    assert again.status_code == 409
    for taken in ("hub", "operator"):
        refused = hub.post("/v1/tokens", {"name": taken, "scopes": ["admin"]})
        assert refused.status_code == 409 and taken in refused.text, taken
    for body in (
        {"name": "x", "scopes": []},
        {"name": "x", "scopes": ["root"]},
        {"name": "../x", "scopes": ["read"]},
    ):
        assert hub.post("/v1/tokens", body).status_code == 422, body
    said = hub.get("/v1/tokens").text + str(hub.log())
    raw = b"".join(f.read_bytes() for f in hub.state.rglob("*") if f.is_file() and f.name != "token")
    assert hub.token.encode() not in raw
    for name, token in issued.items():
        assert token not in said and token.encode() not in raw, name
    with contextlib.closing(sqlite3.connect(next(hub.state.rglob("*.db")))) as db:
        assert {len(d) for (d,) in db.execute("SELECT digest FROM tokens")} == {64}


@pytest.mark.battery("H2")
def test_nobody_learns_by_a_key_what_another_caller_was_told(own: HubProcess) -> None:
    """The same call and key: each caller has its own, the operator too with a key that looks like theirs."""
    own.start("--listen", "127.0.0.1:0")
    tokens = [make(own, name, [ADMIN]) for name in ("one", "two", "l" * 60, "old")]
    own.end()
    own.__dict__.pop("tcp", None)
    with contextlib.closing(sqlite3.connect(next(own.state.rglob("*.db")))) as db, db:
        db.execute("UPDATE tokens SET name = 'operator' WHERE name = 'old'")  # once it could be called that
    own.start("--listen", "127.0.0.1:0")

    def told(token: str, key: str) -> str:
        """The flow of a new thopter: whoever makes one is told another."""
        keyed = {"Idempotency-Key": key}
        if token:
            keyed["Authorization"] = f"Bearer {token}"
            answer = httpx2.post(own.tcp + "/v1/thopters", json={}, headers=keyed)
        else:
            answer = own.post("/v1/thopters", **keyed)
        assert answer.status_code == 202, answer.text
        return str(answer.json()["flow"])

    for key in ("k", "k" * 200):
        found = [told(token, key) for token in (*tokens, "")]
        assert len(set(found)) == 5, found
        assert found == [told(token, key) for token in (*tokens, "")], "each is told its own again"
    for alike in ("one/k", "two/k", "operator/k"):
        assert told("", alike) not in [told(token, "k") for token in tokens], alike


def test_tokens_outlive_the_hub_and_a_revoked_one_does_not_come_back(own: HubProcess) -> None:
    own.start("--listen", "127.0.0.1:0")
    kept, gone = make(own, "kept", [READ]), make(own, "gone", [READ])
    assert own.post("/v1/tokens/revoke", {"name": "gone"}).status_code == 200
    assert own.post("/v1/tokens/revoke", {"name": "gone"}).status_code == 404
    old = own.token
    assert own.post("/v1/tokens/revoke", {"name": "hub"}).status_code == 200
    assert own.token != old
    assert own.process is not None
    own.process.kill()
    own.end()
    own.__dict__.pop("tcp", None)
    own.start("--listen", "127.0.0.1:0")
    for token, status in ((kept, 200), (gone, 401), (old, 401), (own.token, 200)):
        answer = httpx2.get(own.tcp + "/v1/thopters", headers={"Authorization": f"Bearer {token}"})
        assert answer.status_code == status


def ticket(hub: HubProcess, token: str, path: str) -> str:
    answer = httpx2.post(
        hub.tcp + "/v1/tickets", json={"path": path}, headers={"Authorization": f"Bearer {token}"}
    )
    assert answer.status_code == 201, answer.text
    assert 0 < answer.json()["expires_ms"] - time.time() * 1000 < 60_000
    return str(answer.json()["ticket"])


EXEC = "/v1/thopters/one/exec"


@contextlib.contextmanager
def socket_of(
    hub: HubProcess, path: str, query: str, origin: str | None = "own", **headers: str
) -> Iterator[Any]:
    given = f"http://127.0.0.1:{hub.tcp_port}" if origin == "own" else origin
    where = f"ws://127.0.0.1:{hub.tcp_port}{path}{query}"
    with connect(where, proxy=None, origin=given, additional_headers=headers) as found:  # type: ignore[arg-type]
        yield found


def refused_socket(hub: HubProcess, path: str, query: str, **kw: Any) -> int:
    with pytest.raises(InvalidStatus) as refused, socket_of(hub, path, query, **kw):
        pass
    return int(refused.value.response.status_code)


@pytest.mark.battery("H3")
def test_a_page_opens_one_socket_with_a_ticket_and_nothing_else(hub: HubProcess, issued: Issued) -> None:
    mine = ticket(hub, issued["worker"], EXEC)
    with socket_of(hub, EXEC, f"?ticket={mine}") as good:
        good.send('{"argv":["true"]}')
        assert (
            json.loads(good.recv())["error"]["code"] == "not_found"
        )  # there is no such thopter: it was asked
    assert refused_socket(hub, EXEC, f"?ticket={mine}") in (401, 429), "used once, it is worth nothing"
    for query in ("", "?ticket=", "?ticket=tht_" + "a" * 43, f"?token={issued['worker']}"):
        assert refused_socket(hub, EXEC, query) in (401, 429), query
    fresh = ticket(hub, issued["worker"], EXEC)
    assert refused_socket(hub, EXEC, f"?ticket={fresh}&ticket={fresh}") in (401, 429)
    other = ticket(hub, issued["worker"], "/v1/thopters/two/exec")
    assert refused_socket(hub, EXEC, f"?ticket={other}") in (401, 429), "a ticket is for one path"
    assert refused_socket(hub, "/v1/thopters/two/exec", f"?ticket={other}") in (401, 429), (
        "and was used by that"
    )
    for origin, status in (("http://evil.test", 403), ("null", 403), (None, 401)):
        got = refused_socket(hub, EXEC, f"?ticket={ticket(hub, issued['worker'], EXEC)}", origin=origin)
        assert got in (status, 429), origin
    crossing = {"Sec-Fetch-Site": "cross-site"}
    assert refused_socket(hub, EXEC, f"?ticket={ticket(hub, issued['worker'], EXEC)}", **crossing) == 403
    reading = ticket(hub, issued["reader"], EXEC)
    assert refused_socket(hub, EXEC, f"?ticket={reading}") == 403, "it may what its caller may"
    posting = ticket(hub, issued["admin"], "/v1/variables")
    answer = httpx2.post(hub.tcp + f"/v1/variables?ticket={posting}", json={"values": {"A": "b"}})
    assert answer.status_code in (401, 429), "only conversations are opened by tickets"


def test_a_page_follows_events_with_a_ticket(hub: HubProcess, issued: Issued) -> None:
    mine = ticket(hub, issued["reader"], "/v1/events")
    host = f"127.0.0.1:{hub.tcp_port}"
    head = f"GET /v1/events?after=0&ticket={mine} HTTP/1.1\r\nHost: {host}\r\n"
    head += "Sec-Fetch-Site: same-origin\r\n\r\n"
    with Raw(("127.0.0.1", hub.tcp_port)) as raw:
        assert b" 200 " in raw.send(head.encode()).head()
    with Raw(("127.0.0.1", hub.tcp_port)) as raw:
        answer = raw.send(head.encode()).head()
        assert b" 401 " in answer or b" 429 " in answer, answer  # the latter after the refusals above
    assert mine not in str(hub.log())


@pytest.mark.battery("H5")
def test_cookies_and_other_schemes_are_no_authority(hub: HubProcess, issued: Issued) -> None:
    token = issued["admin"]
    for headers in ({"Cookie": f"token={token}"}, {"Authorization": f"Basic {token}"}, {"X-Api-Key": token},
                    {"Authorization": f"bearer  {token}"}):  # fmt: skip
        answer = httpx2.post(hub.tcp + "/v1/variables", json={"values": {"A": "b"}}, headers=headers)
        assert answer.status_code in (401, 429), headers
        assert "set-cookie" not in answer.headers


class Hand:
    """A clock moved by hand."""

    def __init__(self) -> None:
        self.at = 1000.0

    def monotonic(self) -> float:
        return self.at

    def now_ms(self) -> int:
        return int(self.at * 1000)

    async def sleep(self, seconds: float) -> None:
        self.at += seconds


@pytest.mark.battery("H16")
def test_failures_are_throttled_by_source_within_bounded_memory() -> None:
    clock = Hand()
    throttle = Throttle(clock, room=5, refill=0.5, sources=100)
    assert [throttle.failed("a") > 0 for _ in range(7)] == [False] * 5 + [True] * 2
    assert throttle.failed("b") == 0, "another source is not held up by the first"
    assert 0 < throttle.failed("a") <= 2
    clock.at += 2
    assert throttle.failed("a") == 0
    waits = [throttle.failed(f"source {n}") for n in range(10_000)]
    assert throttle.sources <= 100
    assert sum(w == 0 for w in waits) <= 50, "many sources together are throttled as well"


@pytest.mark.battery("H16")
@pytest.mark.parametrize(
    ("one", "other", "same"),
    [("2001:db8::1", "2001:db8::2", True), ("2001:db8::1", "2001:db8:0:0:ffff:1:2:3", True),
     ("2001:db8:0:1::1", "2001:db8::1", False), ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::", True),
     ("fe80::1%eth0", "fe80::2%eth1", True), ("::1", "::2", True), ("::1", "::ffff:192.0.2.1", False),
     ("::ffff:192.0.2.1", "192.0.2.1", True), ("::ffff:192.0.2.1", "::ffff:192.0.2.2", False),
     ("192.0.2.1", "192.0.2.2", False), ("alice (uid 1000)", "bob (uid 1001)", False), ("", "", True)],
)  # fmt: skip
def test_whoever_has_an_address_of_ipv6_is_throttled_with_the_whole_network_it_is_in(
    one: str, other: str, same: bool
) -> None:
    assert (caller_source({"client": (one, 1)}) == caller_source({"client": (other, 2)})) is same
    throttle = Throttle(Hand(), room=1, refill=0.5, sources=100)
    assert throttle.failed(caller_source({"client": (one, 1)})) == 0
    assert (throttle.failed(caller_source({"client": (other, 2)})) > 0) is same


@pytest.mark.battery("H3")
def test_tickets_expire_and_are_bounded() -> None:
    from thopter.hub.auth import OPERATOR, Holder

    clock = Hand()
    tickets = Tickets(clock)
    early = tickets.issue("/v1/events", OPERATOR)
    clock.at += 29.9
    late = tickets.issue("/v1/events", OPERATOR)
    clock.at += 0.2
    assert tickets.redeem(early, "/v1/events") is None
    assert tickets.redeem(late, "/v1/events") is OPERATOR
    assert tickets.redeem(late, "/v1/events") is None
    expiring = Holder("x", ALL_SCOPES, expires_ms=clock.now_ms() + 5000)
    of_it = tickets.issue("/v1/events", expiring)
    clock.at += 6
    assert tickets.redeem(of_it, "/v1/events") is None, "a ticket does not outlive its token"
    for n in range(1000):
        tickets.issue("/v1/events", Holder(f"c{n % 20}", ALL_SCOPES))
    assert len(tickets._issued) <= 512
    for _ in range(100):
        tickets.issue("/v1/events", OPERATOR)
    assert sum(t.holder is OPERATOR for t in tickets._issued.values()) <= 64


def test_a_hub_without_a_tcp_door_keeps_tokens_for_later() -> None:
    with short_folder() as root, hub_process(root) as hub:
        assert make(hub, "later", [READ]).startswith("thp_")
        assert hub.post("/v1/tokens/revoke", {"name": "hub"}).status_code == 200
