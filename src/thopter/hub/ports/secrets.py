"""What the shell needs of secrets."""

from __future__ import annotations

from typing import Protocol

from thopter.model.api.secrets import BindRequest, Bound, SecretChanged, SecretList, UnbindRequest, Unbound


class SecretsPort(Protocol):
    """See :class:`thopter.fleet.secrets.Secrets`."""

    async def list(self) -> SecretList:
        """Names, and where each may be used."""

    async def bind(self, req: BindRequest) -> Bound:
        """Let boxes of a policy use one on a host."""

    async def unbind(self, req: UnbindRequest) -> Unbound:
        """Take that back."""

    async def changed(self, req: SecretChanged) -> None:
        """One was set or deleted: gateways use what is stored now when this returns."""
