"""Secrets as use cases: where each may be used, told to the gateways; no value is ever seen here."""

from __future__ import annotations

from thopter.fleet.boxnet import chosen
from thopter.fleet.deps import Deps
from thopter.model.api.secrets import (
    BindRequest,
    Bound,
    SecretChanged,
    SecretList,
    SecretView,
    UnbindRequest,
    Unbound,
    variable_of,
)
from thopter.model.errors import NotFound
from thopter.model.events import Event


class Secrets:
    """One per hub. Bindings are in the policy file and nowhere else (decision 0020)."""

    def __init__(self, deps: Deps) -> None:
        self._deps = deps

    async def list(self) -> SecretList:
        """Names, and where each may be used; also of those that policies name and nobody stored."""
        stored = set(await self._deps.policies.secret_names())
        bound = self._deps.policies.bindings()
        names = sorted(stored | {b.name for b in bound})
        return SecretList(
            secrets=[
                SecretView(name=n, stored=n in stored, bindings=[b for b in bound if b.name == n])
                for n in names
            ]
        )

    async def bind(self, req: BindRequest) -> Bound:
        """Let boxes of a policy use a secret on a host, from their next request on; durable."""
        if req.env is None:
            req.env = variable_of(req.name)
        binding = await self._deps.policies.bind(req)
        await self._deps.gateways.policies_changed()
        await self._tell(
            "secret.bound", name=req.name, policy=binding.policy, host=binding.host, port=binding.port
        )
        older = [
            live.box.name
            for live in self._deps.crew.live.values()
            if chosen(live.box).get("name") == binding.policy
            and binding.env not in (chosen(live.box).get("env") or {})
        ]
        stored = req.name in await self._deps.policies.secret_names()
        return Bound(binding=binding, stored=stored, older=sorted(older) if binding.env else [])

    async def unbind(self, req: UnbindRequest) -> Unbound:
        """Take bindings back; requests under way that are no longer allowed end."""
        removed = await self._deps.policies.unbind(req)
        if not removed:
            where = f" on {req.host}" if req.host else ""
            raise NotFound(
                f"secret {req.name[:80]} is bound nowhere{where}", hint="see 'thopter secrets list'"
            )
        await self._deps.gateways.policies_changed()
        for b in removed:
            await self._tell("secret.unbound", name=b.name, policy=b.policy, host=b.host, port=b.port)
        return Unbound(removed=removed)

    async def changed(self, req: SecretChanged) -> None:
        """A secret was set or deleted by somebody: it counts, and is told, when this returns."""
        await self._deps.gateways.secrets_changed()
        await self._tell(f"secret.{req.change}", name=req.name)

    async def _tell(self, kind: str, **data: object) -> None:
        now = self._deps.clock.now_ms()
        await self._deps.store.events.append([Event(kind=kind, at_ms=now, data=data)])
