"""Commands over the WebSocket, as the contract says: real sockets, real processes."""

from __future__ import annotations

import json
import os
import select
import signal
import struct
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hub_support import BOUND, HubProcess, Raw, hub_process, rss_kib, short_folder, wait_for
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, unix_connect

from thopter.mesh.execs import Ended, Exec
from thopter.model.api import ExecRequest, PtySize
from thopter.model.errors import NotFound


@pytest.fixture(scope="module")
def box(hub: HubProcess) -> str:
    hub.post("/v1/thopters", {"name": "box"})
    return "box"


@contextmanager
def connection(hub: HubProcess, box: str, **kw: Any) -> Iterator[ClientConnection]:
    uri = f"ws://thopter/v1/thopters/{box}/exec"
    with unix_connect(str(hub.socket), uri, compression=None, ping_interval=None, max_size=None, **kw) as ws:
        yield ws


@contextmanager
def command(hub: HubProcess, box: str, *argv: str, **request: Any) -> Iterator[ClientConnection]:
    """A started command."""
    with connection(hub, box) as ws:
        ws.send(json.dumps({"argv": argv, **request}))
        assert json.loads(ws.recv(BOUND)) == {"started": {"window": WINDOW}}
        yield ws


WINDOW = 1 << 20


def finish(ws: ClientConnection) -> tuple[bytes, bytes, dict[str, Any]]:
    """Everything until the end: output, errors, the last message; the hub closes then."""
    out: dict[int, list[bytes]] = {1: [], 2: []}
    taken = 0
    while True:
        message = ws.recv(BOUND)
        if isinstance(message, str) and message.startswith('{"taken":'):
            taken += json.loads(message)["taken"]
        elif isinstance(message, str):
            with pytest.raises(ConnectionClosed):
                ws.recv(BOUND)
            return b"".join(out[1]), b"".join(out[2]), json.loads(message)
        else:
            out[message[0]].append(message[1:])


def close_code(ws: ClientConnection) -> int:
    with pytest.raises(ConnectionClosed) as closed:
        while True:
            ws.recv(BOUND)
    assert closed.value.rcvd is not None
    return closed.value.rcvd.code


def python(code: str) -> tuple[str, ...]:
    return ("/usr/bin/env", "python3", "-c", code)


