"""The event stream as the client reads it: across restarts, silence, garbage."""

from __future__ import annotations

import itertools
import re
import socket
import threading

import pytest
from bad_server import answer, bad_server, read_request
from hypothesis import given, settings
from hypothesis import strategies as st

from thopter.mesh import sse
from thopter.mesh.client import HubClient
from thopter.mesh.sse import Lines
from thopter.model.errors import Conflict, HubUnreachable
from thopter.model.events import Event

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def event(seq: int, kind: str = "note") -> bytes:
    return b'id: %d\nevent: %s\ndata: {"kind":"%s","at_ms":1,"seq":%d}\n\n' % (
        seq,
        kind.encode(),
        kind.encode(),
        seq,
    )


def hold(connection: socket.socket) -> None:
    """Keep the connection until the client goes."""
    while connection.recv(4096):
        pass


def take(path, count: int, **kw) -> list[int]:
    """The numbers of the first ``count`` events."""
    stream = HubClient(path).events(tick=0.05, **kw)
    found = [e.seq for e in itertools.islice((e for e in stream if e is not None), count)]
    stream.close()
    return found


def test_a_stream_that_ends_goes_on_after_the_last_number_seen():
    asked: list[bytes] = []

    def restarting(connection: socket.socket, number: int) -> None:
        asked.append(read_request(connection))
        connection.sendall(HEAD + chunk(event(number * 10)) + (b"0\r\n\r\n" if number % 2 else b""))

    with bad_server(restarting) as server:
        assert take(server.path, 4, after=3) == [10, 20, 30, 40]
    ids = [re.search(rb"Last-Event-ID: (\d+)", request).group(1) for request in asked[:4]]
    assert ids == [b"3", b"10", b"20", b"30"]


def test_without_a_number_it_begins_now_and_a_number_without_news_is_remembered():
    asked: list[bytes] = []

    def head_first(connection: socket.socket, number: int) -> None:
        asked.append(read_request(connection))
        if number == 1:
            connection.sendall(HEAD + chunk(b"id: 77\n\n"))
            return
        connection.sendall(HEAD + chunk(event(78)))
        hold(connection)

    with bad_server(head_first) as server:
        assert take(server.path, 1) == [78]
    assert b"Last-Event-ID" not in asked[0] and b"Last-Event-ID: 77" in asked[1]


def test_filters_are_sent_and_quoted():
    asked: list[bytes] = []

    def note(connection: socket.socket, number: int) -> None:
        asked.append(read_request(connection))
        connection.sendall(HEAD + chunk(event(1)))
        hold(connection)

    with bad_server(note) as server:
        take(server.path, 1, box="b&x", flow="f", kinds="run.state,entry")
    assert b"GET /v1/events?box=b%26x&flow=f&kinds=run.state%2Centry HTTP/1.1" in asked[0]


def test_it_ticks_while_nothing_happens_and_while_the_hub_is_away():
    gone = threading.Event()

    def quiet(connection: socket.socket, number: int) -> None:
        read_request(connection)
        connection.sendall(HEAD + chunk(b": hello\n\n"))
        gone.wait(30)

    with bad_server(quiet) as server:
        stream = HubClient(server.path).events(tick=0.02)
        assert [next(stream) for _ in range(5)] == [None] * 5
        server.close()
        gone.set()
        server.path.unlink()
        assert [next(stream) for _ in range(20)] == [None] * 20
        stream.close()


def test_patience_with_a_hub_that_is_away_ends():
    with bad_server(lambda connection, number: None) as server:
        stream = HubClient(server.path).events(tick=0.02, patience=0.3)
        with pytest.raises(HubUnreachable):
            for _ in range(100_000):
                next(stream)
        assert server.connections > 1


def test_a_refusal_of_the_hub_is_raised_at_once():
    body = b'{"error":{"code":"conflict","message":"number 9 is of another history"}}'

    def refuses(connection: socket.socket, number: int) -> None:
        read_request(connection)
        connection.sendall(answer(body, b"409 Conflict"))

    with bad_server(refuses) as server:
        with pytest.raises(Conflict):
            take(server.path, 1, after=9)
        assert server.connections == 1


def test_a_hub_with_another_history_is_followed_from_now_on():
    asked: list[bytes] = []

    def reborn(connection: socket.socket, number: int) -> None:
        asked.append(read_request(connection))
        if number == 1:
            connection.sendall(HEAD + chunk(event(500)) + b"0\r\n\r\n")
        elif number == 2:
            connection.sendall(answer(b'{"error":{"code":"conflict","message":"no"}}', b"409 Conflict"))
        else:
            connection.sendall(HEAD + chunk(event(2)))
            hold(connection)

    with bad_server(reborn) as server:
        assert take(server.path, 2) == [500, 2]
    assert b"Last-Event-ID" not in asked[2]


def test_silence_longer_than_three_comments_means_a_new_connection(monkeypatch):
    monkeypatch.setattr(sse, "SILENCE", 0.3)

    def falls_silent(connection: socket.socket, number: int) -> None:
        read_request(connection)
        connection.sendall(HEAD + chunk(event(number)))
        hold(connection)

    with bad_server(falls_silent) as server:
        assert take(server.path, 2) == [1, 2]


def test_an_event_that_can_not_be_read_is_skipped_and_counted():
    lines = Lines()
    junk = b'id: 5\ndata: {"kind": 7}\n\nid: 6\ndata: \xff\xfe\n\nevent: x\n\n' + event(7, "of.tomorrow")
    assert [e.seq for e in lines.feed(junk)] == [7]
    assert (lines.skipped, lines.last) == (2, "7")


def test_an_event_without_end_is_an_error_and_not_a_full_memory():
    lines = Lines()
    with pytest.raises(HubUnreachable, match="without end"):
        for _ in range(40):
            lines.feed(b"x" * (1 << 20))


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_events_come_out_the_same_however_the_stream_is_cut(data: st.DataObject):
    wire = (
        b": c\r\n\r\n"
        + event(1).replace(b"\n", b"\r\n")
        + b"data:\ndata: \n\n"
        + event(2)
        + b": still\n\n"
        + event(3)
    )
    lines, found = Lines(), []
    while wire:
        cut = data.draw(st.integers(1, len(wire)))
        found += lines.feed(wire[:cut])
        wire = wire[cut:]
    assert found == [Event(kind="note", at_ms=1, seq=n) for n in (1, 2, 3)]
