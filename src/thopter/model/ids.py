"""Typed identifiers and the one rule for names.

Ids are opaque, URL-safe and sortable by creation time: a prefix, ``_``, then a UUIDv7
(RFC 9562 section 5.7) in lower-case Crockford base32 without padding.
"""

from __future__ import annotations

import os
import re
import time
from typing import NewType

from thopter.model.errors import BadName

BoxId = NewType("BoxId", str)
RunId = NewType("RunId", str)
FlowId = NewType("FlowId", str)
EventSeq = NewType("EventSeq", int)

NAME_MAX = 61
_NAME = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,59}[a-z0-9])?")
_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"


def check_name(name: str) -> str:
    """Return ``name`` when it may name a thopter, else raise :class:`BadName`.

    A name is also a DNS label, a folder and the last part of a git branch
    (``thopter/<name>``), hence the narrow alphabet.
    """
    if len(name) > NAME_MAX or not _NAME.fullmatch(name):
        raise BadName(name)
    return name


def _uuid7(now_ms: int) -> int:
    rand = int.from_bytes(os.urandom(10), "big") >> 6  # 74 bits; `secrets` would cost 7 ms to import
    return (
        (now_ms & ((1 << 48) - 1)) << 80
        | 0x7 << 76
        | (rand >> 62) << 64
        | 0b10 << 62
        | (rand & ((1 << 62) - 1))
    )


def new_id(prefix: str, now_ms: int | None = None) -> str:
    """Return a fresh id such as ``box_06fq3…`` (26 characters after the prefix)."""
    value = _uuid7(int(time.time() * 1000) if now_ms is None else now_ms)
    return prefix + "_" + "".join(_ALPHABET[(value >> (5 * i)) & 31] for i in range(25, -1, -1))
