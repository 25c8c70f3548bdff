"""Terminals whose client stops, vanishes, floods or talks nonsense: commands end, memory is bounded."""

from __future__ import annotations

import json
import struct
import threading
import time
import uuid
from pathlib import Path

import pytest
from hub_support import BOUND, HubProcess, hub_process, rss_kib, short_folder, wait_for
from terminal_support import (
    alive,
    close_code,
    command,
    connection,
    frame,
    python,
    shaken,
)
from websockets.exceptions import ConnectionClosed


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


def test_a_peer_that_pings_and_reads_nothing_is_cut_off(hub: HubProcess, box: str) -> None:
    mark = uuid.uuid4().hex
    before = rss_kib(hub.pid())
    with shaken(hub, box) as raw:
        raw.send(frame(1, json.dumps({"argv": ["/bin/sh", "-c", f"sleep 600; : {mark}"]}).encode()))
        wait_for(lambda: alive(mark))
        flood = frame(9, b"p" * 125) * 1000
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            for _ in range(1000):
                raw.send(flood)
    assert rss_kib(hub.pid()) - before < 30_000
    wait_for(lambda: not alive(mark))


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