def alive(mark: str) -> list[int]:
    """Processes that have ``mark`` in their arguments."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                arguments = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if mark.encode() in arguments:
                found.append(int(entry.name))
    return found


def test_arguments_arrive_exactly_and_streams_stay_apart(hub: HubProcess, box: str) -> None:
    odd = ["", " ", "a b", "'\"$`\\", "-n", "*", "ü\u200b\n\t", "\x01\x7f", "x" * 100_000]
    code = (
        "import sys,os; sys.stdout.write('\\0'.join(sys.argv[1:])); sys.stderr.write('to err'); sys.exit(7)"
    )
    with command(hub, box, *python(code), *odd, env={"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"}) as ws:
        out, err, end = finish(ws)
    assert out.decode() == "\0".join(odd)
    assert err == b"to err"
    assert end == {"exit": 7}


def test_environment_and_folder_are_what_was_asked_for(hub: HubProcess, box: str) -> None:
    with command(hub, box, "/bin/sh", "-c", "env; pwd", env={"A": "1 2", "B": ""}, cwd="/usr") as ws:
        out, _, end = finish(ws)
    assert {"A=1 2", "B=", "/usr"} <= set(out.decode().splitlines()) and end == {"exit": 0}
    assert "THOPTER_STATE_DIR" not in out.decode()


def test_input_goes_in_and_its_end_does_not_end_the_output(hub: HubProcess, box: str) -> None:
    with command(hub, box, "/bin/sh", "-c", "cat; sleep 0.2; echo after") as ws:
        ws.send(b"\0one ")
        ws.send(b"\0two\n")
        ws.send('{"eof":0}')
        ws.send(b"\0too late")
        assert finish(ws) == (b"one two\nafter\n", b"", {"exit": 0})


def test_without_input_the_command_finds_its_end_at_once(hub: HubProcess, box: str) -> None:
    with command(hub, box, "cat", stdin=False) as ws:
        assert finish(ws) == (b"", b"", {"exit": 0})


def test_signals_reach_the_command_and_its_end_says_which(hub: HubProcess, box: str) -> None:
    trap = "trap 'echo got; exit 3' INT; echo ready; while :; do sleep 0.05; done"
    with command(hub, box, "/bin/sh", "-c", trap) as ws:
        assert ws.recv(BOUND) == b"\x01ready\n"
        ws.send('{"signal":"INT"}')
        assert finish(ws) == (b"got\n", b"", {"exit": 3})
    with command(hub, box, "sleep", "600") as ws:
        ws.send('{"signal":"TERM"}')
        assert finish(ws)[2] == {"signal": signal.SIGTERM}


def test_a_terminal_has_the_size_that_was_asked_for_and_follows_changes(hub: HubProcess, box: str) -> None:
    code = "trap 'stty size' WINCH; stty size; read x; echo end"
    with command(hub, box, "/bin/sh", "-c", code, pty={"rows": 33, "cols": 99}) as ws:
        seen = b""
        while b"33 99" not in seen:
            seen += ws.recv(BOUND)[1:]
        ws.send('{"resize":[44,111]}')
        ws.send(b"\0\n")
        out, err, end = finish(ws)
    assert b"end" in out and err == b"" and end == {"exit": 0}
    with command(hub, box, "/bin/sh", "-c", "read x; stty size", pty={}) as ws:
        ws.send('{"resize":[44,111]}')
        ws.send(b"\0\n")
        assert b"44 111" in finish(ws)[0]


def test_much_output_arrives_whole_and_in_order(hub: HubProcess, box: str) -> None:
    code = "import sys\nfor n in range(20000): sys.stdout.buffer.write(b'%08d' % n * 100)"
    with command(hub, box, *python(code)) as ws:
        out, _, end = finish(ws)
    assert end == {"exit": 0}
    assert out == b"".join(b"%08d" % n * 100 for n in range(20000))


def test_input_of_many_megabytes_comes_back_whole_while_it_is_sent(hub: HubProcess, box: str) -> None:
    """A client that sends and reads in turn, and keeps to the window: it never locks itself up."""
    piece, pieces = os.urandom(200_000), 200
    with command(hub, box, "cat") as ws:
        left, credit, out = pieces, WINDOW, []
        while True:
            while left and credit >= len(piece):
                ws.send(b"\0" + piece)
                left, credit = left - 1, credit - len(piece)
                if not left:
                    ws.send('{"eof":0}')
            message = ws.recv(BOUND)
            if isinstance(message, bytes):
                out.append(message[1:])
            elif "taken" in message:
                credit += json.loads(message)["taken"]
            else:
                break
    assert json.loads(message) == {"exit": 0}
    assert credit == WINDOW, "everything was told as taken"
    assert b"".join(out) == piece * pieces


def test_a_client_that_knows_no_window_is_held_back_by_the_socket(hub: HubProcess, box: str) -> None:
    """It sends whenever it can and reads whenever it can, both at once."""
    piece, pieces = os.urandom(200_000), 150
    with shaken(hub, box) as raw:
        raw.sock.setblocking(False)
        unsent = frame(1, json.dumps({"argv": ["cat"]}).encode())
        unsent += b"".join(frame(2, b"\0" + piece) for _ in range(pieces)) + frame(1, b'{"eof":0}')
        view, got, deadline = memoryview(unsent), bytearray(), time.monotonic() + BOUND
        while not got.endswith(b'{"exit":0}\x88\x02\x03\xe8') and time.monotonic() < deadline:
            readable, writable, _ = select.select([raw.sock], [raw.sock] if view else [], [], 1)
            if readable:
                got += raw.sock.recv(1 << 20)
            if writable:
                view = view[raw.sock.send(view[: 1 << 18]) :]
        assert not view
    out = b"".join(data[1:] for opcode, data in frames(bytes(got)) if opcode == 2)
    assert out == piece * pieces


def frames(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The frames of a server."""
    at = 0
    while at < len(data):
        opcode, length, at = data[at] & 15, data[at + 1], at + 2
        if length > 125:
            wide = 2 if length == 126 else 8
            length, at = int.from_bytes(data[at : at + wide], "big"), at + wide
        yield opcode, data[at : at + length]
        at += length


