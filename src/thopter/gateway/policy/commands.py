"""Which commands people and programs may have run in a box by hand: exact argument lists, no shell read.

This holds whoever asks the hub (``thopter exec``, ``ssh``, ``attach``, another program with a token). What
the box itself does with a program's name is the box's: its walls and its gateways hold that.
"""

from __future__ import annotations

import posixpath
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import Struct

from thopter.gateway.policy import keys
from thopter.gateway.policy.model import Commands, Policy
from thopter.gateway.policy.runners import RUNNERS

if TYPE_CHECKING:
    from thopter.gateway.policy.read import Checker

ONE, REST = "*", "**"


class Wish(Struct, frozen=True, kw_only=True):
    """What is to be run. ``home``: the folder that the box's work is in; ``admin``: whoever asks may
    change the policy anyway."""

    argv: tuple[str, ...]
    env: tuple[str, ...] = ()
    cwd: str = ""
    home: str = "/work"
    terminal: bool = False
    admin: bool = False


def may_run(wish: Wish, policy: Policy) -> str:
    """Why this may not be run, "" when it may."""
    rules = policy.commands
    if rules.mode == "any" or (wish.admin and not rules.admins):
        return ""
    if rules.mode == "none":
        return f"policy {policy.name} lets no commands be run by hand"
    if wish.env:
        return f"policy {policy.name} lets listed commands be run, and without variables of one's own"
    if wish.terminal and not rules.terminal:
        return f"policy {policy.name} gives commands no terminal (pagers and the like offer a shell there)"
    if not _inside(wish.cwd, wish.home):
        return f"policy {policy.name} lets commands be run in {wish.home} only"
    if not any(fits(pattern, wish.argv) for pattern in rules.allow):
        return f"policy {policy.name} does not list this command, word for word"
    return ""


def may_carry(admin: bool, policy: Policy) -> str:
    """Why no file may be put into the box or fetched from it by hand, "" when it may: who can write a
    program's file decides what its name means."""
    rules = policy.commands
    if rules.mode == "any" or rules.files or (admin and not rules.admins):
        return ""
    return f"policy {policy.name} lets no files be carried by hand ('files' in its commands)"


def fits(pattern: tuple[str, ...], argv: tuple[str, ...]) -> bool:
    """Whether ``argv`` is meant: the same words in the same places, character for character; ``*`` is one
    word that is no option, a last ``**`` any number of them."""
    fixed = pattern
    if pattern[-1:] == (REST,):
        fixed = pattern[:-1]
        if not all(_free(word) for word in argv[len(fixed) :]):
            return False
        argv = argv[: len(fixed)]
    if not fixed or len(fixed) != len(argv):
        return False
    pairs = zip(fixed[1:], argv[1:], strict=True)
    return fixed[0] == argv[0] and all(w == a or (w == ONE and _free(a)) for w, a in pairs)


def _free(word: str) -> bool:
    return word != "" and not word.startswith("-")


def _inside(cwd: str, home: str) -> bool:
    """Whether ``cwd`` is ``home`` or below it, in its plain spelling; a box's links are the box's."""
    return cwd in ("", home) or (cwd == posixpath.normpath(cwd) and cwd.startswith(home + "/"))


def read_commands(
    check: Checker, where: tuple[str | int, ...], raw: Mapping[str, Any], base: Commands
) -> Commands:
    """The table ``commands`` of a policy over that of the policy it starts from."""
    found = check.table(where, raw, keys.COMMANDS)
    allow: list[tuple[str, ...]] = []
    for words in found.pop("allow", ()):
        why = _bad_pattern(words)
        if why:
            check.bad((*where, "allow"), why)
            continue
        pattern = tuple(words)
        allow.append(pattern)
        name = posixpath.basename(pattern[0])
        if name in RUNNERS and (len(pattern) == 1 or ONE in pattern or REST in pattern):
            check.warn((*where, "allow"), f"with {name} and words of one's own one can run anything")
    made = msgspec.structs.replace(base, **found, **({"allow": tuple(allow)} if "allow" in raw else {}))
    if made.mode == "listed" and not made.allow:
        check.bad(where, "commands: 'listed' without a list; 'none' says that nothing may be run")
    if made.mode != "listed" and "allow" in raw:
        check.bad((*where, "allow"), f"a list contradicts mode = {made.mode!r}")
    return made


def _bad_pattern(words: Any) -> str:
    if not isinstance(words, list) or not words or not all(isinstance(w, str) for w in words):
        return 'a command is a list of words: ["git", "status"]'
    first = words[0]
    if not first or not first.isascii() or not first.isprintable() or set(first) & set(" *\"'`$;|&<>()\\="):
        return f"{first[:60]!r} is no plain name of a program; each word is an item of its own"
    if REST in words[:-1]:
        return "'**' can only be the last word"
    return ""
