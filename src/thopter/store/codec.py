"""Values in and out of columns: JSON by msgspec, and hostile text and numbers made storable.

Text from a box may hold what no database takes (lone surrogates, NUL, integers beyond 64 bits,
endless nesting). It is made storable here, once, so that a box can never wedge the hub's intake.
"""

from __future__ import annotations

import math
from typing import Any, TypeVar

import msgspec

from thopter.model.errors import StorageError

T = TypeVar("T")

TEXT_MAX = 1 << 20  # characters of one text column
JSON_MAX = 1 << 20  # characters of one JSON column
_MS_MAX = 1 << 53
_DEPTH_MAX = 40
_INT_MAX = (1 << 63) - 1


def clean_text(text: str, limit: int = TEXT_MAX) -> str:
    """Return ``text`` as any database takes it, at most ``limit`` characters (the end is cut, and
    the cut says so)."""
    if len(text) > limit:
        note = f"… (cut: {len(text):,} characters)"
        text = text[: max(limit - len(note), 0)] + note
    if not text.isascii():
        text = text.encode("utf-8", "replace").decode("utf-8")
    return text.replace("\x00", "\ufffd") if "\x00" in text else text


def clean_ms(ms: int) -> int:
    """Clamp a time that a box claims into what can be stored."""
    return min(max(int(ms), 0), _MS_MAX)


def to_json(value: Any, limit: int = JSON_MAX) -> str:
    """Encode ``value``; what can't be encoded is replaced by its printed form, and more than
    ``limit`` characters by ``{"cut": <how many>}``."""
    try:
        text = msgspec.json.encode(value).decode()
    except (TypeError, ValueError, RecursionError, OverflowError):
        text = msgspec.json.encode(_plain(value, 0)).decode()
    nesting = text.count("{") + text.count("[")
    if "\\u0000" in text or nesting > _DEPTH_MAX:
        # Legal JSON, but other databases refuse NUL, and no reader likes bottomless nesting.
        text = msgspec.json.encode(_plain(msgspec.to_builtins(value), 0)).decode()
    return text if len(text) <= limit else f'{{"cut":{len(text)}}}'


def _plain(value: Any, depth: int) -> Any:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return value if abs(value) <= _INT_MAX else str(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, str):
        return clean_text(value)
    if depth >= _DEPTH_MAX:
        return "…"
    if isinstance(value, msgspec.Struct):
        return {k: _plain(getattr(value, k), depth + 1) for k in value.__struct_fields__}
    if isinstance(value, dict):
        return {clean_text(str(k)): _plain(v, depth + 1) for k, v in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(v, depth + 1) for v in value]
    return clean_text(str(value), 1000)


def from_json(text: str, kind: type[T]) -> T:
    """Decode a column that :func:`to_json` wrote; unknown fields are ignored."""
    try:
        return msgspec.json.decode(text, type=kind)
    except (msgspec.DecodeError, RecursionError) as e:
        raise StorageError(f"a stored {kind.__name__} can't be read: {e}") from e
