"""Further agents in a box: told apart from the run's own, each with a state of its own, bounded."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from msgspec import structs

from thopter.agents.claude import ClaudeAgent
from thopter.fleet import pumps, sessions
from thopter.fleet.deps import Deps
from thopter.fleet.lease import busiest, is_idle, may_rest
from thopter.fleet.live import LiveBox
from thopter.fleet.others import KEPT, Others
from thopter.fleet.truth import fold
from thopter.kit.boxprograms import programs
from thopter.kit.channel import BoxLink
from thopter.model.api.others import AgentView
from thopter.model.evidence import Evidence, Fact, Source, Verdict
from thopter.model.ids import BoxId, RunId
from thopter.model.nouns import Box, BoxState, Run, RunState, WaitReason
from thopter.model.others import numbered
from thopter.model.reading import Program, Reading
from thopter.model.sockets import LaunchContext
from thopter.store.store import Store

SAMPLES = Path(__file__).parent.parent / "agents" / "samples"
T = 1_800_000_000_000
OWN, OTHER = 51, 108
S1, S2, S3 = (f"{n}{n}{n}{n}0000-0000-4000-8000-000000000000" for n in (1, 2, 3))
CLAUDE = ClaudeAgent()


class House:
    """A box whose run's agent is the process 51 in session S1; each thing told takes a second."""

    def __init__(self) -> None:
        self.now = T
        box = Box(
            id=BoxId("box_1"), name="bee", provider="p", state=BoxState.READY, created_ms=T, changed_ms=T
        )
        run = Run(
            id=RunId("run_1"), box=box.id, agent="claude", prompt="x", state=RunState.STARTING, created_ms=T,
            changed_ms=T, session=S1,
        )  # fmt: skip
        clock = SimpleNamespace(now_ms=lambda: self.now)
        self.live = LiveBox(cast(Deps, SimpleNamespace(clock=clock)), box, run, CLAUDE)
        up = {"pid": OWN}
        self.live.learn(
            [
                Evidence(source=Source.HUB, fact=Fact.LAUNCHED, at_ms=T, seen_ms=T),
                Evidence(source=Source.PROCESS, fact=Fact.PROCESS_ALIVE, at_ms=T, seen_ms=T, data=up),
            ]
        )
        self.hook("SessionStart", S1, OWN, source="startup")

    def hook(self, event: str, session: str, pid: int = 0, **body: Any) -> Reading:
        self.now += 1000
        record = {"pid": pid, "started": pid * 10} if pid else {}
        raw = json.dumps({"session_id": session, "cwd": "/work", **body}).encode()
        read = CLAUDE.read_hook(event, raw, self.now, self.now)
        reading = sessions.own(self.live, sessions.spoken(record, read))
        self.live.learn(reading.evidence)
        self.fold()
        return reading

    def fold(self) -> None:
        self.live.alive_ms = self.now
        self.live.others.fold(self.live.of_the_box(), self.now)

    def line(self, session: str, role: str, text: str) -> Reading:
        self.now += 1000
        stamp = {"timestamp": self.now, "uuid": f"u{self.now}", "sessionId": session}
        message = {"role": role, "content": [{"type": "text", "text": text}]}
        raw = json.dumps({"type": role, "message": message, **stamp}).encode()
        return sessions.written(self.live, CLAUDE.read_transcript(f"-work/{session}.jsonl", raw, self.now))

    @property
    def agents(self) -> list[AgentView]:
        return self.live.others.views("bee", "claude")

    @property
    def state(self) -> str:
        return str(fold([*self.live.evidence, *self.live.of_the_box()], self.now).state)


def test_a_nested_agent_is_shown_with_its_own_state_and_the_runs_stays_what_it_is() -> None:
    house = House()
    house.hook("UserPromptSubmit", S1, prompt="go", prompt_id="p1")
    house.hook("SessionStart", S2, OTHER, source="startup")
    house.hook("UserPromptSubmit", S2, prompt="part of it", prompt_id="p2")
    (nested,) = house.agents
    assert (nested.name, nested.state, nested.pid, nested.session) == ("bee.2", "working", OTHER, S2)
    assert {str(e.fact) for e in nested.because} >= {"turn_started"}
    house.line(S2, "assistant", "half way")
    house.hook("Stop", S2, last_assistant_message="half way")
    assert (house.agents[0].state, house.agents[0].reason) == ("waiting", "turn_end")
    assert house.agents[0].last_message == "half way" and house.state == "working"
    house.hook("SessionEnd", S2, reason="other")
    assert (house.agents[0].state, house.state) == ("ended", "working")
    assert house.agents[0].problem == ""


