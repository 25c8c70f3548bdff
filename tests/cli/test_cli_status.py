"""What status draws, and how its arguments are read."""

from __future__ import annotations

import click
import pyte
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thopter.cli import text
from thopter.cli.status import split_interval
from thopter.cli.status_view import as_json, detail, overview, state_of, summary
from thopter.kit.sanitize import clean
from thopter.model.api import ThopterDetail, ThopterView
from thopter.model.evidence import Evidence, Fact, Source

NOW = 1_800_000_000_000
EVIL = "x\x1b]52;c;ZXZpbA==\x07\x1b[2J\u202e\nforged-line  working"


def view(name: str = "amber-heron", **kw: object) -> ThopterView:
    base: dict[str, object] = {
        "name": name, "id": "box_1", "owner": "Ada Lovelace", "provider": "local", "box_state": "ready",
        "isolation": "namespaces-idmapped", "agent": "claude", "run": "run_1", "state": "working",
        "since_ms": NOW - 192_000, "task": "add a --json flag", "repo": "/home/ada/report", "branch": "main",
        "created_ms": NOW - 3_600_000, "heartbeat_ms": NOW - 2_000, "alive": True, "agent_running": True,
        "last_message": "I will look at the code first.", "last_message_ms": NOW - 5_000,
    }  # fmt: skip
    return ThopterView(**(base | kw))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        (["-f", "dev"], ["-f", "dev"]),
        (["-f", "5"], ["-f", "--interval=5"]),
        (["-f", "0.5", "dev"], ["-f", "--interval=0.5", "dev"]),
        (["dev", "-f", "5"], ["dev", "-f", "--interval=5"]),
        (["dev", "-f"], ["dev", "-f"]),
        (["-f5"], ["-f", "--interval=5"]),
        (["-wf", "3"], ["-wf", "--interval=3"]),
        (["-wf3", "dev"], ["-wf", "--interval=3", "dev"]),
        (["--follow", "dev"], ["--follow", "dev"]),
        (["--follow", "2", "dev"], ["--follow", "--interval=2", "dev"]),
        (["--follow=2"], ["--follow", "--interval=2"]),
        (["-f", "--json"], ["-f", "--json"]),
        (["-f", "2x"], ["-f", "2x"]),
        (["-f", "nan"], ["-f", "nan"]),
        (["-f", "--", "5"], ["-f", "--", "5"]),
        (["-xf", "5"], ["-xf", "5"]),
        (["5"], ["5"]),
    ],
)
def test_a_name_after_f_is_a_name_and_a_number_is_an_interval(given: list[str], meant: list[str]):
    assert split_interval(given) == meant


def test_the_interval_reaches_the_command():
    from thopter.cli.status import status

    for args, expected in (
        (["-f", "dev"], ("dev", True, 2.0)),
        (["-wf", "3", "dev"], ("dev", True, 3.0)),
        (["dev", "--follow=0.5"], ("dev", True, 0.5)),
        (["dev"], ("dev", False, 2.0)),
        (["-f"], (None, True, 2.0)),
    ):
        params = status.make_context("status", list(args)).params
        assert (params["name"], params["follow"], params["interval"]) == expected
    with pytest.raises(click.UsageError):
        status.make_context("status", ["-f", "9999"])


def test_the_wide_layout_has_one_line_a_thopter_in_aligned_columns():
    lines = overview([view(), view("b", task="", last_message="")], NOW, 200, wide=None, colour=False)
    assert lines[0].split() == [
        "NAME",
        "STATE",
        "SINCE",
        "OWNER",
        "BOX",
        "AGENT",
        "HEARTBEAT",
        "TASK",
        "LAST",
        "MESSAGE",
    ]
    assert len(lines) == 3
    assert lines[1].index("add a --json flag") == lines[0].index("TASK")
    assert lines[1].index("I will look") == lines[0].index("LAST MESSAGE")
    assert "3m" in lines[1] and "2s ago" in lines[1]


def test_a_narrow_terminal_gets_the_layout_of_several_lines():
    lines = overview([view()], NOW, 80, wide=None, colour=False)
    assert lines == [
        "amber-heron  working  3m  ready  claude  2s ago  AL",
        "  Task: add a --json flag",
        "  Last message: I will look at the code first.",
    ]
    assert overview([view()], NOW, 80, wide=True, colour=False)[0].startswith("NAME")
    assert overview([view()], NOW, 200, wide=False, colour=False)[0].startswith("amber-heron")


@pytest.mark.parametrize("columns", [0, 1, 7, 20, 40, 80, 120, 200])
@pytest.mark.parametrize("wide", [None, False])
def test_no_line_is_wider_than_the_terminal(columns: int, wide: bool | None):
    views = [view("n" * 61, task="中文" * 200, last_message="é" * 500, problem="p" * 500), view()]
    for line in overview(views, NOW, columns, wide=wide, colour=False):
        assert text.width(line) <= max(columns, 24)


def test_waiting_shows_its_reason_and_a_box_that_is_not_ready_counts_more():
    assert state_of(view(state="waiting", reason="permission")) == "waiting:permission"
    assert state_of(view(state="working", box_state="frozen")) == "frozen"
    assert state_of(view(state="", run="")) == "-"


def test_troubles_are_shown_in_both_layouts():
    bad = view(problem="the model refuses the key", contradiction="hook says done, transcript grows")
    for wide in (True, False):
        drawn = "\n".join(overview([bad], NOW, 120, wide=wide, colour=False))
        assert "! the model refuses the key" in drawn and "? hook says done" in drawn


