"""Pushes on their way upstream: what a hook noted, and what came of an attempt."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

Kind = Literal["done", "moved", "refused", "login", "later"]


class Outcome(Struct, frozen=True, kw_only=True):
    """What came of a push. ``moved``: upstream is not where we believed but at ``theirs`` ("" = no such
    branch), and nothing was changed; ``behind`` says that what is there is part of what we push.
    ``refused``: upstream said no. ``login``: it wants another login. ``later``: it could not be reached.
    ``text`` is one clean line for people."""

    kind: Kind
    text: str = ""
    theirs: str = ""
    behind: bool = False


class Note(Struct, frozen=True, kw_only=True):
    """A hook's word that ``box`` pushed commit ``new`` to its branch ``thopter/<name>`` of a mirror."""

    slug: str
    name: str
    box: str
    new: str
    age_s: float
