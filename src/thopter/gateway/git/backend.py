"""Runs the real ``git http-backend`` for one request and carries bytes to it and back."""

from __future__ import annotations

import asyncio
import logging
import subprocess
from collections.abc import AsyncIterator, Mapping

from thopter.gateway.connection import ClientGone, Exchange
from thopter.gateway.gitrun import base_env, end_group
from thopter.gateway.http1 import BadRequest
from thopter.kit.sanitize import one_line

log = logging.getLogger("thopter.gateway")

_CHUNK = 128 * 1024
_CGI_HEAD_MAX = 16 * 1024
_STDERR_MAX = 16 * 1024
_PASSED = frozenset({"content-type", "cache-control", "expires", "pragma"})


class BackendFailed(Exception):
    """http-backend ended without an answer; the text is what it said, on one line."""


async def git_core() -> str:
    """Return the path of ``git-http-backend``; raises OSError or CalledProcessError without git."""
    process = await asyncio.create_subprocess_exec(
        "git", "--exec-path", stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=base_env()
    )
    out, _ = await process.communicate()
    if process.returncode:
        raise OSError("git --exec-path failed")
    return out.decode().strip() + "/git-http-backend"


async def run_backend(
    program: str,
    exchange: Exchange,
    env: Mapping[str, str],
    body: AsyncIterator[bytes] | None,
    seconds: float,
    pass_fds: tuple[int, ...] = (),
) -> int:
    """Serve ``exchange`` by one run of http-backend; returns the status that was sent.
    ``pass_fds`` stay open in it and in its hooks.

    Ends all of its processes when the client goes, when ``seconds`` are over, or when we are cancelled.
    Raises BadRequest for a bad body (nothing was sent yet), ClientGone, BackendFailed.
    """
    process = await asyncio.create_subprocess_exec(
        program,
        stdin=subprocess.DEVNULL if body is None else subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=base_env(env),
        cwd="/",
        start_new_session=True,
        pass_fds=pass_fds,
    )
    try:
        async with asyncio.timeout(seconds):
            return await _carry(process, exchange, body)
    except TimeoutError:
        log.warning("git took longer than %g s and was ended", seconds)
        if exchange.started:
            exchange.cut()
            raise ClientGone from None
        raise BadRequest(503, f"git took longer than {seconds:g} s and was ended") from None
    finally:
        await end_group(process, grace=5.0)


async def _carry(
    process: asyncio.subprocess.Process, exchange: Exchange, body: AsyncIterator[bytes] | None
) -> int:
    try:
        async with asyncio.TaskGroup() as group:
            said = group.create_task(_stderr(process))
            fed = group.create_task(_feed(process, body))
            answered = group.create_task(_answer(process, exchange))
            await answered
            # Whether or not all of the body was wanted, the answer is complete.
            fed.cancel()
            await process.wait()
    except BaseExceptionGroup as errors:
        raise _worst(errors) from None
    text = one_line(said.result().decode("utf-8", "replace"), 400)
    if text:
        log.info("git said: %s", text)
    if not answered.result():
        if exchange.started:
            exchange.cut()
        raise BackendFailed(text or f"exit code {process.returncode}")
    return answered.result()


def _worst(errors: BaseExceptionGroup[BaseException]) -> BaseException:
    """The error that explains the others: a bad body before a client that left before a broken pipe."""
    for kind in (BadRequest, ClientGone):
        found = errors.subgroup(kind)
        if found is not None:
            return found.exceptions[0]
    return errors.exceptions[0]


async def _feed(process: asyncio.subprocess.Process, body: AsyncIterator[bytes] | None) -> None:
    if body is None:
        return
    assert process.stdin is not None
    whole = False
    try:
        async for piece in body:
            process.stdin.write(piece)
            await process.stdin.drain()
        whole = True
    except (BrokenPipeError, ConnectionResetError):
        return  # git has read enough, or has ended: its answer says which
    finally:
        # Closing early looks to git like the end of the body: only a whole body may end that way.
        if whole or process.returncode is not None:
            process.stdin.close()


async def _answer(process: asyncio.subprocess.Process, exchange: Exchange) -> int:
    """Send what http-backend answers; returns the status, 0 when it gave no (whole) answer."""
    assert process.stdout is not None
    buffer = b""
    while b"\r\n\r\n" not in buffer:
        data = await process.stdout.read(_CHUNK)
        if not data or len(buffer) > _CGI_HEAD_MAX:
            return 0
        buffer += data
    head, _, first = buffer.partition(b"\r\n\r\n")
    status, headers = _cgi_head(head)
    await exchange.start(status, headers, data=first)
    while data := await process.stdout.read(_CHUNK):
        await exchange.write(data)
    if await process.wait():
        return 0  # what was sent may be cut short: the connection must end without its proper end
    await exchange.finish()
    return status


def _cgi_head(head: bytes) -> tuple[int, list[tuple[str, str]]]:
    status, headers = 200, []
    for line in head.decode("latin-1").split("\r\n"):
        name, _, value = line.partition(":")
        name, value = name.strip().lower(), value.strip()
        if name == "status" and value[:3].isdecimal():
            status = int(value[:3])
        elif name in _PASSED:
            headers.append((name, value))
    return status, headers


async def _stderr(process: asyncio.subprocess.Process) -> bytes:
    assert process.stderr is not None
    kept = b""
    while data := await process.stderr.read(4096):
        kept = (kept + data)[:_STDERR_MAX]
    return kept
