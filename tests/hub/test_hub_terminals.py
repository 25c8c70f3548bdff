"""Commands over the WebSocket, as the contract says: real sockets, real processes."""

from __future__ import annotations

import json
import os
import select
import signal
import threading
import time
from typing import Any

import pytest
from hub_support import BOUND, HubProcess
from terminal_support import (
    WINDOW,
    command,
    connection,
    finish,
    frame,
    frames,
    python,
    shaken,
)

from thopter.mesh.execs import Ended, Exec
from thopter.model.api import ExecRequest, PtySize
from thopter.model.errors import NotFound


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


def test_a_signal_gets_through_although_the_input_is_not_taken(hub: HubProcess, box: str) -> None:
    with command(
        hub, box, "/bin/sh", "-c", "trap 'exit 9' INT; echo ready; while :; do sleep 0.05; done"
    ) as ws:
        assert ws.recv(BOUND) == b"\x01ready\n"
        for _ in range(4):
            ws.send(b"\0" + b"q" * (WINDOW // 4))  # a pipe takes 64 KiB of it
        ws.send('{"signal":"INT"}')
        assert finish(ws)[2] == {"exit": 9}


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
