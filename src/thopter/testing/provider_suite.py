"""One conformance suite for every kind of provider, a stranger's included.

Subclass :class:`ProviderSuite` in a test file, say in the fixture ``place`` where boxes are to be
made, and pytest runs every check::

    class TestMine(ProviderSuite):
        @pytest.fixture
        def place(self, tmp_path):
            yield MyPlace(tmp_path)

Checks of facets are skipped where the provider does not have the facet or its caps do not name it.
Each check waits for conditions with generous bounds; none sleeps and hopes.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import socket

import msgspec
import pytest

from thopter.model.errors import BadInput, NotFound, TimedOut
from thopter.model.nouns import BoxState
from thopter.model.sockets import Confines, Goldens, Provider, Suspends
from thopter.testing.provider_place import PATIENCE, Place, apart, linked, new_spec, no_leaks, run, sh
from thopter.testing.provider_saving import SavingChecks


class ProviderSuite(SavingChecks):
    """The checks. See the module docstring."""

    @pytest.fixture
    def place(self) -> Place:
        """Override this."""
        raise NotImplementedError

    # --------------------------------------------------------------------------------- core

    def test_a_new_box_is_ready_and_its_boxd_answers(self, place: Place) -> None:
        async def check() -> None:
            async with place.open() as provider:
                spec = new_spec(place, tags={"a": "1"})
                handle = await provider.ensure(spec)
                assert (handle.key, handle.state, dict(handle.tags)) == (spec.key, BoxState.READY, {"a": "1"})
                assert await sh(provider, spec.key, "echo ready") == "ready"
                assert (await provider.caps()).isolation == handle.isolation

        run(check())

    def test_ensuring_twice_gives_the_same_box(self, place: Place) -> None:
        async def check() -> None:
            async with place.open() as provider:
                spec = new_spec(place)
                first = await provider.ensure(spec)
                await sh(provider, spec.key, "echo mine > ~/mark")
                assert await provider.ensure(spec) == first
                assert await sh(provider, spec.key, "cat ~/mark") == "mine"

        run(check())

    def test_many_who_want_the_same_box_at_once_get_one(self, place: Place) -> None:
        async def check() -> None:
            async with place.open() as provider:
                spec = new_spec(place)
                handles = await asyncio.gather(*(provider.ensure(spec) for _ in range(8)))
                assert all(h == handles[0] for h in handles)
                assert [h.key for h in await provider.list()] == [spec.key]

        run(check())

    def test_many_boxes_can_be_made_and_destroyed_at_once(self, place: Place) -> None:
        async def check() -> None:
            async with place.open() as provider:
                specs = [new_spec(place) for _ in range(6)]
                called = "hostname" if await apart(provider) else "echo $THOPTER_NAME"
                await asyncio.gather(*(provider.ensure(s) for s in specs))
                said = await asyncio.gather(*(sh(provider, s.key, called) for s in specs))
                assert said == [s.name for s in specs]
                await asyncio.gather(*(provider.destroy(s.key) for s in specs))
                assert await provider.list() == []
                await no_leaks(provider, frozenset())

        run(check())

    def test_what_does_not_exist_is_not_found(self, place: Place) -> None:
        async def check() -> None:
            async with place.open() as provider:
                for ask in (provider.get, provider.channel):
                    with pytest.raises(NotFound):
                        await ask("box_none")

        run(check())

    def test_destroying_what_is_gone_succeeds(self, place: Place) -> None:
        async def check() -> None:
            async with place.open() as provider:
                await provider.destroy("box_never")
                spec = new_spec(place)
                await provider.ensure(spec)
                await asyncio.gather(*(provider.destroy(spec.key) for _ in range(3)))
                await provider.destroy(spec.key)
                with pytest.raises(NotFound):
                    await provider.get(spec.key)

        run(check())

    def test_a_destroyed_box_leaves_nothing_and_its_key_can_be_used_again(self, place: Place) -> None:
        async def check() -> None:
            async with place.open() as provider:
                spec = new_spec(place)
                await provider.ensure(spec)
                sleep = f"sleep 1000.{secrets.randbelow(10**9)}"
                hidden = f"setsid {sleep} > /dev/null 2>&1 &"
                await sh(provider, spec.key, f"echo old > ~/old; ({hidden}); {hidden}")
                await provider.destroy(spec.key)
                await no_leaks(provider, frozenset())
                await provider.ensure(spec)
                assert await sh(provider, spec.key, f"ls ~; pgrep -cxf '{sleep}' || true") == "0"

        run(check())

    def test_boxes_are_found_by_their_tags(self, place: Place) -> None:
        async def check() -> None:
            async with place.open() as provider:
                one = new_spec(place, tags={"team": "red", "n": "1"})
                two = new_spec(place, tags={"team": "red", "n": "2"})
                for spec in (one, two):
                    await provider.ensure(spec)

                async def keys(tags: dict[str, str]) -> set[str]:
                    return {h.key for h in await provider.list(tags)}

                assert await keys({"team": "red"}) == {one.key, two.key}
                assert await keys({"team": "red", "n": "2"}) == {two.key}
                assert await keys({"team": "blue"}) == set()

        run(check())

    def test_a_new_provider_object_finds_everything(self, place: Place) -> None:
        async def check() -> None:
            spec = new_spec(place, tags={"t": "x"})
            async with place.open() as old:
                before = await old.ensure(spec)
                await sh(old, spec.key, "echo kept > ~/kept")
                await old.close()
            async with place.open() as new:
                assert await new.list() == [before]
                assert await new.get(spec.key) == before
                assert await new.ensure(spec) == before
                assert await sh(new, spec.key, "cat ~/kept") == "kept"
                await no_leaks(new, frozenset([spec.key]))
                await new.destroy(spec.key)
                assert await new.list() == []

        run(check())

    def test_a_failed_creation_leaves_nothing(self, place: Place) -> None:
        async def check() -> None:
            async with place.open() as provider:
                spec = new_spec(place)
                with pytest.raises(NotFound):
                    await provider.ensure(msgspec.structs.replace(spec, golden="no-such-golden"))
                assert await provider.list() == []
                await no_leaks(provider, frozenset())
                assert (await provider.ensure(spec)).state is BoxState.READY

        run(check())

    def test_a_cancelled_creation_leaves_nothing(self, place: Place) -> None:
        async def check() -> None:
            async with place.open() as provider:
                for wait in (0.0, 0.002, 0.01, 0.03, 0.1):
                    spec = new_spec(place)
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(wait):
                            await provider.ensure(spec)
                    found = {h.key for h in await provider.list()}
                    await no_leaks(provider, frozenset(found))
                    assert all([(await provider.get(key)).state is BoxState.READY for key in found])

        run(check())

    def test_bad_keys_and_names_are_refused(self, place: Place) -> None:
        async def check() -> None:
            async with place.open() as provider:
                good = new_spec(place)
                for key in ("", "../x", "a/b", "a\0b", "x" * 300, "."):
                    with pytest.raises(BadInput):
                        await provider.ensure(msgspec.structs.replace(good, key=key))
                for name in ("", "a b", "a/b", "Ä", "-a", "x" * 300, "a\nb"):
                    with pytest.raises(BadInput):
                        await provider.ensure(msgspec.structs.replace(good, name=name))
                assert await provider.list() == []
                await no_leaks(provider, frozenset())

        run(check())

    def test_boxes_share_neither_files_nor_processes(self, place: Place) -> None:
        async def check() -> None:
            async with place.open() as provider:
                if not await apart(provider):
                    pytest.skip("boxes without isolation share the machine's files and processes")
                one, two = new_spec(place), new_spec(place)
                for spec in (one, two):
                    await provider.ensure(spec)
                places = "/tmp /root /work /dev/shm /var/tmp"
                await sh(provider, one.key, f"for d in {places}; do echo s > $d/secret; done")
                await sh(provider, one.key, "setsid sleep 1000 > /dev/null 2>&1 &")
                look = f"for d in {places}; do cat $d/secret; done 2>/dev/null | wc -l"
                assert await sh(provider, one.key, look) == "5"
                assert await sh(provider, two.key, look) == "0"
                assert await sh(provider, one.key, "pgrep -c sleep") == "1"
                assert await sh(provider, two.key, "pgrep -c sleep || true") == "0"

        run(check())

    # --------------------------------------------------------------------- leaks and sweeping

    def test_a_box_nobody_knows_is_a_leak_and_is_swept(self, place: Place) -> None:
        async def check() -> None:
            async with place.open() as provider:
                kept, stray = new_spec(place), new_spec(place)
                for spec in (kept, stray):
                    await provider.ensure(spec)
                known = frozenset([kept.key])
                assert {leak.key for leak in await provider.leaks(known)} == {stray.key}
                assert {leak.key for leak in await provider.sweep(known)} == {stray.key}
                await no_leaks(provider, known)
                assert [h.key for h in await provider.list()] == [kept.key]
                assert await sh(provider, kept.key, "echo alive") == "alive"

        run(check())

    # ------------------------------------------------------------------------------- Confines

    def test_gateways_listen_inside_the_box_and_nothing_else_is_reachable(self, place: Place) -> None:
        async def check() -> None:
            async with place.open() as provider:
                confines = await _confines(provider)
                spec = new_spec(place, ports=(8401, 8402))
                await provider.ensure(spec)
                first = await confines.listeners(spec.key)
                assert sorted(first) == [8401, 8402]
                for s in first.values():
                    s.close()
                again = await confines.listeners(spec.key)  # another gateway process later
                with contextlib.ExitStack() as stack:
                    for s in again.values():
                        stack.enter_context(contextlib.closing(s))
                    for port, listener in again.items():
                        assert await _greeted(provider, spec.key, port, listener) == f"hello from {port}"
                out = await sh(provider, spec.key, f"python3 -c '{_DIAL_OUT}'")
                assert out == "none reachable"

        run(check())

    def test_a_box_without_ports_has_no_listeners(self, place: Place) -> None:
        async def check() -> None:
            async with place.open() as provider:
                confines = await _confines(provider)
                spec = new_spec(place)
                await provider.ensure(spec)
                assert await confines.listeners(spec.key) == {}
                with pytest.raises(NotFound):
                    await confines.listeners("box_none")

        run(check())

    # ------------------------------------------------------------------------------- Suspends

    def test_a_frozen_box_answers_nothing_until_thawed(self, place: Place) -> None:
        async def check() -> None:
            async with place.open() as provider:
                suspends = await _suspends(provider)
                spec = new_spec(place)
                await provider.ensure(spec)
                async with linked(provider, spec.key) as link:
                    await link.ping()
                    for _ in range(2):  # both are idempotent
                        await suspends.freeze(spec.key)
                        assert (await provider.get(spec.key)).state is BoxState.FROZEN
                    with pytest.raises(TimedOut):
                        await link.ping(timeout=0.3)
                    async with place.open() as other:
                        assert (await other.get(spec.key)).state is BoxState.FROZEN
                    for _ in range(2):
                        await suspends.thaw(spec.key)
                        assert (await provider.get(spec.key)).state is BoxState.READY
                    await link.ping(timeout=PATIENCE)

        run(check())

    def test_a_frozen_box_can_be_destroyed(self, place: Place) -> None:
        async def check() -> None:
            async with place.open() as provider:
                suspends = await _suspends(provider)
                spec = new_spec(place)
                await provider.ensure(spec)
                await suspends.freeze(spec.key)
                await provider.destroy(spec.key)
                await no_leaks(provider, frozenset())
                for ask in (suspends.freeze, suspends.thaw):
                    with pytest.raises(NotFound):
                        await ask(spec.key)

        run(check())

    # -------------------------------------------------------------------------------- Goldens

    def test_a_golden_that_does_not_exist_is_not_ready(self, place: Place) -> None:
        async def check() -> None:
            async with place.open() as provider:
                if not isinstance(provider, Goldens):
                    pytest.skip(f"{provider.name} keeps no goldens")
                assert not await provider.golden_ready("no-such-golden", ())

        run(check())


# One word a place: what answers is named, so a failing test says where the hole is.
_DIAL_OUT = """
import errno, socket
places = [(socket.AF_INET, ("1.1.1.1", 53)), (socket.AF_INET, ("169.254.169.254", 80)),
          (socket.AF_INET, ("10.0.0.1", 22)), (socket.AF_INET6, ("2606:4700:4700::1111", 53))]
