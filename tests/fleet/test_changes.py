"""What an agent changed, file by file: odd names, binary files, more than anybody wants to see."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import pytest
from msgspec import structs

from thopter.fleet import changes
from thopter.kit.boxstreams import ExecResult
from thopter.model.errors import BadInput, ProviderError
from thopter.model.ids import BoxId, RunId
from thopter.model.nouns import RepoRef, Run, RunState


class HereLink:
    """A box that is a folder of this machine: commands run there, outputs are capped as boxd does it."""

    async def exec(self, argv: Sequence[str], cwd: str, timeout: float, output_cap: int) -> ExecResult:
        done = await asyncio.to_thread(
            subprocess.run, list(argv), cwd=cwd, capture_output=True, timeout=timeout, check=False
        )
        cut = len(done.stdout) > output_cap
        return ExecResult(
            exit=done.returncode, stdout=done.stdout[:output_cap], stderr=done.stderr[:output_cap],
            truncated=cut,
        )  # fmt: skip


def git(folder: Path, *args: str) -> str:
    who = ["-c", "user.name=t", "-c", "user.email=t@t"]
    done = subprocess.run(["git", *who, *args], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.strip()


class Rig:
    """A repository with a base commit, and what the fleet says of it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        git(folder, "init", "-q")
        (folder / "kept.txt").write_text("one\ntwo\nthree\n")
        (folder / "gone.txt").write_text("x\n")
        git(folder, "add", "-A")
        git(folder, "commit", "-qm", "base")
        repo = RepoRef(source="x", slug="x", branch="main", base=git(folder, "rev-parse", "HEAD"))
        run = Run(
            id=RunId("run_1"), box=BoxId("box_1"), agent="claude", prompt="", state=RunState.WORKING,
            created_ms=1, changed_ms=1, cwd=str(folder),
        )  # fmt: skip
        self.run = structs.replace(run, repo=repo)
        self.link = cast(Any, HereLink())

    def list(self) -> changes.ChangeList:
        return asyncio.run(changes.changes(self.link, self.run))

    def one(self, file: str, context: int = 3) -> changes.FileDiff:
        return asyncio.run(changes.change(self.link, self.run, file, context))


NAMES = [
    b"a\nb.txt",
    b"tab\there",
    b":(exclude)x",
    b"*.txt",
    b"\xff\xfe",
    "ä ö".encode(),
    b"-rf",
    b"$(touch y)",
]


def test_every_file_is_listed_and_shown_whatever_its_name_is(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    (tmp_path / "kept.txt").write_text("one\nTWO\nthree\nfour\n")
    (tmp_path / "gone.txt").unlink()
    (tmp_path / "bin").write_bytes(bytes(range(256)))
    for name in NAMES:
        with open(os.path.join(os.fsencode(tmp_path), name), "wb") as file:
            file.write(b"only " + name.hex().encode() + b"\n")
    found = rig.list()
    by_name = {changes.name_of(f.id): f for f in found.files}
    assert set(by_name) == {b"kept.txt", b"gone.txt", b"bin", *NAMES} and not found.truncated
    kept = by_name[b"kept.txt"]
    assert (kept.status, kept.added, kept.removed, kept.binary) == ("M", 2, 1, False)
    assert by_name[b"gone.txt"].status == "D" and by_name[b"bin"].binary
    for name in NAMES:
        told = rig.one(by_name[name].id)
        assert f"+only {name.hex()}" in told.diff and told.diff.count("diff --git") == 1, name
    assert rig.one(by_name[b"bin"].id).binary
    assert "-two\n+TWO" in rig.one(kept.id, 0).diff and "\n one" not in rig.one(kept.id, 0).diff
    assert not (tmp_path / "y").exists()
    assert git(tmp_path, "diff", "--cached", "--name-only") == "", "the agent's own index is as it was"


def test_what_is_huge_is_cut_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rig = Rig(tmp_path)
    (tmp_path / "big.txt").write_text("a line of a big file\n" * 200_000)
    (big,) = rig.list().files
    assert big.added == 200_000
    told = rig.one(big.id)
    assert told.truncated and len(told.diff) <= changes.FILE_CAP
    for n in range(40):
        (tmp_path / f"small{n:02}").write_text("x\n")
    monkeypatch.setattr(changes, "FILES_MAX", 10)
    assert rig.list().truncated and len(rig.list().files) == 10
    monkeypatch.setattr(changes, "LIST_CAP", 700)
    cut = rig.list()
    assert cut.truncated and 0 < len(cut.files) <= 10


class LyingLink:
    """A box that answers whatever it likes: its git is its own."""

    def __init__(self, said: bytes) -> None:
        self.said = said

    async def exec(self, argv: Sequence[str], cwd: str, timeout: float, output_cap: int) -> ExecResult:
        return ExecResult(exit=0, stdout=self.said, stderr=b"", truncated=False)


def test_a_count_that_is_none_is_refused(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    for count in (b"9" * 5000, "\u0663".encode(), b"-1"):
        rig.link = cast(Any, LyingLink(b"a" * 40 + b"\n" + count + b"\n1\n"))
        with pytest.raises(ProviderError, match="no usable answer"):
            rig.list()


def test_what_is_no_answer_and_no_file_is_refused() -> None:
    for raw in (b"1\t2\tx\0", b"words\0", b":000000 100644 0 1 A\0x\0" + b"1\t2\ty\0"):
        with pytest.raises(ProviderError):
            list(changes.parsed(raw))
    endless = b"9" * 5000
    (odd,) = changes.parsed(b":000000 100644 0 1 A\0x\0" + endless + b"\t" + endless + b"\tx\0")
    assert (odd.added, odd.removed) == (0, 0)
    for file in ("", "!", "a", "AA", "eAB4\n", "x" * 6000):
        with pytest.raises(BadInput):
            changes.name_of(file)
