"""The suite's checks of the facets Snapshots and Stops (part of ``provider_suite.ProviderSuite``)."""

from __future__ import annotations

import asyncio
import secrets

import msgspec
import pytest

from thopter.model.errors import BadInput, Conflict, NotFound, NotNow
from thopter.model.nouns import BoxState
from thopter.model.sockets import BoxSpec, Provider, Snapshots, Stops, Suspends
from thopter.testing.provider_place import Place, linked, new_spec, no_leaks, run, sh

TOUCH = """
set -e
cd /root; echo one > file; ln file twin; ln -s nowhere link; mkfifo pipe; mkdir -p a/b; echo deep > a/b/c
truncate -s 64M sparse; chmod 4711 twin; touch -d 2001-02-03T04:05:06Z a/b/c; : > '-odd name'
rm -rf /etc/skel; mkdir /etc/skel; echo mine > /etc/skel/x; rm -f /etc/shells; echo kept > /var/tmp/kept
echo lost > /tmp/lost
"""
LOOK = """
cd /root; stat -c '%n %F %a %u:%g %h %s %Y' file twin link pipe a/b/c sparse ./-odd* /etc/skel/x /var/tmp/kept
cat file a/b/c /var/tmp/kept; readlink link; ls -A /etc/skel; test -e /etc/shells || echo gone
du -k sparse | cut -f1
"""


async def snapshots_of(provider: Provider) -> Snapshots:
    """The facet, or the test is skipped."""
    if not isinstance(provider, Snapshots) or "snapshots" not in (await provider.caps()).facets:
        pytest.skip(f"{provider.name} can't save boxes")
    return provider


async def stops_of(provider: Provider) -> Stops:
    """The facet, or the test is skipped."""
    if not isinstance(provider, Stops) or "stops" not in (await provider.caps()).facets:
        pytest.skip(f"{provider.name} can't stop boxes")
    return provider


def new_snap() -> str:
    """An id that no snapshot has yet."""
    return "snap_" + secrets.token_hex(6)


async def from_snapshot(provider: Provider, place: Place, snap: str) -> BoxSpec:
    """Make a box from ``snap``; its spec."""
    spec = new_spec(place, snapshot=snap)
    await provider.ensure(spec)
    return spec


