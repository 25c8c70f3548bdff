"""Commands over the WebSocket against hubs that break rules, and both directions full at once."""

from __future__ import annotations

import base64
import hashlib
import re
import select
import socket
import struct
import threading

import pytest
from bad_server import answer, bad_server, read_request

from thopter.mesh.client import HubClient
from thopter.model.api import ExecRequest, PtySize
from thopter.model.errors import BadInput, HubUnreachable, NotFound, NotNow, ThopterError

GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
TEXT, BINARY, CONT, CLOSE, PING = 1, 2, 0, 8, 9
BIG = 12 << 20


def frame(opcode: int, data: bytes, fin: bool = True) -> bytes:
    """One frame as a server sends it (not masked)."""
    head = bytes([opcode | (0x80 if fin else 0)])
    if len(data) < 126:
        return head + bytes([len(data)]) + data
    if len(data) < 65536:
        return head + bytes([126]) + struct.pack(">H", len(data)) + data
    return head + bytes([127]) + struct.pack(">Q", len(data)) + data


def shake(connection: socket.socket) -> None:
    """Accept the handshake."""
    key = re.search(rb"(?i)sec-websocket-key: (\S+)", read_request(connection)).group(1)
    accept = base64.b64encode(hashlib.sha1(key + GUID).digest())
    connection.sendall(
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\n"
    )


def says(*pieces: bytes, after: float = 0.0):
    """Accept, read the first message, send these and close."""

    def behave(connection: socket.socket, number: int) -> None:
        shake(connection)
        connection.recv(65536)
        for piece in pieces:
            connection.sendall(piece)

    return behave


def run(behave, argv: list[str] | None = None) -> tuple[list[tuple[int, bytes]], int]:
    with bad_server(behave) as server, HubClient(server.path) as client:
        with client.exec("flag", ExecRequest(argv=argv or ["true"])) as command:
            output = list(command)
        assert command.ended is not None
        return output, command.ended.status


def test_output_and_its_end_come_out():
    ended = frame(BINARY, b"\1out") + frame(BINARY, b"\2err") + frame(TEXT, b'{"exit":3}')
    assert run(says(frame(TEXT, b'{"started":{}}'), ended)) == ([(1, b"out"), (2, b"err")], 3)
    assert run(says(frame(TEXT, b'{"signal":15}'))) == ([], 143)


def test_what_it_does_not_know_is_ignored_and_pings_are_answered():
    pongs: list[bytes] = []

    def pings(connection: socket.socket, number: int) -> None:
        shake(connection)
        connection.recv(65536)
        connection.sendall(
            frame(PING, b"hi") + frame(TEXT, b'{"news":1}') + frame(BINARY, b"\7x") + frame(BINARY, b"")
        )
        pongs.append(connection.recv(65536))
        connection.sendall(frame(TEXT, b'{"exit":0}'))

    assert run(pings) == ([], 0)
    assert pongs[0][0] == 0x8A and pongs[0][1] & 0x80, "a masked pong"


def test_a_message_in_fragments_is_put_together():
    parts = (
        frame(BINARY, b"\1a", fin=False) + frame(PING, b"") + frame(CONT, b"b", fin=False) + frame(CONT, b"c")
    )
    assert run(says(parts, frame(TEXT, b'{"ex', fin=False), frame(CONT, b'it":0}'))) == ([(1, b"abc")], 0)


@pytest.mark.parametrize("cut", range(1, 40, 3))
def test_frames_cut_anywhere_are_put_together(cut: int):
    wire = frame(BINARY, b"\1hello") + frame(TEXT, b'{"exit":0}') + frame(CLOSE, b"\x03\xe8")
    assert run(says(wire[:cut], wire[cut:])) == ([(1, b"hello")], 0)


def test_what_comes_together_with_the_handshake_is_not_lost():
    def eager(connection: socket.socket, number: int) -> None:
        key = re.search(rb"(?i)sec-websocket-key: (\S+)", read_request(connection)).group(1)
        accept = base64.b64encode(hashlib.sha1(key + GUID).digest())
        head = b"HTTP/1.1 101 x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: "
        connection.sendall(head + accept + b"\r\n\r\n" + frame(BINARY, b"\1x") + frame(TEXT, b'{"exit":0}'))

    assert run(eager) == ([(1, b"x")], 0)


def test_errors_of_the_hub_are_raised_as_their_classes():
    for where in (
        says(frame(TEXT, b'{"error":{"code":"not_found","message":"no such thopter"}}')),
        lambda c, n: (
            read_request(c),
            c.sendall(answer(b'{"error":{"code":"not_found","message":"no"}}', b"404 x")),
        ),
    ):
        with pytest.raises(NotFound):
            run(where)
    with pytest.raises(NotNow):
        run(says(frame(BINARY, b"\1x"), frame(TEXT, b'{"error":{"code":"not_now","message":"frozen"}}')))


@pytest.mark.parametrize(
    "broken",
    [
        says(),
        says(frame(BINARY, b"\1half")[:-2]),
        says(frame(TEXT, b"not json")),
        says(frame(BINARY, b"\1" + b"x" * (3 << 20))),
        says(frame(TEXT, b"\xff\xfe")),
        says(bytes([0x8F, 0x00])),
        says(frame(CLOSE, b"\x03\xe8")),
        lambda c, n: None,
        lambda c, n: (read_request(c), c.sendall(b"SSH-2.0-x\r\n\r\n")),
        lambda c, n: (
            read_request(c),
            c.sendall(answer(b"<html>", b"500 Internal Server Error", b"text/html")),
        ),
        lambda c, n: (read_request(c), c.sendall(b"HTTP/1.1 101 Switching Protocols\r\n\r\n")),
        lambda c, n: (read_request(c), c.sendall(answer(b"{}"))),
    ],
)
def test_a_broken_hub_is_an_error_and_never_an_end(broken):
    with pytest.raises(HubUnreachable):
        run(broken)


