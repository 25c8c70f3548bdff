"""Approvals and usage in the store: an answer once, a line once."""

from __future__ import annotations

import pytest
from store_support import Use, box, event

from thopter.model.asks import Ask, AskReply
from thopter.model.errors import Conflict
from thopter.store.approvals import Asked
from thopter.store.store import Store
from thopter.store.usage import Used

YES, NO = AskReply(allow=True), AskReply(allow=False, message="no \x00 \ud800")


def asked(n: int = 1, **more: object) -> Asked:
    ask = Ask(kind="permission", tool="Bash", input={"command": "rm \x00 \ud800"}, summary="Bash: rm")
    given: dict[str, object] = {
        "id": f"apr_{n}", "box": "box_1", "run": "run_1", "hook": f"b-{n}", "state": "open",
        "asked_ms": n, "changed_ms": n, "digest": "d", "call": "c", "body": "{}", "ask": ask, **more,
    }  # fmt: skip
    return Asked(**given)  # type: ignore[arg-type]


def test_a_hook_is_one_approval_however_often_its_box_is_read(use: Use) -> None:
    async def go(store: Store) -> None:
        await store.boxes.insert(box())
        assert await store.approvals.add(asked(), event(1))
        assert not await store.approvals.add(asked(id="apr_9"), event(2))
        (found,) = await store.approvals.asked("box_1")
        assert found.id == "apr_1" and found.ask.tool == "Bash"
        assert len((await store.events.read()).events) == 1

    use(go)


def test_an_approval_is_decided_once_and_only_by_its_digest(use: Use) -> None:
    async def go(store: Store) -> None:
        await store.boxes.insert(box())
        await store.approvals.add(asked(), event(1))
        with pytest.raises(Conflict, match="not what you were shown"):
            await store.approvals.decide("apr_1", "e", YES, 5)
        assert (await store.approvals.decide("apr_1", "d", YES, 5)).state == "answering"
        with pytest.raises(Conflict, match="answering already"):
            await store.approvals.decide("apr_1", "d", NO, 6)
        assert await store.approvals.settle("apr_1", ("answering",), "approved", 7, "", event(2))
        assert await store.approvals.settle("apr_1", ("answering",), "elsewhere", 8, "", event(3)) is None
        found = await store.approvals.get("apr_1")
        assert (found.state, found.reply, found.changed_ms) == ("approved", YES, 7)
        assert len((await store.events.read()).events) == 2

    use(go)


def test_lines_of_a_book_are_added_up_once(use: Use) -> None:
    one = Used(run="r", model="m", day="2026-11-30", band=0, box="box_1", requests=1, input=5, last_ms=9)

    async def go(store: Store) -> None:
        assert await store.usage.count("a", 0, 2, [one, one])
        assert not await store.usage.count("a", 0, 2, [one, one])  # a hub that died after it had counted
        assert await store.usage.count("a", 2, 3, [one])
        assert await store.usage.count("b", 0, 1, [one])
        (found,) = await store.usage.of("box_1")
        assert (found.requests, found.input, await store.usage.mark("a")) == (4, 20, 3)
        await store.usage.forget("a")
        assert await store.usage.mark("a") == 0 and len(await store.usage.of()) == 1

    use(go)
