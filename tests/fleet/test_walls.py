"""How strong a box must be by its policy: never weaker, and refused before anything is made."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from types import SimpleNamespace
from typing import Any

import pytest
from msgspec import structs

from thopter.fleet.awake import Waker
from thopter.fleet.forking import Fork, Forker
from thopter.fleet.ports import Chosen
from thopter.fleet.rewinding import Rewinder
from thopter.fleet.walls import cannot, capped, hold, raised
from thopter.model.errors import Refused
from thopter.model.ids import BoxId
from thopter.model.nouns import Box, BoxState, Isolation, Limits
from thopter.model.sockets import BoxHandle, BoxSpec, Caps
from thopter.model.tiers import TIERS, stronger, weaker

MIB = 1 << 20


def _chosen(isolation: str = "any", **most: float) -> Chosen:
    every = {"memory_mb": 0.0, "pids": 0.0, "cpus": 0.0, "disk_mb": 0.0} | most
    return Chosen(name="team", why="asked for", ca=False, isolation=isolation, most=every, env={})


def _caps(isolation: Isolation = Isolation.NAMESPACES_USER, *limits: str) -> Caps:
    return Caps(isolation=isolation, limits=frozenset(limits), missing={"cpus": "no cgroup controller cpu"})


def test_isolation_is_ranked_and_what_is_unknown_is_trusted_with_nothing() -> None:
    ranked = ["none", "bubblewrap", "gvisor", "vm"]
    wanted = ["any", "namespaces", "gvisor", "vm"]
    for have, name in enumerate(ranked):
        for want, policy in enumerate(wanted):
            assert weaker(name, policy) is (have < want), (name, policy)
    for kind in Isolation:
        assert not weaker(kind, "any")
        assert weaker(kind, "namespaces") is (kind is Isolation.NONE)
        assert weaker(kind, "gvisor") is (kind not in (Isolation.GVISOR, Isolation.VM))
        assert weaker(kind, "vm") is (kind is not Isolation.VM)
    assert weaker("something-new", "namespaces") and weaker(None, "namespaces")
    assert weaker("vm", "something stronger"), "a wish that is not understood is never met"


def test_a_request_raises_the_isolation_of_its_policy_and_never_lowers_it() -> None:
    for have, policy in enumerate(TIERS):
        for want, asked in enumerate(TIERS):
            chosen = raised(_chosen(policy), asked)
            assert chosen["isolation"] == TIERS[max(have, want)] == stronger(policy, asked)
            assert chosen.get("raised", False) is (want > have)
    assert stronger("vm", "") == "vm" and stronger("", "gvisor") == "gvisor"


def test_a_tier_that_cannot_be_had_is_refused_with_what_is_missing() -> None:
    caps = Caps(isolation=Isolation.NAMESPACES_IDMAPPED, missing={"gvisor": "runsc is not installed"})
    why = cannot(caps, _chosen("gvisor"))
    assert why.endswith("boxes made here have namespaces-idmapped: runsc is not installed")
    assert cannot(Caps(isolation=Isolation.VM), _chosen("gvisor")) == ""


def test_settings_give_way_to_the_policys_limits_and_what_is_asked_for_is_refused() -> None:
    limits = Limits(memory_bytes=4096 * MIB, pids=2048, cpus=2.0, disk_bytes=0)
    most = _chosen(memory_mb=1024, pids=4096, cpus=0.5, disk_mb=100)
    found = capped(limits, most, {})
    assert found == Limits(memory_bytes=1024 * MIB, pids=2048, cpus=0.5, disk_bytes=100 * MIB)
    assert isinstance(found.memory_bytes, int) and isinstance(found.cpus, float)
    assert capped(limits, _chosen(), {}) == limits
    less = structs.replace(limits, memory_bytes=512 * MIB)
    assert capped(less, most, {"memory_mb": 512}).memory_bytes == 512 * MIB
    with pytest.raises(Refused, match="allows a box 1024 MiB of memory, not 4096"):
        capped(limits, most, {"memory_mb": 4096})
    with pytest.raises(Refused, match="not any number of"):
        capped(limits, most, {"disk_mb": 0})


def test_a_machine_that_cannot_hold_what_the_policy_asks_says_so() -> None:
    assert cannot(_caps(), _chosen()) == ""
    assert cannot(_caps(), _chosen("namespaces")) == ""
    assert "asks for isolation 'vm', and boxes made here have namespaces-user" in cannot(
        _caps(), _chosen("vm")
    )
    assert "have none" in cannot(_caps(Isolation.NONE), _chosen("namespaces"))
    assert cannot(_caps(Isolation.NAMESPACES_USER, "memory_bytes"), _chosen(memory_mb=100)) == ""
    assert "bounds memory, and here it can't be held" in cannot(_caps(), _chosen(memory_mb=100))
    assert "no cgroup controller cpu" in cannot(_caps(), _chosen(cpus=1))


def test_a_box_that_came_out_weaker_than_was_chosen_must_go_again() -> None:
    box = Box(
        id=BoxId("box_1"), name="a", provider="local", state=BoxState.CREATING, created_ms=1, changed_ms=1
    )
    hold(box, "none")  # made before there were policies
    for policy, isolation, good in (("any", "none", True), ("namespaces", "container", True),
                                    ("namespaces", "none", False), ("vm", "namespaces-idmapped", False),
                                    ("vm", None, False)):  # fmt: skip
        kept = structs.replace(box, memory={"policy": dict(_chosen(policy))})
        if good:
            hold(kept, isolation)
        else:
            with pytest.raises(Refused, match="came out as"):
                hold(kept, isolation)


class _Weak:
    """Somebody's provider that takes no notice of how strong a box is to be."""

    name = "weak"

    async def ensure(self, spec: BoxSpec) -> BoxHandle:
        return BoxHandle(key=spec.key, state=BoxState.READY, isolation=Isolation.CONTAINER)

    revive = ensure

    async def reclaim(self, key: str) -> int:
        raise AssertionError(key)

    async def stop(self, key: str) -> None:
        raise AssertionError(key)

    async def get(self, key: str) -> BoxHandle:
        return await self.ensure(BoxSpec(key=key, name=key))


