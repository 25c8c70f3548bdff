"""Who gets through the hub's doors: every route of the table against every wrong caller."""

from __future__ import annotations

import json
import re
import statistics
import time
from typing import Any

import httpx2
import pytest
from hub_support import HubProcess, Raw
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect, unix_connect

from battery_plugin import Count
from thopter.hub.answers import SECURITY_HEADERS
from thopter.hub.api import ROUTES
from thopter.hub.routes import Route

HEADERS = {name.decode(): value.decode() for name, value in SECURITY_HEADERS}
NAMES = [f"{route.method} {route.path}" for route in ROUTES]
each_route = pytest.mark.parametrize("route", ROUTES, ids=NAMES)


def path_of(route: Route) -> str:
    path = route.path.replace("{name}", "one").replace("{id}", "flow_1")
    path += "?file=eA" if path.endswith("/changes/diff") else ""
    return path + ("?path=/x" if path.endswith(("put", "fetch")) else "")


def raw_request(route: Route, host: str, *lines: str) -> bytes:
    """One request with exactly these headers; every route would do something on it."""
    body = b'{"prompt":"x","text":"x"}' if route.method == "POST" else b""
    kind = "application/octet-stream" if route.kind == "upload" else "application/json"
    head = [f"{route.method} {path_of(route)} HTTP/1.1"]
    head += [f"Host: {host}"] if host else []
    head += ["Connection: close", *lines]
    if route.kind == "exec":
        head[-len(lines) - 1 : len(head) - len(lines)] = ["Connection: upgrade"]
        head += ["Upgrade: websocket", "Sec-WebSocket-Version: 13"]
        head += ["Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA=="]
    if body:
        head += [f"Content-Type: {kind}", f"Content-Length: {len(body)}"]
    return "\r\n".join(head).encode() + b"\r\n\r\n" + body


def ask(hub: HubProcess, data: bytes, tcp: bool = True) -> tuple[int, dict[str, str], Any]:
    """Send bytes, return status, headers and JSON of the (one) answer."""
    where = ("127.0.0.1", hub.tcp_port) if tcp else hub.socket
    with Raw(where) as raw:
        return parse(raw.send(data).rest())


def parse(answer: bytes) -> tuple[int, dict[str, str], Any]:
    head, _, body = answer.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in lines)
    return int(first.split()[1]), headers, json.loads(body) if body else None


def assert_refused(found: tuple[int, dict[str, str], Any], *statuses: int) -> None:
    status, headers, body = found
    assert status in statuses, found
    for name, value in HEADERS.items():
        assert headers[name] == value
    assert not [name for name in headers if name.startswith("access-control")]
    assert set(body) == {"error"} and set(body["error"]) == {"code", "message", "hint", "data"}


def nothing_happened(hub: HubProcess) -> bool:
    return hub.get("/v1/thopters").json() == {"thopters": []} and bool(hub.is_ready())


WRONG_TOKENS = {
    "none": [],
    "empty": ["Authorization: Bearer "],
    "wrong": ["Authorization: Bearer thp_" + "a" * 43],
    "basic": ["Authorization: Basic {token}"],
    "bare": ["Authorization: {token}"],
    "twice": ["Authorization: Bearer {token}", "Authorization: Bearer {token}"],
    "cut": ["Authorization: Bearer {cut}"],
    "longer": ["Authorization: Bearer {token}x"],
    "other case": ["Authorization: Bearer {upper}"],
    "cookie": ["Cookie: token={token}; Authorization=Bearer {token}"],
    "x-token": ["X-Token: {token}", "X-Thopter-Token: {token}", "Proxy-Authorization: Bearer {token}"],
    "websocket protocol": ["Sec-WebSocket-Protocol: bearer, {token}"],
    "huge": ["Authorization: Bearer " + "a" * 20000],
}


