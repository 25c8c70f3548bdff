"""Snapshots as files: taken to another machine whole, and hostile ones refused with nothing left."""

from __future__ import annotations

import asyncio
import os
import signal
import struct
import subprocess
import sys
from collections.abc import AsyncIterator, Iterable, Iterator
from pathlib import Path

import pytest
from local_lab import Lab, settings

from thopter.kit import failpoint
from thopter.kit.linux import calls
from thopter.model.errors import BadInput, ProviderError, ThopterError
from thopter.providers.local import entries
from thopter.providers.local.entries import RUN, Entry, Manifest, packed, to_text
from thopter.providers.local.frames import FIRST_LINE, blocks
from thopter.testing.provider_saving import LOOK, TOUCH

SNAP, NEW = "snap_out", "snap_in"
NONE: frozenset[str] = frozenset()


async def _export(lab: Lab) -> bytes:
    return b"".join([piece async for piece in lab.provider.export_snapshot(SNAP)])


async def _pieces(raw: bytes, size: int = 10_000) -> AsyncIterator[bytes]:
    for at in range(0, len(raw), size):
        yield raw[at : at + size]


def take_in(lab: Lab, raw: bytes) -> None:
    """Import it."""
    lab.run(lab.provider.import_snapshot(NEW, _pieces(raw), {"from": "file"}))


def everything(lab: Lab) -> set[str]:
    """Every name below the state folder."""
    state = lab.place.paths.state
    return {os.path.join(d, n) for d, ds, fs in os.walk(state) for n in (*ds, *fs) if n != ".saved"}


@pytest.mark.battery("P6")
def test_a_snapshot_is_carried_to_another_machine(tmp_path: Path) -> None:
    one, two = Lab(tmp_path / "one"), Lab(tmp_path / "two", settings(pool="plain"))
    try:
        box = one.box()
        one.sh(
            box.key,
            TOUCH
            + "echo odd > /opt/thopter/odd; cp -r /opt /srv; chown -R daemon /srv/opt 2>/dev/null || true",
        )
        before = one.sh(box.key, LOOK)
        one.run(one.provider.snapshot(box.key, SNAP, {}))
        raw = one.run(_export(one))
        two.box()  # it has boxes of its own
        golden = two.place.paths.state / "goldens" / one.run(one.provider.snapshots())[0].golden
        golden.exists() and golden.rename(golden.with_name("0" * 16))
        (golden.with_name("base")).unlink()
        (golden.with_name("base")).symlink_to("0" * 16)
        take_in(two, raw)
        assert [h.tags for h in two.run(two.provider.snapshots())] == [{"from": "file"}]
        made = two.box(snapshot=NEW)
        assert two.sh(made.key, LOOK) == before
        owner = "0" if os.geteuid() else "1"
        assert two.sh(made.key, "cat /opt/thopter/odd; stat -c %u /srv/opt/thopter") == f"odd\n{owner}"
        take_in(two, raw)  # there already
        two.run(two.provider.snapshot(made.key, SNAP, {}))
        again = two.run(_export(two))
        assert again[: len(FIRST_LINE)] == FIRST_LINE
    finally:
        one.end()
        two.end()


@pytest.fixture(scope="module")
def exported(lab: Lab) -> bytes:
    """A small snapshot of the shared lab, as a file."""
    box = lab.box()
    lab.sh(box.key, "echo x > /root/x; dd if=/dev/urandom of=/root/big bs=1M count=2 2>/dev/null")
    lab.run(lab.provider.snapshot(box.key, SNAP, {}))
    return lab.run(_export(lab))


def refused(lab: Lab, raw: bytes, words: str | None = None, kind: type[ThopterError] = BadInput) -> None:
    """The file is refused, and there is nothing that was not there before."""
    before = everything(lab)
    with pytest.raises(kind, match=words):
        take_in(lab, raw)
    assert everything(lab) == before
    assert NEW not in [h.id for h in lab.run(lab.provider.snapshots())]


