"""Kept messages and labels: order, bounds, and nothing that is acknowledged gets lost."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from msgspec import structs
from store_support import event

from thopter.model.errors import Conflict, NotFound, Refused
from thopter.model.ids import BoxId
from thopter.model.nouns import Box, BoxState
from thopter.store import talk
from thopter.store.store import Store
from thopter.store.talk import Letter, Outcome

BEE = BoxId("box_bee")


def letter(number: int, **more: object) -> Letter:
    base = Letter(
        id=f"msg_{number:04}", box=BEE, run="run_1", kind="tell", state="queued", text=f"m{number}",
        created_ms=number, changed_ms=number,
    )  # fmt: skip
    return structs.replace(base, **more)


def with_store(tmp_path: Path, work: Callable[[Store], Awaitable[None]]) -> None:
    async def go() -> None:
        store = await Store.open(tmp_path / "hub.db")
        box = Box(id=BEE, name="bee", provider="p", state=BoxState.READY, created_ms=1, changed_ms=1)
        await store.write(lambda tx: tx.boxes.reserve_name(box, [box.name]))
        try:
            await work(store)
        finally:
            await store.close()

    asyncio.run(go())


def test_messages_come_back_in_order_with_all_they_have(tmp_path: Path) -> None:
    async def work(store: Store) -> None:
        for number in (3, 1, 2):
            await store.talk.add(letter(number, marks={"journal": 7}), event(1))
        await store.talk.add(letter(1, text="again"), event(1))
        kept = await store.talk.of_box(BEE)
        assert [(x.id, x.ordinal, x.text) for x in kept] == [
            ("msg_0003", 1, "m3"), ("msg_0001", 2, "m1"), ("msg_0002", 3, "m2"),
        ]  # fmt: skip
        done = structs.replace(kept[0], state="answered", outcome=Outcome(answer="ä\x00", tools=["Bash"]))
        await store.talk.update(done, event(2), ("queued",))
        assert (await store.talk.get("msg_0003")).outcome.tools == ["Bash"]
        with pytest.raises(NotFound):
            await store.talk.get("msg_none")

    with_store(tmp_path, work)


def test_of_two_that_change_one_message_one_is_refused(tmp_path: Path) -> None:
    async def work(store: Store) -> None:
        kept = await store.talk.add(letter(1), event(1))
        drop = structs.replace(kept, state="dropped")
        send = structs.replace(kept, state="sending")
        found = await asyncio.gather(
            *(store.talk.update(x, event(2), ("queued",)) for x in (drop, send)), return_exceptions=True
        )
        assert [isinstance(x, Conflict) for x in found].count(True) == 1

    with_store(tmp_path, work)


def test_what_waits_is_bounded_and_what_is_over_is_cleared(tmp_path: Path) -> None:
    async def work(store: Store) -> None:
        for number in range(talk.KEPT + 20):
            await store.talk.add(letter(number, state="delivered", heard_ms=1), event(1))
        assert len(await store.talk.of_box(BEE)) <= talk.KEPT + 1
        for number in range(talk.OPEN_MAX):
            await store.talk.add(letter(1000 + number), event(1))
        with pytest.raises(Refused) as refused:
            await store.talk.add(letter(5000), event(1))
        assert "queue" in refused.value.hint
        again = await store.talk.add(letter(1000), event(1))  # a repeated call is no new message
        assert again.id == "msg_1000"

    with_store(tmp_path, work)


def test_what_no_conversation_has_shown_outlives_what_is_over(tmp_path: Path) -> None:
    async def work(store: Store) -> None:
        await store.talk.add(letter(1, state="delivered"), event(1))
        for number in range(2, talk.KEPT + 20):
            await store.talk.add(letter(number, state="delivered", heard_ms=1), event(1))
        assert [x.id for x in await store.talk.of_box(BEE) if x.unheard] == ["msg_0001"]
        await store.talk.heard(["msg_0001"], 77)
        await store.talk.heard(["msg_0001"], 78)
        assert (await store.talk.get("msg_0001")).heard_ms == 77
        for number in range(1000, 1000 + talk.UNHEARD_MAX + 5):
            await store.talk.add(letter(number, state="delivered"), event(1))
        unheard = [x.id for x in await store.talk.of_box(BEE) if x.unheard]
        assert len(unheard) == talk.UNHEARD_MAX and unheard[-1] == f"msg_{1004 + talk.UNHEARD_MAX}"

    with_store(tmp_path, work)


def test_too_much_text_is_refused_though_it_is_few_messages(tmp_path: Path) -> None:
    async def work(store: Store) -> None:
        big = "x" * (1 << 20)
        for number in range(8):
            await store.talk.add(letter(number, text=big), event(1))
        with pytest.raises(Refused):
            await store.talk.add(letter(9), event(1))

    with_store(tmp_path, work)


def test_the_operators_line_counts_and_a_line_of_another_run_does_not(tmp_path: Path) -> None:
    async def work(store: Store) -> None:
        await store.talk.label(BEE, "statusline", "agent", "run_1", 5, "from the box")
        await store.talk.label(BEE, "note", "operator", "", 6, "mine")
        await store.talk.add(letter(1), event(1))
        view = (await store.talk.views({BEE: "run_1"}))[BEE]
        assert (view.statusline, view.statusline_by, view.note, view.queued) == (
            "from the box", "agent", "mine", 1,
        )  # fmt: skip
        await store.talk.label(BEE, "statusline", "operator", "run_1", 4, "mine too")
        await store.talk.label(BEE, "statusline", "agent", "run_1", 9, "later")
        assert (await store.talk.views({BEE: "run_1"}))[BEE].statusline == "mine too"
        other = (await store.talk.views({BEE: "run_2"}))[BEE]
        assert (other.statusline, other.note) == ("", "mine")
        await store.talk.label(BEE, "statusline", "operator", "run_1", 10, "")
        assert (await store.talk.views({BEE: "run_1"}))[BEE].statusline == "later"
        assert await store.talk.views({"box_other": "run_1"}) == {}

    with_store(tmp_path, work)
