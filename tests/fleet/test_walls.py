"""How strong a box must be by its policy: never weaker, and refused before anything is made."""

from __future__ import annotations

import pytest
from msgspec import structs

from thopter.fleet.ports import Chosen
from thopter.fleet.walls import cannot, capped, hold, raised
from thopter.model.errors import Refused
from thopter.model.ids import BoxId
from thopter.model.nouns import Box, BoxState, Isolation, Limits
from thopter.model.sockets import Caps
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
