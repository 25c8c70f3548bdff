"""BoxLink against a boxd that lies: every lie is an error that the hub knows."""

from __future__ import annotations

import asyncio
import os
import resource
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from boxd_support import BOUND, run

from thopter.boxd import wire
from thopter.kit.channel import BoxLink
from thopter.model.errors import ProviderError, ThopterError, TimedOut, Unsupported

HELLO = {"end": {"protocol": 1, "pid": 1, "boot": "x", "ops": []}, "op": "hello"}

Script = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def liar(folder: Path, script: Script, hello: Any = HELLO) -> AsyncIterator[BoxLink]:
    """A link to something that answers hello and then does what ``script`` does."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(65536)
        if hello is not None:
            writer.write(wire.message(0, hello))
        try:
            await script(reader, writer)
            await writer.drain()
        except ConnectionError:
            return
        finally:
            writer.close()

    path = str(folder / "liar")
    server = await asyncio.start_unix_server(serve, path)
    try:
        async with BoxLink.connect(*await asyncio.open_unix_connection(path), timeout=5) as link:
            yield link
    finally:
        server.close()
        os.unlink(path) if os.path.exists(path) else None


def after_request(*frames: bytes, hold: bool = True) -> Script:
    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(65536)
        for frame in frames:
            writer.write(frame)
        if hold:
            await reader.read()

    return script


@pytest.mark.parametrize(
    "frames",
    [
        [b"\xff\xff\xff\xff"],
        [b"HTTP/1.1 200 OK\r\n\r\n"],
        [wire.message(1, {"end": 5})],
        [wire.message(1, {"started": {"pid": 1}}), wire.data(1, 1, b"x" * (wire.WINDOW + 1))],
        [*[wire.message(1, {"x": 1})] * 1000],
        [wire.message(0, {"end": {}})],
        [wire.message(4, {"op": "exec", "argv": ["x"]})],
        [wire.message(2, {"op": "accept", "listen": 1, "port": 5})] * 2 + [wire.message(1, {"error": 5})],
        [wire.message(1, {"error": {"code": ["x"], "message": {"a": 1}, "hint": 5, "self": 1}})],
        [wire.message(1, {"started": {"pid": 1}}), wire.message(1, {"end": {}})],
        [wire.message(1, {"started": {"pid": 1}}), wire.message(1, {"end": {"exit": 1e99}})],
        [wire.message(1, {"started": {"pid": 1}}), wire.message(1, {"end": {"exit": 100000}})],
        [wire.message(1, {"started": {"pid": "\ud800"}})],
        [*[wire.credit(1, 0, 2**32 - 1)] * 1000],
        [wire.message(0, {"error": {"code": "protocol", "message": "\ud800"}})],
    ],
)
def test_whatever_boxd_says_the_hub_gets_an_error_it_knows(folder: Path, frames: list[bytes]) -> None:
    async def go() -> None:
        async with liar(folder, after_request(*frames)) as link:
            with pytest.raises(ThopterError) as e:
                async with asyncio.timeout(BOUND):
                    await link.exec(["x"])
            e.value.message.encode()
            repr(e.value.to_dict()).encode()

    run(go())


def test_a_boxd_that_says_nothing_times_out(folder: Path) -> None:
    async def go() -> None:
        async with liar(folder, after_request()) as link:
            with pytest.raises(TimedOut):
                await link.ping(timeout=0.1)
            with pytest.raises(TimedOut):
                await link.call("stat", timeout=0.1, path="/")

    run(go())


def test_a_hello_of_another_protocol_or_none_is_refused(folder: Path) -> None:
    async def go(hello: Any, error: type[Exception]) -> None:
        with pytest.raises(error):
            async with liar(folder, after_request(), hello):
                raise AssertionError("connected")

    run(go({"end": {"protocol": 2}}, ProviderError))
    run(go({"error": {"code": "unsupported", "message": "no"}}, Unsupported))
    run(go(None, TimedOut))


def test_strings_from_a_box_can_always_be_encoded(folder: Path) -> None:
    record = {
        "kind": "hook",
        "seq": 1,
        "event": "\udcff\ud800",
        "body": "ok\udcff\ud800",
        "a": {"b": ["\udfff"]},
    }
    part = {"file": "f\udcff", "offset": 1, "lines": ["x\udcff\ud800"], "truncated": False}

    async def journal() -> dict[str, Any]:
        async with liar(folder, after_request(wire.message(1, {"rec": record}))) as link:
            async for got in link.journal():
                return got
        raise AssertionError("nothing came")

    async def tail() -> dict[str, Any]:
        async with liar(folder, after_request(wire.message(1, part))) as link:
            async for got in link.tail("/x", "*"):
                return got
        raise AssertionError("nothing came")

    got = run(journal())
    assert got["body"].encode(errors="surrogateescape") == b"ok\xff\xef\xbf\xbd"
    str(got["event"] + got["a"]["b"][0]).encode()
    assert run(tail())["lines"][0].encode(errors="surrogateescape") == b"x\xff\xef\xbf\xbd"


@pytest.mark.parametrize(
    "part",
    [
        {"file": 5, "offset": 1, "lines": ["x"]},
        {"file": "f", "offset": -1, "lines": ["x"]},
        {"file": "f", "offset": 1, "lines": []},
        {"file": "f", "offset": 1, "lines": [5]},
        {"file": "f", "offset": "1", "lines": ["x"]},
    ],
)
def test_a_malformed_part_of_a_file_is_an_error(folder: Path, part: dict[str, Any]) -> None:
    async def go() -> None:
        async with liar(folder, after_request(wire.message(1, part))) as link:
            with pytest.raises(ProviderError, match="malformed"):
                async for _ in link.tail("/x", "*"):
                    pass

    run(go())


def test_a_line_without_end_is_refused_before_it_eats_the_memory(folder: Path) -> None:
    async def endless(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(65536)
        part = {"file": "f", "offset": 0, "lines": ["x" * 200_000], "more": True, "truncated": False}
        while True:
            writer.write(wire.message(1, part))
            await writer.drain()
            await asyncio.wait_for(reader.read(65536), 0.5)

    async def go() -> None:
        async with liar(folder, endless) as link:
            with pytest.raises(ProviderError):
                async for _ in link.tail("/x", "*"):
                    raise AssertionError("no line has ended")

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    run(go())
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 << 10


def test_a_deeply_nested_message_is_cut_not_a_crash(folder: Path) -> None:
    deep: Any = 1
    for _ in range(300):
        deep = [deep]

    async def go() -> dict[str, Any]:
        async with liar(folder, after_request(wire.message(1, {"rec": {"kind": "x", "deep": deep}}))) as link:
            async for got in link.journal():
                return got
        raise AssertionError("nothing came")

    assert run(go())["kind"] == "x"