@pytest.mark.battery("P1")
def test_a_file_that_is_cut_short_is_refused(lab: Lab, exported: bytes) -> None:
    for length in (0, 5, len(FIRST_LINE), 60, len(exported) // 2, len(exported) - 36, len(exported) - 1):
        refused(lab, exported[:length], "cut short|no thopter")
    refused(lab, exported + b"x", "follows the end")


@pytest.mark.battery("P1")
def test_a_file_that_was_changed_is_refused(lab: Lab, exported: bytes) -> None:
    for at in (0, 25, 60, 5000, len(exported) // 2, len(exported) - 40, len(exported) - 1):
        raw = bytearray(exported)
        raw[at] ^= 1
        refused(lab, bytes(raw))
    refused(lab, b"thopter snapshot 2\n" + exported[len(FIRST_LINE) :], "another version")
    refused(lab, os.urandom(100_000), "no thopter snapshot")
    # Two blocks that change places are both good by themselves.
    first = len(FIRST_LINE)
    sizes = struct.unpack_from(">I", exported, first)[0] + 36
    second = struct.unpack_from(">I", exported, first + sizes)[0] + 36
    a, b = exported[first : first + sizes], exported[first + sizes : first + sizes + second]
    refused(lab, exported[:first] + b + a + exported[first + sizes + second :], "checksum")


def a_file(size: int = 0, **more: object) -> Entry:
    """An entry for a file."""
    return Entry(**({"kind": "f", "path": to_text("f"), "mode": 0o644, "size": size} | more))  # type: ignore[arg-type]


def crafted(lab: Lab, *content: Entry | bytes) -> bytes:
    """A file with good checksums whose upper tree has these entries."""
    (golden,) = {s.golden for s in lab.run(lab.provider.snapshots())}
    kept = lab.provider._maker.shelf.read_digest(golden)
    assert kept is not None

    def inside() -> Iterator[bytes]:
        yield packed(Manifest(golden=golden, created_ms=1, layout=kept.layout, parts=kept.parts))
        yield packed(Entry(kind="."))
        yield packed(Entry(kind="d", mode=0o755))
        for one in content:
            yield one if isinstance(one, bytes) else packed(one)
        yield packed(Entry(kind="."))
        yield packed(Entry(kind="d", mode=0o755))
        yield packed(Entry(kind="."))

    return b"".join(blocks(inside()))


END = RUN.pack(0, 0)
HOSTILE: dict[str, Iterable[Entry | bytes]] = {
    "dots": [a_file(path=to_text("../f")), END],
    "dots inside": [a_file(path=to_text("a/../../f")), END],
    "absolute": [a_file(path=to_text("/tmp/thopter-hostile")), END],
    "dot": [a_file(path=to_text(".")), END],
    "no name": [a_file(path=""), END],
    "NUL": [a_file(path=to_text(b"a\0b")), END],
    "not base64": [a_file(path="*"), END],
    "long name": [a_file(path=to_text("x" * 300)), END],
    "no parent": [a_file(path=to_text("a/b")), END],
    "through a link": [
        Entry(kind="l", path=to_text("l"), target=to_text("/tmp")), a_file(path=to_text("l/f")), END,
    ],
    "over a link": [
        Entry(kind="l", path=to_text("f"), target=to_text("/tmp/thopter-hostile")), a_file(), END,
    ],
    "twice": [a_file(), END, a_file(), END],
    "folder twice": [Entry(kind="d", path=to_text("d")), Entry(kind="d", path=to_text("d"))],
    "under a file": [a_file(), END, a_file(path=to_text("f/g")), END],
    "device": [Entry(kind="c", path=to_text("sda"))],
    "hard link out": [Entry(kind="h", path=to_text("h"), target=to_text("../../../etc/shadow"))],
    "hard link absolute": [Entry(kind="h", path=to_text("h"), target=to_text("/etc/shadow"))],
    "hard link through a link": [
        Entry(kind="l", path=to_text("l"), target=to_text("/etc")),
        Entry(kind="h", path=to_text("h"), target=to_text("l/shadow")),
    ],
    "hard link to nothing": [Entry(kind="h", path=to_text("h"), target=to_text("nothing"))],
    "hard link to a folder": [
        Entry(kind="d", path=to_text("d")), Entry(kind="h", path=to_text("h"), target=to_text("d")),
    ],
    "ids of the machine": [a_file(uid=70_000), END],
    "negative ids": [a_file(uid=-1), END],
    "file capability": [a_file(attrs={"security.capability": "AQAAAgAgAAAAAAAAAAAAAAAAAAA="}), END],
    "overlay's own": [a_file(attrs={"trusted.overlay.redirect": "L2V0Yw=="}), END],
    "overlay's other": [a_file(attrs={"overlay.metacopy": ""}), END],
    "overlay's as ours": [a_file(attrs={"user.overlay.opaque": "eQ=="}), END],
    "redirect up": [Entry(kind="d", path=to_text("d"), attrs={"overlay.redirect": "Ly4uLy4u"})],
    "many attributes": [a_file(attrs={f"user.{n}": "" for n in range(100)}), END],
    "other size": [a_file(size=5), RUN.pack(0, 3) + b"abc" + RUN.pack(3, 0)],
    "data beyond": [a_file(size=2), RUN.pack(0, 3) + b"abc" + RUN.pack(2, 0)],
    "backwards": [a_file(size=9), RUN.pack(4, 3) + b"abc" + RUN.pack(0, 3) + b"abc" + RUN.pack(9, 0)],
    "negative size": [a_file(size=-1), END],
    "huge hole": [a_file(size=1 << 60), RUN.pack(1 << 60, 0)],
    "huge run": [a_file(size=1 << 31), RUN.pack(0, 1 << 31)],
    "nonsense": [struct.pack(">I", 3) + b"{]}"],
    "endless entry": [struct.pack(">I", 1 << 31)],
    "no kind": [Entry(kind="?", path=to_text("q"))],
    "deep path": [a_file(path=to_text("/".join(["d"] * 40_000))), END],
    "more after it": [Entry(kind="."), Entry(kind="d"), Entry(kind="."), a_file(), END],
}  # fmt: skip


@pytest.mark.battery("S11", "P1", "P6")
@pytest.mark.parametrize("what", HOSTILE)
def test_hostile_files_are_refused(lab: Lab, exported: bytes, what: str) -> None:
    refused(lab, crafted(lab, *HOSTILE[what]))
    assert not os.path.lexists("/tmp/thopter-hostile")


@pytest.mark.battery("P1")
def test_limits_hold_for_what_is_imported(tmp_path: Path, lab: Lab, exported: bytes) -> None:
    small = Lab(tmp_path / "few", settings(import_entries=1000, import_bytes=1 << 20))
    try:
        small.box()
        many = [one for n in range(1100) for one in (a_file(path=to_text(f"f{n}")), END)]
        refused(small, crafted(lab, *many), "too many files")
        zeros = [a_file(size=2 << 20), RUN.pack(0, 1 << 20) + bytes(1 << 20)]
        zeros += [RUN.pack(1 << 20, 1 << 20) + bytes(1 << 20), RUN.pack(2 << 20, 0)]
        refused(small, crafted(lab, *zeros), "too big")
        refused(small, crafted(lab, a_file(size=1 << 40), RUN.pack(1 << 40, 0)), "too big")
    finally:
        small.end()


@pytest.mark.battery("P5")
@pytest.mark.root
def test_an_import_into_a_full_disk_leaves_nothing(tmp_path: Path, lab: Lab, exported: bytes) -> None:
    full = Lab(tmp_path, settings(pool="plain"))
    pool = str(full.place.paths.state / "pool")
    try:
        full.run(full.provider.caps())
        calls.mount("none", pool, "tmpfs", 0, "size=8m")
        bulk: list[Entry | bytes] = []
        for n in range(20):
            data = RUN.pack(0, 1 << 20) + os.urandom(1 << 20)
            bulk += [a_file(path=to_text(f"f{n}"), size=1 << 20), data, RUN.pack(1 << 20, 0)]
        refused(full, crafted(lab, *bulk), "no space", ProviderError)
    finally:
        if os.path.ismount(pool):
            calls.umount(pool)
        full.end()


def test_who_stops_sending_leaves_nothing(lab: Lab, exported: bytes) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield exported[:50_000]
        raise ConnectionResetError("gone")

    async def slow() -> AsyncIterator[bytes]:
        yield exported[:50_000]
        await asyncio.sleep(3600)

    before = everything(lab)
    with pytest.raises((BadInput, ConnectionResetError)):
        lab.run(lab.provider.import_snapshot(NEW, broken(), {}))

    async def give_up() -> None:
        async with asyncio.timeout(0.5):
            await lab.provider.import_snapshot(NEW, slow(), {})

    with pytest.raises(TimeoutError):
        lab.run(give_up())
    assert everything(lab) == before


@pytest.mark.battery("P4")
def test_names_are_any_bytes() -> None:
    for raw in (b"\xff\xfe", "ü".encode(), b"a b\n"):
        assert os.fsencode(entries.from_text(to_text(raw))) == raw


@pytest.mark.battery("P5")
@pytest.mark.parametrize("dies_at", ["import.recorded", "import.unpacked"])
def test_a_hub_killed_while_taking_one_in_leaves_nothing(
    tmp_path: Path, exported: bytes, dies_at: str
) -> None:
    other = Lab(tmp_path, settings())
    try:
        paths = other.place.paths
        argv = [sys.executable, str(Path(__file__).with_name("local_hub.py"))]
        done = subprocess.run(
            [*argv, str(paths.state), str(paths.runtime), "import", "-"],
            input=exported, env=os.environ | {failpoint.ENV: dies_at}, timeout=120, check=False,
        )  # fmt: skip
        assert done.returncode == -signal.SIGKILL
        assert other.run(other.provider.snapshots()) == []
        other.run(other.provider.start())
        other.run(other.provider.sweep(NONE))
        assert other.run(other.provider.leaks(NONE)) == []
        take_in(other, exported)  # and then it works
        assert other.sh(other.box(snapshot=NEW).key, "cat /root/x") == "x"
    finally:
        other.end()
