"""The command line on real boxes with the real agent; only the model is scripted."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cli_support import Cli, Done, Terminal, wait_for
from e2e_lab import Lab, lab

from thopter.testing.scripted_model import Scenario, Script, Tool, Turn

pytestmark = [pytest.mark.claude, pytest.mark.root, pytest.mark.xdist_group("cli"), pytest.mark.timeout(600)]

COMMIT = "echo hello >> hello.txt && git add -A && git commit -qm hello"
SCENARIO = Scenario(
    script=(
        Script(
            name="hello",
            turns=(
                Turn(
                    say="I **will** say hello.\n\n- one\n- two",
                    tools=(Tool(name="Bash", input={"command": COMMIT}),),
                ),
                Turn(say="Said."),
            ),
        ),
        Script(
            name="long",
            turns=(Turn(tools=(Tool(name="Bash", input={"command": "sleep 15"}),)), Turn(say="Slept.")),
        ),
        Script(name="evil", turns=(Turn(say="look \x1b]52;c;ZXZpbA==\x07\x1b[2J\u202e here"),)),
    )
)


class Live(Cli):
    """The lab's command line, with our way of running it."""

    def __init__(self, made: Lab, repo: Path) -> None:
        self.lab = made
        self.repo = repo
        self.root = self.cwd = made.folder
        self.state, self.config = made.paths.state, made.paths.config
        self.env = {k: v for k, v in made.env.items() if k != "NO_COLOR"} | {"TERM": "xterm-256color"}

    def ok(self, *args: str, **kw: Any) -> Done:
        """Run and expect success."""
        done = self.run(*args, timeout=180, **kw)
        assert done.code == 0, (args, done)
        return done

    def until_at_rest(self, name: str) -> None:
        """Wait until its turn is over."""
        self.ok("wait", name, "--for", "waiting", "--timeout", "120")


@pytest.fixture(scope="module")
def live() -> Iterator[Live]:
    with lab(SCENARIO) as made:
        yield Live(made, made.repo("proj"))


@pytest.fixture(scope="module")
def flag(live: Live) -> Live:
    """A thopter ``flag`` that has committed once and waits."""
    done = live.ok("run", "--repo", "proj", "--name", "flag", "script:hello")
    assert "Thopter 'flag' running." in done.out.splitlines()
    assert re.search(r"^  ✓ .+ \d+(\.\d+)? m?s$", done.err, re.M), done.err
    assert re.search(r"^  \d\d:\d\d:\d\d  user +script:hello", done.err, re.M), done.err
    live.until_at_rest("flag")
    return live


def test_status_shows_state_and_evidence(flag: Live):
    assert re.search(r"^flag +waiting:turn_end ", flag.ok("status").out, re.M)
    text = flag.ok("status", "fl").out
    assert text.startswith("=== flag ===") and re.search(r"^Because +hook +turn_ended", text, re.M)
    found = flag.ok("status", "flag", "--json").json()
    assert found["view"]["state"] == found["status"] == "waiting" and found["because"]
    assert flag.ok("ls", "--json").json()[0]["devboxStatus"] == "ready"


def test_tail_shows_every_kind_of_entry(flag: Live):
    out = flag.ok("tail", "flag").out
    for role in ("user", "assistant", "tool_use", "tool_result"):
        assert re.search(rf"^\d\d:\d\d:\d\d  {role} ", out, re.M), out
    assert "I **will** say hello." in out
    short = flag.ok("tail", "flag", "-s").out
    assert all(re.match(r"\d\d:\d\d:\d\d  \w+", line) for line in short.splitlines())
    assert len(flag.ok("tail", "flag", "-n", "1").out.splitlines()) == 1
    entries = [json.loads(line) for line in flag.ok("tail", "flag", "--json").out.splitlines()]
    assert [e["role"] for e in entries][:1] == ["user"]


def test_exec_gives_arguments_streams_and_codes_exactly(flag: Live):
    script = "import os, sys; print(sys.argv[1:]); print(os.getcwd()); sys.stderr.write('err'); sys.exit(7)"
    done = flag.run(
        "exec", "flag", "--", "python3", "-c", script, "tests/test a.py", '"q"', "*", "", "-t", "--"
    )
    assert done.code == 7 and done.err == "err"
    assert done.out.splitlines() == [repr(["tests/test a.py", '"q"', "*", "", "-t", "--"]), "/work/proj"]
    assert flag.run("exec", "flag", "--", "sh", "-c", "kill -TERM $$").code == 128 + signal.SIGTERM
    assert (
        flag.ok("exec", "flag", "--cwd", "/tmp", "-e", "A=b c", "--", "sh", "-c", 'echo "$A"; pwd').out
        == "b c\n/tmp\n"
    )
    missing = flag.run("exec", "flag", "--", "no-such-command")
    assert missing.code != 0 and "no-such-command" in missing.err and "Traceback" not in missing.err


