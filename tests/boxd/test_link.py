"""BoxLink: lost connections, credit both ways, hostile requests."""

from __future__ import annotations

import asyncio
import contextlib
import os
import tracemalloc
from typing import Any

import pytest
from boxd_support import BOUND, BoxdProcess, run
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from thopter.boxd import procfs, wire
from thopter.kit.channel import BoxLink
from thopter.model.errors import BadInput, ProviderError, ThopterError, Unsupported


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
