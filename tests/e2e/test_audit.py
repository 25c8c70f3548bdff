"""The audit end to end: what people and boxes did is in it, the chain is whole through kill -9, and what is
done to the files behind the hub's back is found."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from e2e_lab import Lab, lab

pytestmark = [pytest.mark.claude, pytest.mark.root, pytest.mark.xdist_group("e2e"), pytest.mark.timeout(600)]

READER = Path(__file__).parent.parent / "store" / "audit_reader.py"
SECRET = "canary-audit-71f3"


@pytest.fixture(scope="module")
def made() -> Iterator[Lab]:
    with lab() as found:
        found.run("create", "heron")
        found.rest("heron")
        yield found


def _stranger(what: Path) -> str:
    """The independent reader's word, in its own process."""
    done = subprocess.run(
        [sys.executable, "-I", str(READER), str(what)], capture_output=True, text=True, check=False
    )
    return f"{done.returncode}\n{done.stdout}{done.stderr}"


def _lines(made: Lab, *argv: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = made.json("audit", "-n", "2000", *argv)
    return found


def test_what_people_and_boxes_do_is_recorded_with_who_and_what(made: Lab) -> None:
    made.run("exec", "heron", "--", "printf", "%s", "--password", SECRET, "a b\nc")
    made.run("tell", "--no-tail", "heron", "go on")
    made.run("exec", "heron", "--", "curl", "-sS", "-m", "20", "http://evil.example/", check=False)
    made.until("the denial is told", lambda: _lines(made, "--kind", "egress.denied"))
    mine = _lines(made, "--box", "heron")
    kinds = {line["kind"] for line in mine}
    assert {"run.created", "person.exec", "run.told", "egress.denied"} <= kinds
    ran = next(line for line in mine if line["kind"] == "person.exec")
    assert ran["data"]["argv"] == ["printf", "%s", "--password", "[hidden]", "a b\nc"]
    people = {line["by"] for line in mine if line["kind"] in ("person.exec", "run.told", "run.created")}
    assert all(f"uid {os.getuid()}" in by for by in people), people
    denied = next(line for line in mine if line["kind"] == "egress.denied")
    assert (denied["by"], denied["data"]["host"]) == ("hub", "evil.example")
    assert "egress.denied heron by hub" in made.run("audit").stdout
    assert SECRET.encode() not in (made.paths.state / "hub.db").read_bytes()


def test_policies_that_come_into_force_are_recorded_also_a_file_that_is_no_good(made: Lab) -> None:
    file = made.paths.config / "policy.toml"
    file.parent.mkdir(parents=True, exist_ok=True)
    before = len(_lines(made, "--kind", "policy."))
    assert before == 1
    file.write_text('[policies.team]\nextends = "default"\ndeny = ["a.example"]\n')
    made.until("it is in force", lambda: len(_lines(made, "--kind", "policy.")) == 2)
    file.write_text("[policies.team]\nno_such_key = 1\n")
    made.until("it is refused", lambda: len(_lines(made, "--kind", "policy.")) == 3)
    first, second, third = (line["data"] for line in _lines(made, "--kind", "policy."))
    assert "team" not in first["policies"]
    assert second["policies"]["team"] == third["policies"]["team"], "the last good one stays in force"
    assert "no_such_key" in third["problem"]
    file.unlink()


LISTED = """
[policies.default]
extends = "default"
[policies.default.commands]
mode = "listed"
allow = [["echo", "*"], ["printf", "%s", "**"]]
"""


def test_a_command_that_is_not_listed_is_refused_whatever_way_it_comes_and_is_on_record(made: Lab) -> None:
    file = made.paths.config / "policy.toml"
    file.write_text(LISTED)
    try:
        made.until("it holds", lambda: made.run("exec", "heron", "--", "id", check=False).returncode == 6)
        assert made.run("exec", "heron", "--", "echo", "a; id").stdout == "a; id\n", "no shell reads it"
        before = len(_lines(made, "--kind", "person.refused"))
        ways = (
            ("exec", "heron", "--", "echo", "-e", "x"), ("exec", "heron", "--", "/bin/echo", "x"),
            ("exec", "heron", "-e", "A=1", "--", "echo", "x"),
            ("exec", "heron", "--cwd", "/tmp", "echo", "x"),
            ("exec", "heron", "--", "sh", "-c", "echo x"), ("exec", "heron", "-t", "--", "echo", "x"),
            ("ssh", "heron"), ("ssh", "heron", "echo", "x"),
        )  # fmt: skip
        for argv in ways:
            done = made.run(*argv, check=False)
            assert (done.returncode, done.stdout) == (6, ""), argv
        found = _lines(made, "--kind", "person.refused")
        assert len(found) == before + len(ways)
        assert found[-1]["data"]["argv"] == ["bash", "-l", "-c", 'exec "$@"', "bash", "echo", "x"]
        assert "printf %s **" in made.run("policy", "explain", "heron").stdout
        refused = made.run("run", "--post-create", "id", "-d", "say hello", check=False)
        assert refused.returncode == 6, refused.stderr
    finally:
        file.unlink()
    made.until("it is over", lambda: made.run("exec", "heron", "--", "id", check=False).returncode == 0)


def test_isolation_and_limits_of_a_policy_hold_and_strangers_text_gets_the_stricter_one(made: Lab) -> None:
    done = made.run("run", "--trust", "outsider", "-d", "mend it", check=False)
    assert done.returncode == 5
    assert (
        "policy outsider (its text is by a person trusted as outsider) asks for isolation 'vm'" in done.stderr
    )
    file = made.paths.config / "policy.toml"
    file.write_text('[trust]\noutsider = "small"\n[policies.small]\nextends = "closed"\n'
                    'isolation = "namespaces"\n[policies.small.box]\nmemory_mb = 700\n')  # fmt: skip
    try:
        made.until("it is in force", lambda: made.run("policy", "show", "small", check=False).returncode == 0)
        too_much = made.run(
            "run", "--trust", "outsider", "-d", "mend it", check=False, env={"THOPTER_BOX_MEMORY_MB": "900"}
        )
        assert too_much.returncode == 5 and "allows a box 700 MiB of memory, not 900" in too_much.stderr
        made.run("run", "--name", "wren", "--trust", "outsider", "-d", "say hello")
        told = made.run("policy", "explain", "wren").stdout
        assert "policy small: its text is by a person trusted as outsider" in told
        assert "isolation namespaces" in told and "memory_mb 700" in told
        db = sqlite3.connect(f"file:{made.paths.state / 'hub.db'}?mode=ro", uri=True)
        row = db.execute("SELECT limits FROM boxes WHERE name = 'wren'").fetchone()
        trust = db.execute("SELECT trust FROM intents ORDER BY created_ms DESC LIMIT 1").fetchone()
        db.close()
        assert json.loads(row[0])["memory_bytes"] == 700 << 20
        assert trust == ("outsider",)
        born = [x for x in _lines(made, "--box", "wren") if x["kind"] == "run.created"]
        assert (born[0]["data"]["policy"], born[0]["data"]["trust"]) == ("small", "outsider")
    finally:
        file.unlink()


def test_follow_shows_what_comes_and_since_what_was(made: Lab) -> None:
    argv = [sys.executable, "-m", "thopter.cli.main", "audit", "-f", "-n", "1", "--json", "--kind", "person."]
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, env=made.env, cwd=made.folder)
    assert process.stdout is not None
    try:
        assert json.loads(process.stdout.readline())["kind"] == "person.exec", "the newest of those there are"
        made.run("exec", "heron", "--", "echo", "follow me")
        assert json.loads(process.stdout.readline())["data"]["argv"] == ["echo", "follow me"]
    finally:
        process.kill()
        process.communicate()
    assert _lines(made, "--since", "1h") == _lines(made)
    assert _lines(made, "--since", "2100-01-01") == []
    done = made.run("audit", "--since", "yesterdayish", check=False)
    assert done.returncode == 2 and "e.g. 2h" in done.stderr
    assert made.run("audit", "--verify", "--kind", "x", check=False).returncode == 2
    assert made.run("audit", "--verify", "--expect", "nonsense", check=False).returncode == 2


