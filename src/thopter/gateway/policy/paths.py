"""Which request paths a rule means. A path that two servers could read differently matches nothing."""

from __future__ import annotations

import re

from thopter.gateway.http1 import safe_value

_UP = re.compile(r"(?:\.|%2e){2}", re.IGNORECASE)
_HERE = re.compile(r"\.|%2e", re.IGNORECASE)
_AMBIGUOUS = re.compile(r"%(?:2f|5c|00|25)|\\|//|;|%(?![0-9a-f]{2})", re.IGNORECASE)
_PATTERN = re.compile(r"/[A-Za-z0-9._~!$&'()+,=:@*/-]*")


def split_target(target: str) -> tuple[str, str]:
    """Return path and query of an origin-form target."""
    path, _, query = target.partition("?")
    return path, query


def bad_path(path: str) -> str:
    """Return why ``path`` can't be judged by its text, or "". A segment that goes up, encoded or not, is
    what servers resolve after we have looked."""
    if not path.startswith("/") or not safe_value(path) or set(path) & {"#", " ", "\t"}:
        return "the path is not plain text that starts with '/'"
    if any(_UP.fullmatch(segment) for segment in path.split("/")):
        return "the path has a '..' segment"
    return ""


def ambiguous(path: str) -> str:
    """Return why ``path`` can't be held against patterns, or "": encoded separators and the like."""
    if _AMBIGUOUS.search(path) or any(_HERE.fullmatch(segment) for segment in path.split("/")):
        return "the path has a '.' segment, an encoded or doubled separator, a ';' or a bad '%'"
    return ""


def check_pattern(pattern: str) -> str:
    """Return what is wrong with a rule's path, or ""."""
    if not _PATTERN.fullmatch(pattern):
        return "a path starts with '/' and has only plain characters and '*'"
    if bad_path(pattern) or ambiguous(pattern):
        return "a path has no '.', '..' or empty segment"
    if any("*" in s and s != "*" for s in pattern.split("/")):
        return "'*' stands for a whole segment, or at the end ('/*') for everything below"
    return ""


def path_matches(pattern: str, path: str) -> bool:
    """Whether ``path`` is meant by ``pattern``: segment by segment, ``*`` is one segment that is not
    empty, a final ``/*`` is anything below."""
    wanted, found = pattern.split("/"), path.split("/")
    if pattern.endswith("/*"):
        wanted.pop()
        if len(found) <= len(wanted):
            return False
        found = found[: len(wanted)]
    if len(wanted) != len(found):
        return False
    return all((w == "*" and f != "") or w == f for w, f in zip(wanted, found, strict=True))
