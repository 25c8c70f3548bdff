"""The gateways as the fleet wants them: kept running, and given again what they served."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from typing import Any

from msgspec import Struct, structs, to_builtins

from thopter.fleet.boxnet import EGRESS_PORT
from thopter.fleet.launch import GIT_PORT, MODEL_PORT
from thopter.fleet.ports import EgressRoute, GitRoute, ModelRoute
from thopter.fleet.supervise import Nursery
from thopter.gateway.client import GatewayClient, GatewayDown, Pong, egress_client
from thopter.hub.marks import Marks
from thopter.hub.renewal import Renewals
from thopter.hub.shelf import Shelf
from thopter.kit import github_app, oauth
from thopter.kit.paths import Paths
from thopter.kit.secrets import Secret, SecretStore
from thopter.model.budget import Terms
from thopter.model.errors import ThopterError

log = logging.getLogger(__name__)
_POLICY_LOOK_S = 0.5


class _Wanted(Struct):
    """What a box is served with; the sockets are our own duplicates, for a gateway that restarts."""

    run: str
    sockets: dict[int, socket.socket]
    model: ModelRoute
    git: GitRoute | None
    egress: EgressRoute

    def close(self) -> None:
        for sock in self.sockets.values():
            sock.close()


class HubGateways:
    """See ``fleet.ports.Gateways``. ``looked`` is called whenever the policy file was looked at."""

    def __init__(
        self, paths: Paths, secrets: SecretStore, shelf: Shelf, looked: Callable[[], Awaitable[None]]
    ) -> None:
        self.shelf = shelf
        self._looked = looked
        self.egress = egress_client(paths)
        self.model = GatewayClient("thopter.gateway.model", paths.runtime / "model.sock", paths.state)
        self.git = GatewayClient("thopter.gateway.git", paths.runtime / "git.sock", paths.state)
        self._secrets = secrets
        self._secrets_seen = secrets.stamp()
        self._marks = Marks(secrets)
        self._wanted: dict[str, _Wanted] = {}
        self._stack = AsyncExitStack()
        self._nursery = Nursery()
        self.renewals = Renewals(paths, secrets, self.secrets_changed)

    async def start(self) -> None:
        """Adopt running gateways or start them; afterwards they are kept running."""
        await self._stack.enter_async_context(self._nursery)
        await asyncio.gather(self.model.ensure(), self.git.ensure(), self.egress.ensure())
        self._nursery.spawn("model gateway", self.model.supervise(self._model_boot))
        self._nursery.spawn("git gateway", self.git.supervise(self._git_boot))
        self._nursery.spawn("egress gateway", self.egress.supervise(self._egress_boot))
        self._nursery.spawn("policy file", self._watch_policies())
        self._nursery.spawn("logins", self.renewals.keep())

    async def stop(self, end_processes: bool) -> None:
        """See the port."""
        await self._stack.aclose()
        if end_processes:
            await asyncio.gather(self.model.stop(), self.git.stop(), self.egress.stop())
        for wanted in self._wanted.values():
            wanted.close()
        self._wanted.clear()

    async def attach(
        self,
        box: str,
        run: str,
        listeners: Mapping[int, socket.socket],
        model: ModelRoute,
        git: GitRoute | None,
        egress: EgressRoute,
    ) -> None:
        """See the port."""
        old = self._wanted.pop(box, None)
        if old is not None:
            old.close()
        wanted = _Wanted(run, {port: s.dup() for port, s in listeners.items()}, model, git, egress)
        self._wanted[box] = wanted
        await self._attach_model(box, wanted)
        await self._attach_git(box, wanted)
        await self._attach_egress(box, wanted)

    async def _attach_model(self, box: str, w: _Wanted) -> None:
        secret = None
        if w.model.credential:
            secret = await asyncio.to_thread(self._secrets.get, w.model.credential)
        auth = None
        if secret is not None and secret.kind == oauth.KIND:
            auth = {"kind": "oauth", "secret": self.renewals.access(w.model.credential, secret)}
        elif secret is not None and (text := sendable(secret)) is not None:
            auth = {"kind": secret.kind, "secret": text}
        sock = w.sockets[MODEL_PORT]
        terms = to_builtins(w.model.terms)
        await self.model.attach(box, sock, run=w.run, upstream=w.model.upstream, auth=auth, terms=terms)

    async def _attach_git(self, box: str, w: _Wanted) -> None:
        if w.git is not None:
            rights = self.shelf.get(w.egress.policy).git
            await self.git.attach(
                box,
                w.sockets[GIT_PORT],
                run=w.run,
                rights=to_builtins(rights),
                known=await asyncio.to_thread(self._marks.all),
                beside=[_git_fields(g) for g in w.git.beside],
                **_git_fields(w.git),
            )

    async def detach(self, box: str) -> None:
        """See the port."""
        old = self._wanted.pop(box, None)
        if old is not None:
            old.close()
        for client in (self.model, self.git, self.egress):
            try:
                await client.detach(box)
            except GatewayDown:
                log.info("no %s to detach %s from", client.module, box)

    async def attached(self) -> set[str]:
        """See the port."""
        try:
            return set(await self.model.list()) | set(await self.git.list()) | set(await self.egress.list())
        except GatewayDown:
            return set()

    async def model_log(self, after: int, wait_ms: int) -> dict[str, Any]:
        """See the port."""
        return await self.model.log(after, wait_ms=wait_ms)

    async def model_books(self) -> Sequence[str]:
        """See the port."""
        return await self.model.books()

    async def model_book(self, name: str, after: int) -> dict[str, Any]:
        """See the port."""
        return await self.model.book(name, after)

    async def forget_book(self, name: str) -> None:
        """See the port."""
        await self.model.forget_book(name)

    async def model_terms(self, box: str, terms: Terms) -> bool:
        """See the port."""
        wanted = self._wanted.get(box)
        if wanted is None:
            return False
        wanted.model = structs.replace(wanted.model, terms=terms)
        try:
            await self._attach_model(box, wanted)
        except GatewayDown:
            return False
        return True

    async def model_spent(self, accounts: Sequence[str]) -> dict[str, Any]:
        """See the port."""
        return await self.model.call({"op": "spent", "accounts": list(accounts)})

    async def usage(self, box: str) -> dict[str, Any]:
        """See the port."""
        return await self.model.usage(box)

    async def _model_boot(self, pong: Pong) -> None:
        await self._again(pong, self._attach_model)

    async def _git_boot(self, pong: Pong) -> None:
        await self._again(pong, self._attach_git)

    async def _egress_boot(self, pong: Pong) -> None:
        await self._again(pong, self._attach_egress)

    async def _attach_egress(self, box: str, w: _Wanted) -> None:
        sock = w.sockets.get(EGRESS_PORT)
        if sock is not None:  # else the box was made by an older thopter: it has no such way out
            fields = await asyncio.to_thread(self._egress_fields, w)
            await self.egress.attach(box, sock, **fields)

    def _egress_fields(self, w: _Wanted) -> dict[str, Any]:
        """What the gateway must know; secrets are looked up anew each time, so a rotated one is used."""
        policy = self.shelf.get(w.egress.policy)
        found = {c.name: self._secrets.get(c.secret) for c in policy.credentials}
        ca = dict(zip(("cert", "key"), self.shelf.authority(), strict=True)) if policy.inspects else None
        return {
            "run": w.run,
            "name": w.egress.name,
            "policy": to_builtins(policy),
            "grants": [{"host": h, "port": p} for h, p in w.egress.grants],
            "secrets": {name: text for name, s in found.items() if (text := sendable(s)) is not None},
            "ca": ca,
        }

    async def _watch_policies(self) -> None:
        while True:
            try:
                await self._looked()
            except ThopterError as e:  # no room, say: it is told again, and policies are watched meanwhile
                log.error("which policies are in force could not be recorded: %s", e.message)
            await asyncio.sleep(_POLICY_LOOK_S)
            await self.policies_changed()
            if await asyncio.to_thread(self._secrets.stamp) != self._secrets_seen:
                await self.secrets_changed()

    def login_refused(self, box: str, at_ms: int) -> None:
        """See the port."""
        wanted = self._wanted.get(box)
        if wanted is not None and wanted.model.credential:
            self.renewals.suspect(wanted.model.credential, at_ms)

    async def secrets_changed(self) -> None:
        """See the port."""
        self._secrets_seen = await asyncio.to_thread(self._secrets.stamp)
        for box, wanted in list(self._wanted.items()):
            try:
                if wanted.model.credential:
                    await self._attach_model(box, wanted)
                if self.shelf.get(wanted.egress.policy).credentials:
                    await self._attach_egress(box, wanted)
            except ThopterError as e:
                log.error("a gateway does not take the secrets of %s: %s", box, e.message)

    async def policies_changed(self) -> None:
        """See the port."""
        if await asyncio.to_thread(self.shelf.poll):
            log.info("policies: %s; boxes are served by them from now on", self.shelf.source)
            for box in list(self._wanted):
                await self._serve_anew(box)

    async def _serve_anew(self, box: str) -> None:
        wanted = self._wanted.get(box)
        if wanted is not None:
            try:
                await self._attach_egress(box, wanted)
                await self._attach_git(box, wanted)
            except ThopterError as e:
                log.error("a gateway does not take %s by its new policy: %s", box, e.message)

    async def reroute(self, box: str, egress: EgressRoute) -> None:
        """See the port."""
        wanted = self._wanted.get(box)
        if wanted is not None:
            wanted.egress = egress
            await self._attach_egress(box, wanted)

    async def egress_log(self, after: int, wait_ms: int, box: str = "") -> dict[str, Any]:
        """See the port."""
        return await self.egress.log(after, box=box, wait_ms=wait_ms)

    async def egress_usage(self, box: str) -> dict[str, Any]:
        """See the port."""
        return await self.egress.usage(box)

    async def git_log(self, after: int, wait_ms: int) -> dict[str, Any]:
        """See the port."""
        return await self.git.log(after, wait_ms=wait_ms)

    async def allow_once(self, box: str, host: str, port: int) -> None:
        """See the port."""
        await self.egress.call({"op": "once", "box": box, "host": host, "port": port})

    async def _again(self, pong: Pong, attach: Any) -> None:
        """Give a gateway process whatever it does not serve yet."""
        for box, wanted in list(self._wanted.items()):
            if box in pong.attached:
                continue
            try:
                await attach(box, wanted)
            except ThopterError as e:
                log.error("%s gateway does not take %s: %s", pong.name, box, e.message)


def sendable(secret: Secret | None) -> str | None:
    """What a gateway may put into requests; None: nothing. The key of a GitHub App stays in the hub."""
    return secret.secret if secret is not None and secret.kind != github_app.KIND else None


def _git_fields(route: GitRoute) -> dict[str, str]:
    """How the gateway is told of one mirror."""
    return {
        "repo": route.slug,
        "branch": route.branch,
        "base": route.base,
        "source_branch": route.source_branch,
    }