bad = []
for family, where in places:
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        try:
            s = socket.socket(family, kind); s.settimeout(5); s.connect(where); bad.append(where)
        except OSError as e:
            if e.errno not in (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EADDRNOTAVAIL):
                bad.append((where, e))
try:
    bad.append(socket.getaddrinfo("example.com", 80))
except socket.gaierror:
    pass
print(bad or "none reachable")
"""


async def _confines(provider: Provider) -> Confines:
    if not isinstance(provider, Confines) or "confines" not in (await provider.caps()).facets:
        pytest.skip(f"{provider.name} does not confine its boxes")
    return provider


async def _suspends(provider: Provider) -> Suspends:
    if not isinstance(provider, Suspends) or "suspends" not in (await provider.caps()).facets:
        pytest.skip(f"{provider.name} can't freeze boxes")
    return provider


async def _greeted(provider: Provider, key: str, port: int, listener: socket.socket) -> str:
    """What a program in the box reads from ``port`` while we serve it."""
    loop = asyncio.get_running_loop()
    listener.setblocking(False)

    async def serve() -> None:
        conn, _ = await loop.sock_accept(listener)
        with conn:
            await loop.sock_sendall(conn, f"hello from {port}".encode())

    code = f"import socket; print(socket.create_connection(('127.0.0.1', {port}), 30).recv(99).decode())"
    async with asyncio.TaskGroup() as both:
        both.create_task(serve())
        said = both.create_task(sh(provider, key, f'python3 -c "{code}"'))
    return said.result()


__all__ = ["Place", "ProviderSuite", "linked", "new_spec", "run", "sh"]