@pytest.mark.battery("X2")
def test_nothing_from_a_box_escapes_or_forges_a_line():
    places = ("task", "last_message", "owner", "repo", "problem", "contradiction", "agent", "state", "reason")
    bad = view(**dict.fromkeys(places, EVIL))
    evidence = [Evidence(source=Source.HOOK, fact=Fact.TURN_ENDED, at_ms=NOW, seen_ms=NOW, detail=EVIL)]
    full = ThopterDetail(view=bad, because=evidence, log=[EVIL], prompt=EVIL, session=EVIL, cwd=EVIL,
                         model_endpoint=EVIL, limits={EVIL: EVIL})  # fmt: skip
    for colour in (False, True):
        for lines in (
            overview([bad], NOW, 200, wide=True, colour=colour),
            overview([bad], NOW, 60, wide=False, colour=colour),
            detail(full, NOW, 100, colour=colour, full=True),
        ):
            for line in lines:
                assert not line.startswith("forged-line")
                assert clean(line, sgr=colour) == line and "\n" not in line


def test_colours_are_ended_on_each_line():
    views = [view(state=s) for s in ("working", "waiting", "done", "failed", "unknown", "stopped", "queued")]
    views += [view(box_state=s) for s in ("frozen", "lost", "gone")]
    for wide in (True, False):
        for line in overview(views, NOW, 200, wide=wide, colour=True):
            assert "\x1b" not in line or line.rindex("\x1b[0m") > max(
                (line.rindex(x) for x in ("\x1b[3", "\x1b[1m", "\x1b[9") if x in line), default=-1
            )


def test_json_has_our_names_and_the_old_ones():
    plain = as_json(view(state="waiting", reason="question"))
    old = {
        "name",
        "owner",
        "id",
        "devboxStatus",
        "status",
        "task",
        "heartbeat",
        "alive",
        "claudeRunning",
        "lastMessage",
    }
    assert (
        old <= plain.keys() and {"box_state", "state", "reason", "since_ms", "agent_running"} <= plain.keys()
    )
    assert (plain["status"], plain["devboxStatus"], plain["claudeRunning"]) == ("waiting", "ready", True)
    assert plain["heartbeat"] == "2027-01-15T07:59:58Z"
    assert as_json(view(heartbeat_ms=0))["heartbeat"] is None


def test_detail_says_what_the_state_rests_on():
    evidence = [
        Evidence(
            source=Source.HOOK, fact=Fact.PERMISSION_ASKED, at_ms=NOW - 192_000, seen_ms=NOW, detail="Bash"
        ),
        Evidence(source=Source.PROCESS, fact=Fact.PROCESS_ALIVE, at_ms=NOW - 2_000, seen_ms=NOW),
    ]
    more = Evidence(source=Source.HEARTBEAT, fact=Fact.BOX_ALIVE, at_ms=NOW - 1_000, seen_ms=NOW)
    asked = view(state="waiting", reason="permission")
    log = [f"line {n}" for n in range(30)]
    found = ThopterDetail(
        view=asked, because=evidence, evidence=[*evidence, more], log=log, limits={"pids": 1}
    )
    drawn = detail(found, NOW, 100, colour=False)
    assert drawn[0] == "=== amber-heron ==="
    assert drawn[1] == "State          waiting:permission for 3m 12s"
    assert drawn[2].split() == ["Because", "hook", "permission_asked", "3m", "ago", "Bash"]
    assert drawn[3].split() == ["process", "process_alive", "2s", "ago"]
    assert drawn[-20:] == [f"  line {n}" for n in range(10, 30)]
    assert "Also seen" not in "\n".join(drawn)
    assert "Also seen      heartbeat  box_alive  1s ago" in detail(found, NOW, 100, colour=False, full=True)


def test_an_empty_house_says_how_to_begin():
    assert "thopter run" in overview([], NOW, 80, wide=None, colour=False)[0]


def test_the_summary_counts_states_and_what_is_hidden():
    views = [view(), view("b"), view("c", state="waiting", reason="question"), view("d", box_state="frozen")]
    assert summary(views, 2) == "4 thopters: 2 working, 1 waiting, 1 frozen (2 gone, --all shows them)"
    assert summary([view()], 0) == "1 thopter: 1 working"


@pytest.mark.parametrize(
    ("seconds", "short", "long"),
    [(0, "0s", "0s"), (59.9, "59s", "59s"), (61, "1m", "1m 1s"), (3600, "1h", "1h"), (3660, "1h", "1h 1m"),
     (90_000, "1d", "1d 1h"), (-5, "0s", "0s")],
)  # fmt: skip
def test_lengths_of_time(seconds: float, short: str, long: str):
    assert (text.span(seconds), text.long_span(seconds)) == (short, long)


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet=st.characters(exclude_categories=("C", "Z", "M"))), st.integers(0, 40))
def test_cut_text_fits_as_the_emulator_counts(given_text: str, columns: int):
    cut = text.fit(given_text, columns)
    assert text.width(cut) <= max(columns, 0)
    screen = pyte.Screen(200, 2)
    pyte.Stream(screen).feed(text.fit(given_text, 60) + "|")
    assert screen.display[1].strip() == ""


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet="ab 中\n", max_size=200), st.integers(1, 60))
def test_wrapped_text_keeps_its_words_and_fits(given_text: str, columns: int):
    lines = text.wrap(given_text, columns, "  ")
    assert "".join("".join(lines).split()) == "".join(given_text.split())
    assert all(text.width(line) <= max(columns, 12) for line in lines)
