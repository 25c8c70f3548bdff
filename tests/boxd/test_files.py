"""put, fetch, stat, read_files: whole or not at all, hostile names, other kinds of files."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from boxd_support import BoxdProcess, run, small_disk, until

from thopter.kit.channel import BoxLink
from thopter.model.errors import BadInput, NotFound, ProviderError


def with_link(boxd: BoxdProcess, work: Any) -> Any:
    async def go() -> Any:
        async with boxd.link() as link:
            return await work(link)

    return run(go())


def test_a_file_put_is_fetched_with_its_mode(boxd: BoxdProcess) -> None:
    path, content = str(boxd.folder / "new/folder/file"), os.urandom(3 << 20)

    async def work(link: BoxLink) -> None:
        assert await link.put(path, content, mode=0o640) == len(content)
        assert await link.fetch(path) == content
        assert await link.fetch(path, 5, 7) == content[5:12]
        assert await link.fetch(path, len(content) + 9) == b""
        found = await link.stat(path)
        assert (found["kind"], found["size"], found["mode"]) == ("file", len(content), 0o640)

    with_link(boxd, work)


def test_an_empty_file_is_a_file(boxd: BoxdProcess) -> None:
    path = boxd.folder / "empty"
    with_link(boxd, lambda link: link.put(str(path), b""))
    assert path.read_bytes() == b""


def test_a_broken_put_leaves_the_old_file_and_no_rest(boxd: BoxdProcess) -> None:
    path = boxd.folder / "d/file"
    path.parent.mkdir()
    path.write_bytes(b"old")

    async def breaking() -> AsyncIterator[bytes]:
        yield b"x" * 300_000
        assert len(os.listdir(path.parent)) == 2  # the temporary one is there
        raise RuntimeError("no more")

    async def cancelled(link: BoxLink) -> None:
        with pytest.raises(RuntimeError, match="no more"):
            await link.put_stream(str(path), breaking())
        await until(lambda: os.listdir(path.parent) == ["file"])

    async def lost(link: BoxLink) -> None:
        async def chunks() -> AsyncIterator[bytes]:
            yield b"x" * 300_000
            link.close()
            yield b"y"

        with pytest.raises(ProviderError, match="went away"):
            await link.put_stream(str(path), chunks())
        await until(lambda: os.listdir(path.parent) == ["file"])

    with_link(boxd, cancelled)
    with_link(boxd, lost)
    assert path.read_bytes() == b"old"


def test_a_put_of_another_size_than_announced_is_refused(boxd: BoxdProcess) -> None:
    path = boxd.folder / "f"

    async def work(link: BoxLink) -> None:
        with link._mux.open({"op": "put", "path": str(path), "size": 3}) as channel:
            channel.post(b"four")
            channel.post_eof()
            with pytest.raises(BadInput, match="4 bytes came, 3 were announced"):
                await channel.result()

    with_link(boxd, work)
    assert not list(boxd.folder.glob("**/.thopter-*")) and not path.exists()


@pytest.mark.root
def test_a_full_disk_is_said_and_leaves_nothing(folder: Path, start: Callable[..., BoxdProcess]) -> None:
    boxd = start(prelude=small_disk(folder / "small", "256k"))

    async def work(link: BoxLink) -> None:
        await link.put(str(folder / "small/f"), b"old")
        with pytest.raises(ProviderError, match="No space left"):
            await link.put(str(folder / "small/f"), b"y" * 500_000)
        assert (await link.exec(["ls", "-A", str(folder / "small")])).stdout == b"f\n"
        assert await link.fetch(str(folder / "small/f")) == b"old"

    with_link(boxd, work)


@pytest.mark.parametrize(
    ("path", "error"),
    [
        ("relative", BadInput),
        ("/tmp", BadInput),
        ("/a\0b", BadInput),
        ("/" + "x" * 300, BadInput),
        (5, BadInput),
    ],
)
def test_a_path_that_can_not_be_meant_is_refused(
    boxd: BoxdProcess, path: Any, error: type[Exception]
) -> None:
    async def work(link: BoxLink) -> None:
        with pytest.raises(error):
            await link.put(path, b"x")

    with_link(boxd, work)


def test_what_is_not_there_is_not_found(boxd: BoxdProcess) -> None:
    async def work(link: BoxLink) -> None:
        for path in ("/nope/nope", "/etc/passwd/below"):
            with pytest.raises(NotFound):
                await link.fetch(path)
            with pytest.raises(NotFound):
                await link.stat(path)
        with pytest.raises(BadInput, match="not a folder"):
            await link.put("/etc/passwd/below", b"")

    with_link(boxd, work)


def test_pipes_devices_and_folders_are_not_fetched(boxd: BoxdProcess) -> None:
    fifo = boxd.folder / "fifo"
    os.mkfifo(fifo)

    async def work(link: BoxLink) -> None:
        for path in (str(fifo), "/dev/zero", str(boxd.folder)):
            with pytest.raises(BadInput, match="not a regular file"):
                await link.fetch(path)
        assert (await link.stat(str(fifo)))["kind"] == "other"
        assert (await link.stat("/proc/self"))["kind"] == "symlink"

    with_link(boxd, work)


def test_put_replaces_a_symlink_and_never_what_it_points_to(boxd: BoxdProcess) -> None:
    target, link_path = boxd.folder / "target", boxd.folder / "link"
    target.write_text("untouched")
    link_path.symlink_to(target)
    with_link(boxd, lambda link: link.put(str(link_path), b"new"))
    assert target.read_text() == "untouched" and not link_path.is_symlink()


def test_names_of_stray_bytes_work(boxd: BoxdProcess) -> None:
    name = os.fsdecode(bytes(boxd.folder / "x\udcff\n"))

    async def work(link: BoxLink) -> None:
        await link.put(name, b"1")
        assert await link.fetch(name) == b"1"

    with_link(boxd, work)
    assert os.path.exists(os.fsencode(name))


def test_read_files_takes_matching_regular_files_only(boxd: BoxdProcess) -> None:
    root = boxd.folder / "root"
    (root / "a").mkdir(parents=True)
    (root / "1.json").write_bytes(b'{"pid": 1} \xff')
    (root / "a/2.json").write_text("2")
    (root / "x.txt").write_text("no")
    (root / "link.json").symlink_to("/etc/passwd")
    os.mkfifo(root / "fifo.json")
    (root / "big.json").write_bytes(b"\xff" * 400_000)

    async def work(link: BoxLink) -> None:
        found = {f["file"]: f for f in await link.read_files(str(root), "*.json")}
        assert set(found) == {"1.json", "big.json"}
        assert found["1.json"]["content"].encode(errors="surrogateescape") == b'{"pid": 1} \xff'
        assert found["big.json"]["truncated"] and len(found["big.json"]["content"]) > 100_000
        assert [f["file"] for f in await link.read_files(str(root), "**/*.json", 1)] == ["1.json"]
        assert await link.read_files(str(root / "missing"), "*") == []
        for glob in ("/abs", "../up", "a//b", ""):
            with pytest.raises(BadInput):
                await link.read_files(str(root), glob)

    with_link(boxd, work)


def test_many_files_come_with_credit(boxd: BoxdProcess, folder: Path) -> None:
    root = folder / "many"
    root.mkdir()
    for i in range(60):
        (root / f"{i:03}").write_bytes(b"x" * 100_000)

    async def work(link: BoxLink) -> int:
        return sum(len(f["content"]) for f in await link.read_files(str(root), "*"))

    assert with_link(boxd, work) == 6_000_000
