"""Secrets for the fleet in memory: as little as the routes need."""

from __future__ import annotations

from thopter.model.api.secrets import (
    Binding,
    BindRequest,
    Bound,
    SecretChanged,
    SecretList,
    SecretView,
    UnbindRequest,
    Unbound,
)
from thopter.model.errors import NotFound


class MemorySecrets:
    """See ``thopter.hub.ports.secrets.SecretsPort``."""

    def __init__(self) -> None:
        self._bound: list[Binding] = []

    async def list(self) -> SecretList:
        views = [SecretView(name=b.name, stored=False, bindings=[b]) for b in self._bound]
        return SecretList(secrets=views)

    async def bind(self, req: BindRequest) -> Bound:
        binding = Binding(policy=req.policy or "default", name=req.name, host=req.host, port=req.port)
        self._bound.append(binding)
        return Bound(binding=binding, stored=False)

    async def unbind(self, req: UnbindRequest) -> Unbound:
        removed = [b for b in self._bound if b.name == req.name]
        if not removed:
            raise NotFound("it is bound nowhere")
        self._bound = [b for b in self._bound if b.name != req.name]
        return Unbound(removed=removed)

    async def changed(self, req: SecretChanged) -> None:
        return None
