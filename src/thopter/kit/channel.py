"""BoxLink: everything the hub asks of one box's boxd, over one byte stream (boxd/wire.py)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from thopter.boxd import wire
from thopter.kit.boxmux import Mux, MuxChannel, clean
from thopter.kit.boxstreams import BoxStream, ExecResult, ExecStream, LinePieces
from thopter.kit.tasks import Background
from thopter.model.errors import ProviderError, ThopterError, TimedOut

__all__ = ["BoxLink", "BoxStream", "ExecResult", "ExecStream"]

OP_TIMEOUT = 30.0  # seconds for an answer of boxd itself; a frozen box gives none
_GRACE = 15.0  # seconds on top of what an op is allowed to take inside the box
_HINT = "a frozen box answers nothing until it is thawed"
T = TypeVar("T")


class BoxLink:
    """The open connection to one box. All methods may be used concurrently.

    Errors: NotFound, Conflict, NotNow, Unsupported, BadInput as boxd says, otherwise
    ProviderError; TimedOut when boxd does not answer. When the connection is lost every pending
    call raises ProviderError at once, and so does every later one.
    """

    def __init__(self, mux: Mux, facts: dict[str, Any]) -> None:
        self._mux = mux
        self.facts = facts  # what boxd said in hello: version, boot, pid, hook_port, ops, …

    @classmethod
    @asynccontextmanager
    async def connect(
        cls, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, timeout: float = 10.0
    ) -> AsyncIterator[BoxLink]:
        """Say hello and hold the connection while the block runs; it is closed afterwards.

        Raises TimedOut without an answer, Unsupported for another protocol. Errors of the block
        come out as they are (not as a group). To be left by the task that entered it.
        """
        mux = Mux(reader, writer)
        async with Background() as background:
            background.spawn(mux.run())
            try:
                facts = await mux.ask({"op": "hello", "protocol": wire.PROTOCOL}, timeout)
                if facts.get("protocol") != wire.PROTOCOL:
                    raise ProviderError("boxd gave no usable answer to hello")
                yield cls(mux, facts)
            finally:
                mux.close()

    async def hello(self) -> dict[str, Any]:
        """What boxd says of itself now."""
        return await self._mux.ask({"op": "hello", "protocol": wire.PROTOCOL}, OP_TIMEOUT)

    async def lost(self) -> None:
        """Wait until the connection is lost."""
        await self._mux.lost.wait()

    @property
    def is_lost(self) -> bool:
        """True once the connection is lost."""
        return self._mux.lost.is_set()

    def close(self) -> None:
        """End the connection; everything pending fails."""
        self._mux.close("closed")

    async def ping(self, timeout: float = OP_TIMEOUT) -> int:
        """boxd's wall time in ms; TimedOut when it does not answer."""
        answer = await self._mux.ask({"op": "ping"}, timeout)
        at = answer.get("time_ms")
        return at if isinstance(at, int) else 0

    async def call(self, op: str, timeout: float = OP_TIMEOUT, **fields: Any) -> dict[str, Any]:
        """One request, one answer; cancelled in the box when we are, or when the time is over."""
        with self._mux.open({"op": op, **fields}) as channel:
            return await _bounded(channel.result(), timeout, op)

    # ------------------------------------------------------------------------------- commands

    @asynccontextmanager
    async def open_exec(
        self,
        argv: Sequence[str],
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        pty: tuple[int, int] | None = None,
        stdin: bool = True,
        merge: bool = False,
        timeout: float | None = None,
        more_env: Mapping[str, str] | None = None,
    ) -> AsyncIterator[ExecStream]:
        """Start a command; it is killed when the block is left before its end.

        ``argv`` is given exactly; stray bytes as surrogate escapes. ``env`` None means the box's
        default and ``more_env``, otherwise exactly those. ``pty`` is (rows, cols). ``timeout`` (s) kills it.
        """
        request: dict[str, Any] = {"op": "exec", "argv": list(argv), "stdin": stdin, "merge": merge}
        request |= {"env": None if env is None else dict(env), "more_env": dict(more_env or {})}
        if cwd:
            request["cwd"] = cwd
        if pty is not None:
            request["pty"] = {"rows": pty[0], "cols": pty[1]}
        if timeout is not None:
            request["timeout_ms"] = max(1, int(timeout * 1000))
        with self._mux.open(request) as channel:
            stream = ExecStream(channel)
            await _bounded(stream.begin(), OP_TIMEOUT, "exec")
            yield stream

    async def exec(
        self,
        argv: Sequence[str],
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        stdin: bytes | None = None,
        timeout: float | None = None,
        output_cap: int = 16 << 20,
    ) -> ExecResult:
        """Run a command to its end. At most ``output_cap`` bytes of each stream are kept. After
        ``timeout`` s the box kills it (``timed_out``); TimedOut if even that does not happen."""
        kept: dict[int, list[bytes]] = {wire.STDOUT: [], wire.STDERR: []}
        left = {wire.STDOUT: output_cap, wire.STDERR: output_cap}
        truncated = False

        async def collect(stream: ExecStream) -> None:
            nonlocal truncated
            async for number, data in stream:
                if number in kept and data:
                    room = max(0, left[number])
                    left[number] -= len(data)
                    truncated = truncated or len(data) > room
                    if room:
                        kept[number].append(data[:room])

        async with self.open_exec(argv, env, cwd, stdin=stdin is not None, timeout=timeout) as stream:
            if stdin is not None:
                stream.post(stdin)
            limit = None if timeout is None else timeout + _GRACE
            await _bounded(collect(stream), limit, argv[0])
            how, number = await stream.wait()
            return ExecResult(
                stdout=b"".join(kept[wire.STDOUT]),
                stderr=b"".join(kept[wire.STDERR]),
                exit=number if how == "exit" else None,
                signal=number if how == "signal" else None,
                timed_out=stream.timed_out,
                truncated=truncated,
            )

    async def procs(self) -> list[dict[str, Any]]:
        """What runs in the box: ``{pid, ppid, comm, args, rss, cpu_ms}`` each."""
        return _dicts((await self.call("procs")).get("procs"))

    # ---------------------------------------------------------------------------------- files

    async def put(
        self, path: str, content: bytes, mode: int = 0o644, mkdirs: bool = True, timeout: float = 300.0
    ) -> int:
        """Write a file atomically and durably; return its size."""

        async def whole() -> AsyncIterator[bytes]:
            yield content

        return await _bounded(self._put(path, whole(), mode, mkdirs, len(content)), timeout, "put")

    async def put_stream(
        self, path: str, chunks: AsyncIterator[bytes], mode: int = 0o644, mkdirs: bool = True
    ) -> int:
        """Like :meth:`put` from a stream; when that raises, the file is left as it was."""
        return await self._put(path, chunks, mode, mkdirs, None)

    async def _put(
        self, path: str, chunks: AsyncIterator[bytes], mode: int, mkdirs: bool, size: int | None
    ) -> int:
        request: dict[str, Any] = {"op": "put", "path": path, "mode": mode, "mkdirs": mkdirs}
        if size is not None:
            request["size"] = size
        with self._mux.open(request) as channel:
            async for chunk in chunks:
                await channel.write(chunk)
                if channel.finished:  # an error: the disk is full, …
                    break
            channel.post_eof()
            written = (await channel.result()).get("size")
            return written if isinstance(written, int) else 0

    async def fetch(self, path: str, offset: int = 0, limit: int = 64 << 20, timeout: float = 300.0) -> bytes:
        """At most ``limit`` bytes of a regular file from ``offset``."""

        async def read() -> bytes:
            content = bytearray()
            async for chunk in self.fetch_stream(path, offset, limit):
                content += chunk
                if len(content) > limit:
                    raise ProviderError("boxd sent more than was asked for")
            return bytes(content)

        return await _bounded(read(), timeout, "fetch")

    async def fetch_stream(self, path: str, offset: int = 0, limit: int = -1) -> AsyncIterator[bytes]:
        """A regular file, piece by piece."""
        request = {"op": "fetch", "path": path, "offset": offset, "limit": limit}
        with self._mux.open(request) as channel:
            while (item := await channel.next()) is not None:
                if isinstance(item, wire.Data):
                    yield item.data

    async def stat(self, path: str) -> dict[str, Any]:
        """``{kind, size, mode, mtime_ms}``; a symlink is not followed."""
        return await self.call("stat", path=path)

    async def read_files(self, root: str, glob: str, most: int = 100) -> list[dict[str, Any]]:
        """Small files below ``root``: ``{file, content, mtime_ms}`` each (``truncated`` when cut at
        256 KiB). Content keeps stray bytes as surrogate escapes."""
        request = {"op": "read_files", "root": root, "glob": glob, "max": most}

        async def read() -> list[dict[str, Any]]:
            with self._mux.open(request, counted=True) as channel:
                found = [body async for body in _messages(channel)]
            texts = [b for b in found if isinstance(b.get("file"), str) and isinstance(b.get("content"), str)]
            return [clean(b, exact=True) for b in texts[:most]]

        return await _bounded(read(), OP_TIMEOUT, "read_files")

    # ------------------------------------------------------------------------- terminal and runs

    async def tmux_start(
        self,
        session: str,
        argv: Sequence[str],
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        cols: int = 200,
        rows: int = 50,
    ) -> None:
        """Start a session that runs ``argv``; Conflict when it exists."""
        environment = None if env is None else dict(env)
        fields: dict[str, Any] = {
            "argv": list(argv), "env": environment, "cwd": cwd, "cols": cols, "rows": rows,
        }  # fmt: skip
        await self.call("tmux.start", session=session, **fields)

    async def tmux_keys(self, target: str, steps: Sequence[Mapping[str, Any]]) -> None:
        """Type steps ``{text | paste | keys, pause_ms}`` one after the other, never mixed with
        another call's. NotNow when the pane's program has ended."""
        pauses = sum(p for s in steps if isinstance(p := s.get("pause_ms", 0), int)) / 1000
        await self.call("tmux.keys", OP_TIMEOUT + pauses, target=target, steps=[dict(s) for s in steps])

    async def tmux_capture(self, target: str, history: int = 0) -> dict[str, Any]:
        """``{screen, cursor, dead, title, pid, command}``; ``truncated`` when its oldest part had to
        be left out."""
        return await self.call("tmux.capture", target=target, history=history)

    async def tmux_list(self) -> list[dict[str, Any]]:
        """The sessions and their panes; none without a server."""
        return _dicts((await self.call("tmux.list")).get("sessions"))

    async def run_start(
        self,
        run: str,
        argv: Sequence[str],
        env: Mapping[str, str] | None,
        cwd: str,
        cols: int = 200,
        rows: int = 50,
        session: str = "agent",
        settle_ms: int = 300,
    ) -> int:
        """Start an agent in its terminal, once per ``run``; return its pid.

        ProviderError with ``data["screen"]`` and ``data["exit"]`` or ``data["signal"]`` when it
        ended within ``settle_ms`` (or has ended since, for a repeated call).
        """
        environment = None if env is None else dict(env)
        fields: dict[str, Any] = {
            "argv": list(argv), "env": environment, "cwd": cwd, "cols": cols, "rows": rows,
        }  # fmt: skip
        timeout = OP_TIMEOUT + settle_ms / 1000
        answer = await self.call(
            "run.start", timeout, run=run, session=session, settle_ms=settle_ms, **fields
        )
        pid = answer.get("pid")
        if not isinstance(pid, int):
            raise ProviderError("boxd did not say which process the agent is")
        return pid

    async def run_stop(self, run: str, grace_ms: int = 5000) -> dict[str, Any]:
        """End an agent and all it started: ``{exit}``, ``{signal}`` or ``{lost: true}``."""
        return await self.call("run.stop", OP_TIMEOUT + grace_ms / 1000, run=run, grace_ms=grace_ms)

    async def run_inherit(self, run: str, was: str) -> int:
        """Let the run ``was``, whose processes were forked into this box, go on as ``run``; its pid."""
        return int((await self.call("run.inherit", OP_TIMEOUT, run=run, was=was))["pid"])

    async def hook_answer(self, hook: str, status: int = 200, body: str = "") -> None:
        """Answer a held hook; NotFound when it does not wait any more."""
        await self.call("hook.answer", id=hook, status=status, body=body)

    # ---------------------------------------------------------------------------------- streams

    async def journal(
        self, after: int = 0, follow: bool = False, kinds: Sequence[str] | None = None
    ) -> AsyncIterator[dict[str, Any]]:
        """Records after a number: ``{seq, at_ms, kind, …}``, gaps as ``{kind: "gap", first, last,
        count}`` (``reset`` when the journal was lost and starts over). With ``follow`` it goes on
        until the connection is lost. ``body`` keeps stray bytes as surrogate escapes."""
        request = {"op": "journal", "after": after, "follow": follow}
        request["kinds"] = None if kinds is None else list(kinds)
        with self._mux.open(request, counted=True) as channel:
            async for body in _messages(channel):
                record = body.get("rec")
                if isinstance(record, dict) and isinstance(record.get("kind"), str):
                    yield {k: clean(v, exact=k == "body") for k, v in record.items()}

    async def tail(
        self, root: str, glob: str, cursors: Mapping[str, int] | None = None, follow: bool = False
    ) -> AsyncIterator[dict[str, Any]]:
        """Complete lines of files below ``root``: ``{file, offset, lines, truncated}`` where
        ``offset`` is the cursor behind them, and ``{reset: file}`` when a file began anew. Lines
        keep stray bytes as surrogate escapes; one longer than 8 MiB is cut (``truncated``)."""
        request = {"op": "tail", "root": root, "glob": glob, "cursors": dict(cursors or {}), "follow": follow}
        pieces = LinePieces()
        with self._mux.open(request, counted=True) as channel:
            async for body in _messages(channel):
                whole = pieces.take(body)
                if whole is not None:
                    yield whole

    # ----------------------------------------------------------------------------------- relays

    @asynccontextmanager
    async def dial(self, port: int, host: str = "127.0.0.1") -> AsyncIterator[BoxStream]:
        """Connect to a port inside the box; NotNow when nobody listens there."""
        with self._mux.open({"op": "dial", "port": port, "host": host}) as channel:
            await _bounded(channel.next(), OP_TIMEOUT + _GRACE, "dial")
            yield BoxStream(channel, serving=False)

    async def listen(
        self,
        port: int,
        handler: Callable[[BoxStream], Awaitable[None]],
        ready: Callable[[int], None] | None = None,
    ) -> None:
        """Listen on a loopback port inside the box and call ``handler`` for each connection, until
        cancelled or the connection is lost (ProviderError). ``ready(port)`` is called once it
        listens. A handler that raises ThopterError or OSError ends its own connection only."""

        async def serve(channel: MuxChannel) -> None:
            with channel:
                async with BoxStream(channel, serving=True) as stream:
                    try:
                        await handler(stream)
                    except (ThopterError, OSError):
                        return  # its connection ends here; the listener goes on

        def accept(channel: MuxChannel) -> None:
            work = serve(channel)
            try:
                background.spawn(work)
            except RuntimeError:  # the group is about to end: an error of another handler
                work.close()
                channel.finish()

        with self._mux.open({"op": "listen", "port": port}) as listening:
            async with Background() as background:
                self._mux.accept[listening.number] = accept
                try:
                    async for body in _messages(listening):
                        told = body.get("listening")
                        at = told.get("port") if isinstance(told, dict) else None
                        if ready is not None and isinstance(at, int):
                            ready(at)
                finally:
                    del self._mux.accept[listening.number]


async def _bounded(work: Awaitable[T], seconds: float | None, what: str) -> T:
    try:
        async with asyncio.timeout(seconds):
            return await work
    except TimeoutError:
        raise TimedOut(f"the box's boxd did not finish {what!r} in {seconds:g} s", hint=_HINT) from None


async def _messages(channel: MuxChannel) -> AsyncIterator[dict[str, Any]]:
    while (item := await channel.next()) is not None:
        if isinstance(item, wire.Message):
            yield item.body


def _dicts(value: Any) -> list[dict[str, Any]]:
    return [v for v in value if isinstance(v, dict)] if isinstance(value, list) else []
