"""Starting, finding and ending the real hub from the command line."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from cli_support import THOPTER, Cli, Done, Terminal, folders, wait_for

from thopter.mesh.client import HubClient

START = {"THOPTER_NO_START": ""}


@pytest.fixture
def house(cli: Cli) -> Iterator[Cli]:
    """A command line that may start hubs; what it started is ended."""
    cli.env.pop("THOPTER_NO_START")
    yield cli
    end(cli)


@pytest.fixture(scope="module")
def shared() -> Iterator[Cli]:
    """One with a hub that runs, for tests that leave it as it is."""
    with folders() as root:
        cli = Cli(root)
        started = cli.run("hub", "start", timeout=120)
        assert started.code == 0, started
        yield cli
        end(cli)


def end(cli: Cli) -> None:
    """End the hub and what outlives one: processes that name our folder, and mounts below it."""
    for pid in ours(cli):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    wait_for(lambda: not ours(cli))
    for place in mounts(cli):
        subprocess.run(["umount", place], check=True)
    assert mounts(cli) == []


def mounts(cli: Cli) -> list[str]:
    """Mount points below this test's folder, the innermost first."""
    lines = Path("/proc/self/mounts").read_text().splitlines()
    return sorted(
        (p for p in (line.split()[1] for line in lines) if p.startswith(f"{cli.root}/")), reverse=True
    )


def ours(cli: Cli) -> list[int]:
    """Processes that carry this test's state folder in their environment or arguments."""
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit() and int(entry) != os.getpid():
            with contextlib.suppress(OSError):
                text = Path(f"/proc/{entry}/environ").read_bytes()
                text += Path(f"/proc/{entry}/cmdline").read_bytes()
                if str(cli.state).encode() in text:
                    found.append(int(entry))
    return found


def hub_pid(cli: Cli) -> int:
    done = cli.run("hub", "status", "--json", env={"THOPTER_NO_START": "1"})
    return int(done.json()["pid"]) if done.code == 0 else 0


def test_a_command_starts_the_hub_it_needs_and_the_next_one_finds_it(house: Cli):
    first = house.run("status")
    assert first.code == 0 and "starting the hub" in first.err, first
    pid = hub_pid(house)
    second = house.run("status")
    assert second.code == 0 and second.err == "" and hub_pid(house) == pid
    assert "No thopters" in second.out and house.run("status", "--json").json() == []


def test_the_hub_it_starts_is_on_its_own(house: Cli):
    read, write = os.pipe()
    process = subprocess.Popen(
        [*THOPTER, "hub", "start"],
        env=house.env,
        cwd=house.cwd,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        pass_fds=(write,),
        start_new_session=True,
    )
    os.close(write)
    assert process.wait(60) == 0
    process.stdin.close()
    pid = hub_pid(house)
    assert pid and os.getsid(pid) != process.pid, "another session"
    assert os.read(read, 1) == b"", "it inherited no descriptor of ours"
    os.close(read)
    assert os.readlink(f"/proc/{pid}/cwd") == "/"
    for fd in (0, 1, 2):
        assert not os.readlink(f"/proc/{pid}/fd/{fd}").startswith(("/dev/pts", "pipe:"))
    os.killpg(process.pid, 0) if _group_lives(process.pid) else None
    assert hub_pid(house) == pid


def _group_lives(pgid: int) -> bool:
    try:
        os.killpg(pgid, 0)
    except ProcessLookupError:
        return False
    return True