@pytest.mark.parametrize("version", ["2.1.197", "2.1.329"])
def test_every_recorded_hook_of_another_agent_gives_it_the_state_it_would_give_the_runs_own(
    version: str,
) -> None:
    lines = (SAMPLES / f"claude-{version}" / "hooks.jsonl").read_text().splitlines()
    house, alone = House(), House()
    house.hook("UserPromptSubmit", S1, prompt="go")
    house.hook("Stop", S1)
    for call in map(json.loads, lines):
        body = {k: v for k, v in call["body"].items() if k != "session_id"}
        pid = OTHER if call["event"] == "SessionStart" else 0
        told = house.hook(call["event"], S2, pid, **body)
        assert not told.evidence and not told.receipt
        alone.hook(call["event"], S1, **body)
        mine = fold([*alone.live.evidence, *alone.live.of_the_box()], alone.now)
        if house.agents and mine.state in (RunState.WORKING, RunState.WAITING):
            assert (house.agents[0].state, house.agents[0].reason) == (mine.state, mine.reason or ""), call
    assert len(house.agents) == 1 and house.state == "waiting"


def test_another_agent_that_clears_its_conversation_stays_the_same_and_never_becomes_the_runs() -> None:
    house = House()
    house.hook("SessionStart", S2, OTHER, source="startup")
    house.hook("SessionEnd", S2, reason="clear")
    assert not house.hook("SessionStart", S3, OTHER, source="clear").evidence
    assert house.live.session == S1
    assert [(a.number, a.session, a.pid) for a in house.agents] == [(2, S3, OTHER)]
    house.hook("UserPromptSubmit", S3, prompt="anew")
    assert (house.agents[0].state, house.state) == ("working", "starting")
    # The run's own does the same: it is followed, and the others are none the more for it.
    house.hook("SessionEnd", S1, OWN, reason="clear")
    assert house.hook("SessionStart", "new", OWN, source="clear").evidence
    assert house.live.session == "new" and len(house.agents) == 1
    assert not house.hook("Stop", S1).evidence and len(house.agents) == 1  # a straggler is nobody


def test_two_agents_in_one_session_are_told_apart_by_their_processes() -> None:
    house = House()
    house.hook("SessionStart", S1, OTHER, source="resume")  # claude -c in another terminal
    house.hook("UserPromptSubmit", S1, OTHER, prompt="aside")
    assert (house.agents[0].state, house.state) == ("working", "starting")
    house.hook("UserPromptSubmit", S1, OWN, prompt="the task")
    house.hook("Stop", S1, OTHER)
    assert (house.agents[0].reason, house.state) == ("turn_end", "working")
    assert not house.line(S1, "user", "whose is this?").evidence  # nobody can tell
    assert house.line(S1, "user", "whose is this?").entries  # and yet it was said there


def test_a_dead_agents_place_is_taken_only_by_one_in_its_own_terminal() -> None:
    house = House()
    gone = Evidence(source=Source.PROCESS, fact=Fact.PROCESS_EXITED, at_ms=house.now, seen_ms=house.now)
    house.live.learn([gone])
    assert not house.hook("SessionStart", S2, OTHER, source="startup").evidence
    assert house.live.session == S1 and len(house.agents) == 1
    raw = json.dumps({"session_id": S3, "source": "startup"}).encode()
    record = {"pid": 300, "started": 3000, "here": True}
    read = sessions.spoken(record, CLAUDE.read_hook("SessionStart", raw, house.now, house.now))
    assert sessions.own(house.live, read).evidence and house.live.session == S3


def test_one_that_was_killed_has_ended_and_how_is_not_known() -> None:
    house = House()
    house.hook("SessionStart", S2, OTHER, source="startup")
    house.hook("UserPromptSubmit", S2, prompt="go")
    seen = {"pid": OTHER, "started": OTHER * 10, "tty": "/dev/pts/7", "pane": "agent:1.0", "cwd": "/work/a"}
    house.live.others.looked([seen], house.now)
    assert (house.agents[0].by, house.agents[0].pane, house.agents[0].state) == (
        "person",
        "agent:1.0",
        "working",
    )
    house.now += 2000
    house.live.others.looked([seen | {"started": 7}], house.now)  # its number belongs to another by now
    house.fold()
    assert house.agents[0].state == "ended" and "not known" in house.agents[0].problem
    assert house.live.others.pids() == []
    house.hook("SessionStart", S2, 400, source="resume")  # taken up again: the same agent, alive
    assert [(a.number, a.pid, a.state) for a in house.agents] == [(2, 400, "starting")]


