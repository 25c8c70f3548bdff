"""Runs the real git for the hub: clean environment, no hooks, no prompts, bounded, killed as a whole.

Only two kinds of repository are ever given to it: the hub's own bare mirrors, and a repository the user
named (read, never written; nothing of its configuration that names a program is in force).
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections.abc import AsyncGenerator, Coroutine, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from msgspec import Struct

from thopter.kit.sanitize import one_line
from thopter.model.errors import ThopterError, TimedOut

_A = TypeVar("_A")
_B = TypeVar("_B")
_STDERR_MAX = 64 * 1024
_STDOUT_MAX = 256 << 20
_CHUNK = 256 * 1024

#: In force for every command: no program named by any configuration runs.
SAFE_CONFIG: tuple[tuple[str, str], ...] = (
    ("core.hooksPath", "/dev/null"),
    ("core.fsmonitor", "false"),
    ("core.askPass", ""),
    ("gc.auto", "0"),
    ("maintenance.auto", "false"),
    ("submodule.recurse", "false"),
    ("fetch.recurseSubmodules", "false"),
    ("protocol.allow", "never"),
    ("advice.detachedHead", "false"),
)


class GitFailed(ThopterError):
    """git ended with an error; ``stderr`` is what it said (hostile text, shortened)."""

    code = "git_failed"

    def __init__(self, what: str, exit_code: int, stderr: str) -> None:
        said = [line for line in stderr.splitlines() if line.strip()]
        telling = [line for line in said if line.startswith(("fatal:", "error:"))] or said[-1:]
        why = one_line(telling[0], 300) if telling else f"exit code {exit_code}"
        super().__init__(f"git {what} failed: {why}")
        self.exit_code_of_git = exit_code
        self.stderr = stderr


class Done(Struct, frozen=True):
    """What a git command said; its exit code was 0 or one of those allowed."""

    code: int
    stdout: bytes
    stderr: str

    @property
    def text(self) -> str:
        """stdout as text, without the last newline."""
        return self.stdout.decode("utf-8", "replace").rstrip("\n")


def base_env(env: Mapping[str, str | None] | None = None) -> dict[str, str]:
    """The environment git runs in: nothing of ours but PATH; no system, user or terminal settings.
    ``env`` overrides; None takes a variable away."""
    clean: dict[str, str | None] = {
        "PATH": os.environ.get("PATH", "/usr/bin:/bin"),
        "HOME": "/nonexistent",
        "LANG": "C.UTF-8",
        "LC_ALL": "C.UTF-8",
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": "/dev/null",
        "GIT_ATTR_NOSYSTEM": "1",
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_ASKPASS": "",
        "SSH_ASKPASS": "",
        "GIT_OPTIONAL_LOCKS": "0",
        "GIT_PROTOCOL_FROM_USER": "0",
        "GIT_NO_REPLACE_OBJECTS": "1",
        "GIT_EDITOR": "false",
        "GIT_PAGER": "cat",
    }
    return {name: value for name, value in (clean | dict(env or {})).items() if value is not None}


def config_env(pairs: Sequence[tuple[str, str]]) -> dict[str, str]:
    """Configuration by environment: strongest of all, and inherited by the programs git starts."""
    out = {"GIT_CONFIG_COUNT": str(len(pairs))}
    for number, (key, value) in enumerate(pairs):
        out[f"GIT_CONFIG_KEY_{number}"] = key
        out[f"GIT_CONFIG_VALUE_{number}"] = value
    return out


class Git:
    """git in one repository (or none). ``env`` and ``config`` come on top of the safe ones; ``fds`` stay
    open in it."""

    def __init__(
        self,
        directory: Path | None,
        *,
        env: Mapping[str, str | None] | None = None,
        config: Sequence[tuple[str, str]] = (),
        fds: Sequence[int] = (),
    ) -> None:
        self._fds = tuple(fds)
        self.directory = directory
        self._env = base_env(env) | config_env([*SAFE_CONFIG, *config])

    async def run(
        self,
        *argv: str,
        stdin: bytes = b"",
        seconds: float = 60.0,
        ok: Sequence[int] = (0,),
        stdout_max: int = _STDOUT_MAX,
    ) -> Done:
        """Run ``git argv``; raises GitFailed for an exit code not in ``ok``, TimedOut (all of its
        processes are then dead)."""
        process = await self._start(argv)
        try:
            async with asyncio.timeout(seconds), asyncio.TaskGroup() as group:
                group.create_task(_feed(process, stdin))
                out = group.create_task(_collect(process.stdout, stdout_max))
                err = group.create_task(_collect(process.stderr, _STDERR_MAX))
            async with asyncio.timeout(seconds):
                code = await process.wait()
        except TimeoutError:
            raise TimedOut(f"git {argv[0]} took longer than {seconds:g} s") from None
        finally:
            await end_group(process)
        stderr = err.result().decode("utf-8", "replace")
        if code not in ok:
            raise GitFailed(argv[0], code, stderr)
        return Done(code, out.result(), stderr)

    async def stream(self, *argv: str, seconds: float = 600.0) -> AsyncGenerator[bytes, None]:
        """Yield stdout as it comes; raises GitFailed at the end when git failed. Close the generator
        (``aclose``) when it is not read to its end."""
        process = await self._start(argv)
        assert process.stdin is not None and process.stdout is not None
        process.stdin.close()
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        try:
            while True:
                # No timeout may stay open across a yield: the reader decides when we go on.
                async with asyncio.timeout_at(deadline):
                    data = await process.stdout.read(_CHUNK)
                if not data:
                    break
                yield data
            async with asyncio.timeout_at(deadline):
                stderr = await _collect(process.stderr, _STDERR_MAX)
                code = await process.wait()
        except TimeoutError:
            raise TimedOut(f"git {argv[0]} took longer than {seconds:g} s") from None
        finally:
            await end_group(process)
        if code:
            raise GitFailed(argv[0], code, stderr.decode("utf-8", "replace"))

    async def _start(self, argv: Sequence[str]) -> asyncio.subprocess.Process:
        where = [] if self.directory is None else ["-C", str(self.directory)]
        try:
            return await asyncio.create_subprocess_exec(
                "git",
                "--no-pager",
                "--literal-pathspecs",
                *where,
                *argv,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=self._env,
                cwd="/",
                start_new_session=True,
                pass_fds=self._fds,
            )
        except FileNotFoundError:
            raise ThopterError(
                "there is no git on this machine", hint="install it: apt install git"
            ) from None


async def both(one: Coroutine[None, None, _A], other: Coroutine[None, None, _B]) -> tuple[_A, _B]:
    """Run two at once; the first error ends both and is raised as itself, not in a group."""
    try:
        async with asyncio.TaskGroup() as group:
            first, second = group.create_task(one), group.create_task(other)
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None
    return first.result(), second.result()


async def _feed(process: asyncio.subprocess.Process, data: bytes) -> None:
    assert process.stdin is not None
    if not data:
        process.stdin.close()
        return
    try:
        process.stdin.write(data)
        await process.stdin.drain()
    except (BrokenPipeError, ConnectionResetError):
        return  # it ended without reading all; its exit code says why
    except RuntimeError:
        if not process.stdin.is_closing() and process.returncode is None:
            raise  # uvloop raises this one for a pipe that the other side has closed
    finally:
        process.stdin.close()


async def _collect(stream: asyncio.StreamReader | None, limit: int) -> bytes:
    """Read to the end; keeps ``limit`` bytes at most, reads on so that git never blocks."""
    assert stream is not None
    parts: list[bytes] = []
    size = 0
    while data := await stream.read(_CHUNK):
        if size < limit:
            parts.append(data[: limit - size])
            size += len(data)
    return b"".join(parts)


async def end_group(process: asyncio.subprocess.Process, grace: float = 2.0) -> None:
    """End the process with all it has started: TERM first, so that git removes its temporary files and
    locks, then KILL. Waits until the process itself is reaped."""
    if process.returncode is not None:
        _signal_group(process.pid, signal.SIGKILL)  # what it may have left running
        return
    _signal_group(process.pid, signal.SIGTERM)
    try:
        async with asyncio.timeout(grace):
            await process.wait()
    except TimeoutError:
        pass
    finally:
        _signal_group(process.pid, signal.SIGKILL)
    await process.wait()


def _signal_group(group: int, number: signal.Signals) -> None:
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        return  # nobody left: what was wanted
