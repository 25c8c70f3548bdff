"""The hook listener: strict, bounded, kept alive, held open, and never losing what it answered."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import signal
import socket
import threading
from collections.abc import Callable
from typing import Any

import pytest
from boxd_support import BOUND, BoxdProcess, run, wait_for
from hypothesis import given, settings
from hypothesis import strategies as st

from thopter.boxd import http as boxd_http
from thopter.boxd.shrink import shrink
from thopter.kit.channel import BoxLink
from thopter.model.errors import BadInput, NotFound


def hooks_of(boxd: BoxdProcess, after: int = 0) -> list[dict[str, Any]]:
    async def go() -> list[dict[str, Any]]:
        async with boxd.link() as link:
            return [r async for r in link.journal(after=after, kinds=["hook"])]

    return run(go())


def raw(boxd: BoxdProcess, *pieces: bytes, end: bool = True) -> bytes:
    """Send bytes as they are; return all that comes back until the end."""
    with socket.create_connection(("127.0.0.1", boxd.hook_port), timeout=BOUND) as sock:
        for piece in pieces:
            sock.sendall(piece)
        if end:
            sock.shutdown(socket.SHUT_WR)
        got = b""
        while chunk := sock.recv(65536):
            got += chunk
    return got


def request(boxd: BoxdProcess, body: bytes = b"{}", path: str = "/hook/Stop?run=r", head: str = "") -> bytes:
    auth = f"Host: 127.0.0.1\r\nAuthorization: Bearer {boxd.token}\r\n"
    return f"POST {path} HTTP/1.1\r\n{auth}Content-Length: {len(body)}\r\n{head}\r\n".encode() + body


def test_a_hook_is_in_the_journal_when_it_is_answered(boxd: BoxdProcess) -> None:
    body = json.dumps({"hook_event_name": "Stop", "text": "ünï\n"}).encode()
    assert boxd.hook("Stop", body, "?run=run_1") == (204, b"")
    (record,) = hooks_of(boxd)
    assert (record["event"], record["run"], record["body"]) == ("Stop", "run_1", body.decode())
    assert "id" not in record and isinstance(record["at_ms"], int)


def test_a_body_of_stray_bytes_arrives_as_it_is(boxd: BoxdProcess) -> None:
    boxd.hook("X", bytes(range(256)))
    (record,) = hooks_of(boxd)
    assert record["body"].encode(errors="surrogateescape") == bytes(range(256))


def test_many_hooks_on_one_connection_and_pipelined(boxd: BoxdProcess) -> None:
    client = http.client.HTTPConnection("127.0.0.1", boxd.hook_port, timeout=BOUND)
    for i in range(50):
        client.request("POST", f"/hook/E{i}?run=r", b"{}", {"Authorization": f"Bearer {boxd.token}"})
        answer = client.getresponse()
        assert answer.status == 204 and answer.read() == b""
    client.close()
    got = raw(boxd, request(boxd) * 20)
    assert got.count(b"HTTP/1.1 204 No Content\r\n") == 20
    assert len(hooks_of(boxd)) == 70


def test_a_request_may_come_byte_by_byte(boxd: BoxdProcess) -> None:
    whole = request(boxd, b'{"a":1}')
    got = raw(boxd, *(whole[i : i + 1] for i in range(len(whole))))
    assert got.startswith(b"HTTP/1.1 204")


@pytest.mark.parametrize(
    ("query", "headers", "status"),
    [
        ("?run=r", {"Authorization": "Bearer wrong"}, 401),
        ("?run=r", {"Authorization": ""}, 401),
        ("?run=r", {"Authorization": "Basic box-token"}, 401),
        ("?run=r", {"Host": "evil.example"}, 403),
        ("?run=r", {"Host": "127.0.0.1.evil.example:8400"}, 403),
        ("?run=r", {"Origin": "http://127.0.0.1:8400"}, 403),
        ("?run=a/b", {}, 400),
        ("?run=r&run=r", {}, 400),
        ("?run=r&hold=-1", {}, 400),
        ("?run=r&hold=nan", {}, 400),
        ("?run=%ff", {}, 400),
        ("?run=r", {"Expect": "miracles"}, 417),
    ],
)
def test_a_request_that_must_not_count_is_refused_and_not_recorded(
    boxd: BoxdProcess, query: str, headers: dict[str, str], status: int
) -> None:
    assert boxd.hook("Stop", b"{}", query, **headers)[0] == status
    assert hooks_of(boxd) == []


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"GARBAGE\r\n\r\n", 400),
        (b"GET /hook/Stop HTTP/2.0\r\n\r\n", 505),
        (b"POST http://x/hook/Stop HTTP/1.1\r\n\r\n", 400),
        (b"POST /hook/St op HTTP/1.1\r\n\r\n", 400),
        (b"POST /hook/Stop HTTP/1.1\r\nHost : x\r\n\r\n", 400),
        (b"POST /hook/Stop HTTP/1.1\r\nA: b\r\n c\r\n\r\n", 400),
        (b"POST /hook/Stop HTTP/1.1\r\nHost: 127.0.0.1\r\nHost: 127.0.0.1\r\n\r\n", 400),
        (b"POST /hook/Stop HTTP/1.1\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n", 400),
        (b"POST /hook/Stop HTTP/1.1\r\nContent-Length: +2\r\n\r\n", 400),
        (b"POST /hook/Stop HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", 411),
        (b"POST /hook/Stop HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\n", 413),
        (b"POST /hook/Stop HTTP/1.1\r\nA: " + b"x" * 20_000, 431),
    ],
)
def test_malformed_http_is_refused_and_ends_the_connection(
    boxd: BoxdProcess, sent: bytes, status: int
) -> None:
    got = raw(boxd, sent)
    assert got.startswith(b"HTTP/1.1 %d " % status) and b"Connection: close" in got
    assert hooks_of(boxd) == []


def test_wrong_places_and_methods_are_told(boxd: BoxdProcess) -> None:
    assert raw(boxd, request(boxd, path="/")).startswith(b"HTTP/1.1 404")
    assert raw(boxd, request(boxd, path="/hook/")).startswith(b"HTTP/1.1 404")
    assert raw(boxd, request(boxd).replace(b"POST", b"PUT", 1)).startswith(b"HTTP/1.1 405")


def test_a_large_body_is_asked_for_and_cut_so_that_it_stays_json(boxd: BoxdProcess) -> None:
    value = {"session_id": "s", "tool_input": {"content": "ü" * 400_000}, "tool_name": "Write"}
    body = json.dumps(value).encode()
    head = request(boxd, body, head="Expect: 100-continue\r\n")[: -len(body)]
    got = raw(boxd, head, body)
    assert got.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204")
    (record,) = hooks_of(boxd)
    cut = json.loads(record["body"])
    assert (cut["session_id"], cut["tool_name"]) == ("s", "Write")
    assert record["truncated"] is True and record["size"] == len(body) and len(record["body"]) < 100_000


def test_a_held_hook_is_answered_by_the_hub(boxd: BoxdProcess) -> None:
    answer = '{"decision": {"behavior": "allow", "text": "ü"}}'
    got: list[tuple[int, bytes]] = []
    assert boxd.hook_port > 0  # asked for here, so that the thread needs no loop
    query = "?run=r&hold=60"
    thread = threading.Thread(target=lambda: got.append(boxd.hook("PermissionRequest", b"{}", query)))
    thread.start()

    async def go() -> None:
        async with boxd.link() as link, asyncio.timeout(BOUND):
            async for record in link.journal(follow=True, kinds=["hook"]):
                await link.hook_answer(record["id"], 200, answer)
                with pytest.raises(NotFound):
                    await link.hook_answer(record["id"], 200, answer)
                return

    run(go())
    thread.join(BOUND)
    assert got == [(200, answer.encode())]
    assert ends_of(boxd) == ["answered"]


def test_a_held_hook_is_let_go_when_its_time_is_over_or_its_caller_is_gone(boxd: BoxdProcess) -> None:
    assert boxd.hook("PermissionRequest", b"{}", "?run=r&hold=0.05") == (204, b"")
    port = boxd.hook_port

    async def go() -> None:
        async with boxd.link() as link:
            (record,) = [r async for r in link.journal(kinds=["hook"])]
            with pytest.raises(NotFound):
                await link.hook_answer(record["id"])
            with socket.create_connection(("127.0.0.1", port)) as sock:
                sock.sendall(request(boxd, path="/hook/PermissionRequest?run=r&hold=600"))
                second = await next_hook(link, record["seq"])
                with pytest.raises(BadInput):
                    await link.call("hook.answer", id=second["id"], status=100)
            await link.ping()  # boxd sees the hang-up before it reads this
            with pytest.raises(NotFound):
                await link.hook_answer(second["id"])

    run(go())
    assert ends_of(boxd) == ["expired", "gone"]


def ends_of(boxd: BoxdProcess) -> list[str]:
    """How held hooks ended, by the journal."""

    async def read() -> list[str]:
        async with boxd.link() as link:
            return [r["how"] async for r in link.journal(kinds=["hook.closed"])]

    found: list[str] = run(read())
    return found


async def next_hook(link: BoxLink, after: int) -> dict[str, Any]:
    async with asyncio.timeout(BOUND):
        async for record in link.journal(after=after, follow=True, kinds=["hook"]):
            return record
    raise AssertionError("unreachable")


def test_a_hook_during_a_restart_of_boxd_waits_and_is_not_lost(boxd: BoxdProcess) -> None:
    assert boxd.hook("Before")[0] == 204
    stop = threading.Event()
    answered: list[int] = []

    def hammer() -> None:
        while not stop.is_set():
            try:
                if boxd.hook(f"N{len(answered)}")[0] == 204:
                    answered.append(len(answered))
            except (http.client.HTTPException, ConnectionResetError):
                continue  # that boxd died with the request in its hands: not acknowledged

    thread = threading.Thread(target=hammer)
    thread.start()
    for _ in range(3):
        os.kill(boxd.boxd_pid(), signal.SIGKILL)
    stop.set()
    thread.join(BOUND)
    assert boxd.hook("After")[0] == 204
    events = [r["event"] for r in hooks_of(boxd)]
    assert {f"N{i}" for i in answered} <= set(events) and events[-1] == "After"


def test_a_taken_port_is_tried_again_and_the_rest_works(start: Callable[..., BoxdProcess]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        boxd = start(hook_port=taken.getsockname()[1])

        async def port() -> int:
            async with boxd.link() as link:
                return int(link.facts["hook_port"])

        assert run(port()) == 0

    wait_for(lambda: run(port()))
    assert boxd.hook("Stop")[0] == 204


@given(st.lists(st.binary(max_size=80), max_size=6))
def test_the_parser_gives_requests_or_http_errors_for_any_bytes(pieces: list[bytes]) -> None:
    parser = boxd_http.HttpParser(lambda headers: None)
    try:
        for piece in pieces:
            parser.feed(piece)
            while (got := parser.next()) is not None:
                assert got.path.startswith("/")
    except boxd_http.HttpError as e:
        assert 400 <= e.status <= 505


@given(st.binary(max_size=200), st.data())
def test_a_request_cut_anywhere_is_one_request(body: bytes, data: st.DataObject) -> None:
    whole = b"POST /hook/A?b=c HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    parser, got = boxd_http.HttpParser(lambda headers: None), []
    cut = data.draw(st.integers(0, len(whole)))
    for piece in (whole[:cut], whole[cut:]):
        parser.feed(piece)
        if (one := parser.next()) is not None:
            got.append(one)
    assert [(r.method, r.path, r.query, r.body) for r in got] == [("POST", "/hook/A", {"b": "c"}, body)]
    assert parser.empty


json_values = st.recursive(
    st.none() | st.integers() | st.text(),
    lambda i: st.lists(i) | st.dictionaries(st.text(), i),
    max_leaves=12,
)


@given(st.dictionaries(st.text(max_size=30), json_values, max_size=6), st.integers(64, 400))
@settings(max_examples=60)
def test_what_is_shrunk_fits_and_json_stays_json(value: dict[str, Any], limit: int) -> None:
    body = json.dumps(value).encode()
    text, cut = shrink(body, limit)
    assert len(text.encode("utf-8", "surrogateescape")) <= limit
    assert cut == (len(body) > limit)
    if not cut:
        assert text.encode() == body


def test_shrinking_keeps_the_small_fields(boxd: BoxdProcess) -> None:
    value = {"a": "1", "list": ["x" * 1000] * 50, "deep": {"b": "y" * 100_000}, "n": 5}
    text, cut = shrink(json.dumps(value).encode(), 4000)
    small = json.loads(text)
    assert cut and small["a"] == "1" and small["n"] == 5 and small["deep"]["b"].endswith("[cut]")
