"""What a box says of itself by its journal: hostile, whatever boxd should have let through."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from thopter.agents.claude import ClaudeAgent
from thopter.fleet import reports
from thopter.fleet.deps import Deps
from thopter.fleet.live import LiveBox
from thopter.model.evidence import Fact, Source
from thopter.model.ids import BoxId, RunId
from thopter.model.nouns import Box, BoxState, Run, RunState
from thopter.store.store import Store

T = 1_800_000_000_000


@pytest.mark.parametrize(
    "record",
    [
        {}, {"verb": "done"}, {"verb": "sing", "text": ""}, {"verb": ["done"], "text": ""},
        {"verb": "done", "text": 5},
    ],
)  # fmt: skip
def test_a_report_that_makes_no_sense_is_none(record: dict[str, Any]) -> None:
    assert reports.read(record, T, T) is None


@given(st.sampled_from(["log", "done", "statusline", "message"]), st.text(max_size=300))
def test_whatever_it_says_comes_out_bounded_and_without_control_characters(verb: str, text: str) -> None:
    report = reports.read({"verb": verb, "text": text * 40}, T, T)
    assert report is not None
    assert len(report.text) <= (500 if verb == "statusline" else 2000)
    shown = report.text + "".join(e.detail for e in report.evidence)
    allowed = "\n\t" if verb == "message" else ""
    assert not [c for c in shown if (ord(c) < 32 or 127 <= ord(c) < 160) and c not in allowed]


def test_only_declarations_are_evidence_and_say_who_declared() -> None:
    facts = {
        verb: [e.fact for e in found.evidence]
        for verb in ("log", "message", "statusline", "inactive", "done", "waiting", "running")
        if (found := reports.read({"verb": verb, "text": "x"}, T, T))
    }
    assert facts == {
        "log": [], "message": [], "statusline": [], "inactive": [], "done": [Fact.DECLARED_DONE],
        "waiting": [Fact.DECLARED_WAITING], "running": [Fact.DECLARED_OPEN],
    }  # fmt: skip
    done = reports.read({"verb": "done", "text": "all of it"}, T, T)
    assert done is not None
    assert (done.evidence[0].source, done.evidence[0].detail) == (Source.DECLARED, "by the agent: all of it")


def test_reports_become_events_and_the_newest_line_the_agents_label(tmp_path: Path) -> None:
    async def go() -> None:
        store = await Store.open(tmp_path / "hub.db")
        box = Box(
            id=BoxId("box_1"), name="bee", provider="p", state=BoxState.READY, created_ms=T, changed_ms=T
        )
        run = Run(
            id=RunId("run_1"), box=box.id, agent="claude", prompt="x", state=RunState.WORKING,
            created_ms=T, changed_ms=T,
        )  # fmt: skip
        await store.write(lambda tx: (tx.boxes.reserve_name(box, [box.name]), tx.runs.insert(run)))
        live = LiveBox(cast(Deps, SimpleNamespace(store=store)), box, run, ClaudeAgent())
        said = [
            reports.read({"verb": verb, "text": text}, T + 10**9, T + 5)  # a date from the future
            for verb, text in (("statusline", "one"), ("statusline", "two"), ("message", "hello"))
        ]
        events = await reports.keep(live, [r for r in said if r is not None])
        assert [(e.kind, e.data["verb"], e.at_ms) for e in events] == [
            ("box.said", verb, T + 5) for verb in ("statusline", "statusline", "message")
        ]
        assert live.last_message == "hello"
        view = (await store.talk.views({box.id: run.id}))[box.id]
        assert (view.statusline, view.statusline_by, view.statusline_ms) == ("two", "agent", T + 5)
        await store.close()

    asyncio.run(go())