def test_ten_commands_at_once_start_one_hub(house: Cli):
    results: list[Done] = []
    threads = [threading.Thread(target=lambda: results.append(house.run("hub", "start"))) for _ in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [r.code for r in results] == [0] * 10, results
    assert len({r.out.split("pid ")[1].split(")")[0] for r in results}) == 1
    listening = [
        line
        for line in (house.state / "hub.log").read_text().splitlines()
        if json.loads(line)["text"] == "listening"
    ]
    assert len(listening) == 1


def test_stop_restart_and_status_say_what_is(house: Cli):
    none = house.run("hub", "status")
    assert none.code == 4 and "no hub is running" in none.err
    assert house.run("hub", "stop").out == "No hub is running.\n"
    assert house.run("hub", "start").code == 0
    pid = hub_pid(house)
    assert house.run("hub", "start").out == f"The hub runs already (pid {pid}).\n"
    shown = house.run("hub", "status").out
    assert f"pid        {pid}" in shown and str(house.socket) in shown and str(house.state) in shown
    assert house.run("hub", "restart").code == 0
    new = hub_pid(house)
    assert new and new != pid
    wait_for(lambda: not os.path.exists(f"/proc/{pid}"))
    assert house.run("hub", "stop").code == 0
    assert hub_pid(house) == 0
    wait_for(lambda: not os.path.exists(f"/proc/{new}"))


def test_after_kill_9_the_next_command_starts_a_new_one(house: Cli):
    assert house.run("hub", "start").code == 0
    pid = hub_pid(house)
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: not os.path.exists(f"/proc/{pid}"))
    assert house.run("status", env={"THOPTER_NO_START": "1"}).code == 4
    assert house.run("status").code == 0 and hub_pid(house) not in (0, pid)


def test_a_hub_that_can_not_start_says_why(house: Cli):
    house.config.mkdir(mode=0o700)
    (house.config / "config.toml").write_text('[hub]\nlisten = "8.8.8.8:80"\n')
    done = house.run("status")
    assert (
        done.code == 4
        and "did not start" in done.err
        and "8.8.8.8" in done.err
        and "Traceback" not in done.err
    )
    checks = {c["name"]: c for c in house.run("doctor", "--json").json()}
    assert checks["hub"]["level"] == "fail" and "8.8.8.8" in checks["hub"]["text"]
    assert checks["python"]["level"] == "ok"


def test_a_state_folder_that_can_not_be_one_is_an_error(house: Cli):
    house.state.write_text("a file")
    for args in (("status",), ("hub", "start"), ("doctor",)):
        done = house.run(*args)
        assert done.code != 0 and "Traceback" not in done.err


def test_a_silent_hub_is_an_error_in_bounded_time_and_no_second_one_is_started(house: Cli):
    assert house.run("hub", "start").code == 0
    pid = hub_pid(house)
    os.kill(pid, signal.SIGSTOP)
    try:
        begun = time.monotonic()
        done = house.run("hub", "status")
        assert done.code == 4 and "did not answer within 10 s" in done.err
        assert time.monotonic() - begun < 45
    finally:
        os.kill(pid, signal.SIGCONT)
    assert hub_pid(house) == pid


def test_doctor_lists_its_checks_and_counts_leaks(shared: Cli):
    done = shared.run("doctor", "--json")
    checks = {c["name"]: c for c in done.json()}
    assert len(checks) == len(done.json()), "nothing is said twice"
    assert {
        "python",
        "git",
        "tmux",
        "namespaces",
        "state folder",
        "disk",
        "settings",
        "model endpoint of claude",
    } <= checks.keys()
    assert all(c["level"] in ("ok", "warn", "fail") for c in checks.values())
    assert done.code == (1 if any(c["level"] == "fail" for c in checks.values()) else 0)
    assert "credential" not in checks, "the hub that answers knows whether it has one"
    assert "ok    python: " in shared.run("doctor").out
    leaks = shared.run("doctor", "--leaks")
    assert (leaks.code, leaks.out) == (0, "0 leaks\n")
    assert shared.run("doctor", "--leaks", "--json").json() == []


def test_doctor_without_a_hub_still_checks_the_machine(house: Cli):
    done = house.run("--no-start", "doctor")
    assert done.code == 1 and "FAIL  hub: no hub is running" in done.out and "ok    python" in done.out
    missing = house.run("--no-start", "doctor", "--json", env={"PATH": "/nonexistent"})
    checks = {c["name"]: c for c in missing.json()}
    assert checks["credential"]["level"] == "warn" and "thopter setup" in checks["credential"]["fix"]
    assert checks["git"]["level"] == "fail" and "install git" in checks["git"]["fix"]
    assert checks["ssh"]["level"] == "warn"


