"""The hub's copies of transcripts: the box's bytes, however often they are read; bounded; no way out."""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Any

import pytest

from thopter.fleet import transcripts
from thopter.fleet.transcripts import Copies, files_of, lines_of, prune, stamp


def part(file: str, lines: list[bytes], offset: int) -> dict[str, Any]:
    texts = [line.decode(errors="surrogateescape") for line in lines]
    return {"file": file, "lines": texts, "offset": offset}


def test_a_copy_is_the_boxs_file_whatever_is_read_again(tmp_path: Path) -> None:
    lines = [b'{"n":%d,"x":"\xff\xfe %s"}' % (n, b"y" * (n % 50)) for n in range(200)]
    whole = b"".join(line + b"\n" for line in lines)
    ends = [sum(len(line) + 1 for line in lines[: n + 1]) for n in range(len(lines))]
    rng = random.Random(5)
    at = 0
    while at < len(lines):
        copies = Copies(tmp_path)  # the hub was killed, and reads from a stored cursor again
        begin = max(0, at - rng.randrange(10))
        cursor = ends[begin - 1] if begin else 0
        assert copies.cursors({"s.jsonl": cursor}) == {"s.jsonl": cursor}
        upto = min(begin + 1 + rng.randrange(40), len(lines))
        copies.take([part("s.jsonl", lines[begin:upto], ends[upto - 1])])
        at = max(at, upto)
    assert (tmp_path / "s.jsonl").read_bytes() == whole
    assert b"".join(lines_of(tmp_path)) == whole


def test_a_copy_that_was_lost_is_made_again_from_the_start(tmp_path: Path) -> None:
    assert Copies(tmp_path).cursors({"a/s.jsonl": 700}) == {"a/s.jsonl": 0}
    (tmp_path / "a").mkdir()
    (tmp_path / "a/s.jsonl").write_bytes(b"x" * 100)
    assert Copies(tmp_path).cursors({"a/s.jsonl": 700}) == {"a/s.jsonl": 100}


def test_a_line_that_came_shortened_spoils_no_other(tmp_path: Path) -> None:
    copies = Copies(tmp_path)
    copies.take([part("s.jsonl", [b"one"], 4)])
    copies.take([part("s.jsonl", [b"beg"], 20), part("s.jsonl", [b"three"], 26)])  # 13 of 16 bytes missing
    lines = (tmp_path / "s.jsonl").read_bytes().split(b"\n")
    assert (lines[0], lines[1][:3], lines[2], lines[3]) == (b"one", b"beg", b"three", b"")


def test_a_file_that_began_anew_keeps_what_it_held(tmp_path: Path) -> None:
    copies = Copies(tmp_path)
    copies.take([part("s.jsonl", [b"old"], 4), {"reset": "s.jsonl"}, part("s.jsonl", [b"new"], 4)])
    assert (tmp_path / "s.jsonl").read_bytes() == b"new\n"
    assert (tmp_path / "s.before-1").read_bytes() == b"old\n"
    for _ in range(20):
        copies.take([{"reset": "s.jsonl"}, part("s.jsonl", [b"x"], 2)])
    assert len(list(tmp_path.iterdir())) <= 10


@pytest.mark.parametrize(
    "name",
    ["../../evil.jsonl", "/etc/evil.jsonl", "a/../../evil.jsonl", "a//b.jsonl", ".hidden/x.jsonl", "x", "",
     "a\nb.jsonl", "\udcff.jsonl", "n/" * 20 + "x.jsonl", "y" * 300 + ".jsonl", "..jsonl"],
)  # fmt: skip
def test_names_lead_nowhere_else(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "run"
    Copies(folder).take([part(name, [b"x"], 2)])
    assert [p.name for p in tmp_path.iterdir()] == ["run"]
    (made,) = files_of(folder)
    assert made.parent == folder / "other"
    assert made.read_bytes() == b"x\n"


def test_a_symlink_in_the_way_is_not_followed(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_bytes(b"mine")
    (tmp_path / "run").mkdir()
    (tmp_path / "run/s.jsonl").symlink_to(target)
    with pytest.raises(OSError, match="symbolic link"):
        Copies(tmp_path / "run").take([part("s.jsonl", [b"x"], 2)])
    assert target.read_bytes() == b"mine"


@pytest.mark.parametrize("offset", [-5, 0, 1, 1 << 61, (1 << 62) + 1])
def test_an_offset_that_lies_costs_nothing(tmp_path: Path, offset: int) -> None:
    Copies(tmp_path).take([part("s.jsonl", [b"hello"], offset)])
    assert sum(p.stat().st_size for p in files_of(tmp_path)) <= 6


def test_what_one_run_may_have_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transcripts, "RUN_MAX", 100)
    monkeypatch.setattr(transcripts, "FILES_MAX", 3)
    copies = Copies(tmp_path)
    for n in range(10):
        copies.take([part(f"{n}.jsonl", [b"x" * 40], 41)])
    assert len(files_of(tmp_path)) == 3
    assert sum(p.stat().st_size for p in files_of(tmp_path)) <= 100
    assert Copies(tmp_path).cursors({"9.jsonl": 41}) == {"9.jsonl": 41}  # it is not asked for again and again


def test_sub_agents_come_after_their_session_and_the_stamp_moves(tmp_path: Path) -> None:
    copies = Copies(tmp_path)
    copies.take([part("-work/s1/subagents/agent-1.jsonl", [b"sub"], 4), part("-work/s1.jsonl", [b"main"], 5)])
    assert b"".join(lines_of(tmp_path)) == b"main\nsub\n"
    before = stamp(tmp_path)
    assert stamp(tmp_path) == before
    copies.take([part("-work/s1.jsonl", [b"more"], 10)])
    assert stamp(tmp_path) != before


def test_copies_of_runs_long_gone_are_removed(tmp_path: Path) -> None:
    for name in ("old", "kept", "fresh"):
        Copies(transcripts.folder_of(tmp_path, name)).take([part("s.jsonl", [b"x"], 2)])
    for path in [
        *transcripts.folder_of(tmp_path, "old").rglob("*"),
        *transcripts.folder_of(tmp_path, "kept").rglob("*"),
    ]:
        os.utime(path, (1000, 1000))
    assert prune(tmp_path, {"kept"}, 2_000_000) == ["old"]
    assert sorted(p.name for p in (tmp_path / "transcripts").iterdir()) == ["fresh", "kept"]
    assert prune(tmp_path / "nowhere", set(), 5) == []
