"""tail: complete lines only, each once, whatever the files do meanwhile."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from boxd_support import BOUND, BoxdProcess, run, until

from thopter.boxd.tail import MAX_LINE
from thopter.kit.channel import BoxLink
from thopter.kit.tasks import Background
from thopter.model.errors import BadInput

GLOB = "**/*.jsonl"


class Follower:
    """Collects what tail says, per file."""

    def __init__(self) -> None:
        self.lines: dict[str, list[bytes]] = {}
        self.offsets: dict[str, int] = {}
        self.resets: list[str] = []
        self.truncated = 0

    async def take(self, parts: AsyncIterator[dict[str, Any]]) -> None:
        async for part in parts:
            if "reset" in part:
                self.resets.append(part["reset"])
                self.lines[part["reset"]] = []
                continue
            lines = [line.encode(errors="surrogateescape") for line in part["lines"]]
            self.lines.setdefault(part["file"], []).extend(lines)
            self.offsets[part["file"]] = part["offset"]
            self.truncated += part["truncated"]


@pytest.fixture(params=[True, False], ids=["inotify", "polling"])
def any_boxd(start: Callable[..., BoxdProcess], request: pytest.FixtureRequest) -> BoxdProcess:
    """A boxd with and one without inotify."""
    return start(inotify=request.param)


def following(boxd: BoxdProcess, root: Path, work: Any, cursors: dict[str, int] | None = None) -> Follower:
    follower = Follower()

    async def go() -> None:
        async with boxd.link() as link, Background() as background:
            background.spawn(follower.take(link.tail(str(root), GLOB, cursors, follow=True)))
            await work(link, follower)

    run(go())
    return follower


def append(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "ab", buffering=0) as file:
        file.write(content)


def once(boxd: BoxdProcess, root: Path, cursors: dict[str, int] | None = None) -> Follower:
    follower = Follower()

    async def go() -> None:
        async with boxd.link() as link:
            await follower.take(link.tail(str(root), GLOB, cursors))

    run(go())
    return follower


def test_only_complete_lines_come_and_cursors_go_on(boxd: BoxdProcess, folder: Path) -> None:
    root = folder / "t"
    append(root / "a.jsonl", b"one\n\ntwo \xff\nthr")
    append(root / "sub/deep/b.jsonl", b"x\n")
    append(root / "c.txt", b"not\n")
    first = once(boxd, root)
    assert first.lines == {"a.jsonl": [b"one", b"", b"two \xff"], "sub/deep/b.jsonl": [b"x"]}
    assert first.offsets == {"a.jsonl": 11, "sub/deep/b.jsonl": 2}
    append(root / "a.jsonl", b"ee\n")
    assert once(boxd, root, first.offsets).lines == {"a.jsonl": [b"three"]}


def test_files_and_folders_that_appear_later_are_followed(any_boxd: BoxdProcess, folder: Path) -> None:
    root = folder / "home/.agent/projects"  # nothing of it exists yet

    async def work(link: BoxLink, follower: Follower) -> None:
        await link.ping()
        append(root / "p1/s.jsonl", b"1\n")
        await until(lambda: follower.lines.get("p1/s.jsonl") == [b"1"])
        append(root / "p1/s.jsonl", b"2\n3")
        append(root / "p1/s/subagents/agent.jsonl", b"a\n")
        await until(lambda: follower.lines.get("p1/s/subagents/agent.jsonl") == [b"a"])
        append(root / "p1/s.jsonl", b"3\n")
        await until(lambda: follower.lines["p1/s.jsonl"] == [b"1", b"2", b"33"])

    following(any_boxd, root, work)


def test_a_file_that_shrank_or_was_replaced_is_read_anew(any_boxd: BoxdProcess, folder: Path) -> None:
    root = folder / "t"
    append(root / "a.jsonl", b"1\n2\n")

    async def work(link: BoxLink, follower: Follower) -> None:
        await until(lambda: follower.lines.get("a.jsonl") == [b"1", b"2"])
        (root / "a.jsonl").write_bytes(b"n\n")
        await until(lambda: follower.lines["a.jsonl"] == [b"n"])
        append(root / "new", b"replaced, and longer than before\n")
        os.rename(root / "new", root / "a.jsonl")
        await until(lambda: follower.lines["a.jsonl"] == [b"replaced, and longer than before"])
        (root / "a.jsonl").unlink()
        await until(lambda: len(follower.resets) == 3)
        append(root / "a.jsonl", b"again\n")
        await until(lambda: follower.lines["a.jsonl"] == [b"again"])

    following(any_boxd, root, work)


def test_a_cursor_beyond_the_end_is_a_reset(boxd: BoxdProcess, folder: Path) -> None:
    append(folder / "t/a.jsonl", b"1\n")
    found = once(boxd, folder / "t", {"a.jsonl": 500})
    assert found.resets == ["a.jsonl"] and found.lines == {"a.jsonl": [b"1"]}


def test_long_lines_come_whole_and_endless_ones_are_cut(boxd: BoxdProcess, folder: Path) -> None:
    long = "ü€".encode() * 300_000
    append(folder / "t/a.jsonl", b"before\n" + long + b"\nafter\n")
    append(folder / "t/b.jsonl", b"y" * (MAX_LINE + 5) + b"\nshort\n")
    found = once(boxd, folder / "t")
    assert found.lines["a.jsonl"] == [b"before", long, b"after"]
    assert [len(line) for line in found.lines["b.jsonl"]] == [MAX_LINE, 5] and found.truncated == 1
    assert found.offsets == {name: (folder / "t" / name).stat().st_size for name in ("a.jsonl", "b.jsonl")}


def test_a_line_that_grows_slowly_is_told_once_when_complete(any_boxd: BoxdProcess, folder: Path) -> None:
    path = folder / "t/a.jsonl"

    async def work(link: BoxLink, follower: Follower) -> None:
        for i in range(40):
            append(path, b"%d," % i * 5000)
            await asyncio.sleep(0.005)
        assert follower.lines == {}
        append(path, b"\n")
        await until(lambda: follower.lines)

    found = following(any_boxd, folder / "t", work)
    assert found.lines["a.jsonl"] == [b"".join(b"%d," % i * 5000 for i in range(40))]


def test_random_writers_lose_and_double_nothing(any_boxd: BoxdProcess, folder: Path) -> None:
    root, rng = folder / "t", random.Random(7)
    written: dict[str, bytes] = {}

    async def work(link: BoxLink, follower: Follower) -> None:
        for i in range(300):
            name = f"d{rng.randrange(3)}/f{rng.randrange(4)}.jsonl"
            piece = rng.choice([b"x", b"yy\n", b"zzz\nz", b"\n\n", b"w" * 3000 + b"\n", b"v" * 200_000])
            written[name] = written.get(name, b"") + piece
            append(root / name, piece)
            if i % 10 == 0:
                await asyncio.sleep(0)
        want = {n: c.split(b"\n")[:-1] for n, c in written.items() if b"\n" in c}
        await until(lambda: follower.lines == want, 80)

    following(any_boxd, root, work)


def test_nothing_outside_and_nothing_odd_is_read(boxd: BoxdProcess, folder: Path) -> None:
    root = folder / "t"
    append(folder / "outside/secret.jsonl", b"secret\n")
    root.mkdir()
    (root / "link.jsonl").symlink_to(folder / "outside/secret.jsonl")
    (root / "dir").symlink_to(folder / "outside")
    os.mkfifo(root / "pipe.jsonl")
    (root / "d.jsonl").mkdir()
    append(root / "ok.jsonl", b"1\n")
    assert once(boxd, root).lines == {"ok.jsonl": [b"1"]}


def test_a_slow_reader_of_many_lines_gets_them_all(boxd: BoxdProcess, folder: Path) -> None:
    line = b'"\xff\\' * 50  # grows sixfold as JSON
    append(folder / "t/a.jsonl", (line + b"\n") * 40_000)

    async def go() -> int:
        count = 0
        async with boxd.link() as link:
            async for part in link.tail(str(folder / "t"), GLOB):
                count += len(part["lines"])
                await link.ping()
        return count

    assert run(go()) == 40_000


def test_following_ends_when_it_is_left_and_costs_no_descriptor(boxd: BoxdProcess, folder: Path) -> None:
    (folder / "t").mkdir()

    async def go() -> None:
        async with boxd.link() as link:
            pid = link.facts["pid"]
            before = len(os.listdir(f"/proc/{pid}/fd"))
            for _ in range(5):
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.1):
                        async for _part in link.tail(str(folder / "t"), GLOB, follow=True):
                            pass
            await link.ping()
            await until(lambda: len(os.listdir(f"/proc/{pid}/fd")) == before, BOUND)

    run(go())


@pytest.mark.parametrize("cursors", [[], {"a": -1}, {"a": "1"}, {"a": True}, 5])
def test_impossible_cursors_are_refused(boxd: BoxdProcess, cursors: Any) -> None:
    async def go() -> None:
        async with boxd.link() as link:
            with pytest.raises(BadInput):
                await link.call("tail", root="/tmp", glob="*", cursors=cursors)

    run(go())