def test_logs_are_shown_as_lines_and_followed_across_a_rotation(house: Cli):
    assert house.run("hub", "start").code == 0
    shown = house.run("hub", "logs")
    assert (
        "hub.run: listening" in shown.out
        and house.run("logs", "hub").out.splitlines()[0] == shown.out.splitlines()[0]
    )
    assert json.loads(house.run("hub", "logs", "--json").out.splitlines()[0])["text"] == "listening"
    assert len(house.run("hub", "logs", "-n", "1").out.splitlines()) == 1
    follower = house.spawn("hub", "logs", "-f", "-n", "1")
    assert follower.stdout.readline()
    log = house.state / "hub.log"
    log.rename(house.state / "hub.log.1")
    log.write_text(
        '{"at":"T","level":"info","part":"p","text":"after the \\u001b[31mrotation"}\nnot ours \x1b[2J\n'
    )
    seen = b""
    while b"not ours" not in seen:
        seen += follower.stdout.readline()
    assert b"p: after the rotation" in seen and b"\x1b" not in seen
    follower.send_signal(signal.SIGINT)
    assert follower.wait(60) == 0
    for pipe in (follower.stdin, follower.stdout, follower.stderr):
        pipe.close()


def test_a_changed_setting_is_told_to_the_running_hub(house: Cli):
    assert house.run("hub", "start").code == 0
    pid = hub_pid(house)
    done = house.run("config", "set", "hub.log_level", "debug")
    assert f"(pid {pid}) was told" in done.err
    wait_for(lambda: "settings were read again" in (house.state / "hub.log").read_text())
    assert hub_pid(house) == pid


def test_unknown_names_are_exit_3_for_every_command(shared: Cli):
    for args in (
        ("status", "nobody"),
        ("tail", "nobody"),
        ("check", "nobody"),
        ("diff", "nobody"),
        ("wait", "nobody"),
        ("tell", "nobody", "x"),
        ("interrupt", "nobody"),
        ("freeze", "nobody"),
        ("thaw", "nobody"),
        ("exec", "nobody", "--", "ls"),
        ("ssh", "nobody"),
        ("destroy", "nobody"),
        ("logs", "nobody"),
        ("use", "nobody"),
        ("destroy", "nobody", "none", "--yes"),
    ):
        done = shared.run(*args)
        assert done.code == 3 and "Traceback" not in done.err, (args, done)


def test_status_is_followed_on_a_terminal_until_ctrl_c_and_the_screen_comes_back(shared: Cli):
    with Terminal(shared, "status", "-f", "0.5") as terminal:
        terminal.see("Ctrl-C ends")
        terminal.see("No thopters")
        assert b"\x1b[?1049h" in terminal.raw
        terminal.type("\x03")
        assert terminal.end() == 0
        assert terminal.raw.count(b"\x1b[?1049l") == 1 and b"\x1b[?25h" in terminal.raw
        assert "No thopters" in terminal.text and terminal.restored


def test_followed_status_survives_a_restart_of_the_hub(house: Cli):
    assert house.run("hub", "start").code == 0
    with Terminal(house, "status", "-f", "0.3") as terminal:
        terminal.see("Ctrl-C ends")
        os.kill(hub_pid(house), signal.SIGKILL)
        terminal.see("still trying")
        assert house.run("hub", "start").code == 0
        terminal.see("Ctrl-C ends")
        terminal.type("\x03")
        assert terminal.end() == 0


def test_followed_json_is_one_line_for_each_change(shared: Cli):
    process = shared.spawn("status", "-f", "0.2", "--json")
    assert json.loads(process.stdout.readline()) == []
    time.sleep(1.0)  # several looks at the same state give no further line
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (0, b"", b"")


def test_the_client_talks_to_the_hub_that_the_command_started(shared: Cli):
    with HubClient(shared.socket) as client:
        assert client.hub().state_dir == str(shared.state)
        assert client.thopters() == []


def test_the_python_that_runs_us_runs_the_hub(shared: Cli):
    assert os.path.realpath(f"/proc/{hub_pid(shared)}/exe") == os.path.realpath(sys.executable)
