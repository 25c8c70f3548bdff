"""Whether a message that was begun to be typed has arrived, by the record of a real boxd."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from boxd_support import BoxdProcess
from msgspec import structs

from thopter.agents.claude import ClaudeAgent
from thopter.fleet import delivery
from thopter.fleet.delivery import Delivery
from thopter.fleet.deps import Deps
from thopter.fleet.launch import launch_context
from thopter.fleet.live import LiveBox
from thopter.kit.clock import SystemClock
from thopter.model.events import Event
from thopter.model.ids import BoxId, RunId
from thopter.model.nouns import Box, BoxState, Run, RunState
from thopter.store.store import Store
from thopter.store.talk import Letter

SESSION = "3625d44b-1e88-4b18-93bb-bf9e25b79a38"
CLAUDE = ClaudeAgent()


@pytest.fixture
def small(start: Callable[..., BoxdProcess]) -> Iterator[BoxdProcess]:
    """A boxd whose journal keeps little."""
    yield start(journal_segment=4096, journal_segments=2)


def hook(boxd: BoxdProcess, event: str, **body: Any) -> None:
    status, _ = boxd.hook(event, json.dumps({"session_id": SESSION, **body}).encode(), "?run=run_1")
    assert status == 204


@asynccontextmanager
async def desk(tmp: Path, boxd: BoxdProcess, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A delivery with a message that an earlier hub left as being typed."""
    monkeypatch.setattr(delivery, "LOOK_S", 0.0)
    store = await Store.open(tmp / "hub.db")
    now = SystemClock().now_ms()
    box = Box(
        id=BoxId("box_1"), name="bee", provider="p", state=BoxState.READY, created_ms=now, changed_ms=now
    )
    run = Run(
        id=RunId("run_1"), box=box.id, agent="claude", prompt="x", state=RunState.WAITING,
        created_ms=now, changed_ms=now, session=SESSION, cwd="/work",
    )  # fmt: skip
    await store.write(lambda tx: (tx.boxes.reserve_name(box, [box.name]), tx.runs.insert(run)))
    live = LiveBox(cast(Deps, SimpleNamespace(store=store, clock=SystemClock())), box, run, CLAUDE)
    ctx = launch_context(run, box, {}, boxd.token)
    live.ctx = structs.replace(ctx, home=str(boxd.folder / "home"))
    async with boxd.link() as link:
        await live._set_link(link)
        last = link.facts["journal"]["last"]
        letter = Letter(
            id="msg_1", box=box.id, run=run.id, kind="tell", state="sending", text="  go\n on ",
            created_ms=now, changed_ms=now, sent_ms=now, marks={"journal": last},
        )  # fmt: skip
        letter = await store.talk.add(letter, Event(kind="message", at_ms=now))
        # what the pumps would have read by now; nobody pumps here
        await store.ingest(box.id, run.id, {"journal": 1 << 40})
        yield Delivery(live), letter, store
    await store.close()


def settled(
    tmp: Path, boxd: BoxdProcess, monkeypatch: pytest.MonkeyPatch, meanwhile: Callable[[], None]
) -> str:
    async def go() -> str:
        async with desk(tmp, boxd, monkeypatch) as (desk_, letter, store):
            await asyncio.to_thread(meanwhile)
            await desk_._look_back(letter)
            return str((await store.talk.get(letter.id)).state)

    return asyncio.run(asyncio.wait_for(go(), 60))


def test_a_prompt_in_the_boxs_journal_has_arrived(
    tmp_path: Path, small: BoxdProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    arrive = lambda: hook(small, "UserPromptSubmit", prompt="go on")  # noqa: E731
    assert settled(tmp_path, small, monkeypatch, arrive) == "delivered"


def test_a_prompt_in_the_transcript_has_arrived(
    tmp_path: Path, small: BoxdProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    def arrive() -> None:
        place = small.folder / "home" / ".claude" / "projects" / "-work"
        place.mkdir(parents=True)
        line = {
            "type": "user", "uuid": "u1", "sessionId": SESSION, "timestamp": "2026-11-30T06:12:16.000Z",
            "message": {"role": "user", "content": "go on"},
        }  # fmt: skip
        (place / f"{SESSION}.jsonl").write_text(json.dumps(line) + "\n")

    assert settled(tmp_path, small, monkeypatch, arrive) == "delivered"


def test_what_is_nowhere_in_the_record_is_said_again(
    tmp_path: Path, small: BoxdProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = lambda: hook(small, "UserPromptSubmit", prompt="go on and on")  # noqa: E731
    assert settled(tmp_path, small, monkeypatch, other) == "queued"


def test_where_the_record_has_a_gap_it_is_told_as_unclear_and_not_said_twice(
    tmp_path: Path, small: BoxdProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    def flood() -> None:
        for number in range(40):
            hook(small, "PostToolUse", tool_name="Bash", tool_input={"command": "x" * 500, "n": number})

    assert settled(tmp_path, small, monkeypatch, flood) == "unclear"
