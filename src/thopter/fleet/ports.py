"""What the fleet needs from its siblings (gateways), handed in by the hub."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Mapping
from typing import Any, Protocol

from msgspec import Struct

from thopter.model.api.notes import Target
from thopter.model.notes import Letter, NoteKind
from thopter.model.nouns import RepoRef

HOOK_PORT, MODEL_PORT, GIT_PORT = 8400, 8401, 8402  # on the box's own loopback
HOME = "/root"


class ModelRoute(Struct, frozen=True, kw_only=True):
    """Where a box's model calls go. ``credential`` names an entry of the secret store, never its
    value; empty means that the endpoint wants none."""

    upstream: str
    credential: str = ""


class GitRoute(Struct, frozen=True, kw_only=True):
    """The mirror a box sees and the one branch it may push there, descending from ``base``; ``beside``:
    further mirrors it sees."""

    slug: str
    branch: str
    base: str
    beside: tuple[GitRoute, ...] = ()


class Gateways(Protocol):
    """The only ways out of a box. All calls are idempotent."""

    async def start(self) -> None:
        """Adopt running gateways or start them."""

    async def stop(self, end_processes: bool) -> None:
        """Let go; ``end_processes`` also ends them (no box needs them any more)."""

    async def attach(
        self,
        box: str,
        run: str,
        listeners: Mapping[int, socket.socket],
        model: ModelRoute,
        git: GitRoute | None,
    ) -> None:
        """Serve this box from now on; replaces an earlier attachment of it."""

    async def detach(self, box: str) -> None:
        """Stop serving it."""

    async def attached(self) -> set[str]:
        """Boxes served now by every gateway they need."""

    async def model_log(self, after: int, wait_ms: int) -> dict[str, Any]:
        """``{boot, records, next, dropped}``: model calls that ended, after a cursor; waits for the
        first one. Another ``boot`` is another process: cursors begin again."""

    async def usage(self, box: str) -> dict[str, Any]:
        """What the model gateway counted for it."""


class Mirrors(Protocol):
    """Bare mirrors of repositories, owned by the hub."""

    async def prepare(self, source: str, branch: str) -> tuple[RepoRef, int]:
        """Make or refresh the mirror of ``source``; return where ``branch`` (default: HEAD) is and
        how many uncommitted files the source has (they are not in the mirror)."""

    async def drop_branch(self, slug: str, name: str) -> str | None:
        """Free ``thopter/<name>`` (its commits stay in the mirror)."""

    async def branch_head(self, slug: str, name: str) -> str | None:
        """Commit of ``thopter/<name>`` in the mirror."""

    def bundle(self, slug: str, base: str, name: str) -> AsyncIterator[bytes]:
        """A git bundle of ``base..thopter/<name>``."""


class Postman(Protocol):
    """Brings notes to people. Addresses and their secrets stay with it."""

    async def names(self) -> list[str]:
        """Targets by name, as they are set now."""

    async def targets(self) -> list[Target]:
        """The same with their addresses, no secret in them."""

    async def post(self, target: str, kind: NoteKind, letter: Letter) -> str:
        """Send; "" when the other side took it, else why not. Bounded in time; never raises for what
        the other side does. It may have arrived although this says no."""
