"""kill -9 at every step of making and destroying a box: nothing is left, nothing stays half-made."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from local_lab import Lab

from thopter.kit import failpoint
from thopter.model.errors import NotFound, ProviderError
from thopter.model.nouns import BoxState
from thopter.model.sockets import BoxSpec

KEY = "box_victim"
SPEC = BoxSpec(key=KEY, name="victim", golden="base", ports=(8401,))
NONE: frozenset[str] = frozenset()
IN_ENSURE = ("ensure.recorded", "ensure.folder", "ensure.cgroup", "ensure.asked", "ensure.confirmed")
IN_DESTROY = ("destroy.begun", "destroy.killed", "destroy.folder")
IN_BUILDER = ("birth.ordered", "birth.pivoted", "birth.reported")


def hub(lab: Lab, what: str, dies_at: str = "") -> None:
    """Run a hub process that does ``what``; it must die at the failpoint, or succeed without one."""
    paths = lab.place.paths
    env = os.environ | ({failpoint.ENV: dies_at} if dies_at else {})
    argv = [sys.executable, str(Path(__file__).with_name("local_hub.py"))]
    done = subprocess.run(
        [*argv, str(paths.state), str(paths.runtime), what, KEY],
        env=env, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == (-signal.SIGKILL if dies_at else 0), done.stderr


def again(lab: Lab) -> None:
    """As a new hub: start, and see that a box can be made, used and destroyed, and nothing is left."""
    assert lab.run(lab.provider.ensure(SPEC)).state is BoxState.READY
    assert lab.sh(KEY, "echo alive") == "alive"
    lab.run(lab.provider.destroy(KEY))
    assert lab.run(lab.provider.leaks(NONE)) == []


@pytest.mark.battery("S21")
@pytest.mark.parametrize("dies_at", IN_ENSURE)
def test_a_hub_killed_while_making_a_box(own_lab: Lab, dies_at: str) -> None:
    own_lab.box()  # so that there are a zygote and a spare already
    others = frozenset(h.key for h in own_lab.run(own_lab.provider.list()))
    hub(own_lab, "ensure", dies_at)
    own_lab.run(own_lab.provider.start())
    assert own_lab.run(own_lab.provider.sweep(others)), "something of it must have been there"
    assert own_lab.run(own_lab.provider.leaks(others)) == []
    with pytest.raises(NotFound):
        own_lab.run(own_lab.provider.get(KEY))
    for key in others:
        assert own_lab.sh(key, "echo on") == "on"
        own_lab.run(own_lab.provider.destroy(key))
    again(own_lab)


@pytest.mark.parametrize("dies_at", IN_ENSURE)
def test_a_hub_killed_while_making_a_box_makes_it_after_its_restart(own_lab: Lab, dies_at: str) -> None:
    hub(own_lab, "ensure", dies_at)
    own_lab.run(own_lab.provider.start())
    state = own_lab.run(own_lab.provider.get(KEY)).state
    assert state is (BoxState.READY if dies_at == "ensure.confirmed" else BoxState.CREATING)
    again(own_lab)


@pytest.mark.parametrize("dies_at", IN_DESTROY)
def test_a_hub_killed_while_destroying_a_box(own_lab: Lab, dies_at: str) -> None:
    hub(own_lab, "ensure")
    hub(own_lab, "destroy", dies_at)
    own_lab.run(own_lab.provider.start())
    own_lab.run(own_lab.provider.destroy(KEY))
    own_lab.run(own_lab.provider.sweep(NONE))
    assert own_lab.run(own_lab.provider.leaks(NONE)) == []
    again(own_lab)


@pytest.mark.battery("S21")
@pytest.mark.parametrize("dies_at", IN_BUILDER)
def test_a_builder_killed_while_making_a_box(
    own_lab: Lab, dies_at: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(failpoint.ENV, dies_at)
    with pytest.raises(ProviderError):
        own_lab.run(own_lab.provider.ensure(SPEC))
    assert own_lab.run(own_lab.provider.list()) == []
    own_lab.run(own_lab.provider._nursery.stop())  # the zygote has the failpoint in its environment
    monkeypatch.delenv(failpoint.ENV)
    own_lab.run(own_lab.provider.sweep(NONE))
    assert own_lab.run(own_lab.provider.leaks(NONE)) == []
    again(own_lab)


def test_a_zygote_killed_just_before_a_box_breathes(own_lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(failpoint.ENV, "zygote.holds")
    with pytest.raises(ProviderError):
        own_lab.run(own_lab.provider.ensure(SPEC))
    monkeypatch.delenv(failpoint.ENV)
    assert own_lab.run(own_lab.provider.list()) == []
    own_lab.run(own_lab.provider.sweep(NONE))
    assert own_lab.run(own_lab.provider.leaks(NONE)) == []
    again(own_lab)


@pytest.mark.battery("S21")
def test_a_zygote_killed_at_any_moment_among_many_births(own_lab: Lab) -> None:
    async def births() -> set[str]:
        async def one(number: int) -> str:
            spec = BoxSpec(key=f"box_{number}", name=f"n{number}", golden="base", ports=(8401,))
            try:
                return (await own_lab.provider.ensure(spec)).key
            except ProviderError:
                return ""

        async def kill() -> None:
            for _ in range(4):
                await asyncio.sleep(random.random() * 0.2)
                pid = (await own_lab.provider._nursery.ping()).get("pid")
                if pid:
                    os.kill(int(pid), signal.SIGKILL)

        async with asyncio.TaskGroup() as group:
            group.create_task(kill())
            made = [group.create_task(one(n)) for n in range(12)]
        return {m.result() for m in made} - {""}

    made = frozenset(own_lab.run(births(), 120))
    assert {h.key for h in own_lab.run(own_lab.provider.list())} == made
    own_lab.run(own_lab.provider.sweep(made))
    assert own_lab.run(own_lab.provider.leaks(made)) == []
    for key in made:
        assert own_lab.sh(key, "echo alive") == "alive"
        assert len(own_lab.run(own_lab.provider.listeners(key))) == 1
        own_lab.run(own_lab.provider.destroy(key))
    own_lab.run(own_lab.provider.sweep(NONE))
    again(own_lab)


def test_a_torn_record_is_swept(own_lab: Lab) -> None:
    own_lab.run(own_lab.provider.ensure(SPEC))
    record = own_lab.place.paths.state / "boxes" / KEY / "box.json"
    record.write_bytes(record.read_bytes()[:40])
    with pytest.raises(NotFound):
        own_lab.run(own_lab.provider.get(KEY))
    assert {leak.key for leak in own_lab.run(own_lab.provider.leaks(NONE))} >= {KEY}
    own_lab.run(own_lab.provider.sweep(NONE))
    assert own_lab.run(own_lab.provider.leaks(NONE)) == []
    again(own_lab)