@pytest.mark.battery("X6")
def test_the_chain_is_whole_through_kill_9_and_a_stranger_agrees(made: Lab) -> None:
    made.kill_hub()
    made.run("exec", "heron", "--", "true")
    found = made.json("audit", "--verify")
    assert found["ok"], found
    out = made.folder / "audit.ndjson"
    made.run("audit", "--export", str(out))
    assert _stranger(out).startswith("0\n"), _stranger(out)
    made.run("hub", "stop")
    told = _stranger(made.paths.state)
    assert told.startswith("0\n"), told
    head = told.split("head ")[1].strip()
    anchors = (made.paths.state / "audit.anchors").read_text().splitlines()
    assert anchors[-1].startswith(head.replace(":", " ")), "a hub that stops anchors the end"
    assert made.run("audit", "--verify", "--expect", head).returncode == 0
    wrong = head.split(":")[0] + ":" + "0" * 64
    assert made.run("audit", "--verify", "--expect", wrong, check=False).returncode == 1


@pytest.mark.battery("X6")
def test_an_end_that_was_cut_off_is_found_by_verify_and_by_the_doctor(made: Lab) -> None:
    made.run("hub", "stop")
    db = sqlite3.connect(made.paths.state / "hub.db")
    db.execute("DELETE FROM audit WHERE seq > 3")
    db.execute("UPDATE audit_head SET (seq, hash) = (SELECT seq, hash FROM audit WHERE seq = 3)")
    db.commit()
    db.close()
    assert _stranger(made.paths.state).startswith("1\n")
    done = made.run("audit", "--verify", "--json", check=False)
    assert done.returncode == 1
    assert [f for f in json.loads(done.stdout)["faults"] if "anchored" in f["text"]]
    checks = {c["name"]: c for c in json.loads(made.run("doctor", "--json", check=False).stdout)}
    assert checks["audit"]["level"] == "fail"
    assert _lines(made, "--kind", "audit.disagrees"), "it is on record"