def test_exec_streams_both_ways_at_once_and_half_closes(flag: Live):
    data = os.urandom(8 << 20)
    done = flag.run("exec", "flag", "--", "cat", input=data, timeout=180)
    assert done.code == 0 and done.raw_out == data
    assert flag.ok("exec", "flag", "--", "wc", "-c", input=b"12345").out.strip() == "5"
    begun = time.monotonic()
    assert flag.run("exec", "flag", "--", "true", input=data, timeout=180).code == 0
    assert time.monotonic() - begun < 60, "input that nobody reads holds nothing up"
    assert flag.ok("exec", "flag", "-n", "--", "cat").out == ""


def test_exec_output_comes_as_it_is_written_and_ctrl_c_goes_in(flag: Live):
    process = flag.spawn(
        "exec", "flag", "--", "sh", "-c", "trap 'echo got; exit 9' INT; echo ready; sleep 60 & wait"
    )
    assert process.stdout.readline() == b"ready\n"
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (9, b"got\n"), err
    gone = subprocess.run(
        [
            "bash",
            "-c",
            '"$@" | head -1; echo "${PIPESTATUS[0]}"',
            "bash",
            sys.executable,
            "-m",
            "thopter.cli.main",
            "exec",
            "flag",
            "--",
            "yes",
        ],
        env=flag.env,
        capture_output=True,
        timeout=60,
    )
    assert gone.stdout == b"y\n141\n" and gone.stderr == b""
    wait_for(lambda: flag.run("exec", "flag", "--", "pgrep", "-x", "yes").code != 0)


@pytest.mark.battery("X2")
def test_what_a_command_writes_is_raw_in_a_pipe_and_safe_on_a_terminal(flag: Live):
    evil = "printf 'a\\033]52;c;ZXZpbA==\\007\\033[31mred\\033[2Jb'"
    assert (
        flag.ok("exec", "flag", "--", "sh", "-c", evil).raw_out
        == b"a\x1b]52;c;ZXZpbA==\x07\x1b[31mred\x1b[2Jb"
    )
    with Terminal(flag, "exec", "flag", "--", "sh", "-c", evil) as terminal:
        assert terminal.end() == 0
        assert terminal.raw.rstrip() == b"a\x1b[31mredb"


def test_a_shell_has_a_terminal_of_the_right_size_in_the_work_folder(flag: Live):
    with Terminal(flag, "ssh", "flag", rows=30, cols=90) as terminal:
        terminal.see("#")
        terminal.type("stty size; pwd; tty; echo $TERM; printf '\\033]0;evil\\007'; echo d''one\r")
        terminal.see("done")
        assert "30 90" in terminal.text and "/work/proj" in terminal.text and "/dev/pts/" in terminal.text
        assert b"\x1b]0;evil" not in terminal.raw
        terminal.resize(40, 120)
        terminal.type("stty size\r")
        terminal.see("40 120")
        terminal.type("echo bus''y; sleep 100; echo un''touched\r")
        terminal.see("busy")
        terminal.type("\x03")
        terminal.see("^C")
        terminal.type("echo still''here\r")
        terminal.see("stillhere")
        terminal.type("exit 5\r")
        assert terminal.end() == 5 and "untouched" not in terminal.text
        assert terminal.restored


def test_a_command_by_ssh_runs_in_a_login_shell_and_keeps_its_arguments(flag: Live):
    assert flag.ok("ssh", "flag", "--", "printf", "[%s]", "a  b", "*").out == "[a  b][*]"
    assert flag.run("ssh", "flag", input="echo in; exit 3\n").code == 3


def test_attach_shows_the_agents_screen_and_detaches(flag: Live):
    with Terminal(flag, "attach", "flag", rows=40, cols=120) as terminal:
        terminal.see("hello")
        assert b"\x1b[?1049h" in terminal.raw or "hello" in terminal.text
        terminal.type("\x02d")
        assert terminal.end() == 0
        assert terminal.restored
    assert flag.ok("check", "flag", "--json").json() == {
        "tmux": True,
        "claude": True,
        "agent": True,
        "box": True,
    }