def test_a_command_that_can_not_be_sent_is_refused_first():
    def never(connection: socket.socket, number: int) -> None:
        raise AssertionError("it connected")

    for argv in (["a\0b"], ["\udcff"]):
        with bad_server(never) as server, pytest.raises((BadInput, ThopterError)) as caught:
            HubClient(server.path).exec("flag", ExecRequest(argv=argv))
        assert isinstance(caught.value, BadInput)


def test_the_request_says_exactly_what_was_asked():
    asked: list[bytes] = []

    def note(connection: socket.socket, number: int) -> None:
        shake(connection)
        asked.append(unmask(connection.recv(65536)))
        connection.sendall(frame(TEXT, b'{"exit":0}'))

    with bad_server(note) as server:
        request = ExecRequest(argv=["a b", '"', "é"], cwd="/x", pty=PtySize(rows=3, cols=4), stdin=False)
        with HubClient(server.path).exec("flag", request) as command:
            assert list(command) == []
    assert asked == [
        '{"argv":["a b","\\"","é"],"env":null,"cwd":"/x","pty":{"rows":3,"cols":4},"stdin":false}'.encode()
    ]


def unmask(raw: bytes) -> bytes:
    """The payload of one short masked frame."""
    length = raw[1] & 0x7F
    at = 2
    if length == 126:
        length, at = struct.unpack(">H", raw[2:4])[0], 4
    mask, data = raw[at : at + 4], raw[at + 4 : at + 4 + length]
    return bytes(b ^ mask[i % 4] for i, b in enumerate(data))


def take_all(connection: socket.socket, total: int) -> None:
    """Read frames of input until ``total`` bytes of it came, saying what was taken."""
    seen, rest = 0, b""
    while seen < total:
        rest += connection.recv(1 << 20)
        while len(rest) >= 2 and len(rest) >= {126: 4, 127: 10}.get(rest[1] & 0x7F, 2):
            length, at = rest[1] & 0x7F, 2
            if length == 126:
                length, at = struct.unpack(">H", rest[2:4])[0], 4
            elif length == 127:
                length, at = struct.unpack(">Q", rest[2:10])[0], 10
            if len(rest) < at + 4 + length:
                break
            if rest[0] & 0x0F == BINARY:
                seen += length - 1
                connection.sendall(frame(TEXT, b'{"taken":%d}' % (length - 1)))
            rest = rest[at + 4 + length :]


def test_a_hub_that_sends_much_before_it_reads_anything_is_no_deadlock():
    """Both buffers full in both directions: whoever only sends or only reads would wait for ever."""

    def talks_first(connection: socket.socket, number: int) -> None:
        shake(connection)
        connection.sendall(frame(TEXT, b'{"started":{"window":%d}}' % (4 * BIG)))
        for _ in range(BIG // (256 << 10)):
            connection.sendall(frame(BINARY, b"\1" + b"o" * (256 << 10)))
        take_all(connection, BIG)
        connection.sendall(frame(TEXT, b'{"exit":0}'))

    with (
        bad_server(talks_first) as server,
        HubClient(server.path).exec("f", ExecRequest(argv=["cat"])) as command,
    ):
        for _ in range(BIG // (64 << 10)):
            command.write(b"i" * (64 << 10))
        command.eof()
        got = sum(len(data) for _, data in command)
    assert got == BIG and command.ended.status == 0


def test_input_waits_until_the_hub_says_that_some_was_taken():
    asked = threading.Event()

    def takes_later(connection: socket.socket, number: int) -> None:
        shake(connection)
        connection.sendall(frame(TEXT, b'{"started":{"window":100000}}'))
        asked.wait(30)
        take_all(connection, 250_000)
        connection.sendall(frame(TEXT, b'{"exit":0}'))

    with (
        bad_server(takes_later) as server,
        HubClient(server.path).exec("f", ExecRequest(argv=["x"])) as command,
    ):
        while command.room < 100_000:
            select.select([command], [], [], 30)
            command.move()
        command.give(b"i" * 100_000)
        assert command.room == 0
        asked.set()
        command.write(b"i" * 150_000)
        assert list(command) == [] and command.ended.status == 0


def test_input_that_nobody_takes_ends_with_the_command():
    let_go = threading.Event()

    def never_reads(connection: socket.socket, number: int) -> None:
        shake(connection)
        let_go.wait(30)
        connection.sendall(frame(TEXT, b'{"exit":5}'))

    with (
        bad_server(never_reads) as server,
        HubClient(server.path).exec("f", ExecRequest(argv=["x"])) as command,
    ):
        threading.Timer(0.3, let_go.set).start()
        command.write(b"i" * (64 << 20))
        assert command.ended.status == 5
        assert command.pending <= 1 << 20


def test_letting_go_ends_the_connection():
    gone = threading.Event()

    def watches(connection: socket.socket, number: int) -> None:
        shake(connection)
        while connection.recv(65536):
            pass
        gone.set()

    with bad_server(watches) as server:
        with HubClient(server.path).exec("f", ExecRequest(argv=["x"])):
            pass
        assert gone.wait(30)


def test_its_descriptor_can_be_waited_for():
    behave = says(frame(BINARY, b"\1x"), frame(TEXT, b'{"exit":0}'))
    with bad_server(behave) as server, HubClient(server.path).exec("f", ExecRequest(argv=["x"])) as command:
        while command.ended is None:
            select.select([command], [], [], 30)
            command.move()
        assert list(command.output) == [(1, b"x")]
