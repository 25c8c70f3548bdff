"""Loopback relays: bytes both ways, half-closes, refusals, and no one held up by a stalled one."""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
import socket
from typing import Any

import pytest
from boxd_support import BOUND, BoxdProcess, run, until

from thopter.kit.channel import BoxLink, BoxStream
from thopter.kit.tasks import Background
from thopter.model.errors import BadInput, Conflict, NotNow, ProviderError


def with_link(boxd: BoxdProcess, work: Any) -> Any:
    async def go() -> Any:
        async with boxd.link() as link, Background() as background:
            return await work(link, background)

    return run(go())


async def listening(link: BoxLink, background: Background, handler: Any, port: int = 0) -> int:
    ready: list[int] = []
    background.spawn(link.listen(port, handler, ready.append))
    await until(lambda: ready)
    return ready[0]


async def echo(stream: BoxStream) -> None:
    while data := await stream.read():
        await stream.write(data)


async def read_all(stream: BoxStream) -> bytes:
    got = bytearray()
    while data := await stream.read():
        got += data
    return bytes(got)


def test_megabytes_go_through_both_kinds_of_relay_and_back(boxd: BoxdProcess) -> None:
    content = random.Random(1).randbytes(5 << 20)

    async def work(link: BoxLink, background: Background) -> None:
        port = await listening(link, background, echo)
        async with link.dial(port) as stream, asyncio.TaskGroup() as group:

            async def send() -> None:
                for at in range(0, len(content), 100_000):
                    await stream.write(content[at : at + 100_000])
                await stream.eof()

            group.create_task(send())
            got = await read_all(stream)
        assert hashlib.sha256(got).digest() == hashlib.sha256(content).digest()

    with_link(boxd, work)


def test_what_a_handler_wrote_before_it_returned_arrives(boxd: BoxdProcess) -> None:
    content = os.urandom(700_000)

    async def serve(stream: BoxStream) -> None:
        assert await stream.read() == b"please"
        await stream.write(content)

    async def work(link: BoxLink, background: Background) -> None:
        port = await listening(link, background, serve)

        def ask() -> bytes:
            with socket.create_connection(("127.0.0.1", port), timeout=BOUND) as sock:
                sock.sendall(b"please")
                got = b""
                while chunk := sock.recv(65536):
                    got += chunk
                return got

        assert await asyncio.to_thread(ask) == content

    with_link(boxd, work)


def test_each_direction_ends_by_itself(boxd: BoxdProcess) -> None:
    async def serve(stream: BoxStream) -> None:
        whole = await read_all(stream)  # ends though our own direction is open
        await stream.write(b"got " + whole)

    async def work(link: BoxLink, background: Background) -> None:
        port = await listening(link, background, serve)
        async with link.dial(port) as stream:
            await stream.write(b"all")
            await stream.eof()
            assert await read_all(stream) == b"got all"

    with_link(boxd, work)


def test_a_stalled_relay_holds_up_neither_others_nor_memory(boxd: BoxdProcess) -> None:
    async def flood(stream: BoxStream) -> None:
        while True:
            await stream.write(b"x" * 65536)

    async def work(link: BoxLink, background: Background) -> None:
        port = await listening(link, background, flood)
        with socket.create_connection(("127.0.0.1", port)):  # never reads
            for _ in range(50):
                await link.ping(timeout=BOUND)
                assert (await link.exec(["echo", "1"])).stdout == b"1\n"

    with_link(boxd, work)


def test_a_caller_that_resets_ends_only_its_own_connection(boxd: BoxdProcess) -> None:
    ended: list[int] = []

    async def serve(stream: BoxStream) -> None:
        await read_all(stream)
        ended.append(1)

    async def work(link: BoxLink, background: Background) -> None:
        port = await listening(link, background, serve)
        for _ in range(3):
            sock = socket.create_connection(("127.0.0.1", port))
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            sock.sendall(b"x")
            sock.close()  # a reset
        await until(lambda: len(ended) == 3)
        async with link.dial(port) as stream:
            await stream.eof()
            assert await stream.read() == b""

    with_link(boxd, work)


def test_a_failing_handler_ends_its_connection_and_the_listener_goes_on(boxd: BoxdProcess) -> None:
    async def serve(stream: BoxStream) -> None:
        if await stream.read() == b"fail":
            raise ProviderError("on purpose")
        await stream.write(b"fine")

    async def work(link: BoxLink, background: Background) -> None:
        port = await listening(link, background, serve)
        for sent, got in ((b"fail", b""), (b"work", b"fine")):
            async with link.dial(port) as stream:
                await stream.write(sent)
                assert await read_all(stream) == got

    with_link(boxd, work)


def test_nobody_there_is_not_now_and_a_name_is_bad_input(boxd: BoxdProcess) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]  # bound but not listening

        async def work(link: BoxLink, background: Background) -> None:
            with pytest.raises(NotNow, match="refused"):
                async with link.dial(port):
                    raise AssertionError("connected")
            for host in ("localhost", "example.com", "", "1.2.3"):
                with pytest.raises(BadInput):
                    await link.call("dial", port=80, host=host or "-")
            with pytest.raises(Conflict):
                await link.listen(port, echo)
            with pytest.raises(BadInput):
                await link.listen(-1, echo)

        with_link(boxd, work)


def test_a_listener_that_is_left_refuses_at_once(boxd: BoxdProcess) -> None:
    async def work(link: BoxLink, _background: Background) -> None:
        async with Background() as inner:
            port = await listening(link, inner, echo)
        await link.ping()
        with pytest.raises(NotNow):
            async with link.dial(port):
                pass

    with_link(boxd, work)


def test_relays_leave_no_descriptors(boxd: BoxdProcess) -> None:
    async def work(link: BoxLink, background: Background) -> None:
        pid = link.facts["pid"]
        before = len(os.listdir(f"/proc/{pid}/fd"))
        async with Background() as inner:
            port = await listening(link, inner, echo)
            for _ in range(10):
                async with link.dial(port) as stream:
                    await stream.write(b"x")
                    assert await stream.read() == b"x"
        await until(lambda: len(os.listdir(f"/proc/{pid}/fd")) == before)

    with_link(boxd, work)
