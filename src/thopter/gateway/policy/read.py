"""Reading ``policy.toml``: every problem with its line, nothing half understood."""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import Struct

from thopter.gateway.policy import keys
from thopter.gateway.policy.keys import Key
from thopter.gateway.policy.lines import line_of
from thopter.gateway.policy.model import Policy

NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,40}")
_SYNTAX = re.compile(r"\(at line (\d+)")


class Problem(Struct, frozen=True):
    """Something wrong at a line of the file."""

    line: int
    text: str


class PolicyError(Exception):
    """The file can't be used; nothing of it is."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(sorted(problems, key=lambda p: p.line))
        super().__init__("; ".join(f"line {p.line}: {p.text}" for p in self.problems[:5]))


class Book(Struct, frozen=True, kw_only=True):
    """All policies. ``default`` names the one used when nothing else is chosen; ``repos`` are (pattern,
    policy); ``trust`` names those for the text of ``writer`` and ``outsider``; ``warnings`` say what is
    allowed but unwise or without effect."""

    policies: dict[str, Policy]
    default: str = "default"
    repos: tuple[tuple[str, str], ...] = ()
    trust: dict[str, str] = {}
    warnings: tuple[Problem, ...] = ()

    def for_repo(self, source: str) -> str:
        """The policy chosen for a repository, "" for none; exact beats ``*``, longer beats shorter."""
        fits = [
            (p if p == source else p[:-1], name)
            for p, name in self.repos
            if p == source or (p.endswith("*") and source.startswith(p[:-1]))
        ]
        return max(fits, key=lambda f: len(f[0]))[1] if fits else ""


class Checker:
    """Collects problems while a tree is read; ``path`` is where in the tree."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.problems: list[Problem] = []
        self.warnings: list[Problem] = []

    def bad(self, path: Sequence[str | int], text: str) -> None:
        """Note a problem."""
        self.problems.append(Problem(line_of(self.text, path), text))

    def warn(self, path: Sequence[str | int], text: str) -> None:
        """Note something unwise."""
        self.warnings.append(Problem(line_of(self.text, path), text))

    def table(self, path: tuple[str | int, ...], raw: Any, known: Mapping[str, Key]) -> dict[str, Any]:
        """Check a table's keys and types; returns what is right of it."""
        found: dict[str, Any] = {}
        if not isinstance(raw, dict):
            self.bad(path, f"{path[-1] if path else 'this'} must be a table")
            return found
        for name, value in raw.items():
            here = (*path, name)
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1)
                hint = f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(known)}"
                self.bad(here, f"unknown key {name!r}{hint}")
                continue
            key = known[name]
            why, clean = _typed(key, value)
            if why:
                self.bad(here, f"{name}: {why}")
                continue
            if not key.enforced:
                self.warn(here, f"{name} is read and checked, but nothing enforces it yet")
            found[name] = clean
        return found


def _typed(key: Key, value: Any) -> tuple[str, Any]:
    """Check one value; returns (problem, value)."""
    if key.kind == "bool":
        return ("", value) if isinstance(value, bool) else ("must be true or false", None)
    if key.kind == "number":
        ok = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= key.most
        return ("", value) if ok else (f"must be a number from 0 to {key.most:g}", None)
    if key.kind == "text":
        if key.bools and isinstance(value, bool):
            return "", key.bools[value]
        if not isinstance(value, str):
            return "must be a text", None
        if key.choices and value not in key.choices:
            return f"{value[:40]!r} is not one of {', '.join(key.choices)}", None
        return "", value
    if key.kind == "list":
        items = value if isinstance(value, list) else [value]
        if not items or not all(isinstance(i, str | int) and not isinstance(i, bool) for i in items):
            return "must be a list of texts", None
        for item in items:
            if key.choices and item not in key.choices:
                return f"{str(item)[:40]!r} is not one of {', '.join(key.choices)}", None
        return "", items
    if key.kind == "lists":
        ok = isinstance(value, list) and all(isinstance(v, list) for v in value)
        return ("", value) if ok else ('must be a list of lists: [["git", "status"]]', None)
    if key.kind == "tables":
        ok = isinstance(value, list) and all(isinstance(v, dict) for v in value)
        return ("", value) if ok else ("must be an array of tables: [[policies.NAME.hosts]]", None)
    return ("", value) if isinstance(value, dict) else ("must be a table", None)


def read_book(text: str, shipped: Mapping[str, Policy]) -> Book:
    """Read a policy file on top of the ``shipped`` policies; raises PolicyError with every problem."""
    from thopter.gateway.policy.build import build_policies  # it needs this module's Checker

    try:
        tree = tomllib.loads(text)
    except tomllib.TOMLDecodeError as e:
        at = _SYNTAX.search(str(e))
        raise PolicyError(
            [Problem(int(at[1]) if at else text.count("\n") + 1, f"this is not TOML: {e}")]
        ) from None
    check = Checker(text)
    top = check.table((), tree, keys.FILE)
    policies = build_policies(check, top.get("policies", {}), shipped)
    default = top.get("default") or "default"
    if default not in policies:
        check.bad(("default",), f"there is no policy {default!r}")
    repos = []
    for pattern, name in top.get("repos", {}).items():
        if not isinstance(name, str) or name not in policies:
            check.bad(("repos", pattern), f"there is no policy {str(name)[:40]!r}")
        elif "*" in pattern[:-1]:
            check.bad(("repos", pattern), "'*' can only be the last character")
        else:
            repos.append((pattern, name))
    trust = check.table(("trust",), top.get("trust", {}), keys.TRUST)
    for who, name in trust.items():
        if name not in policies:
            check.bad(("trust", who), f"there is no policy {name[:40]!r}")
    if check.problems:
        raise PolicyError(check.problems)
    return Book(
        policies=policies, default=default, repos=tuple(repos), trust=trust, warnings=tuple(check.warnings)
    )
