"""Saved boxes at the edges: files of them, checkpoints by themselves, two at once, and bad input."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from e2e_lab import Lab, lab

from thopter.testing.scripted_model import Scenario, Script, Tool, Turn

pytestmark = [pytest.mark.claude, pytest.mark.root, pytest.mark.xdist_group("e2e"), pytest.mark.timeout(600)]

_WORK = Tool(name="Bash", input={"command": "echo walnut >> word.txt"})
SCENARIO = Scenario(script=(Script(name="secret", turns=(Turn(tools=(_WORK,)), Turn(say="Walnut."))),))


@pytest.fixture(scope="module")
def house() -> Iterator[Lab]:
    """A lab with one thopter, ``owl``, whose turns are saved."""
    with lab(SCENARIO) as made:
        made.env["THOPTER_RUN_CHECKPOINT"] = "turn"
        made.env["THOPTER_LOCAL_CRIU"] = "off"
        made.run("run", "-d", "--name", "owl", "script:secret", timeout=300)
        made.rest("owl")
        yield made


def test_a_checkpoint_is_made_once_at_the_end_of_each_turn(house: Lab) -> None:
    first = house.until("the first turn is saved", lambda: house.json("checkpoints", "owl"))
    assert [c["turn_ms"] > 0 for c in first] == [True]
    house.run("hub", "restart")
    house.run("tell", "--no-tail", "owl", "script:secret again")
    house.until("the second one too", lambda: len(house.json("checkpoints", "owl")) == 2)
    house.rest("owl")
    house.run("hub", "restart")
    house.rest("owl")
    assert len(house.json("checkpoints", "owl")) == 2, "a turn is saved once, whatever restarts"


def test_resume_asked_twice_at_once_is_one(house: Lab) -> None:
    house.run("suspend", "owl", "--disk")
    with ThreadPoolExecutor(3) as pool:
        done = list(pool.map(lambda _n: house.run("resume", "owl", check=False), range(3)))
    assert [d.returncode for d in done] == [0, 0, 0], [d.stderr for d in done]
    house.rest("owl")
    agents = house.run("exec", "owl", "--", "sh", "-c", "pgrep -c claude || :").stdout
    assert house.view("owl")["agent_running"] and agents.strip() in ("1", ""), agents


def test_a_snapshot_goes_through_a_file_and_a_damaged_file_makes_nothing(house: Lab) -> None:
    house.run("snapshot", "create", "owl", "nest")
    file = house.folder / "nest.box"
    house.run("snapshot", "export", "nest", str(file))
    piped = house.run("snapshot", "import", "-", "egg", stdin=file.read_bytes())
    assert "egg" in piped.stdout
    house.run("create", "chick", "--snapshot", "egg", timeout=300)
    assert "walnut" in house.run("exec", "chick", "--", "cat", "/work/word.txt").stdout
    raw = file.read_bytes()
    for bad in (raw[:-20], raw[:200] + bytes([raw[200] ^ 1]) + raw[201:], b"", b"no such file"):
        file.write_bytes(bad)
        refused = house.run("snapshot", "import", str(file), "bad", check=False)
        assert refused.returncode == 2 and "Traceback" not in refused.stderr, refused.stderr
    names = [s["name"] for s in house.json("snapshot", "list")["snapshots"]]
    assert names == ["nest", "egg"]
    house.run("destroy", "--yes", "chick")
    house.run("snapshot", "destroy", "nest", "egg")
    assert house.leaks() == []


@pytest.mark.parametrize(
    ("code", "word", "argv"),
    [
        (5, "local.criu", ("fork", "owl", "--live")),
        (3, "nobody", ("fork", "nobody")),
        (2, "", ("fork", "owl", "-n", "0")),
        (2, "No Name", ("fork", "owl", "--name", "No Name")),
        (3, "nobody", ("snapshot", "create", "nobody")),
        (2, "No Name", ("snapshot", "create", "owl", "No Name")),
        (3, "none", ("snapshot", "replace", "owl", "none")),
        (3, "none", ("snapshot", "destroy", "none")),
        (3, "none", ("run", "-d", "--snapshot", "none", "go")),
        (2, "", ("create", "x", "--snapshot", "none", "--fresh")),
        (3, "none", ("rewind", "owl", "none")),
        (2, "", ("keepalive", "owl", "--on-idle", "explode")),
        (3, "nobody", ("resume", "nobody")),
    ],
)
def test_what_can_not_be_is_refused_in_one_sentence(
    house: Lab, code: int, word: str, argv: tuple[str, ...]
) -> None:
    done = house.run(*argv, check=False)
    assert done.returncode == code, (done.returncode, done.stderr)
    assert word in done.stderr and "Traceback" not in done.stderr
    assert [v["name"] for v in house.json("status")] == ["owl"]
