"""What the hub's shell needs of a thopter's work: words, screen, files, branch, commands in its box."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Literal, Protocol

from thopter.model.api import DiffResult, PullInfo, TranscriptPage
from thopter.model.api.changes import ChangeList, FileDiff


class ExecSession(Protocol):
    """One command under way in a box. Iterating it yields ``(stream, data)``, stream 1 or 2, until
    all output has been read; not iterating holds the command back."""

    def __aiter__(self) -> AsyncIterator[tuple[int, bytes]]:
        """Output in order of arrival, at most 1 MiB an item."""

    async def write(self, data: bytes) -> None:
        """Give it input; waits until there is room. What it can't take any more (it closed its
        input, or ended) is dropped."""

    async def eof(self) -> None:
        """End its input; output goes on."""

    async def resize(self, rows: int, cols: int) -> None:
        """Tell its terminal the new size; without a terminal nothing happens."""

    async def signal(self, name: str) -> None:
        """Send it a signal by name without ``SIG``; ended already: nothing happens."""

    async def wait(self) -> tuple[Literal["exit", "signal"], int]:
        """How it ended. Called after the output has been read."""


class WorksPort(Protocol):
    """The use cases. ``name`` may be a unique prefix. Async generators raise their first error before
    they yield anything."""

    async def transcript(self, name: str, after: int, limit: int, last: int) -> TranscriptPage:
        """Entries after a cursor, or the last ones when ``last`` is not 0."""

    async def screen(self, name: str) -> str:
        """The agent's pane as plain text."""

    async def diff(self, name: str, checkout: str) -> DiffResult:
        """What changed since the base; ``checkout`` names another repository than the main one."""

    async def changes(self, name: str, checkout: str) -> ChangeList:
        """Which files changed since the base."""

    async def change(self, name: str, checkout: str, file: str, context: int) -> FileDiff:
        """What changed in one of them; ``file`` is its id from that list."""

    async def pull(self, name: str, wip: bool, checkout: str) -> PullInfo:
        """Bring the work into the mirror."""

    def bundle(self, name: str, checkout: str) -> AsyncIterator[bytes]:
        """The pulled work as a git bundle."""

    def exec(
        self,
        name: str,
        argv: Sequence[str],
        env: Mapping[str, str] | None,
        cwd: str | None,
        pty: tuple[int, int] | None,
        stdin: bool,
    ) -> AbstractAsyncContextManager[ExecSession]:
        """Start a command on entering; ``pty`` is rows and columns. Leaving the context ends it,
        unless the fleet knows it as an attach."""

    async def put(self, name: str, path: str, body: AsyncIterator[bytes]) -> int:
        """Write a file atomically; returns its size. A body that raises leaves the old file."""

    def fetch(self, name: str, path: str) -> AsyncIterator[bytes]:
        """Read a file."""
