"""What has to be changed in the images that CRIU made of processes in a box's user namespace.

CRIU must be outside of that namespace to save them (only there the kernel hands out their seccomp
filters), and inside of another one to start them again. So the images say "a user namespace of its
own, to be made", and are made to say "the one that you are in". They are protocol buffers.
"""

from __future__ import annotations

import struct
from pathlib import Path

Fields = list[tuple[int, int, "int | bytes"]]
_ROOT_IDS = 3  # in inventory_entry
_USER_NS = 10  # in task_kobj_ids_entry
_VARINT, _WIDE, _BYTES, _NARROW = 0, 1, 2, 5


def same_user_namespace(folder: Path, root: int) -> None:
    """Make the images in ``folder`` say that process ``root`` lives in CRIU's own user namespace.
    Raises ValueError for images of another shape."""
    ids = _one_message(folder / f"ids-{root}.img")[2]
    user = next((v for f, w, v in ids if f == _USER_NS and w == _VARINT), None)
    path = folder / "inventory.img"
    head, _, inventory = _one_message(path)
    if user is None or not any(f == _ROOT_IDS and w == _BYTES for f, w, _ in inventory):
        raise ValueError("the images name no user namespace")
    changed: Fields = []
    for number, kind, value in inventory:
        if number == _ROOT_IDS and isinstance(value, bytes):
            parsed = [(f, w, user if f == _USER_NS else v) for f, w, v in parse(value)]
            value = join(parsed)
        changed.append((number, kind, value))
    raw = join(changed)
    path.write_bytes(head + struct.pack("<I", len(raw)) + raw)


def _one_message(path: Path) -> tuple[bytes, int, Fields]:
    """``(magic, length, fields)`` of an image with one message."""
    raw = path.read_bytes()
    for words in (1, 2):  # some images have one magic number, some two
        at = 4 * words
        if len(raw) >= at + 4:
            (length,) = struct.unpack_from("<I", raw, at)
            if length == len(raw) - at - 4:
                return raw[:at], length, parse(raw[at + 4 :])
    raise ValueError(f"{path.name} does not hold exactly one message")


def parse(raw: bytes) -> Fields:
    """The fields of a message in their order. Raises ValueError."""
    fields: Fields = []
    at = 0
    while at < len(raw):
        key, at = _varint(raw, at)
        number, kind = key >> 3, key & 7
        value: int | bytes
        if kind == _VARINT:
            value, at = _varint(raw, at)
        else:
            if kind == _BYTES:
                length, at = _varint(raw, at)
            elif kind in (_WIDE, _NARROW):
                length = 8 if kind == _WIDE else 4
            else:
                raise ValueError(f"field {number} is of the unknown kind {kind}")
            value, at = raw[at : at + length], at + length
            if at > len(raw):
                raise ValueError("a field is cut off")
        fields.append((number, kind, value))
    return fields


def join(fields: Fields) -> bytes:
    """The message of these fields."""
    raw = b""
    for number, kind, value in fields:
        raw += _as_varint(number << 3 | kind)
        if isinstance(value, int):
            raw += _as_varint(value)
        else:
            raw += (_as_varint(len(value)) if kind == _BYTES else b"") + value
    return raw


def _varint(raw: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while at < len(raw) and shift < 64:
        byte = raw[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at
    raise ValueError("a number is cut off")


def _as_varint(value: int) -> bytes:
    raw = b""
    while value > 127:
        raw += bytes((value & 127 | 128,))
        value >>= 7
    return raw + bytes((value,))
