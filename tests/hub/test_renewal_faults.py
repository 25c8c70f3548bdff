"""Renewing a login when things go wrong: full disks, hubs that end, people who are quicker, odd answers."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from oauth_emulator import Emulator, emulator
from test_renewal import keep, logins, now_ms, place, stored

from thopter.hub.renewal import Renewals
from thopter.kit import oauth
from thopter.kit.paths import Paths
from thopter.kit.secrets import CLAUDE, Secret, SecretStore, secret


class Disk(SecretStore):
    """A secret store whose disk has no room for the writes in ``full`` (counted from 1)."""

    def __init__(self, paths: Paths, full: tuple[int, ...]) -> None:
        super().__init__(paths, {}, "file")
        self._full = full
        self._writes = 0

    def set(self, name: str, value: Secret, before: Secret | None = None) -> str:
        self._writes += 1
        if self._writes in self._full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return super().set(name, value, before)


class Person(SecretStore):
    """A secret store beside which a person acts right after the keeper has looked ``at`` times."""

    def __init__(self, paths: Paths, at: int, acts: Callable[[], object]) -> None:
        super().__init__(paths, {}, "file")
        self._at = at
        self._acts = acts
        self._looks = 0

    def get(self, name: str) -> Secret | None:
        found = super().get(name)
        self._looks += 1
        if self._looks == self._at:
            self._acts()
        return found


def theirs(em: Emulator) -> oauth.Login:
    """The login of a person who has just logged in elsewhere."""
    return oauth.Login(
        access="sk-ant-oat01-of-a-person", refresh="rt-of-a-person", expires_ms=now_ms() + 7_200_000,
        token_url=em.url, client_id="client-1",
    )  # fmt: skip


async def until(what: Callable[[], object]) -> None:
    async with asyncio.timeout(60):
        while True:
            if what():
                return
            await asyncio.sleep(0.01)


def test_a_login_that_was_renewed_on_a_full_disk_is_kept_at_the_next_look(tmp_path: Path) -> None:
    async def scene() -> None:
        async with emulator() as em:
            paths, store = place(tmp_path)
            keep(store, em, seconds=60)
            one, used = logins(paths, Disk(paths, full=(2, 3)))  # the first finds out that there is room
            for _ in range(2):
                with pytest.raises(OSError, match="No space"):
                    await one.look(CLAUDE)
            assert em.renewals == 1 and used.times == 0
            (check,) = one.checks()
            assert "can't be kept" in check.text
            await one.look(CLAUDE)
            assert em.asks == 1, "the token that it had is used up: asking again would end the login"
            assert (stored(store).access, stored(store).refresh) == (em.access, em.current)
            assert used.times == 1 and one.checks() == []

    asyncio.run(scene())


def test_without_room_for_the_next_token_it_is_not_asked_for(tmp_path: Path) -> None:
    async def scene() -> None:
        async with emulator() as em:
            paths, store = place(tmp_path)
            keep(store, em, seconds=60)
            one, _used = logins(paths, Disk(paths, full=(1,)))
            with pytest.raises(OSError, match="No space"):
                await one.look(CLAUDE)
            assert em.got == 0
            await one.look(CLAUDE)
            assert em.renewals == 1 and stored(store).access == em.access

    asyncio.run(scene())


def test_a_hub_that_ends_in_the_middle_of_a_renewal_keeps_it(tmp_path: Path) -> None:
    async def scene() -> None:
        async with emulator() as em:
            em.delay = 0.2
            paths, store = place(tmp_path)
            keep(store, em, seconds=60)
            one, _used = logins(paths, store)
            async with asyncio.TaskGroup() as group:
                looking = group.create_task(one.look(CLAUDE))
                await until(lambda: em.got)
                looking.cancel()
            await until(lambda: em.renewals)
            assert looking.cancelled()
            assert (stored(store).access, stored(store).refresh) == (em.access, em.current)

    asyncio.run(scene())


def test_a_login_that_a_person_stored_during_a_renewal_stays(tmp_path: Path) -> None:
    async def scene() -> None:
        async with emulator() as em:
            em.delay = 0.2
            paths, store = place(tmp_path)
            keep(store, em, seconds=60)
            one, used = logins(paths, store)
            mine = theirs(em)
            async with asyncio.TaskGroup() as group:
                group.create_task(one.look(CLAUDE))
                await until(lambda: em.got)
                store.set(CLAUDE, oauth.to_secret(mine))
            assert em.renewals == 1 and stored(store) == mine
            assert used.times == 1 and one.access(CLAUDE, oauth.to_secret(mine)) == mine.access
            await one.look(CLAUDE)
            assert em.asks == 1 and one.checks() == [], "it is good for long"

    asyncio.run(scene())


def test_a_login_that_a_person_stored_just_before_a_renewal_stays(tmp_path: Path) -> None:
    async def scene() -> None:
        async with emulator() as em:
            paths, store = place(tmp_path)
            keep(store, em, seconds=60)
            mine = theirs(em)
            person = Person(paths, 3, lambda: store.set(CLAUDE, oauth.to_secret(mine)))
            one, _used = logins(paths, person)  # looks once; the look itself then twice
            await one.look(CLAUDE)
            assert em.got == 0 and stored(store) == mine
            await one.look(CLAUDE)
            assert em.got == 0 and stored(store) == mine

    asyncio.run(scene())


def test_a_login_that_a_person_stored_while_the_disk_was_full_stays(tmp_path: Path) -> None:
    async def scene() -> None:
        async with emulator() as em:
            paths, store = place(tmp_path)
            keep(store, em, seconds=60)
            one, used = logins(paths, Disk(paths, full=(2,)))
            with pytest.raises(OSError, match="No space"):
                await one.look(CLAUDE)
            mine = theirs(em)
            store.set(CLAUDE, oauth.to_secret(mine))
            await one.look(CLAUDE)
            await one.look(CLAUDE)
            assert stored(store) == mine and used.times == 1 and one.checks() == []

    asyncio.run(scene())


def test_an_api_key_in_the_place_of_a_login_that_has_ended_ends_the_doctors_line(tmp_path: Path) -> None:
    async def scene() -> None:
        async with emulator() as em:
            paths, store = place(tmp_path)
            keep(store, em, seconds=60)
            one, _used = logins(paths, store)
            em.revoked = True
            await one.look(CLAUDE)
            assert [c.level for c in one.checks()] == ["fail"]
            key = secret("x-api-key", "sk-ant-api03-of-a-person")
            store.set(CLAUDE, key)
            await one.look(CLAUDE)
            assert one.checks() == [] and store.get(CLAUDE) == key

    asyncio.run(scene())


def test_one_login_that_is_damaged_leaves_the_others_renewed(tmp_path: Path) -> None:
    async def scene() -> None:
        async with emulator() as em:
            paths, store = place(tmp_path)
            keep(store, em, seconds=60)
            damaged = "aaa.login"
            store.set(damaged, Secret(kind=oauth.KIND, secret="{"))
            assert store.names()[0] == damaged, "it is looked at first"
            one, _used = logins(paths, store)
            async with asyncio.TaskGroup() as group:
                keeping = group.create_task(one.keep())
                await until(lambda: em.renewals and stored(store).access == em.access)
                assert not keeping.done()
                keeping.cancel()

    asyncio.run(scene())


PASSES = {
    "a bare 403": (403, b""),
    "a page on the way": (403, b"<html>blocked</html>"),
    "another word": (403, b'{"error":"forbidden"}'),
    "a bare 401": (401, b"{}"),
    "a fault of the request": (400, b'{"error":"invalid_request"}'),
    "the API's own words": (401, b'{"error":{"type":"authentication_error"}}'),
    "a number": (400, b'{"error":5}'),
    "a list": (403, b'["invalid_grant"]'),
    "endless depth": (403, b"[" * 60_000),
    "success without a token": (200, b'{"error":"invalid_grant"}'),
    "invalid_grant by a server that fails": (500, b'{"error":"invalid_grant"}'),
}
ENDS = {
    "invalid_grant": (400, b'{"error":"invalid_grant"}'),
    "wrapped": (400, b'{"error":{"type":"invalid_grant"}}'),
    "invalid_client": (401, b'{"error":"invalid_client"}'),
    "unauthorized_client": (403, b'{"error":"unauthorized_client"}'),
}


async def _refused(folder: Path, em: Emulator, said: tuple[int, bytes]) -> tuple[Renewals, SecretStore]:
    paths, store = place(folder)
    keep(store, em, seconds=60)
    one, _used = logins(paths, store)
    em.say_next.append(said)
    await one.look(CLAUDE)
    assert em.asks == 1 and [c.level for c in one.checks()] == ["fail"]
    return one, store


@pytest.mark.parametrize("said", PASSES.values(), ids=PASSES.keys())
def test_a_refusal_that_may_pass_does_not_end_a_login(tmp_path: Path, said: tuple[int, bytes]) -> None:
    async def scene() -> None:
        async with emulator() as em:
            one, store = await _refused(tmp_path, em, said)
            assert stored(store).ended == ""
            one._due.clear()  # half a minute later
            await one.look(CLAUDE)
            assert stored(store).access == em.access and one.checks() == []

    asyncio.run(scene())


@pytest.mark.parametrize("said", ENDS.values(), ids=ENDS.keys())
def test_a_refusal_that_is_for_ever_ends_it(tmp_path: Path, said: tuple[int, bytes]) -> None:
    async def scene() -> None:
        async with emulator() as em:
            one, store = await _refused(tmp_path, em, said)
            assert "has ended" in stored(store).ended
            one._due.clear()
            await one.look(CLAUDE)
            assert em.asks == 1

    asyncio.run(scene())
