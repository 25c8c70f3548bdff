"""Making a JSON body small enough while it stays JSON: the longest texts in it are cut."""

from __future__ import annotations

from typing import Any, Tuple

from thopter.boxd import wire

_MARK = "…[cut]"


def shrink(body: bytes, limit: int) -> Tuple[str, bool]:
    """Return ``body`` as text of at most ``limit`` bytes (as JSON text), and whether it was cut.

    JSON stays JSON with all its small fields; anything else keeps its beginning.
    """
    if len(body) <= limit:
        return wire.to_text(body), False
    try:
        value = wire.loads(body)
    except ValueError:
        value = None
    if isinstance(value, (dict, list)):
        most = limit
        while most >= 32:
            most //= 4
            text = wire.dumps(_cut(value, most, 0)).decode("ascii")
            if len(text) <= limit:
                return text, True
    return wire.to_text(body[:limit]), True


def _cut(value: Any, most: int, depth: int) -> Any:
    if isinstance(value, str):
        return value if len(value) <= most else value[: max(0, most - len(_MARK))] + _MARK
    if depth > 64:
        return None
    if isinstance(value, list):
        return [_cut(v, most, depth + 1) for v in value[: max(8, most // 16)]]
    if isinstance(value, dict):
        return {k[:256]: _cut(v, most, depth + 1) for k, v in list(value.items())[: max(32, most // 16)]}
    return value
