"""Talking: questions and their answers, messages that are kept, with the real agent and kill -9."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from e2e_lab import Lab, lab

from thopter.testing.scripted_model import Scenario, Script, Tool, Turn

pytestmark = [pytest.mark.claude, pytest.mark.root, pytest.mark.xdist_group("e2e"), pytest.mark.timeout(600)]


def _bash(command: str) -> Tool:
    return Tool(name="Bash", input={"command": command})


SCENARIO = Scenario(
    script=(
        Script(
            name="seven", turns=(Turn(say="I count.", tools=(_bash("echo 7"),)), Turn(say="It is **7**."))
        ),
        Script(name="eight", turns=(Turn(say="It is 8."),)),
        Script(name="nap", turns=(Turn(tools=(_bash("sleep 4"),)), Turn(say="Slept."))),
        Script(
            name="once",
            turns=(Turn(say="Noted.", tools=(_bash("echo once >> /work/once.txt"),)), Turn(say="Ok.")),
        ),
        Script(
            name="nested",
            turns=(
                Turn(tools=(_bash("/opt/thopter/claude/bin/claude -p script:eight; sleep 2"),)),
                Turn(say="It said 8."),
            ),
        ),
        Script(name="touch", turns=(Turn(tools=(_bash("touch /etc/ants"),)), Turn(say="Touched."))),
        Script(name="broken", turns=(Turn(status=400, message="no such thing"),)),
        Script(
            name="report",
            turns=(
                Turn(
                    tools=(
                        _bash(
                            "thopter-status statusline 'counting sheep' && thopter-status log 'one sheep'"
                            " && thopter-status show && thopter-status waiting 'which sheep?'"
                        ),
                    )
                ),
                Turn(say="I need to know."),
            ),
        ),
        Script(
            name="finish",
            turns=(Turn(tools=(_bash("thopter-status 'done' all counted"),)), Turn(say="Done.")),
        ),
    )
)


@pytest.fixture(scope="module")
def talk() -> Iterator[Lab]:
    """One thopter ``bee`` at its prompt, for all tests of this file."""
    with lab(SCENARIO) as made:
        made.run("create", "bee", "-d", timeout=300)
        made.rest("bee")
        yield made


@pytest.fixture
def bee(talk: Lab) -> Lab:
    """The thopter at its prompt, with nothing queued."""
    talk.run("hub", "start", check=False)
    talk.run("thaw", "bee", check=False)
    for message in talk.json("queue", "bee"):
        talk.run("queue", "bee", "--drop", message["id"], check=False)
    talk.until("bee is at rest", lambda: talk.view("bee").get("state") in ("waiting", "done"))
    return talk


def _ask(made: Lab, *argv: str, code: int = 0) -> dict[str, Any]:
    done = made.run("ask", "bee", *argv, "--json", check=False)
    assert done.returncode == code, (done.returncode, done.stdout, done.stderr)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_a_question_gets_the_last_words_of_its_turn(bee: Lab) -> None:
    assert bee.run("ask", "bee", "script:seven").stdout == "It is **7**.\n"
    found = _ask(bee, "script:seven and how was it")
    assert (found["state"], found["answer"], found["tools"]) == ("answered", "It is **7**.", ["Bash"])
    assert found["receipt"] == "taken" and found["turn_ms"] > 0
    assert bee.run("ask", "bee", "-", stdin="script:eight").stdout == "It is 8.\n"


def test_a_question_to_a_busy_agent_gets_the_answer_of_the_turn_that_takes_it(bee: Lab) -> None:
    bee.run("tell", "--no-tail", "bee", "script:nap")
    bee.until("it works", lambda: bee.view("bee")["state"] == "working")
    assert _ask(bee, "script:eight")["answer"] == "It is 8."


def test_two_questions_at_once_each_get_their_own_answer(bee: Lab) -> None:
    with ThreadPoolExecutor(2) as pool:
        answers = list(pool.map(lambda q: _ask(bee, q)["answer"], ("script:seven a", "script:eight b")))
    assert answers == ["It is **7**.", "It is 8."]


def test_an_answer_that_takes_too_long_is_7_and_can_be_had_later(bee: Lab) -> None:
    late = _ask(bee, "script:nap", "--timeout", "1", code=7)
    assert late["state"] == "working" and not late["answer"]
    assert _ask(bee, "--id", late["id"])["answer"] == "Slept."


def test_ctrl_c_leaves_the_agent_at_work_and_says_how_to_get_the_answer(bee: Lab) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "thopter.cli.main", "ask", "bee", "script:nap and on"],
        env=bee.env, cwd=bee.folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    bee.until("it works", lambda: any(m["state"] == "working" for m in bee.json("queue", "bee")))
    process.send_signal(2)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130 and out == ""
    key = err.split("--id ")[1].split()[0]
    assert bee.run("ask", "bee", "--id", key).stdout == "Slept.\n"


def test_an_agent_that_runs_another_one_stays_at_work_until_its_own_turn_is_over(bee: Lab) -> None:
    before = len(_states(bee))
    assert _ask(bee, "script:nested")["answer"] == "It said 8."
    bee.rest("bee")
    changes = _states(bee)[before:]
    assert changes == ["working", "waiting"], changes


def _states(made: Lab) -> list[str]:
    """Every state the hub has recorded for the thopter, oldest first."""
    with sqlite3.connect(made.paths.state / "hub.db") as conn:
        rows = conn.execute("SELECT data FROM events WHERE kind = 'run.state' ORDER BY seq").fetchall()
    conn.close()
    found = [json.loads(data) for (data,) in rows]
    return [d["state"] for d in found if d["name"] == "bee"]


def test_a_turn_that_fails_is_told_with_its_reason(bee: Lab) -> None:
    failed = _ask(bee, "script:broken", code=1)
    assert failed["state"] == "failed" and "no such thing" in failed["problem"]
    assert _ask(bee, "script:eight")["answer"] == "It is 8."


def test_a_question_survives_the_death_of_the_hub(bee: Lab) -> None:
    asked = _ask(bee, "script:nap please", "--timeout", "1", code=7)
    bee.kill_hub()
    assert _ask(bee, "--id", asked["id"])["answer"] == "Slept."


def test_kept_messages_are_said_in_order_when_it_is_at_its_prompt(bee: Lab) -> None:
    bee.run("exec", "bee", "--", "rm", "-f", "/work/once.txt")
    bee.run("tell", "--no-tail", "bee", "script:nap")
    first = bee.json("tell", "--when-idle", "bee", "script:once first")
    assert first["state"] == "queued" and "working" in first["held"]
    bee.run("tell", "--when-idle", "bee", "script:once second")
    wrong = bee.json("tell", "--when-idle", "bee", "script:once wrong")
    bee.run("queue", "bee", "--edit", wrong["id"], "script:once third")
    gone = bee.json("tell", "--when-idle", "bee", "script:once gone")
    bee.run("queue", "bee", "--drop", gone["id"][-6:])
    assert bee.view("bee")["queued"] == 3
    assert "script:once third" in bee.run("queue", "bee").stdout
    assert "Queue" in bee.run("status", "bee").stdout
    bee.until("all are said", lambda: not bee.json("queue", "bee"))
    bee.until("all are done", lambda: _times(bee) == 3)
    said = [json.loads(x) for x in bee.run("tail", "bee", "-n", "60", "--json").stdout.splitlines()]
    words = [e["text"].split()[-1] for e in said if e["role"] == "user" and "once" in e["text"]]
    assert words[-3:] == ["first", "second", "third"]


def _times(made: Lab) -> int:
    done = made.run("exec", "bee", "--", "cat", "/work/once.txt", check=False)
    return done.stdout.split().count("once")


@pytest.mark.parametrize("point", ["recorded", "pressed", "told", "0.1", "0.3", "0.5"])
def test_a_kept_message_is_said_once_though_the_hub_is_killed_on_the_way(bee: Lab, point: str) -> None:
    """Before the first key, between the keys and the receipt, between receipt and record, anywhere."""
    bee.run("exec", "bee", "--", "rm", "-f", "/work/once.txt")
    bee.run("hub", "stop")
    named = not point[0].isdigit()
    bee.run("hub", "start", env={"THOPTER_FAILPOINT": f"talk.{point}"} if named else {})
    pid = bee.hub_pid()
    kept = bee.json("tell", "--when-idle", "bee", f"script:once killed at {point}")
    if named:
        bee.until("the hub dies", lambda: not Path(f"/proc/{pid}").exists())
    else:
        time.sleep(float(point))
        bee.kill_hub()
    bee.run("hub", "start")
    bee.until("it is settled", lambda: _state(bee, kept["id"]) not in ("queued", "sending"))
    assert _state(bee, kept["id"]) == "delivered"
    bee.until("it is done", lambda: _times(bee))
    bee.rest("bee")
    assert _times(bee) == 1


def _state(made: Lab, key: str) -> str:
    return next(m["state"] for m in made.json("queue", "bee", "--all") if m["id"] == key)


def test_a_question_whose_turn_waits_for_a_permission_is_5_and_says_what_it_asks(talk: Lab) -> None:
    talk.run("run", "-d", "--name", "ants", "--permission-mode", "default", "script:eight", timeout=300)
    talk.rest("ants")
    asked = talk.run("ask", "ants", "script:touch", "--json", check=False)
    assert asked.returncode == 5 and "touch /etc/ants" in asked.stderr, asked
    found = json.loads(asked.stdout)
    assert (found["state"], found["reason"]) == ("asking", "permission")
    other = talk.run("ask", "ants", "script:eight", check=False)  # nothing is typed into a dialog
    assert other.returncode == 5 and "permission" in other.stderr
    kept = talk.json("tell", "--when-idle", "ants", "script:eight later")
    several = talk.run("tell", "--no-tail", "bee,ants,none", "script:eight all", check=False)
    assert several.returncode == 8 and "Told bee: taken" in several.stdout
    assert "ants, none" in several.stderr and "permission" in several.stderr
    assert "permission" in kept["held"]
    talk.run(
        "exec", "ants", "--", "tmux", "-S", "/run/thopter/tmux.sock", "send-keys", "-t", "agent:0.0", "1"
    )
    later = lambda: talk.run("ask", "ants", "--id", found["id"], check=False)  # noqa: E731
    assert talk.until("the answer", lambda: (x := later()).returncode == 0 and x).stdout == "Touched.\n"
    talk.until("the other is said", lambda: not talk.json("queue", "ants"))
    talk.rest("ants")
    talk.run("exec", "ants", "--", "sh", "-c", "kill -9 $(cat /run/thopter/runs/*/pid)")
    talk.until("its agent is dead", lambda: talk.view("ants")["state"] == "failed")
    assert talk.run("ask", "ants", "still there?", check=False).returncode == 5
    assert "not running" in talk.json("tell", "--when-idle", "ants", "script:eight")["held"]
    talk.run("destroy", "--yes", "ants")


def test_a_frozen_box_takes_no_message_now_and_a_kept_one_when_it_is_thawed(bee: Lab) -> None:
    bee.run("exec", "bee", "--", "rm", "-f", "/work/once.txt")
    bee.run("freeze", "bee")
    refused = bee.run("tell", "--no-tail", "bee", "hello", check=False)
    assert refused.returncode == 5 and "frozen" in refused.stderr and "--when-idle" in refused.stderr
    assert bee.run("ask", "bee", "hello", check=False).returncode == 5
    kept = bee.run("tell", "--when-idle", "bee", "script:once thawed")
    assert "thaw" in kept.stdout
    bee.run("thaw", "bee")
    bee.until("it is done", lambda: _times(bee) == 1)


def test_the_agent_reports_from_within_its_box(bee: Lab) -> None:
    bee.run("ask", "bee", "script:report")
    view = bee.until("its turn is over", lambda: _waits_for_a_question(bee))
    assert (view["task"], view["statusline_by"]) == ("counting sheep", "agent")
    detail = bee.json("status", "bee")
    assert any(e["source"] == "declared" and "which sheep?" in e["detail"] for e in detail["because"])
    assert any("box.said" in line and "one sheep" in line for line in detail["log"])
    assert "counting sheep" in bee.run("status").stdout
    # no dialog is open: it takes a message, and that ends its waiting
    assert _ask(bee, "script:eight")["answer"] == "It is 8."
    assert bee.until("it waits", lambda: bee.view("bee")["reason"] == "turn_end")


def _waits_for_a_question(made: Lab) -> dict[str, Any] | None:
    view = made.view("bee")
    return view if (view["state"], view["reason"]) == ("waiting", "question") else None


def test_done_is_what_the_agent_or_a_person_declares(bee: Lab) -> None:
    bee.run("ask", "bee", "script:finish")
    bee.until("it is done", lambda: bee.view("bee")["state"] == "done")
    assert "declared" in bee.run("status", "bee").stdout
    bee.run("exec", "bee", "--", "thopter-status", "running", "not yet")
    bee.until("it is not", lambda: bee.view("bee")["state"] == "waiting")
    assert bee.run("done", "bee", "looks", "good").stdout == "bee is done.\n"
    assert "looks good" in bee.run("status", "bee").stdout
    bee.kill_hub()
    assert bee.until("it is still done", lambda: bee.view("bee").get("state") == "done")
    assert "waiting" in bee.run("done", "bee", "--undo").stdout
    bee.run("done", "bee")
    assert _ask(bee, "script:eight")["answer"] == "It is 8."  # a new prompt: not done any more
    bee.until("it waits", lambda: bee.view("bee")["state"] == "waiting")


def test_notes_and_status_lines_are_shown_and_the_operators_line_counts(bee: Lab) -> None:
    bee.run("note", "bee", "ask", "Tess before merging")
    bee.run("exec", "bee", "--", "thopter-status", "statusline", "from the box")
    bee.until("its line is there", lambda: bee.view("bee")["task"] == "from the box")
    bee.run("statusline", "bee", "from me")
    bee.run("exec", "bee", "--", "thopter-status", "statusline", "from the box again")
    assert bee.view("bee")["task"] == "from me"
    assert "ask Tess before merging" in bee.run("status").stdout
    assert bee.run("note", "bee").stdout == "ask Tess before merging\n"
    bee.kill_hub()
    view = bee.until("the hub is back", lambda: bee.view("bee"))
    assert (view["note"], view["task"]) == ("ask Tess before merging", "from me")
    bee.run("statusline", "bee", "--clear")
    bee.until("the agent's line is back", lambda: bee.view("bee")["task"] == "from the box again")
    bee.run("note", "bee", "--clear")
    assert bee.run("note", "bee").stdout == ""


def test_the_agent_is_told_where_it_is(bee: Lab) -> None:
    bee.run("ask", "bee", "script:eight and where are you")
    told = str([x for x in bee.model.exchanges if "where are you" in str(x.body)][-1].body)
    assert "You are in a thopter box" in told and "thopter/bee" in told and "thopter-status" in told


def test_own_instructions_take_their_place_and_are_checked_before_anything_is_made(talk: Lab) -> None:
    own = talk.folder / "own.md"
    talk.run("config", "set", "agents.claude.instructions", str(own))
    try:
        missing = talk.run("create", "wasp", "-d", check=False)
        assert missing.returncode == 3 and "own.md" in missing.stderr
        assert "wasp" not in [v["name"] for v in talk.json("status")]
        own.write_text("# House rules\nSay please to wasps.\n")
        repo = talk.repo("wasps", {"CLAUDE.md": "# Ours\nWasps are black and yellow.\n"})
        absent = talk.run("run", "-d", "--instructions", "none.md", "x", check=False)
        assert absent.returncode == 3 and "none.md" in absent.stderr
        talk.run("run", "-d", "--repo", str(repo), "--name", "wasp", "script:eight for wasps", timeout=300)
    finally:
        talk.run("config", "unset", "agents.claude.instructions")
    talk.rest("wasp")
    told = str([x for x in talk.model.exchanges if "for wasps" in str(x.body)][-1].body)
    assert "Say please to wasps." in told and "Wasps are black and yellow." in told
    assert "You are in a thopter box" not in told
    assert not talk.json("diff", "wasp")["dirty"]
    talk.run("destroy", "--yes", "wasp")


def test_a_kept_message_survives_sleep_on_the_disk_and_a_new_agent(bee: Lab) -> None:
    bee.run("exec", "bee", "--", "rm", "-f", "/work/once.txt")
    bee.run("suspend", "bee", "--disk")
    assert bee.run("ask", "bee", "hello", check=False).returncode == 5
    kept = bee.json("tell", "--when-idle", "bee", "script:once awake")
    assert "resume" in kept["held"]
    bee.run("resume", "bee")
    bee.until("it is said to the agent that came back", lambda: _times(bee) == 1)
    bee.rest("bee")
    asked = _ask(bee, "script:nap until the end", "--timeout", "1", code=7)
    bee.run("tell", "--when-idle", "bee", "script:once anew")
    bee.run("restart", "bee")
    lost = _ask(bee, "--id", asked["id"], code=1)
    assert lost["state"] == "failed" and "agent" in lost["problem"]
    bee.until("it is said to the agent that was started anew", lambda: _times(bee) == 2)
    assert _ask(bee, "script:eight")["answer"] == "It is 8."
    bee.run("exec", "bee", "--", "thopter-status", "statusline", "after all that")
    bee.until("its line is there", lambda: bee.view("bee")["task"] == "after all that")