def _weak_deps(box: Box) -> Any:
    async def of_box(_key: str) -> Box:
        return box

    async def intent(_key: str) -> Any:
        return SimpleNamespace(request={"token": "t"})

    async def release(_key: str) -> None:
        return

    return SimpleNamespace(
        store=SimpleNamespace(boxes=SimpleNamespace(get=of_box), intents=SimpleNamespace(get=intent)),
        providers={"weak": _Weak()}, owner="Tess", crew=SimpleNamespace(release=release),
    )  # fmt: skip


@pytest.mark.parametrize("way", ["fork", "rewind", "revive", "look"])
def test_a_fork_and_a_box_brought_back_are_held_to_the_policy_like_a_new_one(way: str) -> None:
    box = Box(
        id=BoxId("box_1"), name="a", provider="weak", state=BoxState.STOPPED, created_ms=1, changed_ms=1,
        memory={"policy": dict(_chosen("gvisor"))},
    )  # fmt: skip
    self: Any = SimpleNamespace(deps=_weak_deps(box))
    args: Any = SimpleNamespace(box=box.id, name=box.name)
    one = Fork(box=box.id, run="run_1", name="a", session="s", token="t")
    calls: dict[str, Callable[[], Coroutine[Any, Any, Any]]] = {
        "fork": lambda: Forker._box(self, args, one),
        "rewind": lambda: Rewinder._make(self, args, "snap_1"),
        "revive": lambda: Waker._revive(self, args),
        "look": lambda: Waker._look(self, args),
    }
    with pytest.raises(Refused, match="asks for isolation 'gvisor', and it came out as container"):
        asyncio.run(calls[way]())