@pytest.mark.battery("H2", "H5")
@each_route
def test_no_route_answers_a_tcp_caller_without_the_right_token(
    hub: HubProcess, route: Route, battery: Count
) -> None:
    token = hub.token
    host = f"127.0.0.1:{hub.tcp_port}"
    for case, lines in WRONG_TOKENS.items():
        filled = [line.format(token=token, cut=token[:-1], upper=token.upper()) for line in lines]
        found = ask(hub, raw_request(route, host, *filled))
        too_long = (400,) if case == "huge" and route.kind == "exec" else ()
        assert_refused(found, 401, 429, *too_long)
        battery.tried(1, 1)
    by_query = raw_request(route, host).replace(b" HTTP/1.1", b"?token=%b HTTP/1.1" % token.encode(), 1)
    assert_refused(ask(hub, by_query), 401, 429)
    assert nothing_happened(hub)


WRONG_HOSTS = [
    "", "evil.test", "127.0.0.1", "localhost", "127.0.0.1:1", "localhost.evil.test:{port}", "0.0.0.0:{port}",
    "[::1]:{port}", "127.0.0.1:{port}@evil.test", "evil.test:{port}", "127.0.0.1:{port}, evil.test",
    "thopter", "127.0.0.1.:{port}", "127.1:{port}", "2130706433:{port}", "127.0.0.1:{port}/",
]  # fmt: skip


@pytest.mark.battery("H1")
@each_route
def test_no_route_answers_under_another_host(hub: HubProcess, route: Route, battery: Count) -> None:
    good = f"127.0.0.1:{hub.tcp_port}"
    token = f"Authorization: Bearer {hub.token}"
    for host in WRONG_HOSTS:
        found = ask(hub, raw_request(route, host.format(port=hub.tcp_port), token))
        assert_refused(found, 421, 400)
        battery.tried(1, 1)
    assert_refused(ask(hub, raw_request(route, good, f"Host: {good}", token)), 421, 400)
    absolute = raw_request(route, good, token).replace(b" /", b" http://evil.test/", 1)
    assert_refused(ask(hub, absolute), 400)
    for host in ("evil.test", "", "thopter:80", f"127.0.0.1:{hub.tcp_port}", "localhost.evil.test"):
        assert_refused(ask(hub, raw_request(route, host), tcp=False), 421, 400)
    assert nothing_happened(hub)


WRONG_ORIGINS = [
    "null", "http://evil.test", "http://localhost", "https://127.0.0.1:{port}", "http://127.0.0.1",
    "http://127.0.0.1:{port}.evil.test", "http://localhost:{port}", "file://",
    "http://127.0.0.1:{port}/", "*", "",
]  # fmt: skip
WRONG_SITES = ["cross-site", "same-site", "evil", "", "CROSS-SITE", "none, cross-site"]


@pytest.mark.battery("H4", "H6")
@each_route
def test_no_route_answers_a_page_of_another_origin(hub: HubProcess, route: Route, battery: Count) -> None:
    host = f"127.0.0.1:{hub.tcp_port}"
    token = f"Authorization: Bearer {hub.token}"
    for origin in WRONG_ORIGINS:
        line = "Origin: " + origin.format(port=hub.tcp_port)
        assert_refused(ask(hub, raw_request(route, host, token, line)), 403)
        if origin != "http://localhost":  # on the unix socket that is its own
            assert_refused(ask(hub, raw_request(route, "localhost", line), tcp=False), 403)
        battery.tried(1, 1)
    for site in WRONG_SITES:
        line = f"Sec-Fetch-Site: {site}"
        assert_refused(ask(hub, raw_request(route, host, token, line)), 403)
        assert_refused(ask(hub, raw_request(route, "thopter", line), tcp=False), 403)
        battery.tried(2, 2)
    assert nothing_happened(hub)


