"""Idempotency keys and intents."""

from __future__ import annotations

import asyncio

import pytest
from store_support import Use

from thopter.model.errors import BadInput, Conflict, NotFound, NotNow
from thopter.store.idempotency import KEEP_MS, fingerprint
from thopter.store.intents import Intent
from thopter.store.store import Store

BODY, OTHER = fingerprint("POST", "/v1/runs", b"{}"), fingerprint("POST", "/v1/runs", b"{ }")


def test_the_same_call_again_gets_the_same_answer_and_another_is_refused(use: Use) -> None:
    async def go(store: Store) -> None:
        idem = store.idempotency
        first = await idem.begin("k", BODY, "flow_1", "boot1", 1000)
        assert (first.answered, first.token) == (False, "flow_1")
        with pytest.raises(NotNow):
            await idem.begin("k", BODY, "flow_2", "boot1", 1001)
        await idem.finish("k", 202, {"flow": "flow_1", "list": [1, None]})
        again = await idem.begin("k", BODY, "flow_3", "boot1", 1002)
        assert (again.answered, again.status, again.response) == (
            True,
            202,
            {"flow": "flow_1", "list": [1, None]},
        )
        with pytest.raises(Conflict):
            await idem.begin("k", OTHER, "flow_4", "boot1", 1003)

    use(go)


def test_a_call_cut_off_by_a_crash_is_taken_up_with_the_token_it_had(use: Use) -> None:
    async def first(store: Store) -> None:
        await store.idempotency.begin("k", BODY, "flow_1", "boot1", 1000)

    async def second(store: Store) -> None:
        claim = await store.idempotency.begin("k", BODY, "flow_2", "boot2", 2000)
        assert (claim.answered, claim.token) == (False, "flow_1")
        with pytest.raises(NotNow):
            await store.idempotency.begin("k", BODY, "flow_3", "boot2", 2001)

    use(first)
    use(second)


def test_an_abandoned_claim_is_free_and_an_answer_is_not_abandoned(use: Use) -> None:
    async def go(store: Store) -> None:
        idem = store.idempotency
        await idem.begin("k", BODY, "a", "boot", 1000)
        await idem.abandon("k")
        assert (await idem.begin("k", OTHER, "b", "boot", 1001)).token == "b"
        await idem.finish("k", 200, None)
        await idem.abandon("k")
        again = await idem.begin("k", OTHER, "c", "boot", 1002)
        assert again.answered and again.response is None

    use(go)


def test_of_racing_calls_with_one_key_exactly_one_does_the_work(use: Use) -> None:
    async def go(store: Store) -> None:
        async def call(n: int) -> str:
            try:
                return (await store.idempotency.begin("k", BODY, f"t{n}", "boot", 1000)).token
            except NotNow:
                return ""

        got = await asyncio.gather(*(call(n) for n in range(50)))
        assert len([t for t in got if t]) == 1

    use(go)


def test_keys_are_forgotten_after_seven_days(use: Use) -> None:
    async def go(store: Store) -> None:
        idem = store.idempotency
        await idem.begin("old", BODY, "a", "boot", 1000)
        await idem.finish("old", 200, 1)
        await idem.begin("new", BODY, "b", "boot", 1000 + KEEP_MS)
        assert (await idem.begin("old", OTHER, "c", "boot", 1001 + KEEP_MS)).token == "c"
        assert await idem.expire(1001 + KEEP_MS) == 0
        assert await idem.expire(1001 + 2 * KEEP_MS) == 1

    use(go)


def test_a_fingerprint_depends_on_every_part_and_on_where_they_meet() -> None:
    parts = [
        ("POST", "/a", b"b"),
        ("POST", "/ab", b""),
        ("PUT", "/a", b"b"),
        ("POST", "/a", b"c"),
        ("POST", "/", b"ab"),
    ]
    assert len({fingerprint(*p) for p in parts}) == len(parts)


def _intent(n: int) -> Intent:
    return Intent(
        id=f"int_{n}", kind="run", request={"prompt": "x"}, created_ms=n, flow=f"flow_{n}", origin="cli"
    )


def test_an_intent_survives_a_restart_and_is_settled_once(use: Use) -> None:
    async def first(store: Store) -> None:
        await store.intents.add(_intent(1))
        assert (await store.intents.add(_intent(1))).state == "queued"

    async def second(store: Store) -> None:
        assert [i.flow for i in await store.intents.open()] == ["flow_1"]
        claim = await store.intents.claim("me", 1000, 50)
        assert claim is not None and (claim.state, claim.fence, claim.request) == (
            "claimed",
            1,
            {"prompt": "x"},
        )
        await store.intents.settle("int_1", 1, "done", "well")
        assert await store.intents.open() == []
        with pytest.raises(Conflict):
            await store.intents.settle("int_1", 1, "done")
        with pytest.raises(NotFound):
            await store.intents.settle("int_9", 1, "done")
        with pytest.raises(BadInput):
            await store.intents.settle("int_1", 1, "perhaps")
        assert (await store.intents.get("int_1")).note == "well"

    use(first)
    use(second)


def test_fifty_racing_claimers_never_get_one_intent_twice(use: Use) -> None:
    async def go(store: Store) -> None:
        for n in range(300):
            await store.intents.add(_intent(n))
        got: list[str] = []

        async def claimer(k: int) -> None:
            while (claim := await store.intents.claim(f"w{k}", 1000, 10_000)) is not None:
                got.append(claim.id)

        await asyncio.gather(*(claimer(k) for k in range(50)))
        assert sorted(got) == sorted(f"int_{n}" for n in range(300))

    use(go)


def test_a_holder_whose_lease_ran_out_can_settle_nothing(use: Use) -> None:
    async def go(store: Store) -> None:
        await store.intents.add(_intent(1))
        slow = await store.intents.claim("slow", 1000, 50)
        assert slow is not None
        assert await store.intents.claim("other", 1049, 50) is None
        quick = await store.intents.claim("other", 1050, 50)
        assert quick is not None and quick.fence == 2
        with pytest.raises(Conflict, match="fence 2"):
            await store.intents.settle("int_1", slow.fence, "done")
        await store.intents.settle("int_1", quick.fence, "queued")
        third = await store.intents.claim("third", 1060, 50)
        assert third is not None and third.fence == 3

    use(go)
