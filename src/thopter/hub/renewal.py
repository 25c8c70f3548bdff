"""The one refresher of subscription logins: renews each ahead of its end, and has the new token used.

A login is renewed under a lock beside the secret store, by whoever gets it, and only if it still needs it
then: so two hubs of one user, or many boxes that meet a 401 at once, renew it once. The new tokens are on the
disk before anybody uses them. A login that was refused is not tried again (it would be refused for ever): it
says so until somebody logs in anew. An answer that was lost on its way takes the login with it: the token
that it would have brought is nowhere else.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack

from msgspec import structs

from thopter.kit import oauth
from thopter.kit.paths import Paths, private_dir
from thopter.kit.secrets import Secret, SecretStore
from thopter.kit.threads import finish
from thopter.model.api import Check
from thopter.model.errors import ThopterError

log = logging.getLogger(__name__)

AHEAD_MS = 600_000  # of its end
_LOOK_S = 5.0
_AGAIN_S = 30.0
_LOCK_S = 90.0


class Renewals:
    """All logins in the secret store; ``used`` is called when one that is used has other tokens now."""

    def __init__(self, paths: Paths, secrets: SecretStore, used: Callable[[], Awaitable[None]]) -> None:
        self._secrets = secrets
        self._lock = paths.config / "login.lock"
        self._used = used
        self._known: dict[str, str] = {}
        self._due: dict[str, float] = {}
        self._suspected: dict[str, str] = {}
        self._since: dict[str, int] = {}  # when the token that is used now was first used
        self._wake = asyncio.Event()
        self._unkept: dict[str, tuple[Secret, oauth.Login]] = {}  # what was in its place, what belongs there
        self.problems: dict[str, str] = {}

    async def keep(self) -> None:
        """Look after them for ever."""
        while True:
            try:
                for name in await asyncio.to_thread(self._names):
                    try:
                        await self.look(name)
                    except (ThopterError, OSError) as e:
                        log.warning("%s can't be looked at: %s", name, e)
            except (ThopterError, OSError) as e:
                log.warning("logins can't be looked at: %s", e)
            self._wake.clear()
            try:
                async with asyncio.timeout(_LOOK_S):
                    await self._wake.wait()
            except TimeoutError:
                continue

    def suspect(self, name: str, at_ms: int) -> None:
        """A call that was made at ``at_ms`` was refused as not logged in: renew the token that is used now,
        unless that call had an older one. Each token is suspected once."""
        access = self._known.get(name, "")
        if access and at_ms >= self._since.get(name, 0) and self._suspected.get(name) != access:
            self._suspected[name] = access
            self._wake.set()

    def access(self, name: str, secret: Secret) -> str:
        """The token to use now."""
        login = oauth.from_secret(secret)
        self._use(name, login.access)
        return login.access

    def _use(self, name: str, access: str) -> bool:
        if self._known.get(name) == access:
            return False
        self._known[name], self._since[name] = access, time.time_ns() // 1_000_000
        return True

    async def look(self, name: str) -> None:
        """Renew one if it needs it."""
        secret = await asyncio.to_thread(self._secrets.get, name)
        if secret is None or secret.kind != oauth.KIND:
            self.problems.pop(name, None)
            return
        login = oauth.from_secret(secret)
        if name not in self._unkept and (login.ended or not self._needs(name, login)):
            self.problems[name] = login.ended
        elif time.monotonic() >= self._due.get(name, 0.0):
            login = await self._renew(name)
        if name in self._known and self._use(name, login.access):
            await self._used()

    def _names(self) -> list[str]:
        return self._secrets.names()

    def _needs(self, name: str, login: oauth.Login) -> bool:
        if self._suspected.get(name) == login.access:
            return True
        return login.expires_ms - time.time_ns() // 1_000_000 < AHEAD_MS

    async def _renew(self, name: str) -> oauth.Login:
        async with AsyncExitStack() as stack:
            fd = await self._take_lock()
            stack.callback(os.close, fd)
            if name in self._unkept:
                return await finish(self._store, name)
            secret = await asyncio.to_thread(self._secrets.get, name)
            if secret is None or secret.kind != oauth.KIND:
                raise ThopterError(f"the login {name} is gone")
            login = oauth.from_secret(secret)
            if login.ended or not self._needs(name, login):
                return login  # somebody else was first
            if not await asyncio.to_thread(self._secrets.set, name, secret, secret):
                return login  # a person stored another this moment
            # There was room for it, so there will be for the next.
            return await finish(self._refresh, name, secret, login)  # also when the hub is ending

    def _refresh(self, name: str, secret: Secret, login: oauth.Login) -> oauth.Login:
        """Blocking: the old token is used up in here, and the new one is nowhere else until it is kept."""
        try:
            fresh = asyncio.run(oauth.refresh(login, time.time_ns() // 1_000_000))
        except oauth.LoginEnded as e:
            fresh = structs.replace(login, ended=e.message)
            self.problems[name] = e.message
            log.error("%s: %s", name, e.message)
        except ThopterError as e:
            self.problems[name] = e.message
            self._due[name] = time.monotonic() + _AGAIN_S
            log.warning("%s: %s", name, e.message)
            return login
        else:
            self.problems[name] = ""
            log.info("%s was renewed; good for %d s", name, fresh.expires_ms / 1000 - time.time())
        self._unkept[name] = (secret, fresh)
        return self._store(name)

    def _store(self, name: str) -> oauth.Login:
        """Put what was renewed into the secret store; what can't be put there now is put there the next time
        anybody looks. A login that a person stored meanwhile counts more."""
        before, fresh = self._unkept[name]
        try:
            kept = self._secrets.set(name, oauth.to_secret(fresh), before)
        except (ThopterError, OSError) as e:
            self.problems[name] = f"the renewed login can't be kept: {e}"
            raise
        del self._unkept[name]
        if kept:
            self.problems[name] = fresh.ended
            return fresh
        now = self._secrets.get(name)
        return oauth.from_secret(now) if now is not None and now.kind == oauth.KIND else fresh

    async def _take_lock(self) -> int:
        """Waits without holding a thread: whoever has the lock needs some."""
        private_dir(self._lock.parent)
        fd = os.open(self._lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        end = time.monotonic() + _LOCK_S
        try:
            while True:
                with contextlib.suppress(BlockingIOError):
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    return fd
                if time.monotonic() > end:
                    raise ThopterError("another process has been renewing a login for long")
                await asyncio.sleep(0.05)
        except BaseException:
            os.close(fd)
            raise

    def checks(self) -> list[Check]:
        """For the doctor."""
        return [
            Check(name=f"login {name}", level="fail", text=problem, fix="thopter reauth --login-file FILE")
            for name, problem in sorted(self.problems.items())
            if problem
        ]