def test_screen_prints_what_the_agent_shows(flag: Live):
    shown = flag.ok("screen", "flag").out
    assert "hello" in shown and "\x1b" not in shown
    assert flag.ok("screen", "flag", "--json").json()["name"] == "flag"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_the_terminal_is_put_back_when_attach_is_killed(flag: Live, number: signal.Signals):
    with Terminal(flag, "attach", "flag") as terminal:
        terminal.see("hello")
        terminal.process.send_signal(number)
        assert terminal.end() == 128 + number
        assert terminal.restored


def test_a_frozen_box_can_be_left_with_a_tilde_and_a_dot(flag: Live):
    with Terminal(flag, "ssh", "flag") as terminal:
        terminal.see("#")
        flag.ok("freeze", "flag")
        try:
            assert re.search(r"^flag +frozen ", flag.ok("status").out, re.M)
            terminal.type("echo nothing\r~.")
            assert terminal.end() == 0
            assert terminal.restored
        finally:
            flag.ok("thaw", "flag")
    assert flag.ok("exec", "flag", "--", "echo", "warm").out == "warm\n"


def test_tell_has_a_receipt_and_tail_follows_what_comes_of_it(flag: Live):
    follower = flag.spawn("tail", "flag", "-f", "-n", "0")
    time.sleep(1.5)
    told = flag.ok("tell", "flag", "script:hello")
    assert re.match(r"Told flag: taken \(\d", told.out)
    seen = b""
    while b"Said." not in seen:
        line = follower.stdout.readline()
        assert line, follower.stderr.read()
        seen += line
    assert seen.count(b"script:hello") == 1 and b"tool_result" in seen
    follower.send_signal(signal.SIGINT)
    assert follower.wait(60) == 0
    for pipe in (follower.stdin, follower.stdout, follower.stderr):
        pipe.close()
    flag.until_at_rest("flag")


def test_line_breaks_are_kept_and_escapes_are_read_only_when_asked(flag: Live):
    flag.ok("tell", "flag", "-", input="first\nsecond \\n\n")
    flag.until_at_rest("flag")
    flag.ok("tell", "flag", "-e", r"third\nfourth")
    flag.until_at_rest("flag")
    prompts = [x.seen.prompt.strip() for x in flag.lab.model.exchanges if x.seen.prompt]
    assert "first\nsecond \\n" in prompts and "third\nfourth" in prompts


def test_a_message_to_a_busy_agent_has_a_receipt_and_interrupt_comes_first(flag: Live):
    flag.ok("tell", "flag", "script:long")
    flag.ok("wait", "flag", "--for", "working", "--timeout", "60")
    queued = flag.ok("tell", "flag", "--json", "script:hello").json()
    # Claude Code fires its prompt hook when it queues a message as well, so "taken" comes too.
    assert queued["receipt"] in ("queued", "taken") and queued["ms"] < 15_000
    flag.ok("interrupt", "flag")
    flag.until_at_rest("flag")
    told = flag.ok("tell", "-i", "flag", "script:hello")
    assert told.out.startswith("Told flag: ")
    flag.until_at_rest("flag")


@pytest.mark.battery("X2")
def test_the_conversation_of_a_box_can_not_touch_the_terminal(flag: Live):
    flag.ok("tell", "flag", "script:evil")
    flag.until_at_rest("flag")
    for args in (("tail", "flag", "-n", "3"), ("status",), ("status", "flag"), ("logs", "flag")):
        with Terminal(flag, *args, cols=150) as terminal:
            assert terminal.end() == 0
            for bad in (b"\x1b]", b"\x1b[2J", "\u202e".encode(), b"\x07"):
                assert bad not in terminal.raw
    assert "look  here" in flag.ok("tail", "flag", "-n", "3").out


def test_wait_says_reached_timed_out_or_never(flag: Live):
    assert flag.ok("wait", "flag").out == "waiting:turn_end\n"
    assert flag.ok("wait", "flag", "--for", "waiting:turn_end,failed", "--json").json()["state"] == "waiting"
    late = flag.run("wait", "flag", "--for", "working", "--timeout", "1")
    assert late.code == 7 and "not working, after 1 s" in late.err


