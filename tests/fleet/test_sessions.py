"""Sessions in one box: only the run's own changes its state. On recorded hooks of the real program."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from msgspec import structs

from thopter.agents.claude import ClaudeAgent
from thopter.fleet import sessions
from thopter.fleet.deps import Deps
from thopter.fleet.live import LiveBox
from thopter.fleet.truth import fold
from thopter.model.evidence import Evidence, Fact, Source
from thopter.model.ids import BoxId, RunId
from thopter.model.nouns import Box, BoxState, Run, RunState
from thopter.model.sockets import Reading
from thopter.store.store import Store

SAMPLES = Path(__file__).parent.parent / "agents" / "samples"
T = 1_800_000_000_000
NESTED = "99999999-0000-4000-8000-000000000000"
CLAUDE = ClaudeAgent()


class Recorded:
    """The hooks of a real session, read one a second, by a box whose run has that session."""

    def __init__(self, version: str) -> None:
        lines = (SAMPLES / f"claude-{version}" / "hooks.jsonl").read_text().splitlines()
        self.calls: list[dict[str, Any]] = [json.loads(line) for line in lines]
        self.session = str(self.calls[0]["body"]["session_id"])
        box = Box(
            id=BoxId("box_1"), name="bee", provider="p", state=BoxState.READY, created_ms=T, changed_ms=T
        )
        run = Run(
            id=RunId("run_1"), box=box.id, agent="claude", prompt="x", state=RunState.STARTING,
            created_ms=T, changed_ms=T, session=self.session,
        )  # fmt: skip
        self.now = T
        clock = SimpleNamespace(now_ms=lambda: self.now)
        self.live = LiveBox(cast(Deps, SimpleNamespace(clock=clock)), box, run, CLAUDE)
        self.live.learn([Evidence(source=Source.HUB, fact=Fact.LAUNCHED, at_ms=T, seen_ms=T)])

    def tell(self, event: str, session: str, body: dict[str, Any]) -> Reading:
        """Read one hook, as the journal's pump does."""
        self.now += 1000
        raw = json.dumps(body | {"session_id": session}).encode()
        reading = sessions.own(self.live, CLAUDE.read_hook(event, raw, self.now, self.now))
        self.live.learn(reading.evidence)
        return reading

    def state(self) -> RunState:
        return fold(self.live.evidence, self.now).state


@pytest.mark.parametrize("version", ["2.1.197", "2.1.329"])
def test_a_whole_nested_session_changes_nothing_wherever_it_comes_in(version: str) -> None:
    alone, beside = Recorded(version), Recorded(version)
    for call in alone.calls:
        alone.tell(call["event"], alone.session, call["body"])
        beside.tell(call["event"], beside.session, call["body"])
        if call["event"] in ("PreToolUse", "Stop"):
            # All of another session, its goodbye included, while ours is at a tool or at rest.
            for other in [c for c in alone.calls if c["event"] != "PermissionRequest"][:12] + alone.calls[
                -1:
            ]:
                found = beside.tell(other["event"], NESTED, other["body"])
                assert not found.evidence and not found.receipt
                assert beside.state() is alone.state()
    assert beside.live.session == beside.session


def test_without_the_filter_the_goodbye_of_a_nested_session_would_end_the_run() -> None:
    beside = Recorded("2.1.329")
    for call in beside.calls[:4]:
        beside.tell(call["event"], beside.session, call["body"])
    assert beside.state() is RunState.WORKING
    end = {"hook_event_name": "SessionEnd", "reason": "other"}
    beside.tell("SessionEnd", NESTED, end)
    assert beside.state() is RunState.WORKING
    beside.tell("SessionEnd", beside.session, end)
    assert beside.state() is RunState.STOPPED


@pytest.mark.parametrize(("reason", "source"), [("clear", "clear"), ("resume", "resume")])
def test_a_session_that_takes_the_place_of_the_first_is_followed(reason: str, source: str) -> None:
    live = Recorded("2.1.329")
    live.tell("SessionStart", live.session, {"source": "startup"})
    live.tell("SessionEnd", live.session, {"reason": reason})
    assert live.tell("SessionStart", NESTED, {"source": source}).evidence
    assert live.live.session == NESTED
    live.tell("UserPromptSubmit", NESTED, {"prompt": "go on"})
    assert live.state() is RunState.WORKING
    assert not live.tell("Stop", live.session, {}).evidence  # a straggler of the first


def test_a_run_that_is_given_another_session_by_the_hub_has_that_one() -> None:
    live = Recorded("2.1.329").live
    live.follow_session(NESTED)
    assert live.run is not None and live.session == NESTED
    live.run = structs.replace(live.run, session="forked")  # resumed on a copy
    assert live.session == "forked"


def test_a_session_that_somebody_starts_after_the_agents_death_is_followed() -> None:
    live = Recorded("2.1.329")
    live.tell("SessionStart", live.session, {"source": "startup"})
    assert not live.tell("SessionStart", NESTED, {"source": "startup"}).evidence
    live.live.learn(
        [Evidence(source=Source.PROCESS, fact=Fact.PROCESS_EXITED, at_ms=live.now, seen_ms=live.now)]
    )
    live.now += 5000
    assert live.tell("SessionStart", NESTED, {"source": "startup"}).evidence
    assert live.live.session == NESTED


def test_a_transcript_of_another_session_is_recorded_but_is_no_evidence() -> None:
    live = Recorded("2.1.329")
    line = (SAMPLES / "claude-2.1.329" / "transcript.jsonl").read_text().splitlines()
    read = [CLAUDE.read_transcript("-work/s.jsonl", raw.encode(), T) for raw in line]
    assert any(r.evidence and r.entries for r in read)
    live.live.follow_session("another")
    for reading in read:
        kept = sessions.written(live.live, reading)
        assert kept.entries == reading.entries
        assert not kept.evidence or not reading.session


def test_the_session_that_was_followed_is_kept_for_the_next_hub(tmp_path: Path) -> None:
    async def go() -> list[str]:
        store = await Store.open(tmp_path / "hub.db")
        live = Recorded("2.1.329").live
        assert live.run is not None
        box, run = live.box, live.run
        await store.write(lambda tx: (tx.boxes.reserve_name(box, [box.name]), tx.runs.insert(run)))
        live.deps = cast(Deps, SimpleNamespace(store=store))
        await live.keep_session()
        before = (await store.runs.get(run.id)).session
        live.follow_session(NESTED)
        await live.keep_session()
        after = (await store.runs.get(run.id)).session
        await store.close()
        return [before, after]

    assert asyncio.run(go()) == [Recorded("2.1.329").session, NESTED]
