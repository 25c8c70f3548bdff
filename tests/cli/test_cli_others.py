"""Further agents in a box, as ``thopter status`` and ``thopter top`` draw them."""

from __future__ import annotations

from test_cli_status import EVIL, NOW, view

from thopter.cli.status_view import as_json, detail, overview
from thopter.cli.top_view import cells, ordered, short_state
from thopter.kit.sanitize import clean
from thopter.model.api import ThopterDetail, ThopterView
from thopter.model.api.others import AgentView
from thopter.model.evidence import Evidence, Fact, Source


def agent(number: int = 2, **kw: object) -> AgentView:
    asked = Evidence(
        source=Source.HOOK, fact=Fact.PERMISSION_ASKED, at_ms=NOW - 7000, seen_ms=NOW, detail="Bash: touch x"
    )
    base: dict[str, object] = {
        "name": f"bee.{number}", "number": number, "session": "e934ff65-0454", "kind": "claude",
        "state": "waiting", "reason": "permission", "since_ms": NOW - 7000, "by": "person", "pid": 195,
        "tty": "/dev/pts/1", "pane": "agent:1.0", "cwd": "/work", "last_message": "I will touch a file",
        "last_message_ms": NOW - 7000, "because": [asked],
    }  # fmt: skip
    return AgentView(**(base | kw))  # type: ignore[arg-type]


def bee(*agents: AgentView, **kw: object) -> ThopterView:
    return view("bee", state="waiting", reason="turn_end", agents=list(agents), **kw)


def test_the_list_marks_those_that_are_there_and_says_which_needs_a_person():
    lines = overview([bee(agent(), agent(3, state="ended", reason=""))], NOW, 200, wide=None, colour=False)
    assert "claude +1" in lines[1]
    assert lines[2].strip() == "> bee.2 asks for permission (7s): thopter attach bee, window 1.0"
    quiet = overview([bee(agent(state="working", reason=""))], NOW, 200, wide=None, colour=False)
    assert "claude +1" in quiet[1] and len(quiet) == 2
    assert "+" not in overview([bee(agent(state="ended", reason=""))], NOW, 200, wide=None, colour=False)[1]


def test_top_puts_a_thopter_first_whose_other_agent_asks():
    waits, asks = view("a", state="waiting", reason="turn_end"), bee(agent(), since_ms=NOW)
    assert [v.name for v in ordered([waits, asks], "need", "")] == ["bee", "a"]
    assert short_state(asks) == "asks"
    assert cells(asks, ["AGENT", "LAST WORDS"], NOW)[0] == "claude +1"
    assert cells(asks, ["LAST WORDS"], NOW)[0].startswith("bee.2 asks for permission")


def test_the_detail_says_what_each_is_and_what_its_state_rests_on():
    found = ThopterDetail(
        view=bee(agent(), agent(3, by="agent", headless=True, tty="", pane="", problem="gone"))
    )
    lines = detail(found, NOW, 120, colour=False)
    at = lines.index("Also in this box:")
    assert lines[at + 1 : at + 5] == [
        "  bee.2  waiting:permission for 7s",
        "      claude, started by a person, pid 195, /dev/pts/1 (tmux agent:1.0), session e934ff65, in /work",
        "      last words 7s ago: I will touch a file",
        "      because hook permission_asked 7s ago Bash: touch x",
    ]
    text = "\n".join(lines[at + 5 :])
    assert "claude without a screen, started by the agent" in text and "! gone" in text
    assert as_json(found.view)["agents"][0]["because"][0]["fact"] == "permission_asked"
    assert "Also in this box:" not in detail(ThopterDetail(view=bee()), NOW, 120, colour=False)


def test_nothing_that_a_box_says_of_them_gets_to_the_terminal_raw():
    evil = agent(
        name=EVIL, session=EVIL, kind=EVIL, state=EVIL, reason=EVIL, tty=EVIL, pane=EVIL, cwd=EVIL,
        last_message=EVIL, problem=EVIL, contradiction=EVIL,
    )  # fmt: skip
    hostile = agent(tty=EVIL, pane="", name=EVIL)
    for one in (evil, hostile):
        lines = overview([bee(one)], NOW, 160, wide=None, colour=False)
        lines += detail(ThopterDetail(view=bee(one)), NOW, 120, colour=False, full=True)
        lines += cells(bee(one), ["AGENT", "LAST WORDS"], NOW)
        for line in lines:
            assert clean(line) == line and "\n" not in line
