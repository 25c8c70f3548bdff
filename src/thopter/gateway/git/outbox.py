"""Notes from the hook to the hub, as files: "this branch moved, bring it upstream". Standard library only.

A note is durable before git moves the ref, so before the box hears that its push was taken. A note says only
where to look: what has to go upstream is what the ref says when the hub looks. ``NAME.told`` is the answer.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from thopter.kit.durable import write_private

_MOST = 4096
_STEP = 0.05


def note_path(folder: str, ref: str) -> Path:
    """Where the note about ``ref`` lies; refs of boxes have one plain last part."""
    return Path(folder) / ref.rsplit("/", 1)[-1]


def put(folder: str, box: str, ref: str, new: str) -> None:
    """Leave a note, durably; raises OSError."""
    path = note_path(folder, ref)
    _write(path, {"box": box, "ref": ref, "new": new})


def _write(path: Path, what: dict[str, Any]) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with _held(path.parent):
        write_private(path, json.dumps(what).encode())


@contextlib.contextmanager
def _held(folder: Path) -> Iterator[None]:
    """Nobody else puts or takes a note there meanwhile."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def _read(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            found = json.loads(file.read(_MOST))
    except (FileNotFoundError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def notes(root: Path) -> list[tuple[str, str, dict[str, Any] | OSError]]:
    """Every note below ``root``: (mirror, name, contents, or why it can't be read now)."""
    found: list[tuple[str, str, dict[str, Any] | OSError]] = []
    for path in sorted(root.glob("*/*")):
        if not path.name.startswith(".") and not path.name.endswith(".told"):
            try:
                found.append((path.parent.name, path.name, _read(path)))
            except OSError as e:
                found.append((path.parent.name, path.name, e))
    return found


def done(root: Path, slug: str, name: str, new: str) -> None:
    """Take a note away, if it is still the one that was read."""
    path = root / slug / name
    if not path.exists():
        return
    with _held(path.parent):
        if _read(path).get("new", "") == new:
            path.unlink(missing_ok=True)


def tell(root: Path, slug: str, name: str, new: str, text: str, final: bool) -> None:
    """Leave an answer about commit ``new`` for the hook that waits for it (and for the next push)."""
    _write(root / slug / f"{name}.told", {"new": new, "text": text[:300], "final": final})


def answer(folder: str, ref: str, new: str, seconds: float) -> str:
    """Wait for the answer about ``new``; "" when none comes in time. Before the end of ``seconds`` only a
    final one counts. Raises OSError."""
    path = note_path(folder, ref)
    path = path.with_name(path.name + ".told")
    deadline = time.monotonic() + seconds
    while True:
        found = _read(path)
        late = time.monotonic() >= deadline
        if found.get("new") == new and (found.get("final") or late):
            return str(found.get("text", ""))
        if late:
            return ""
        time.sleep(_STEP)