def test_its_status_file_is_not_the_runs() -> None:
    house = House()
    file = {
        "pid": OTHER,
        "sessionId": S2,
        "procStart": "1080",
        "status": "busy",
        "statusUpdatedAt": house.now,
    }
    other = CLAUDE.read_status("108.json", json.dumps(file).encode(), house.now)
    assert not sessions.status_is_own(house.live, other)
    mine = CLAUDE.read_status("51.json", json.dumps(file | {"pid": OWN}).encode(), house.now)
    assert sessions.status_is_own(house.live, mine)
    assert other.program == Program(pid=OTHER, started=1080)


def test_a_thousand_sessions_of_a_hostile_box_are_bounded_and_harmless() -> None:
    house = House()
    house.hook("UserPromptSubmit", S1, prompt="go")
    house.hook("Stop", S1)
    house.hook("SessionStart", S2, OTHER, source="startup")  # a real one
    evil = "\x1b]0;x\x07\n‮" + "a" * 5000
    for n in range(1000):
        house.hook("SessionStart", f"{n}{evil}", 0, source=evil)
        house.line(f"nobody-{n}", "assistant", evil)
    assert len(house.agents) == KEPT and house.agents[0].pid == OTHER
    assert house.live.session == S1 and house.state == "waiting"
    for agent in house.agents:
        assert len(agent.session) <= 128 and "\x1b" not in agent.session and "\n" not in agent.session
    aside = house.live.others.pending()
    assert len(aside.agents) == KEPT and len(aside.forgotten) == 1001 - KEPT
    for pid in (0, -3, True, 2**40, "7", None, 1.5):
        assert sessions.spoken({"pid": pid, "started": "x"}, Reading()).program is None


def test_a_box_tells_of_programs_that_were_asked_after_and_of_each_once() -> None:
    good = {"pid": OTHER, "started": 7}
    nonsense: list[Any] = [
        None, [], "x", {}, {"pid": [OTHER], "started": 7}, {"pid": {}, "started": 7}, {"pid": OTHER},
        {"pid": True, "started": 7}, {"pid": OTHER, "started": [7]}, {"pid": OTHER, "started": 2**70},
        {"pid": 9, "started": 7},
    ]  # fmt: skip

    class Link:
        async def call(self, _op: str, pids: list[int]) -> dict[str, Any]:
            assert pids == [OTHER]
            return {
                "programs": [*nonsense, *[good] * 1000],
                "runs": {"r": OWN, "s": [], "t": True, "u": 2**70},
            }

    found = asyncio.run(programs(cast(BoxLink, Link()), [OTHER]))
    assert found == ([good], {"r": OWN})


def test_a_box_that_clears_its_conversation_for_ever_fills_no_memory() -> None:
    house = House()
    for n in range(1100):
        house.live.follow_session(f"s{n}")
    assert len(house.live.lineage) == 1000 and house.live.was_own("s7") and house.live.session == "s1099"


def test_status_files_that_are_gone_leave_nothing_behind() -> None:
    polls = 0
    enough = asyncio.Event()

    class Link:
        async def read_files(self, _root: str, _glob: str, _most: int) -> list[dict[str, Any]]:
            nonlocal polls
            polls += 1
            if polls == 5:
                enough.set()
            return [{"file": f"{polls}.json", "content": "{" * 1000}]

    async def go() -> list[str]:
        async def sleep(_seconds: float) -> None:
            await asyncio.sleep(0)

        house = House()
        clock = SimpleNamespace(now_ms=lambda: house.now, sleep=sleep)
        house.live.deps = cast(Deps, SimpleNamespace(clock=clock))
        house.live.run = None  # nothing is stored then
        ctx = cast(LaunchContext, SimpleNamespace(home="/root"))
        watch = pumps._status(house.live, cast(BoxLink, Link()), ctx)
        async with asyncio.timeout(30), asyncio.TaskGroup() as group:
            task = group.create_task(watch)
            await enough.wait()
            kept = list(watch.cr_frame.f_locals["last"])
            task.cancel()
        return kept

    assert len(asyncio.run(go())) <= 1


