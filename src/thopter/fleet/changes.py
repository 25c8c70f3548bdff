"""What an agent changed, file by file, for a page that shows one file at a time.

git runs in the box. Names of files are bytes that a box chose: they go through as base64, in both
directions, and never as a pattern.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator

from thopter.fleet.work import WITH_ALL, in_box, need_repo, summary
from thopter.kit.channel import BoxLink
from thopter.model.api.changes import ChangeList, FileChange, FileDiff
from thopter.model.errors import BadInput, ProviderError
from thopter.model.nouns import Run

LIST_CAP = 2 << 20
FILES_MAX = 5000
FILE_CAP = 1 << 20
_PLAIN = "--no-color --no-ext-diff --no-textconv --no-renames"
_LIST = WITH_ALL + f'git diff --cached {_PLAIN} -z --raw --numstat "$1" --\n'
_ONE = (
    WITH_ALL
    + 'name="$(printf %s "$2" | base64 -d; printf x)"\n'
    + f'git -c core.quotepath=off diff --cached {_PLAIN} -U"$3" "$1" -- ":(top,literal)${{name%x}}"\n'
)


async def changes(link: BoxLink, run: Run) -> ChangeList:
    """Which files differ from the base."""
    base = need_repo(run)
    head, commits, dirty = await summary(link, run, base)
    raw, cut = await in_box(link, run, _LIST, base, cap=LIST_CAP)
    files = list(parsed(raw, whole=not cut))
    cut = cut or len(files) > FILES_MAX
    return ChangeList(files=files[:FILES_MAX], commits=commits, dirty=dirty, head=head, truncated=cut)


async def change(link: BoxLink, run: Run, file: str, context: int) -> FileDiff:
    """One file's diff with so many lines around each change, cut at :data:`FILE_CAP` bytes."""
    base, name = need_repo(run), name_of(file)
    packed = base64.b64encode(name).decode()
    raw, cut = await in_box(link, run, _ONE, base, packed, str(context), cap=FILE_CAP)
    binary = b"\nBinary files " in raw[:4096]
    return FileDiff(
        id=file, path=shown(name), diff=raw.decode("utf-8", "replace"), binary=binary, truncated=cut
    )


def parsed(raw: bytes, whole: bool = True) -> Iterator[FileChange]:
    """Read git's ``-z --raw --numstat``; of one that is cut (not ``whole``), what is complete."""
    items = raw.split(b"\0")[:-1]  # what follows the last NUL is cut off
    states: dict[bytes, str] = {}
    at = 0
    while at < len(items):
        item = items[at]
        if item.startswith(b":"):
            if at + 1 < len(items):
                states[items[at + 1]] = item[-1:].decode("ascii", "replace")
            at += 2
            continue
        added, _, rest = item.partition(b"\t")
        removed, tab, name = rest.partition(b"\t")
        if not tab or not name or name not in states:
            raise ProviderError("the box's git gave no usable answer", hint="see it with 'thopter ssh'")
        yield _changed(name, states.pop(name), added, removed)
        at += 1
    if not whole:  # the names come before the counts
        for name, status in states.items():
            yield _changed(name, status, b"0", b"0")


def _changed(name: bytes, status: str, added: bytes, removed: bytes) -> FileChange:
    return FileChange(
        id=base64.urlsafe_b64encode(name).rstrip(b"=").decode(), path=shown(name), status=status,
        added=_count(added), removed=_count(removed),
        binary=added == b"-",
    )  # fmt: skip


def _count(raw: bytes) -> int:
    """Of lines; what is no count of a file's lines is none."""
    return int(raw) if raw.isdigit() and len(raw) <= 12 else 0


def shown(name: bytes) -> str:
    """A name for people: what is no UTF-8 as U+FFFD."""
    return name.decode("utf-8", "replace")


def name_of(file: str) -> bytes:
    """The name that an id stands for; BadInput for what is none."""
    try:
        name = base64.b64decode(file + "=" * (-len(file) % 4), "-_", validate=True)
    except (binascii.Error, ValueError):
        name = b""
    if not name or b"\0" in name or len(name) > 4096:
        raise BadInput("that is no file's id", hint="they are in the list of changes")
    return name
