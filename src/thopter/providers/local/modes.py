"""The ways in which the local provider can keep boxes apart, strongest first."""

from __future__ import annotations

from msgspec import Struct

from thopter.model.errors import Refused, Unsupported
from thopter.model.nouns import Isolation
from thopter.providers.local.uids import SIZE

# Made by the zygote: their files and processes are where we put them.
OURS = frozenset({Isolation.NAMESPACES_IDMAPPED, Isolation.NAMESPACES_USER, Isolation.GVISOR})


class Mode(Struct, frozen=True, kw_only=True):
    """One way. ``user``: who an ordinary user is, for the outer user namespace; empty as root."""

    isolation: Isolation
    user: dict[str, int]

    @property
    def ours(self) -> bool:
        """True when the zygote makes such boxes; others are made by a program, or by nobody."""
        return self.isolation in OURS

    @property
    def idmapped(self) -> bool:
        """True when each box has ids of its own."""
        return not self.user

    @property
    def count(self) -> int:
        """How many ids there are in a box."""
        return SIZE if self.idmapped else 1


# What is tried by itself, in this order. Root never falls back by itself: its operator has to ask
# for another program to be trusted with the mapping of ids. No isolation is never chosen by itself.
_AUTO = {True: (Isolation.NAMESPACES_IDMAPPED,),
         False: (Isolation.NAMESPACES_USER, Isolation.BUBBLEWRAP, Isolation.CONTAINER)}  # fmt: skip
_ASKED = {True: (Isolation.CONTAINER,), False: (Isolation.NONE,)}
_WHY_NOT = {
    Isolation.NAMESPACES_USER: "the host's root would be root in the box",
    Isolation.BUBBLEWRAP: "what bubblewrap starts for root is the host's root, whatever it is called inside",
    Isolation.NONE: "without isolation the agents would be the host's root",
    Isolation.NAMESPACES_IDMAPPED: "giving each box ids of its own takes root",
}


def choices(uid: int, gid: int, asked: str) -> list[Mode]:
    """The modes to try, in order. Refused when ``asked`` can't be had by this user at all.

    Whatever root may choose maps the ids of a box to numbers that nobody else has.
    """
    root = uid == 0
    wanted = (
        _AUTO[root] if asked == "auto" else [i for i in (*_AUTO[root], *_ASKED[root]) if asked == i.value]
    )
    if not wanted:
        why = _WHY_NOT.get(Isolation(asked), "it is not known")
        others = ", ".join(i.value for i in (*_AUTO[root], *_ASKED[root]))
        raise Refused(
            f"local.isolation = {asked} can't be had by {'root' if root else 'an ordinary user'}: {why}",
            hint=f"possible here: auto, {others}" + ("; or run the hub as an ordinary user" if root else ""),
        )
    user = {} if root else {"uid": uid, "gid": gid}
    return [Mode(isolation=i, user=user) for i in wanted]


def must_be_ours(isolation: Isolation, what: str) -> None:
    """Raise Unsupported for a box that can't be saved or stopped because we did not make its root."""
    if isolation not in OURS:
        raise Unsupported(
            f"a box of isolation {isolation} can't be {what}",
            hint="boxes made with local.isolation = auto can, where this kernel allows user namespaces",
        )