class SavingChecks:
    """Checks of Snapshots and Stops."""

    # ------------------------------------------------------------------------------ Snapshots

    def test_a_box_from_a_snapshot_has_the_same_files_and_is_itself(self, place: Place) -> None:
        async def check() -> None:
            async with place.open() as provider:
                saves = await snapshots_of(provider)
                spec = new_spec(place)
                await provider.ensure(spec)
                await sh(provider, spec.key, TOUCH)
                before = await sh(provider, spec.key, LOOK)
                snap = new_snap()
                handle = await saves.snapshot(spec.key, snap, {"why": "test"})
                assert (handle.id, dict(handle.tags)) == (snap, {"why": "test"})
                await sh(provider, spec.key, "echo two > /root/file; rm -rf /root/a")
                made = await from_snapshot(provider, place, snap)
                assert await sh(provider, made.key, LOOK) == before
                names = await sh(provider, made.key, "hostname; cat /etc/hostname; ls -A /tmp")
                assert names.split() == [made.name, made.name]
                assert made.name in await sh(provider, made.key, "cat /etc/hosts")
                assert await sh(provider, spec.key, "cat /root/file; hostname") == f"two\n{spec.name}"
                await saves.drop_snapshot(snap)

        run(check())

    def test_a_snapshot_is_made_once_and_never_changes(self, place: Place) -> None:
        async def check() -> None:
            async with place.open() as provider:
                saves = await snapshots_of(provider)
                spec, snap = new_spec(place), new_snap()
                await provider.ensure(spec)
                await sh(provider, spec.key, "echo first > /root/f")
                first = await saves.snapshot(spec.key, snap, {})
                await sh(provider, spec.key, "echo second > /root/f")
                again = await asyncio.gather(*(saves.snapshot(spec.key, snap, {}) for _ in range(3)))
                assert all(h == first for h in again)
                made = await from_snapshot(provider, place, snap)
                await sh(provider, made.key, "test $(cat /root/f) = first; echo third > /root/f")
                other = await from_snapshot(provider, place, snap)
                assert await sh(provider, other.key, "cat /root/f") == "first"
                assert [h.id for h in await saves.snapshots()] == [snap]
                async with place.open() as later:
                    assert [h.id for h in await (await snapshots_of(later)).snapshots()] == [snap]
                await saves.drop_snapshot(snap)
                assert await saves.snapshots() == []

        run(check())

    def test_what_is_made_from_a_snapshot_outlives_it(self, place: Place) -> None:
        async def check() -> None:
            async with place.open() as provider:
                saves = await snapshots_of(provider)
                spec = new_spec(place)
                await provider.ensure(spec)
                for level in range(3):
                    await sh(provider, spec.key, f"echo {level} > /root/{level}")
                    snap = new_snap()
                    await saves.snapshot(spec.key, snap, {})
                    made = await from_snapshot(provider, place, snap)
                    await saves.drop_snapshot(snap)
                    await provider.destroy(spec.key)
                    spec = made
                assert await sh(provider, spec.key, "cat /root/0 /root/1 /root/2") == "0\n1\n2"
                await saves.drop_snapshot(snap)
                with pytest.raises(NotFound):
                    await provider.ensure(new_spec(place, snapshot=snap))
                await no_leaks(provider, frozenset([spec.key]))

        run(check())

    def test_processes_go_on_while_their_box_is_saved(self, place: Place) -> None:
        async def check() -> None:
            async with place.open() as provider:
                saves = await snapshots_of(provider)
                spec, snap = new_spec(place), new_snap()
                await provider.ensure(spec)
                # Two files that always change together: saved in between, they would differ.
                once = "echo $i > /root/new; mv /root/new /root/{0}"
                writer = f"i=0; while :; do i=$((i+1)); {once.format('a')}; {once.format('b')}; done"
                await sh(provider, spec.key, f"(setsid sh -c '{writer}' > /dev/null 2>&1 &)")
                await sh(provider, spec.key, "until [ -s /root/b ]; do sleep 0.01; done")
                async with linked(provider, spec.key) as link:
                    await saves.snapshot(spec.key, snap, {})
                    assert (await provider.get(spec.key)).state is BoxState.READY
                    await link.ping()
                said = await sh(provider, spec.key, "cat /root/a; sleep 0.1; cat /root/a")
                assert len(set(said.split())) == 2, "it must go on"
                made = await from_snapshot(provider, place, snap)
                a, b = [int(await sh(provider, made.key, f"cat /root/{n}")) for n in "ab"]
                assert 0 <= a - b <= 1
                await saves.drop_snapshot(snap)

        run(check())

    def test_frozen_boxes_can_be_saved_and_stay_frozen(self, place: Place) -> None:
        async def check() -> None:
            async with place.open() as provider:
                saves = await snapshots_of(provider)
                if not isinstance(provider, Suspends):
                    pytest.skip("it can't freeze")
                spec, snap = new_spec(place), new_snap()
                await provider.ensure(spec)
                await sh(provider, spec.key, "echo f > /root/f")
                await provider.freeze(spec.key)
                await saves.snapshot(spec.key, snap, {})
                assert (await provider.get(spec.key)).state is BoxState.FROZEN
                made = await from_snapshot(provider, place, snap)
                assert await sh(provider, made.key, "cat /root/f") == "f"
                await saves.drop_snapshot(snap)

        run(check())

    def test_what_can_not_be_saved_or_found_is_said(self, place: Place) -> None:
        async def check() -> None:
            async with place.open() as provider:
                saves = await snapshots_of(provider)
                await saves.drop_snapshot("snap_never")
                with pytest.raises(NotFound):
                    await saves.snapshot("box_none", "snap_x", {})
                with pytest.raises(NotFound):
                    await provider.ensure(new_spec(place, snapshot="snap_none"))
                spec = new_spec(place)
                await provider.ensure(spec)
                for bad in ("", "../x", "a/b", ".", "x" * 300):
                    with pytest.raises(BadInput):
                        await saves.snapshot(spec.key, bad, {})
                assert await saves.snapshots() == []
                await no_leaks(provider, frozenset([spec.key]))

        run(check())

    def test_a_snapshot_nobody_knows_is_a_leak_and_is_swept(self, place: Place) -> None:
        async def check() -> None:
            async with place.open() as provider:
                saves = await snapshots_of(provider)
                spec, kept, stray = new_spec(place), new_snap(), new_snap()
                await provider.ensure(spec)
                for snap in (kept, stray):
                    await saves.snapshot(spec.key, snap, {})
                known = frozenset([spec.key, kept])
                assert {leak.key for leak in await provider.leaks(known)} == {stray}
                assert {leak.key for leak in await provider.sweep(known)} == {stray}
                await no_leaks(provider, known)
                assert [h.id for h in await saves.snapshots()] == [kept]
                await saves.drop_snapshot(kept)

        run(check())

    # ---------------------------------------------------------------------------------- Stops

    def test_a_stopped_box_keeps_its_files_and_comes_back(self, place: Place) -> None:
        async def check() -> None:
            async with place.open() as provider:
                stops = await stops_of(provider)
                spec = new_spec(place, ports=(8401,))
                await provider.ensure(spec)
                await sh(provider, spec.key, f"{TOUCH}(setsid sleep 1000 > /dev/null 2>&1 &)")
                before = await sh(provider, spec.key, LOOK)
                for _ in range(2):  # idempotent
                    await stops.stop(spec.key)
                    assert (await provider.get(spec.key)).state is BoxState.STOPPED
                async with place.open() as later:
                    assert (await later.get(spec.key)).state is BoxState.STOPPED
                with pytest.raises(NotNow):
                    await provider.channel(spec.key)
                assert (await provider.ensure(spec)).state is BoxState.STOPPED
                for _ in range(2):
                    assert (await stops.revive(spec)).state is BoxState.READY
                assert await sh(provider, spec.key, LOOK) == before
                assert await sh(provider, spec.key, "hostname; pgrep -c sleep || true") == f"{spec.name}\n0"
                await provider.destroy(spec.key)
                await no_leaks(provider, frozenset())

        run(check())

    def test_a_stopped_box_can_be_saved_and_destroyed(self, place: Place) -> None:
        async def check() -> None:
            async with place.open() as provider:
                saves, stops = await snapshots_of(provider), await stops_of(provider)
                spec, snap = new_spec(place), new_snap()
                await provider.ensure(spec)
                await sh(provider, spec.key, "echo s > /root/s")
                await stops.stop(spec.key)
                await saves.snapshot(spec.key, snap, {})
                assert (await provider.get(spec.key)).state is BoxState.STOPPED
                await provider.destroy(spec.key)
                made = await from_snapshot(provider, place, snap)
                assert await sh(provider, made.key, "cat /root/s") == "s"
                await saves.drop_snapshot(snap)

        run(check())

    def test_a_frozen_box_can_be_stopped_and_revived(self, place: Place) -> None:
        async def check() -> None:
            async with place.open() as provider:
                stops = await stops_of(provider)
                if not isinstance(provider, Suspends):
                    pytest.skip("it can't freeze")
                spec = new_spec(place)
                await provider.ensure(spec)
                with pytest.raises(Conflict):
                    await stops.reclaim(spec.key)
                await provider.freeze(spec.key)
                assert await stops.reclaim(spec.key) >= 0
                assert (await stops.revive(spec)).state is BoxState.FROZEN
                await stops.stop(spec.key)
                assert (await provider.get(spec.key)).state is BoxState.STOPPED
                assert (await stops.revive(spec)).state is BoxState.READY
                assert await sh(provider, spec.key, "echo on") == "on"
                for ask in (stops.stop, stops.reclaim):
                    with pytest.raises(NotFound):
                        await ask("box_none")
                with pytest.raises(NotFound):
                    await stops.revive(msgspec.structs.replace(spec, key="box_none"))

        run(check())


__all__ = ["LOOK", "TOUCH", "SavingChecks", "new_snap"]
