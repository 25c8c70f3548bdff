"""The ways in which the local provider can keep boxes apart, strongest first."""

from __future__ import annotations

from msgspec import Struct

from thopter.model.errors import Refused
from thopter.model.nouns import Isolation
from thopter.providers.local.uids import SIZE


class Mode(Struct, frozen=True, kw_only=True):
    """One way. ``user``: who an ordinary user is, for the outer user namespace; empty as root."""

    isolation: Isolation
    user: dict[str, int]

    @property
    def idmapped(self) -> bool:
        """True when each box has ids of its own."""
        return self.isolation is Isolation.NAMESPACES_IDMAPPED

    @property
    def count(self) -> int:
        """How many ids there are in a box."""
        return SIZE if self.idmapped else 1


_FOR_ROOT = (Isolation.NAMESPACES_IDMAPPED,)
_FOR_USER = (Isolation.NAMESPACES_USER,)


def choices(uid: int, gid: int, asked: str) -> list[Mode]:
    """The modes to try, in order. Refused when ``asked`` can't be had by this user at all.

    Root never falls back: anything else it could do would run boxes as the host's root.
    """
    possible = _FOR_ROOT if uid == 0 else _FOR_USER
    wanted = [i for i in possible if asked in ("auto", i.value)]
    if not wanted:
        raise Refused(
            f"local.isolation = {asked} can't be had by {'root' if uid == 0 else 'an ordinary user'}",
            hint="possible here: auto, " + ", ".join(i.value for i in possible),
        )
    user = {} if uid == 0 else {"uid": uid, "gid": gid}
    return [Mode(isolation=i, user=user) for i in wanted]