@pytest.mark.battery("H1", "H2")
def test_the_right_caller_gets_through_on_both_doors(hub: HubProcess) -> None:
    host = f"127.0.0.1:{hub.tcp_port}"
    lines = [
        f"Host: {host}",
        f"Authorization: Bearer {hub.token}",
        f"Origin: http://{host}",
        "Sec-Fetch-Site: same-origin",
        "Connection: close",
    ]
    data = ("GET /v1/hub HTTP/1.1\r\n" + "\r\n".join(lines) + "\r\n\r\n").encode()
    status, headers, body = ask(hub, data)
    assert status == 200 and body["ready"]
    assert {name: headers[name] for name in HEADERS} == HEADERS
    assert not [name for name in headers if name.startswith("access-control") or name == "server"]
    lower = data.replace(b"Bearer", b"bearer").replace(
        b"127.0.0.1:%d" % hub.tcp_port, b"LOCALHOST:%d" % hub.tcp_port
    )
    assert ask(hub, lower.replace(b"Origin: http://LOCALHOST", b"Origin: http://localhost"))[0] == 200


@pytest.mark.battery("H6")
def test_a_preflight_is_refused_and_no_answer_ever_allows_an_origin(hub: HubProcess) -> None:
    host = f"127.0.0.1:{hub.tcp_port}"
    for path in ("/v1/runs", "/v1/hub", "/nothing"):
        for token in ([], [f"Authorization: Bearer {hub.token}"]):
            head = [f"OPTIONS {path} HTTP/1.1", f"Host: {host}", "Connection: close", *token]
            for origin in ([], [f"Origin: http://{host}"], ["Origin: http://evil.test"]):
                lines = [*head, *origin, "Access-Control-Request-Method: POST"]
                found = ask(hub, "\r\n".join(lines).encode() + b"\r\n\r\n")
                assert_refused(found, 401, 403, 404, 405, 429)


@pytest.mark.battery("H4")
def test_a_web_page_can_not_change_anything_with_a_simple_request(hub: HubProcess) -> None:
    """The requests that a browser sends without asking first (H4)."""
    host = f"127.0.0.1:{hub.tcp_port}"
    token = f"Authorization: Bearer {hub.token}"
    body = '{"prompt":"x","name":"forged"}'
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", ""):
        for tcp, first in ((True, [f"Host: {host}", token]), (False, ["Host: localhost"])):
            head = ["POST /v1/runs HTTP/1.1", *first, "Connection: close", f"Content-Length: {len(body)}"]
            head += [f"Content-Type: {kind}"] if kind else []
            found = ask(hub, ("\r\n".join(head) + "\r\n\r\n" + body).encode(), tcp=tcp)
            assert_refused(found, 415)
    for path in ("/v1/hub/stop", "/v1/runs?prompt=x", "/v1/thopters/one/freeze"):
        found = ask(
            hub, f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode(), tcp=False
        )
        assert found[0] in (405, 404)
    override = "GET /v1/hub/stop HTTP/1.1\r\nHost: localhost\r\nX-HTTP-Method-Override: POST\r\n"
    override += "Connection: close\r\n\r\n"
    assert ask(hub, override.encode(), tcp=False)[0] == 405
    assert nothing_happened(hub)


@pytest.mark.battery("X5")
def test_unknown_paths_and_methods_are_json_errors_with_all_headers(hub: HubProcess) -> None:
    for method, path, status in (
        ("GET", "/nothing", 404), ("GET", "/v1", 404), ("GET", "/v1/hub/", 404), ("GET", "//v1/hub", 404),
        ("GET", "/v1/thopters/a%2fb", 404), ("GET", "/v1/../v1/hub", 404), ("GET", "/v1/hub%00", 404),
        ("HEAD", "/v1/hub", 405), ("TRACE", "/v1/hub", 405), ("PUT", "/v1/runs", 405),
        ("GET", "/v1/thopters/one/exec", 426), ("GET", "/static/../../etc/passwd", 404),
    ):  # fmt: skip
        head = f"{method} {path} HTTP/1.1\r\nHost: thopter\r\nConnection: close\r\n\r\n"
        with Raw(hub.socket) as raw:
            answer = raw.send(head.encode()).rest()
        assert int(answer.split()[1]) == status, (method, path, answer)
        if method != "HEAD":
            assert_refused(parse(answer), status)
        if status == 405:
            assert b"\r\nallow: " in answer


