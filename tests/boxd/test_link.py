"""BoxLink: lost connections, credit both ways, and a boxd that lies."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from conftest import BOUND, BoxdProcess, run
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from thopter.boxd import procfs, wire
from thopter.kit.channel import BoxLink
from thopter.model.errors import BadInput, ProviderError, ThopterError, TimedOut, Unsupported

HELLO = {"end": {"protocol": 1, "pid": 1, "boot": "x", "ops": []}, "op": "hello"}


def test_two_hundred_megabytes_to_a_slow_reader_keep_memory_flat_and_pings_answered(
    boxd: BoxdProcess,
) -> None:
    total = 200 << 20

    async def go() -> None:
        async with boxd.link() as link:
            boxd_pid = link.facts["pid"]
            before = procfs.stat(boxd_pid)
            tracemalloc.start()
            got, pings, worst = 0, 0, 0.0
            loop = asyncio.get_running_loop()
            async with link.open_exec(["head", "-c", str(total), "/dev/zero"]) as stream:
                async for _, data in stream:
                    got += len(data)
                    if got // (4 << 20) > pings:
                        pings += 1
                        at = loop.time()
                        await link.ping(BOUND)
                        worst = max(worst, loop.time() - at)
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
            after = procfs.stat(boxd_pid)
            assert got == total and pings >= 49
            assert peak < 8 << 20, f"the client held {peak} bytes"
            assert before and after and after.rss - before.rss < 8 << 20, "boxd grew"

    run(go())


def test_a_reader_that_stalls_stalls_only_its_own_command(boxd: BoxdProcess) -> None:
    async def go() -> None:
        async with boxd.link() as link, link.open_exec(["yes"]) as stalled:
            for i in range(20):
                assert (await link.exec(["echo", str(i)])).stdout == b"%d\n" % i
            assert procfs.stat(stalled.pid) is not None
            size = procfs.stat(link.facts["pid"])
            assert size is not None and size.rss < 64 << 20

    run(go())


def test_input_for_a_command_that_does_not_read_waits_for_credit(boxd: BoxdProcess) -> None:
    async def go() -> int:
        sent = 0
        async with boxd.link() as link, link.open_exec(["sleep", "1000"]) as stream:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(1.5):
                    while True:
                        await stream.write(b"x" * 65536)
                        sent += 65536
                        await link.ping()
        return sent

    sent = run(go())
    assert wire.WINDOW <= sent <= wire.WINDOW + (1 << 20)  # the window, and what pipes hold


def test_everything_pending_fails_at_once_when_the_connection_is_lost(boxd: BoxdProcess) -> None:
    async def go() -> list[Any]:
        async with boxd.link() as link:

            async def follow() -> None:
                async for _ in link.journal(after=1, follow=True):
                    pass

            async def cut() -> None:
                await asyncio.sleep(0.2)
                os.kill(boxd.boxd_pid(), 9)

            pending = [link.exec(["sleep", "1000"]), follow(), link.tmux_keys("x", []), cut(), link.lost()]
            results = await asyncio.gather(*pending, return_exceptions=True)
            later = await asyncio.gather(link.ping(), link.exec(["true"]), return_exceptions=True)
            assert link.is_lost
            return [results[0], results[1], *later]

    results = run(go())
    assert all(isinstance(r, ProviderError) and "went away" in r.message for r in results), results


def test_errors_of_the_block_come_out_as_they_are(boxd: BoxdProcess) -> None:
    async def go() -> None:
        async with boxd.link():
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        run(go())


def test_cancelling_the_owner_ends_the_connection(boxd: BoxdProcess) -> None:
    async def go() -> BoxLink:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3), boxd.link() as link:
                await asyncio.sleep(1000)
        return link

    assert run(go()).is_lost


def test_an_unknown_op_is_unsupported_and_too_large_a_request_is_bad_input(boxd: BoxdProcess) -> None:
    async def go() -> None:
        async with boxd.link() as link:
            with pytest.raises(Unsupported):
                await link.call("no.such.op")
            with pytest.raises(BadInput, match="too large"):
                await link.exec(["echo", "x" * (1 << 20)])
            assert (await link.exec(["echo", "1"])).stdout == b"1\n"

    run(go())


# ------------------------------------------------------------------- against boxd, by hand-made bytes


def test_garbage_closes_that_connection_and_no_other(boxd: BoxdProcess) -> None:
    async def go() -> None:
        async with boxd.link() as link:
            for garbage in (
                b"GET / HTTP/1.1\r\n\r\n",
                b"\xff" * 20,
                wire.data(0, 0, b"x"),
                wire.message(2, {"op": "x"}),
            ):
                reader, writer = await asyncio.open_unix_connection(boxd.socket)
                writer.write(garbage)
                said = b""
                async with asyncio.timeout(BOUND):
                    while chunk := await reader.read(65536):
                        said += chunk
                assert b'"code":"protocol"' in said
                writer.close()
            await link.ping()

    run(go())


def test_more_data_than_credit_closes_the_connection(boxd: BoxdProcess) -> None:
    async def go() -> None:
        reader, writer = await asyncio.open_unix_connection(boxd.socket)
        writer.write(wire.message(1, {"op": "exec", "argv": ["sleep", "100"]}))
        for _ in range(8):
            writer.write(wire.data(1, 0, b"x" * 65536))
        with contextlib.suppress(ConnectionError):
            async with asyncio.timeout(BOUND):
                await reader.read()
        writer.close()

    run(go())
    assert "more data than there was credit for" in boxd.log.read_text()


@given(st.lists(st.binary(min_size=1, max_size=100), min_size=1, max_size=5))
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_boxd_survives_any_bytes(boxd: BoxdProcess, pieces: list[bytes]) -> None:
    async def go() -> None:
        _reader, writer = await asyncio.open_unix_connection(boxd.socket)
        for piece in pieces:
            writer.write((5 + len(piece)).to_bytes(4, "big") + b"J\0\0\0\1" + piece)
            writer.write(piece)
        writer.close()
        async with boxd.link() as link:
            await link.ping()

    run(go())


NAMES = [
    "argv",
    "path",
    "root",
    "glob",
    "env",
    "cwd",
    "pty",
    "steps",
    "target",
    "run",
    "after",
    "port",
    "session",
    "cursors",
    "kinds",
    "timeout_ms",
    "mode",
    "id",
    "offset",
    "limit",
    "max",
    "rows",
]
scalars = st.none() | st.booleans() | st.integers() | st.text(max_size=5)
fields = st.dictionaries(
    st.sampled_from(NAMES),
    scalars | st.lists(scalars, max_size=3) | st.dictionaries(st.text(max_size=3), scalars, max_size=2),
)
HARMLESS = [
    "fetch",
    "stat",
    "read_files",
    "tmux.keys",
    "tmux.capture",
    "journal",
    "hook.answer",
    "run.stop",
    "tail",
]


@given(st.sampled_from(HARMLESS), fields)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_fields_end_in_an_answer_and_never_in_a_defect(
    boxd: BoxdProcess, op: str, given_fields: Any
) -> None:
    if op in ("tail", "read_files"):
        given_fields = {**given_fields, "root": str(boxd.folder)}

    async def go() -> None:
        async with boxd.link() as link:
            try:
                await link.call(op, timeout=BOUND, **given_fields)
            except ThopterError as e:
                assert "defect" not in e.message, e.message

    run(go())


# --------------------------------------------------------------------------- a boxd that lies


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
