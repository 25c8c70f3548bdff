"""What a hook costs an agent's tool call: our HTTP listener on loopback beside a shell command."""

from __future__ import annotations

import http.client
import os
import socket
import tempfile
import threading
from pathlib import Path

from bench.rows import Row, command_ms, ms_of, p50, p99
from thopter.boxd import main as boxd

_BODY = b'{"session_id":"s","hook_event_name":"PostToolUse","tool_name":"Bash","tool_input":{"command":"ls"}}'


def measure() -> list[Row]:
    """All rows of this case."""
    with tempfile.TemporaryDirectory(prefix="thopter-bench-") as folder:
        return _measure(Path(folder))


def _measure(folder: Path) -> list[Row]:

    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(folder / "boxd.sock"))
    listener.listen()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    config = {
        "run_dir": str(folder / "run"), "var_dir": str(folder / "var"), "home": str(folder),
        "hook_port": port, "hook_token": "t", "name": "bench", "key": "bench",
    }  # fmt: skip
    pid = os.fork()
    if pid == 0:
        try:
            boxd.serve(listener, config)
        finally:
            os._exit(0)
    try:
        return _rows(port)
    finally:
        os.kill(pid, 9)
        os.waitpid(pid, 0)


def _rows(port: int) -> list[Row]:
    headers = {"Authorization": "Bearer t", "Content-Type": "application/json"}
    kept: list[http.client.HTTPConnection] = []

    def post(connection: http.client.HTTPConnection) -> None:
        connection.request("POST", "/hook/PostToolUse?run=r", _BODY, headers)
        answer = connection.getresponse()
        answer.read()
        if answer.status != 204:
            raise RuntimeError(f"boxd answered {answer.status}")

    for _ in range(200):
        try:
            kept.append(http.client.HTTPConnection("127.0.0.1", port))
            post(kept[-1])
            break
        except OSError:
            threading.Event().wait(0.02)

    def fresh() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port)
        post(connection)
        connection.close()

    on_kept = ms_of(lambda: post(kept[-1]), 300, 20)
    on_new = ms_of(fresh, 300, 20)
    shell = command_ms(["sh", "-c", "true"], 50)
    return [
        Row(name="hook, kept connection", value=p50(on_kept), p99=p99(on_kept), unit="ms", n=300,
            budget="≤ 1 ms p50", anchor="sh -c true", anchor_value=shell),
        Row(name="hook, new connection", value=p50(on_new), p99=p99(on_new), unit="ms", n=300,
            budget="≤ 1 ms p50", anchor="sh -c true", anchor_value=shell),
    ]  # fmt: skip
