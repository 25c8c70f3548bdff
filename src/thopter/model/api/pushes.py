"""The API's words about pushes: how a thopter's branches stand upstream, and a person's order to push."""

from __future__ import annotations

from msgspec import Struct, field


class PushView(Struct, frozen=True, kw_only=True):
    """One repository of a thopter. ``head``: its branch in the mirror ("" nothing was pushed there);
    ``wanted``: what is to be upstream; ``has``: what is there as far as we know. ``state``: ``none`` (nothing
    was to go upstream), ``queued``, ``sent``, ``blocked``. ``allowed``: the box's pushes go on by
    themselves."""

    source: str
    folder: str
    branch: str
    policy: str
    allowed: bool
    head: str = ""
    wanted: str = ""
    has: str = ""
    state: str = "none"
    attempts: int = 0
    due_ms: int = 0
    changed_ms: int = 0
    problem: str = ""


class PushList(Struct, frozen=True, kw_only=True):
    """Every repository of a thopter, the main one first."""

    pushes: list[PushView] = field(default_factory=list)


class PushRequest(Struct, frozen=True, kw_only=True):
    """Push now. ``checkout`` names a repository (a folder below /work; empty: the main one). ``force``:
    replace what is upstream, whatever it is."""

    checkout: str = ""
    force: bool = False
