"""Notes about budgets: held where notes are, each of them kept, and each in its own words."""

from __future__ import annotations

import asyncio
from pathlib import Path

from notes_lab import Lab
from ntfy_server import NtfyServer

from thopter.fleet.live import LiveBox
from thopter.model.api.notes import MuteRequest
from thopter.model.events import Event


def lab(folder: Path, ntfy: NtfyServer) -> Lab:
    return Lab(folder, **{"notify.ntfy_server": ntfy.url, "notify.ntfy_topic": "phone"})


def said(live: LiveBox, at_ms: int, **data: str) -> Event:
    assert live.run is not None
    return Event(
        kind="run.budget", at_ms=at_ms, box=live.box.id, run=live.run.id, data={"name": live.box.name, **data}
    )


def test_the_note_of_a_muted_thopters_budget_is_held(tmp_path: Path, ntfy: NtfyServer) -> None:
    made = lab(tmp_path, ntfy)

    async def go() -> None:
        async with made.up():
            heron, wren = await made.thopter(), await made.thopter("wren")
            await made.notes.mute(MuteRequest(name="heron", muted=True))
            await made.store.events.append([said(heron, 5, level="spent", what="usd", text="5 of 5")])
            await made.store.events.append([said(wren, 6, level="spent", what="usd", text="6 of 6")])
            found = {v.note.name: v.note.held for v in await made.settled(2)}
            assert found == {"heron": "muted", "wren": ""}

    asyncio.run(go())
    assert [m["title"] for m in ntfy.messages] == ["wren has used up its budget"]


def test_two_notes_of_the_same_millisecond_are_both_kept(tmp_path: Path, ntfy: NtfyServer) -> None:
    made = lab(tmp_path, ntfy)

    async def go() -> None:
        async with made.up():
            heron = await made.thopter()
            both = [
                said(heron, 5, level="near", what="usd", text=text) for text in ("4 of 5", "40 of 50 today")
            ]
            await made.store.events.append(both)
            await made.settled(2)
        async with made.up():
            await made.decided()
            assert len(await made.store.notes.list()) == 2, "and each once, also over restarts"

    asyncio.run(go())
    assert sorted(m["message"] for m in ntfy.messages) == ["4 of 5", "40 of 50 today"]


def test_each_kind_of_word_about_a_budget_has_its_title_and_a_raise_has_none(
    tmp_path: Path, ntfy: NtfyServer
) -> None:
    made = lab(tmp_path, ntfy)

    async def go() -> None:
        async with made.up():
            heron = await made.thopter()
            levels = ("raised", "near", "spent", "unpriced")
            await made.store.events.append([said(heron, 5, level=level, text=level) for level in levels])
            assert len(await made.settled(3)) == 3

    asyncio.run(go())
    assert {m["message"]: m["title"] for m in ntfy.messages} == {
        "near": "heron nears its budget",
        "spent": "heron has used up its budget",
        "unpriced": "heron asks for a model without a price",
    }