def test_the_work_comes_home_as_a_diff_and_as_a_branch(flag: Live):
    base = flag.lab.git(flag.repo, "rev-parse", "HEAD")
    diff = flag.ok("diff", "flag")
    assert diff.out.startswith("diff --git a/hello.txt") and diff.err == ""
    assert "hello.txt" in flag.ok("diff", "flag", "--stat").out
    assert "\x1b[32m+hello" in flag.ok("diff", "flag", "--color").out
    flag.ok("exec", "flag", "--", "sh", "-c", "echo more > more.txt")
    pulled = flag.run("pull", "flag", cwd=flag.repo)
    assert pulled.code == 0 and "Branch thopter/flag has" in pulled.out, pulled
    assert "1 changed file is not committed" in pulled.err
    head = flag.lab.git(flag.repo, "rev-parse", "thopter/flag")
    assert flag.lab.git(flag.repo, "rev-parse", "HEAD") == base
    assert flag.lab.git(flag.repo, "status", "--porcelain") == ""
    wip = flag.run("pull", "flag", "--wip", "--branch", "all", "--json", cwd=flag.repo)
    assert wip.code == 0 and wip.json()["wip"] and wip.json()["branch"] == "all", wip
    assert "more.txt" in flag.lab.git(flag.repo, "ls-tree", "--name-only", "all")
    flag.lab.git(
        flag.repo,
        "branch",
        "-f",
        "thopter/flag",
        flag.lab.git(flag.repo, "commit-tree", "-m", "mine", f"{head}^{{tree}}"),
    )
    refused = flag.run("pull", "flag", cwd=flag.repo)
    assert refused.code == 5 and "--force" in refused.err
    assert flag.run("pull", "flag", "--force", cwd=flag.repo).code == 0
    assert flag.lab.git(flag.repo, "rev-parse", "thopter/flag") == head
    applied = subprocess.run(
        ["git", "apply", "--check"], input=diff.raw_out, cwd=flag.repo, capture_output=True
    )
    assert applied.returncode == 0, applied.stderr


def test_use_makes_the_dot_a_name_and_a_beginning_is_enough(flag: Live):
    assert flag.ok("use", "fl").out == "'.' now means flag.\n"
    assert flag.ok("exec", ".", "--", "echo", "dot").out == "dot\n"
    assert flag.ok("check", "fla").code == 0
    flag.ok("use", "--clear")


def test_ctrl_c_leaves_a_run_that_goes_on(live: Live):
    live.ok("status")
    with Terminal(live, "run", "--home", "--name", "left", "script:hello") as terminal:
        terminal.see("left:")
        terminal.type("\x03")
        assert terminal.end() == 0
        assert "Detached; left goes on" in terminal.text or "Thopter 'left' running." in terminal.text
    live.ok("wait", "left", "--for", "waiting", "--timeout", "120")
    live.ok("destroy", "left")


def test_create_attached_is_at_the_agents_prompt_and_ends_with_detaching(live: Live):
    with Terminal(live, "create", "calm", "--home", "--attach", rows=40, cols=120) as terminal:
        wait_for(lambda: terminal.read() or b"\x1b[?1049h" in terminal.raw)  # tmux has taken the screen
        terminal.type("\x02d")
        assert terminal.end() == 0 and terminal.restored
    live.until_at_rest("calm")
    live.ok("exec", "calm", "--", "sh", "-c", "kill -9 $(cat /run/thopter/runs/*/pid)")
    failed = live.run("wait", "calm", "--for", "done", "--timeout", "60")
    assert failed.code == 1 and "calm is failed and will not be done" in failed.err
    assert live.run("check", "calm").code == 1
    live.ok("destroy", "calm")


def test_destroy_asks_on_a_terminal_only_about_work_that_was_not_pulled(flag: Live):
    flag.ok("run", "-d", "--repo", "proj", "--name", "asks", "script:hello")
    flag.until_at_rest("asks")
    with Terminal(flag, "destroy", "asks", cols=150) as terminal:
        terminal.see("1 commit that you have not pulled")
        terminal.type("n\r")
        assert terminal.end() == 1 and "left alone" in terminal.text
    partly = flag.run("destroy", "asks", "nobody", "--yes")
    assert partly.code == 8 and "Destroyed asks." in partly.out and "nobody" in partly.err
    assert [v["name"] for v in flag.ok("status", "--json").json()] == ["flag"]


def test_a_followed_tail_ends_when_its_thopter_is_gone(live: Live):
    live.ok("create", "short")
    follower = live.spawn("tail", "short", "-f")
    time.sleep(1)
    live.ok("destroy", "short")
    _, err = follower.communicate(timeout=60)
    assert follower.returncode == 0 and b"short is gone" in err


def test_nothing_is_left(flag: Live):
    flag.ok("destroy", "--yes", "flag")
    assert flag.ok("status", "--json").json() == []
    assert flag.ok("doctor", "--leaks").out == "0 leaks\n"
