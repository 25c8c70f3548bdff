"""One refresher for each subscription login: renewed once however many want it, never lost, its end told."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path

import pytest
from oauth_emulator import Emulator, emulator

from thopter.hub.renewal import Renewals
from thopter.kit import oauth
from thopter.kit.paths import Paths, find_paths
from thopter.kit.secrets import CLAUDE, SecretStore
from thopter.model.errors import BadInput

CANARIES = ("sk-ant-oat01-canary-access", "rt-canary-refresh")


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def place(folder: Path) -> tuple[Paths, SecretStore]:
    env = {
        "HOME": str(folder),
        "THOPTER_CONFIG_DIR": str(folder / "config"),
        "THOPTER_STATE_DIR": str(folder / "s"),
    }
    paths = find_paths(env)
    return paths, SecretStore(paths, env, "file")


def keep(store: SecretStore, em: Emulator, seconds: float) -> oauth.Login:
    login = oauth.Login(
        access=em.access, refresh=em.current, expires_ms=now_ms() + int(seconds * 1000), token_url=em.url,
        client_id="client-1", scopes=("user:inference",),
    )  # fmt: skip
    store.set(CLAUDE, oauth.to_secret(login))
    return login


def stored(store: SecretStore) -> oauth.Login:
    secret = store.get(CLAUDE)
    assert secret is not None
    return oauth.from_secret(secret)


class Used:
    def __init__(self) -> None:
        self.times = 0

    async def __call__(self) -> None:
        self.times += 1


def logins(paths: Paths, store: SecretStore) -> tuple[Renewals, Used]:
    used = Used()
    found = Renewals(paths, store, used)
    secret = store.get(CLAUDE)
    assert secret is not None
    found.access(CLAUDE, secret)
    return found, used


def test_fifty_keepers_at_once_renew_once_and_all_use_the_new_token(tmp_path: Path) -> None:
    async def scene() -> None:
        async with emulator() as em:
            paths, store = place(tmp_path)
            keep(store, em, seconds=60)  # it ends within the time that it is renewed ahead of
            many = [logins(paths, store) for _ in range(50)]
            await asyncio.gather(*(one.look(CLAUDE) for one, _used in many))
            assert em.renewals == 1 and em.asks == 1 and not em.revoked
            login = stored(store)
            assert (login.access, login.refresh) == (em.access, em.current)
            assert login.expires_ms > now_ms() + 28_000_000
            assert [used.times for _one, used in many] == [1] * 50
            await asyncio.gather(*(one.look(CLAUDE) for one, _used in many))
            assert em.asks == 1, "it is good for hours"

    asyncio.run(scene())


def test_fifty_sessions_that_are_refused_at_once_renew_once(tmp_path: Path) -> None:
    async def scene() -> None:
        async with emulator() as em:
            paths, store = place(tmp_path)
            keep(store, em, seconds=7200)
            one, used = logins(paths, store)
            began = now_ms()
            for _ in range(50):
                one.suspect(CLAUDE, began)
            await one.look(CLAUDE)
            assert em.renewals == 1 and used.times == 1
            for _ in range(50):
                one.suspect(CLAUDE, began - 5_000)  # calls that went out with the old token
            await one.look(CLAUDE)
            assert em.renewals == 1

    asyncio.run(scene())


def test_a_keeper_that_died_after_the_renewal_is_followed_by_one_that_goes_on(tmp_path: Path) -> None:
    async def scene() -> None:
        async with emulator() as em:
            em.expires_in = 60
            paths, store = place(tmp_path)
            keep(store, em, seconds=60)
            for n in range(1, 6):
                one, _used = logins(paths, store)
                await one.look(CLAUDE)
                assert em.renewals == n and not em.revoked

    asyncio.run(scene())


def test_the_end_of_a_login_is_told_and_not_tried_again(tmp_path: Path) -> None:
    async def scene() -> None:
        async with emulator() as em:
            paths, store = place(tmp_path)
            login = keep(store, em, seconds=60)
            em.answer(
                {"grant_type": "refresh_token", "client_id": "client-1", "refresh_token": login.refresh}
            )
            one, used = logins(paths, store)  # somebody else has used it up: the family ends with our try
            await one.look(CLAUDE)
            assert em.revoked and "invalid_grant" in stored(store).ended and used.times == 0
            asked = em.asks
            await one.look(CLAUDE)
            other, _ = logins(paths, store)
            await other.look(CLAUDE)
            assert em.asks == asked
            (check,) = other.checks()
            assert check.level == "fail" and "has ended" in check.text and "reauth" in check.fix
            fresh = Emulator()
            fresh.url = em.url
            keep(store, fresh, seconds=7200)
            await other.look(CLAUDE)
            assert other.checks() == []

    asyncio.run(scene())


def test_a_token_endpoint_that_is_down_is_asked_again_later_and_nothing_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from thopter.hub import renewal as module

    async def scene() -> None:
        async with emulator() as em:
            paths, store = place(tmp_path)
            was = keep(store, em, seconds=60)
            one, used = logins(paths, store)
            em.fail_next = 1
            await one.look(CLAUDE)
            await one.look(CLAUDE)
            assert em.asks == 1 and stored(store) == was, "not hammered"
            assert "503" in one.problems[CLAUDE]
            monkeypatch.setattr(module, "_AGAIN_S", 0.0)
            one._due.clear()
            await one.look(CLAUDE)
            assert em.renewals == 1 and used.times == 1 and one.checks() == []

    asyncio.run(scene())


def test_a_login_file_is_read_and_never_shown() -> None:
    text = json.dumps({"claudeAiOauth": {
        "accessToken": CANARIES[0], "refreshToken": CANARIES[1], "expiresAt": 1_796_000_000_000,
        "scopes": ["user:inference"], "subscriptionType": "max"}}).encode()  # fmt: skip
    login = oauth.read_login_file(text, "https://t.test/token", "client-1")
    assert (login.access, login.refresh, login.scopes) == (*CANARIES, ("user:inference",))
    shown = repr(login) + str(login) + repr(oauth.to_secret(login))
    assert not any(c in shown for c in CANARIES)
    assert oauth.from_secret(oauth.to_secret(login)) == login
    for bad in (b"", b"{}", b'{"claudeAiOauth":{}}', b"[]", text.replace(CANARIES[0].encode(), b"a b")):
        with pytest.raises(BadInput) as caught:
            oauth.read_login_file(bad, "https://t.test/token", "client-1")
        assert not any(c in str(caught.value) for c in CANARIES)