BROKEN = {
    "not http": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 50,
    "no version": b"GET /v1/hub\r\n\r\n",
    "absolute": b"GET http://thopter/v1/hub HTTP/1.1\r\nHost: thopter\r\n\r\n",
    "connect": b"CONNECT evil.test:443 HTTP/1.1\r\nHost: thopter\r\n\r\n",
    "asterisk": b"OPTIONS * HTTP/1.1\r\nHost: thopter\r\n\r\n",
    "length and chunked": b"POST /v1/runs HTTP/1.1\r\nHost: thopter\r\nContent-Length: 5\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "two lengths": b"POST /v1/runs HTTP/1.1\r\nHost: thopter\r\nContent-Length: 5\r\n"
    b"Content-Length: 6\r\n\r\nabcdef",
    "negative length": b"POST /v1/runs HTTP/1.1\r\nHost: thopter\r\nContent-Length: -1\r\n\r\n",
    "folded header": b"GET /v1/hub HTTP/1.1\r\nHost: thopter\r\nX: a\r\n Host: evil\r\n\r\n",
    "space before colon": b"GET /v1/hub HTTP/1.1\r\nHost : thopter\r\n\r\n",
    "nul in header": b"GET /v1/hub HTTP/1.1\r\nHost: thopter\r\nX: a\0b\r\n\r\n",
    "bad chunk": b"POST /v1/runs HTTP/1.1\r\nHost: thopter\r\nContent-Type: application/json\r\n"
    b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
    "non-ascii path": b"GET /v1/\xff HTTP/1.1\r\nHost: thopter\r\n\r\n",
    "head too large": b"GET /v1/hub HTTP/1.1\r\nHost: thopter\r\nX: " + b"a" * 40000 + b"\r\n\r\n",
    "endless head": b"GET /v1/hub HTTP/1.1\r\nHost: thopter\r\nX: " + b"a" * 400000,
    "10,000 headers": b"GET /v1/hub HTTP/1.1\r\nHost: thopter\r\n" + b"X: 1\r\n" * 10000 + b"\r\n",
    "endless url": b"GET /" + b"a" * 100000,
    "http 1.0 without host": b"GET /v1/hub HTTP/1.0\r\n\r\n",
    "websocket without key": b"GET /v1/thopters/one/exec HTTP/1.1\r\nHost: thopter\r\nConnection: upgrade\r\n"
    b"Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\r\n",
    "websocket version 8": b"GET /v1/thopters/one/exec HTTP/1.1\r\nHost: thopter\r\nConnection: upgrade\r\n"
    b"Upgrade: websocket\r\nSec-WebSocket-Version: 8\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n",
    "websocket by post": b"POST /v1/thopters/one/exec HTTP/1.1\r\nHost: thopter\r\nConnection: upgrade\r\n"
    b"Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n",
}


@pytest.mark.battery("H15", "X5")
@pytest.mark.parametrize("case", BROKEN)
def test_what_is_not_a_sound_request_is_refused_with_all_headers(hub: HubProcess, case: str) -> None:
    with Raw(hub.socket) as raw:
        try:
            raw.send(BROKEN[case])
        except (BrokenPipeError, ConnectionResetError):
            assert case.startswith(("endless", "10,000"))  # cut off while it was still sending
        found = parse(raw.rest())
    assert_refused(found, 400, 421, 431)
    assert hub.is_ready()


def test_a_request_to_upgrade_to_something_else_is_answered_as_it_is(hub: HubProcess) -> None:
    head = b"GET /v1/hub HTTP/1.1\r\nHost: thopter\r\nConnection: upgrade, close\r\nUpgrade: h2c\r\n\r\n"
    assert ask(hub, head, tcp=False)[0] == 200


@pytest.mark.battery("H16")
def test_failed_attempts_are_throttled_on_loopback_too_but_never_the_owner(hub: HubProcess) -> None:
    with httpx2.Client(base_url=hub.tcp) as client:
        statuses = []
        for n in range(200):
            headers = {"Authorization": f"Bearer thp_guess{n:040}"}
            answer = client.get("/v1/hub", headers=headers)
            statuses.append(answer.status_code)
        assert set(statuses) == {401, 429} or set(statuses) == {429}
        assert statuses.count(429) > 100
        assert 1 <= int(answer.headers["retry-after"]) <= 60
        assert client.get("/v1/hub", headers={"Authorization": f"Bearer {hub.token}"}).status_code == 200
    told = [r for r in hub.log() if "throttled" in r["text"]]
    assert 1 <= len(told) < 20, "the log is not flooded"