def test_what_was_recorded_is_the_same_for_the_next_hub_and_none_is_doubled(tmp_path: Path) -> None:
    async def go() -> tuple[list[AgentView], list[AgentView], list[str]]:
        house = House()
        live, store = house.live, await Store.open(tmp_path / "hub.db")
        run = live.run
        assert run is not None
        await store.write(lambda tx: (tx.boxes.reserve_name(live.box, ["bee"]), tx.runs.insert(run)))
        house.hook("SessionStart", S2, OTHER, source="startup")
        mine, theirs = house.line(S1, "user", "mine"), house.line(S2, "user", "theirs")
        house.hook("PermissionRequest", S2, tool_name="Bash", tool_input={"command": "rm x"})
        assert theirs.aside and not mine.aside
        await store.ingest(live.box.id, run.id, {}, mine.entries)
        aside = live.others.pending(theirs.entries)
        for _ in range(2):  # a crash before the cursor was stored: it is read again
            await store.ingest(live.box.id, run.id, {}, aside=aside)
        live.others.stored(aside)
        assert not live.others.pending().agents
        before = house.agents
        pages = [await store.entries.page(run.id), await store.entries.page(run.id, last=5, session=S2)]
        prompts = await store.entries.prompts(run.id, 0)
        live.others = Others()
        live.others.load(await store.others.of_box(live.box.id))
        house.fold()
        said = [e.text for page in pages for e in page.entries] + [e.text for _, e in prompts]
        house.hook("SessionStart", S3, 300, source="startup")
        assert [a.number for a in house.agents] == [2, 3]
        await store.close()
        return before, house.agents[:1], said

    before, after, said = asyncio.run(go())
    assert [structs.replace(a, because=[]) for a in before] == [structs.replace(a, because=[]) for a in after]
    assert (after[0].state, after[0].reason) == ("waiting", "permission")
    assert said == ["mine", "theirs", "mine"]


def test_a_box_is_as_busy_as_its_busiest_agent_and_rests_since_the_last_one_did() -> None:
    def verdict(state: RunState, since: int, reason: WaitReason | None = None) -> Verdict:
        return Verdict(state=state, reason=reason, since_ms=since)

    rests = verdict(RunState.WAITING, 10, WaitReason.TURN_END)
    ended, asks = verdict(RunState.STOPPED, 20), verdict(RunState.WAITING, 5, WaitReason.PERMISSION)
    works = verdict(RunState.WORKING, 1)
    assert busiest([rests, ended]).since_ms == 20 and is_idle(busiest([rests, ended]))
    assert not is_idle(busiest([rests, asks, ended])) and may_rest(busiest([rests, asks, ended]))
    assert not may_rest(busiest([works, asks, rests]))


def test_a_change_is_told_until_somebody_has_heard_it() -> None:
    house = House()
    house.hook("SessionStart", S2, OTHER, source="startup")
    house.hook("UserPromptSubmit", S2, prompt="go")
    others, beside = house.live.others, house.live.of_the_box()
    for _ in range(2):  # it could not be recorded (the disk is full)
        (changed,) = others.fold(beside, house.now)
        assert changed.state == "working"
        others.stored(others.pending())
    others.told([changed])
    assert others.fold(beside, house.now) == []
    house.hook("Stop", S2)
    others.told([changed])  # that was about the state before
    assert [a.reason for a in others.fold(beside, house.now)] == ["turn_end"]


@pytest.mark.parametrize(
    ("name", "meant"),
    [("bee", ("bee", 0)), ("bee.3", ("bee", 3)), ("bee.1", ("bee.1", 0)), ("bee.", ("bee.", 0)),
     ("bee.x", ("bee.x", 0)), ("bee.٣", ("bee.٣", 0)),
     ("bee." + "9" * 40, ("bee." + "9" * 40, 0)), (".2", ("", 2))],
)  # fmt: skip
def test_the_name_of_a_further_agent_is_read_and_nothing_else_is_taken_for_one(
    name: str, meant: tuple[str, int]
) -> None:
    assert numbered(name) == meant


def test_one_that_nobody_can_say_anything_of_any_more_keeps_no_box_awake() -> None:
    house = House()
    house.hook("SessionStart", S2, source="startup")  # no process is known
    house.now += 3_600_000
    house.fold()
    assert house.agents[0].state == "unknown" and house.live.others.verdicts() == []
