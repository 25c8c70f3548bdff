"""What the shell needs of the record of tokens."""

from __future__ import annotations

from typing import Protocol

from thopter.store.tokens import TokenRow


class TokensPort(Protocol):
    """See :class:`thopter.fleet.tokens.Tokens`."""

    async def all(self) -> list[TokenRow]:
        """Every token, as a digest."""

    async def add(self, name: str, token: str, scopes: list[str], seconds: int) -> TokenRow:
        """Record one; Conflict when there is one of that name."""

    async def revoke(self, name: str) -> None:
        """Forget one; NotFound when there is none."""
