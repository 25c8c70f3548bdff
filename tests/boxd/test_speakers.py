"""Which agent of a box speaks: by the process that a hook comes from, never by what it claims to be."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from boxd_support import BoxdProcess, run, wait_for
from test_hooks import hooks_of, raw, request

from thopter.agents.claude.prepare import HOOK_SCRIPT
from thopter.kit.boxprograms import programs as look
from thopter.model.errors import BadInput

# Stands for an agent: it runs the real script of a hook's command through a shell, as agents do, or (a
# line "http") reports by HTTP itself; and stays.
AGENT = """
import http.client, subprocess, sys
port, token, script = sys.argv[1:]
for line in sys.stdin:
    if line.strip() == "http":
        client = http.client.HTTPConnection("127.0.0.1", int(port))
        client.request("POST", "/hook/Stop?run=r", b"{}", {"Authorization": "Bearer " + token})
        client.getresponse().read()
        client.close()
    else:
        words = f"/bin/bash '{script}' SessionStart 127.0.0.1 {port} '/hook/SessionStart?run=r'; true"
        env = {"THOPTER_HOOK_TOKEN": token}
        subprocess.run(["/bin/sh", "-c", words], stdin=subprocess.DEVNULL, env=env)
    print("done", flush=True)
"""


class Agent:
    """A process that reports as an agent does."""

    def __init__(self, boxd: BoxdProcess) -> None:
        script = boxd.folder / "hook"
        script.write_text(HOOK_SCRIPT)
        argv = [sys.executable, "-c", AGENT, str(boxd.hook_port), boxd.token, str(script)]
        self.process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.pid = self.process.pid

    def tell(self, how: str) -> None:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(how + "\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline() == "done\n"

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def two(boxd: BoxdProcess) -> Iterator[tuple[Agent, Agent]]:
    """Two agents that have not spoken yet."""
    agents = (Agent(boxd), Agent(boxd))
    yield agents
    for agent in agents:
        agent.end()


def programs(boxd: BoxdProcess, pids: list[Any]) -> tuple[list[dict[str, Any]], dict[str, int]]:
    async def go() -> tuple[list[dict[str, Any]], dict[str, int]]:
        async with boxd.link() as link:
            return await look(link, pids)

    return run(go())


def test_a_hooks_command_is_traced_to_its_agent_and_http_to_the_process_that_holds_the_connection(
    boxd: BoxdProcess, two: tuple[Agent, Agent]
) -> None:
    first, second = two
    first.tell("http")  # nobody else is known: it is not looked for
    first.tell("command")
    second.tell("command")
    second.tell("http")
    first.tell("http")
    told = [(r["event"], r.get("pid")) for r in hooks_of(boxd)]
    assert told == [
        ("Stop", None), ("SessionStart", first.pid), ("SessionStart", second.pid), ("Stop", second.pid),
        ("Stop", first.pid),
    ]  # fmt: skip
    assert not any(r.get("here") for r in hooks_of(boxd))
    os.kill(boxd.boxd_pid(), signal.SIGKILL)
    second.tell("http")
    assert hooks_of(boxd)[-1]["pid"] == second.pid  # a new boxd knows them too
    second.end()
    first.tell("http")  # alone again
    assert "pid" not in hooks_of(boxd)[-1]


def test_a_process_that_is_no_agents_or_no_process_is_nobodys_word(boxd: BoxdProcess) -> None:
    for pid in ("1", "999999999", "4194999"):
        boxd.hook("SessionStart", b"{}", f"?run=r&pid={pid}")
        assert "pid" not in hooks_of(boxd)[-1]
    for pid in ("0", "-1", "1e3", "x", "99999999999"):
        answer = raw(boxd, request(boxd, path=f"/hook/SessionStart?run=r&pid={pid}"))
        assert b"400" in answer.split(b"\r\n")[0]


def test_programs_that_run_are_shown_with_what_they_are(boxd: BoxdProcess, tmp_path: Path) -> None:
    env = {**os.environ, "THOPTER_RUN": "run_7"}
    child = subprocess.Popen(["/bin/sleep", "600"], cwd=tmp_path, env=env)
    try:
        wait_for(lambda: Path(f"/proc/{child.pid}/exe").resolve().name != "python3.11")
        ((found,), runs) = programs(boxd, [child.pid, 4194303])
    finally:
        child.kill()
        child.wait()
    assert (found["pid"], found["ppid"], found["of"]) == (child.pid, os.getpid(), "run_7")
    assert (found["cwd"], found["args"], found["pane"]) == (str(tmp_path), "/bin/sleep 600", "")
    assert found["started"] > 0 and runs == {}
    assert programs(boxd, [child.pid]) == ([], {})


@pytest.mark.parametrize("pids", [[1], [0], ["7"], [True], [2**31], [1.5]])
def test_what_is_no_number_of_a_process_is_refused(boxd: BoxdProcess, pids: list[Any]) -> None:
    with pytest.raises(BadInput):
        programs(boxd, pids)


def test_a_caller_that_is_gone_before_it_is_traced_is_recorded_all_the_same(
    boxd: BoxdProcess, two: tuple[Agent, Agent]
) -> None:
    for agent in two:
        agent.tell("command")
    with socket.create_connection(("127.0.0.1", boxd.hook_port), timeout=30) as sock:
        sock.sendall(request(boxd))
    wait_for(lambda: hooks_of(boxd)[-1]["event"] == "Stop")
    assert "pid" not in hooks_of(boxd)[-1]