@pytest.mark.battery("H16")
def test_guessing_takes_as_long_for_a_good_beginning_as_for_a_bad_one(hub: HubProcess) -> None:
    token = hub.token
    near, far = token[:-1] + ("a" if token[-1] != "a" else "b"), "thp_" + "0" * (len(token) - 4)
    times: dict[str, list[float]] = {near: [], far: []}
    with httpx2.Client(base_url=hub.tcp) as client:
        for _ in range(100):
            for guess, taken in times.items():
                began = time.perf_counter()
                client.get("/v1/hub", headers={"Authorization": f"Bearer {guess}"})
                taken.append(time.perf_counter() - began)
    ratio = statistics.median(times[near]) / statistics.median(times[far])
    assert 0.5 < ratio < 2, ratio


@pytest.mark.battery("H3")
def test_a_websocket_is_checked_like_everything_else(hub: HubProcess) -> None:
    uri = f"ws://127.0.0.1:{hub.tcp_port}/v1/thopters/one/exec"
    token = {"Authorization": f"Bearer {hub.token}"}
    cases: list[tuple[str, dict[str, Any], tuple[int, ...]]] = [
        (uri, {}, (401, 429)),
        (uri + f"?token={hub.token}", {}, (401, 429)),
        (uri, {"additional_headers": token, "origin": "http://evil.test"}, (403,)),
        (uri, {"additional_headers": token, "origin": "null"}, (403,)),
        (uri, {"additional_headers": token | {"Host": "evil.test"}}, (421, 400)),
        (uri, {"subprotocols": ["bearer", hub.token]}, (401, 429)),
        (uri.replace("/exec", "/other"), {"additional_headers": token}, (404,)),
        (uri.replace("/v1/thopters/one/exec", "/v1/events"), {"additional_headers": token}, (404,)),
    ]
    for where, kw, statuses in cases:
        with pytest.raises(InvalidStatus) as refused, connect(where, proxy=None, **kw):
            pass
        response = refused.value.response
        assert response.status_code in statuses, (where, kw)
        assert {name: response.headers[name] for name in HEADERS} == HEADERS
        assert json.loads(response.body or b"")["error"]["message"]
    with connect(
        uri, proxy=None, additional_headers=token, origin=f"http://127.0.0.1:{hub.tcp_port}"
    ) as good:  # type: ignore[arg-type]
        good.send('{"argv":["true"]}')
        assert json.loads(good.recv())["error"]["code"] == "not_found"
    with (
        pytest.raises(InvalidStatus) as refused,
        unix_connect(str(hub.socket), "ws://evil.test/v1/thopters/a/exec"),
    ):
        pass
    assert refused.value.response.status_code == 421


@pytest.mark.battery("X5")
def test_the_content_security_policy_is_exact() -> None:
    assert HEADERS["content-security-policy"] == "default-src 'none'; frame-ancestors 'none'"
    assert HEADERS["x-content-type-options"] == "nosniff"
    assert HEADERS["cache-control"] == "no-store"


def test_the_table_names_every_route_once_and_scopes_fit_the_methods() -> None:
    assert len(set(NAMES)) == len(NAMES) > 20
    asking = ("/v1/policies/check", "/v1/policies/test", "/v1/tickets")  # nothing changes by them
    own = ("/v1/sessions/{id}", "/v1/push/subscriptions", "/v1/push/subscriptions/{id}")  # one's own
    for route in ROUTES:
        assert re.fullmatch(r"/v1(/[a-z.{}-]+)+", route.path)
        if route.scope == "read" and route.path not in own:
            assert not route.mutating and (route.method == "GET" or route.path in asking)
        if route.method in ("POST", "DELETE"):
            assert route.mutating or route.path in asking
