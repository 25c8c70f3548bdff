"""The audit's chain: what a record's bytes are, its hash, and how a chain is looked over. Pure.

``hash(n) = SHA-256(hash(n-1) + record(n))``: 32 raw bytes, then the record's text in UTF-8. ``hash(0)`` is
32 zero bytes. docs/reference/audit.md says it for strangers; tests/ has a reader that knows only that page.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from msgspec import Struct

from thopter.kit.redact import Redactor

ZERO = "0" * 64
_TEXT, _LIST, _KEYS, _DEPTH, _RECORD = 1000, 64, 64, 6, 16_000
_FEW, _SHORT, _ESCAPED = 16, 150, 12  # of what is too much as a whole
_SAFE = (1 << 53) - 1
_HEX = re.compile(r"[0-9a-f]{64}")
_NAMED = re.compile(
    r"(?i)[-_.]*(?:\w*[-_.])?(?:password|passwd|secret|token|api[-_]?key|credentials?|cookie)"
)
redact = Redactor()


class Row(Struct, frozen=True):
    """A record as it is stored."""

    seq: int
    at_ms: int
    kind: str
    box: str
    name: str
    record: str
    hash: str


class Anchor(Struct, frozen=True):
    """What the chain was at a moment, written down outside the database."""

    seq: int
    hash: str
    at_ms: int = 0


class Fault(Struct, frozen=True):
    """Something wrong, at a record (0: at none)."""

    seq: int
    text: str


def canonical(record: Mapping[str, Any]) -> str:
    """The record's text: JSON with sorted keys, no blanks, everything but ASCII as ``\\uXXXX``, and no
    numbers but integers below 2^53; so any JSON library gives the same bytes again."""
    return json.dumps(record, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def link(before: str, record: str) -> str:
    """The hash of a record that follows one with the hash ``before``."""
    return hashlib.sha256(bytes.fromhex(before) + record.encode()).hexdigest()


def bounded(data: Mapping[str, Any]) -> dict[str, Any]:
    """``data`` made fit to be kept for ever: no credentials as far as they can be known, no floats, texts,
    lists and depth cut (each cut says so)."""
    found: dict[str, Any] = _plain(data, 0)
    size = len(canonical(found))
    if size <= _RECORD:
        return found
    short = _short(found) | {"cut": size}  # the beginnings stay: nobody hides a command by its length
    return short if len(canonical(short)) <= _RECORD else {"cut": size, "name": found.get("name", "")}


def _short(value: Any) -> Any:
    if isinstance(value, str):
        most = _SHORT if value.isascii() and value.isprintable() else _ESCAPED
        return value if len(value) <= most else value[:most] + "…"
    if isinstance(value, dict):
        return {k[:_ESCAPED]: _short(v) for k, v in list(value.items())[:_FEW]}
    if isinstance(value, list):
        more = [f"… and {len(value) - _FEW} more"] if len(value) > _FEW else []
        return [_short(v) for v in value[:_FEW]] + more
    return value


def _plain(value: Any, depth: int) -> Any:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return int(value) if abs(value) <= _SAFE else str(value)
    if isinstance(value, str):
        return _text(value)
    if depth >= _DEPTH:
        return "…"
    if isinstance(value, Mapping):
        pairs = list(value.items())
        found = {_text(str(k))[:100]: _named(str(k), v, depth) for k, v in pairs[:_KEYS]}
        return found if len(pairs) <= _KEYS else found | {"…": len(pairs) - _KEYS}
    if isinstance(value, list | tuple):
        kept = [_plain(v, depth + 1) for v in value[:_LIST]]
        return kept if len(value) <= _LIST else [*kept, f"… and {len(value) - _LIST} more"]
    return _text(str(value))


def _named(key: str, value: Any, depth: int) -> Any:
    """A value whose key says that it is a secret is none of the audit's business."""
    if isinstance(value, str) and key.lower() in ("password", "token", "api_key", "value"):
        return "[hidden]"
    return _plain(value, depth + 1)


def _text(text: str) -> str:
    size = len(text)
    text = redact(text[: 4 * _TEXT]).encode("utf-8", "replace").decode()
    return text if len(text) <= _TEXT else f"{text[:_TEXT]}… ({size} characters)"


def command_words(argv: Sequence[str]) -> list[str]:
    """A command line for the record: what follows an option that names a secret is hidden, and so is the
    value of ``NAME=value`` when the name does."""
    found, hide = [], False
    for word in argv:
        name, equals, _value = word.partition("=")
        named = _NAMED.fullmatch(name) is not None
        found.append("[hidden]" if hide else f"{name}=[hidden]" if named and equals else word)
        hide = not hide and not equals and word.startswith("-") and (named or word in ("-u", "--user"))
    return found


def looked_over(
    rows: Iterable[Row], after: Anchor, head: Anchor, anchors: Sequence[Anchor]
) -> Iterator[Fault]:
    """Every fault of a chain that goes on after ``after`` and should end at ``head``: rewritten, removed,
    re-ordered and added rows, a cut end, another chain than the one that was anchored."""
    wanted = {a.seq: a for a in anchors}
    seen, last, broken = set(), after, False
    for row in rows:
        if type(row.seq) is not int or not all(isinstance(t, str) for t in (row.record, row.hash)):
            yield Fault(last.seq + 1, "a row holds values of another kind; nothing after it was looked at")
            return
        if row.seq != last.seq + 1:
            missing = f"records {last.seq + 1} to {row.seq - 1} are not there"
            yield Fault(row.seq, missing if row.seq > last.seq else "its number is none")
            broken = True
        fault = _fault(row, last.hash, broken)
        if fault:
            yield Fault(row.seq, fault)
        broken = False
        anchor = wanted.get(row.seq)
        if anchor is not None:
            seen.add(row.seq)
            if anchor.hash != row.hash:
                yield Fault(row.seq, "this is not the record that was anchored: the chain is another one")
        last = Anchor(row.seq, row.hash)
    if (last.seq, last.hash) != (head.seq, head.hash):
        yield Fault(last.seq, f"the chain ends at record {last.seq} and should end at {head.seq}")
    for anchor in anchors:
        if anchor.seq > last.seq:
            yield Fault(anchor.seq, f"record {anchor.seq} was anchored, and the chain ends at {last.seq}")


def _fault(row: Row, before: str, broken: bool) -> str:
    if not _HEX.fullmatch(row.hash):
        return "its hash is no hash"
    if not broken and link(before, row.record) != row.hash:
        return "it was changed, or the one before it: its hash does not fit"
    try:
        told = json.loads(row.record)
        columns = [told["seq"], told["at_ms"], told["kind"], told["box"], _name(told)]
    except (ValueError, KeyError, TypeError):
        return "its text can't be read"
    if columns != [row.seq, row.at_ms, row.kind, row.box, row.name]:
        return "the columns it is found by were changed"
    return ""


def _name(told: Mapping[str, Any]) -> str:
    return name_of(str(told["box"]), told["data"])


def name_of(box: str, data: Mapping[str, Any]) -> str:
    """The name of the thopter that a record is about, "" for none."""
    name = data.get("name", "")
    return name if box and isinstance(name, str) else ""