@contextmanager
def shaken(hub: HubProcess, box: str) -> Iterator[Raw]:
    """A raw connection after the handshake."""
    with Raw(hub.socket) as raw:
        raw.send(
            f"GET /v1/thopters/{box}/exec HTTP/1.1\r\nHost: thopter\r\nConnection: upgrade\r\n"
            "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
            "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n".encode()
        )
        head = raw.head()
        assert b" 101 " in head and b"content-security-policy" in head.lower()
        yield raw


def test_a_signal_gets_through_although_the_input_is_not_taken(hub: HubProcess, box: str) -> None:
    with command(
        hub, box, "/bin/sh", "-c", "trap 'exit 9' INT; echo ready; while :; do sleep 0.05; done"
    ) as ws:
        assert ws.recv(BOUND) == b"\x01ready\n"
        for _ in range(4):
            ws.send(b"\0" + b"q" * (WINDOW // 4))  # a pipe takes 64 KiB of it
        ws.send('{"signal":"INT"}')
        assert finish(ws)[2] == {"exit": 9}


def test_a_reader_that_stops_holds_the_command_back_not_the_hub(hub: HubProcess, box: str) -> None:
    before = rss_kib(hub.pid())
    counter = f"/tmp/hub-count-{uuid.uuid4().hex}"
    code = (
        "import sys\n"
        "for n in range(3000):\n"
        "    sys.stdout.buffer.write(b'x' * 100000); sys.stdout.flush()\n"
        f"    open({counter!r}, 'w').write(str(n))"
    )
    try:
        with connection(hub, box, max_queue=1) as ws:
            ws.send(json.dumps({"argv": python(code)}))
            written = wait_for(lambda: _stands_still(counter))
            assert written < 300, "held back after a few megabytes"
            assert rss_kib(hub.pid()) - before < 30_000
            size = 0
            while not isinstance(message := ws.recv(BOUND), str) or "exit" not in message:
                size += len(message) - 1 if isinstance(message, bytes) else 0
            assert (size, json.loads(message)) == (300_000_000, {"exit": 0}), "and nothing was lost"
    finally:
        Path(counter).unlink(missing_ok=True)


def _stands_still(path: str) -> int:
    """The number in a file once it has not changed for a second."""
    try:
        seen = Path(path).read_text()
        time.sleep(1)
        return int(seen) if seen and seen == Path(path).read_text() else 0
    except OSError:
        return 0


def test_a_command_that_takes_no_input_holds_the_sender_back_not_the_hub(hub: HubProcess, box: str) -> None:
    before = rss_kib(hub.pid())
    sent = [0]
    with command(hub, box, "/bin/sh", "-c", "echo ready; sleep 600") as ws:
        assert ws.recv(BOUND) == b"\x01ready\n"

        def send() -> None:
            try:
                for _ in range(600):
                    ws.send(b"\0" + b"y" * 500_000)
                    sent[0] += 500_000
            except ConnectionClosed:
                return

        thread = threading.Thread(target=send)
        thread.start()
        wait_for(lambda: sent[0] and _same(sent))
        assert sent[0] < 20_000_000
        assert rss_kib(hub.pid()) - before < 30_000
        ws.socket.shutdown(2)
        thread.join(BOUND)


def _same(sent: list[int]) -> bool:
    seen = sent[0]
    time.sleep(0.5)
    return seen == sent[0]


@pytest.mark.parametrize("how", ["close", "vanish"])
def test_a_client_that_goes_away_ends_the_command(hub: HubProcess, box: str, how: str) -> None:
    mark = uuid.uuid4().hex
    with command(hub, box, "/bin/sh", "-c", f"sleep 600 & sleep 600; : {mark}") as ws:
        wait_for(lambda: alive(mark))
        if how == "close":
            ws.close()
        else:
            ws.socket.shutdown(2)
        wait_for(lambda: not alive(mark))


def test_a_client_that_vanishes_while_held_back_ends_the_command(hub: HubProcess, box: str) -> None:
    """Reading from the client is paused then: its end must be noticed all the same."""
    mark = uuid.uuid4().hex
    with shaken(hub, box) as raw:
        raw.send(frame(1, json.dumps({"argv": ["/bin/sh", "-c", f"sleep 600; : {mark}"]}).encode()))
        wait_for(lambda: alive(mark))
        raw.sock.settimeout(2)
        with pytest.raises(TimeoutError):
            while True:
                raw.send(frame(2, b"\0" + b"z" * 200_000))
        assert alive(mark)
    wait_for(lambda: not alive(mark))


def frame(opcode: int, payload: bytes, fin: bool = True) -> bytes:
    """A masked client frame (mask 0)."""
    head = bytes([(0x80 if fin else 0) | opcode])
    if len(payload) < 126:
        head += bytes([0x80 | len(payload)])
    elif len(payload) < 65536:
        head += bytes([0x80 | 126]) + struct.pack(">H", len(payload))
    else:
        head += bytes([0x80 | 127]) + struct.pack(">Q", len(payload))
    return head + b"\0\0\0\0" + payload


BAD_FIRST = [
    ("", "bad_input"), ("{}", "bad_input"), ("[]", "bad_input"), ('{"argv":[]}', "bad_input"),
    ('{"argv":"ls"}', "bad_input"), ('{"argv":["a\\u0000b"]}', "bad_input"), ('{"argv":[1]}', "bad_input"),
    ('{"argv":["ls"],"pty":{"rows":0}}', "bad_input"), ('{"argv":["ls"],"pty":{"cols":70000}}', "bad_input"),
    ('{"argv":["ls"],"env":{"A=B":"x"}}', "bad_input"), ('{"argv":["ls"],"env":{"":"x"}}', "bad_input"),
    ('{"argv":["ls"],"env":{"A":"\\u0000"}}', "bad_input"), ('{"argv":["ls"],"cwd":"/\\u0000"}', "bad_input"),
    ('{"argv":["/no/such/program"]}', "not_found"), ('{"argv":["ls"],"cwd":"/no/such/folder"}', "not_found"),
    (b"\0binary", "bad_input"), ("[" * 10000, "bad_input"),
]  # fmt: skip


@pytest.mark.parametrize(("first", "code"), BAD_FIRST, ids=range(len(BAD_FIRST)))
def test_a_bad_request_is_answered_with_an_error_and_a_close(
    hub: HubProcess, box: str, first: str | bytes, code: str
) -> None:
    with connection(hub, box) as ws:
        ws.send(first)
        error = json.loads(ws.recv(BOUND))["error"]
        assert error["code"] == code and error["message"]
        assert close_code(ws) == (1008 if code == "bad_input" else 1011)


BAD_LATER = [
    b"\x01not stdin", b"\xffwhat", "{", "[]", '{"resize":[0,1]}', '{"resize":[1]}', '{"signal":"rm -rf"}',
    '{"signal":9}', '{"eof":"x"}',
]  # fmt: skip


@pytest.mark.parametrize("message", BAD_LATER, ids=range(len(BAD_LATER)))
def test_a_bad_message_ends_the_command_with_an_error(
    hub: HubProcess, box: str, message: str | bytes
) -> None:
    mark = uuid.uuid4().hex
    with command(hub, box, "/bin/sh", "-c", f"sleep 600; : {mark}") as ws:
        wait_for(lambda: alive(mark))
        ws.send(message)
        assert json.loads(ws.recv(BOUND))["error"]["code"] == "bad_input"
        assert close_code(ws) == 1008
    wait_for(lambda: not alive(mark))


def test_unknown_fields_of_messages_are_ignored(hub: HubProcess, box: str) -> None:
    with command(hub, box, "cat", from_the_future=[1]) as ws:
        ws.send('{"volume":11}')
        ws.send(b"")
        ws.send(b"\0")
        ws.send(b"\0x")
        ws.send('{"eof":0}')
        assert finish(ws) == (b"x", b"", {"exit": 0})


def test_a_thopter_that_does_not_exist_is_an_error_message(hub: HubProcess) -> None:
    with connection(hub, "nobody") as ws:
        ws.send('{"argv":["true"]}')
        assert json.loads(ws.recv(BOUND))["error"]["code"] == "not_found"


def test_a_frame_over_the_limit_closes_and_ends_the_command(hub: HubProcess, box: str) -> None:
    mark = uuid.uuid4().hex
    with shaken(hub, box) as raw:
        raw.send(frame(1, json.dumps({"argv": ["/bin/sh", "-c", f"cat >/dev/null; : {mark}"]}).encode()))
        raw.send(frame(2, b"\0" + b"a" * (1 << 20)))  # a full megabyte of input passes
        wait_for(lambda: alive(mark))
        raw.send(frame(2, b"\0" * ((1 << 20) + 2))[:14])  # the head of a larger one is enough
        assert raw.rest().rpartition(b"\x88")[2][1:3] == struct.pack(">H", 1009)
    wait_for(lambda: not alive(mark))


@pytest.mark.parametrize(
    "bad",
    {
        "unmasked": b"\x81\x02{}",
        "reserved bit": b"\xf1\x80\0\0\0\0",
        "reserved opcode": b"\x83\x80\0\0\0\0",
        "endless length": b"\x82\xff\x7f\xff\xff\xff\xff\xff\xff\xff\0\0\0\0",
        "continuation of nothing": b"\x80\x80\0\0\0\0",
        "not UTF-8": frame(1, b"\xff\xff"),
        "long ping": frame(9, b"p" * 126),
        "half a close": frame(8, b"\x03"),
    }.items(),
    ids=lambda item: item[0],
)
def test_frames_that_break_the_protocol_close_the_connection(
    hub: HubProcess, box: str, bad: tuple[str, bytes]
) -> None:
    with shaken(hub, box) as raw:
        raw.send(bad[1])
        assert raw.rest()[:1] in (b"\x88", b"\x81", b"")
    assert hub.is_ready()


def test_two_hundred_thousand_pings_to_a_peer_that_reads_nothing_stay_in_bounds(
    hub: HubProcess, box: str
) -> None:
    before = rss_kib(hub.pid())
    with command(hub, box, "sleep", "600") as ws:
        flood = frame(9, b"p" * 125) * 1000
        sock = ws.socket
        sock.settimeout(1)
        sent = 0
        try:
            for _ in range(200):
                sock.sendall(flood)
                sent += 1000
        except TimeoutError:
            pass  # the hub reads no more while its answers are not taken
        grown = rss_kib(hub.pid()) - before
        assert grown < 30_000, f"{grown} KiB after {sent} pings"
    assert hub.is_ready()


def test_the_hub_that_stops_says_so_and_ends_the_command() -> None:
    mark = uuid.uuid4().hex
    with short_folder() as root, hub_process(root) as hub:
        hub.post("/v1/thopters", {"name": "box"})
        with command(hub, "box", "/bin/sh", "-c", f"sleep 600; : {mark}") as ws:
            wait_for(lambda: alive(mark))
            hub.post("/v1/hub/stop")
            last = json.loads(ws.recv(BOUND))
            assert last["error"]["code"] == "hub_unreachable" and "stopping" in last["error"]["message"]
            assert close_code(ws) == 1001
        wait_for(lambda: not alive(mark))


def test_fifty_commands_at_once_do_not_mix(hub: HubProcess, box: str) -> None:
    ends: dict[int, tuple[bytes, bytes, dict[str, Any]]] = {}

    def run(n: int) -> None:
        with command(hub, box, "/bin/sh", "-c", f"read x; echo out-{n}-$x; echo err-{n} >&2; exit {n}") as ws:
            ws.send(b"\0in\n")
            ends[n] = finish(ws)

    threads = [threading.Thread(target=run, args=(n,)) for n in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(BOUND)
    assert ends == {n: (f"out-{n}-in\n".encode(), f"err-{n}\n".encode(), {"exit": n}) for n in range(50)}


def test_the_client_of_the_mesh_speaks_the_same_protocol(hub: HubProcess, box: str) -> None:
    at = f"/v1/thopters/{box}/exec"
    with Exec(hub.socket, at, ExecRequest(argv=["/bin/sh", "-c", "cat; exit 4"])) as run:
        run.write(b"a" * 1_000_000)
        run.eof()
        assert sum(len(data) for stream, data in run if stream == 1) == 1_000_000
        assert run.ended == Ended("exit", 4)
    size = ExecRequest(argv=["stty", "size"], pty=PtySize(rows=12, cols=34))
    with Exec(hub.socket, at, size) as run:
        assert b"".join(data for _, data in run).strip() == b"12 34"
    with pytest.raises(NotFound), Exec(hub.socket, "/v1/thopters/nobody/exec", size) as run:
        list(run)
