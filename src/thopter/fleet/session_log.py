"""What happened in a thopter, to be read later: its conversation and its making, also when it is gone."""

from __future__ import annotations

import asyncio
import logging
import os
import resource
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec

from thopter.fleet import transcripts
from thopter.fleet.deps import Deps
from thopter.fleet.views import log_line
from thopter.kit.threads import finish
from thopter.model.api.log import LogLine, LogLines
from thopter.model.errors import NotFound, ThopterError, TimedOut
from thopter.model.events import Event
from thopter.store.events import EventFilter

_PAGE = 500
_EVENTS = 2000
log = logging.getLogger(__name__)

_PAGE_SECONDS = 120.0
_PAGE_CPU = 100
_PAGE_MEMORY = 3 << 30
_PAGE_SIZE = 512 << 20
_DAY_MS = 86_400_000
_PRUNE_S = 6 * 3600.0
_NOISE = ("entry",)  # the conversation is read by other means


class SessionLogs:
    """One per hub. Pages are made one at a time and kept until there is more to say."""

    def __init__(self, deps: Deps) -> None:
        self._deps = deps
        self._making = asyncio.Lock()

    async def keep_house(self) -> None:
        """Forget, now and then, thopters that are long gone, their transcripts too."""
        while True:
            days = int(self._deps.settings.get("hub.keep_days"))
            if days:
                await self.forget(self._deps.clock.now_ms() - days * _DAY_MS)
            await self._deps.clock.sleep(_PRUNE_S)

    async def forget(self, before_ms: int) -> None:
        """Forget what went before then. A hub that ends in the middle does the rest the next time."""
        store = self._deps.store
        while forgotten := await store.gone.forget(before_ms):
            log.info("forgot %s", ", ".join(forgotten))
        while await store.gone.events(before_ms):
            await self._deps.clock.sleep(0.1)  # others want to write too
        keep = {str(run.id) for run in (await store.runs.latest()).values()}
        await finish(transcripts.prune, self._deps.paths.state, keep, before_ms)

    async def entries(self, name: str) -> AsyncIterator[bytes]:
        """Every entry of the conversation, one JSON object a line."""
        box = await self._deps.store.boxes.find_any(name)
        encode = msgspec.json.Encoder().encode
        for run in await self._deps.store.runs.of_box(box.id):
            after = 0
            while True:
                page = await self._deps.store.entries.page(run.id, after, _PAGE)
                if page.entries:
                    yield b"".join(encode(e) + b"\n" for e in page.entries)
                if len(page.entries) < _PAGE:
                    break
                after = page.next

    async def raw(self, name: str) -> AsyncIterator[bytes]:
        """The transcripts as the agent wrote them, one file after the other."""
        folder = await self._folder(name)
        pieces = transcripts.lines_of(folder)
        while (piece := await finish(next, pieces, None)) is not None:
            yield piece

    async def page(self, name: str, refresh: int) -> AsyncIterator[bytes]:
        """The conversation as one page of HTML that fetches nothing and runs nothing of a box's."""
        box = await self._deps.store.boxes.find_any(name)
        folder = await self._folder(name)
        async with self._making:
            path = await self._made(folder, box.name, refresh)
            data = await finish(path.read_bytes)
        for at in range(0, len(data), 1 << 18):
            yield data[at : at + (1 << 18)]

    async def steps(self, name: str) -> LogLines:
        """What the hub did with it: how it was made, its states, notes, its end."""
        box = await self._deps.store.boxes.find_any(name)
        flow = str(box.memory.get("flow") or "")
        found = await self._events(EventFilter(box=box.id, without=_NOISE))
        found += await self._events(EventFilter(flow=flow, without=_NOISE)) if flow else []
        events = {e.seq: e for e in found}
        return LogLines(lines=[_line(events[seq]) for seq in sorted(events)], box=box.id, flow=flow)

    async def _events(self, want: EventFilter) -> list[Event]:
        return (await self._deps.store.events.newest(_EVENTS, want)).events

    async def _folder(self, name: str) -> Path:
        box = await self._deps.store.boxes.find_any(name)
        for run in reversed(await self._deps.store.runs.of_box(box.id)):
            folder = transcripts.folder_of(self._deps.paths.state, run.id)
            if await finish(_has_any, folder):
                return folder
        raise NotFound(
            f"{box.name} has no transcript yet", hint=f"see 'thopter status {box.name}', 'thopter logs'"
        )

    async def _made(self, folder: Path, title: str, refresh: int) -> Path:
        stamp = await finish(transcripts.stamp, folder)
        pages = self._deps.paths.state / "pages"
        await finish(lambda: pages.mkdir(mode=0o700, exist_ok=True))
        path = pages / f"{folder.name}-{stamp}-{refresh}.html"
        if not path.exists():
            await finish(_forget, pages, folder.name)
            await _convert(folder, path, title, refresh)
        return path


async def _convert(folder: Path, path: Path, title: str, refresh: int) -> None:
    argv = [sys.executable, "-m", "thopter.fleet.log_page", str(folder), str(path), title, str(refresh)]
    env = {
        "PATH": "/nonexistent", "HOME": "/nonexistent", "LANG": "C.UTF-8", "GIT_PYTHON_REFRESH": "quiet",
        "CLAUDE_CODE_LOG_RENDER_JOBS": "1", "PYTHONPATH": os.pathsep.join(p for p in sys.path if p),
    }  # fmt: skip
    process = await asyncio.create_subprocess_exec(
        *argv, env=env, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE, start_new_session=True,
    )  # fmt: skip
    for what, most in (
        (resource.RLIMIT_CPU, _PAGE_CPU),
        (resource.RLIMIT_AS, _PAGE_MEMORY),
        (resource.RLIMIT_FSIZE, _PAGE_SIZE),
    ):
        resource.prlimit(process.pid, what, (most, most))
    try:
        async with asyncio.timeout(_PAGE_SECONDS):
            _, said = await process.communicate()
    except TimeoutError:
        raise TimedOut(
            "the page took too long to make", hint="the text is there: 'thopter log NAME' without --html"
        ) from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode != 0 or not path.exists():
        last = (said.decode(errors="replace").strip().splitlines() or ["it gave no reason"])[-1]
        raise ThopterError(
            f"the page could not be made: {last[:300]}", hint="'thopter log NAME' has the text"
        )


def _has_any(folder: Path) -> bool:
    return folder.is_dir() and bool(transcripts.files_of(folder))


def _forget(pages: Path, run: str) -> None:
    for old in pages.glob(f"{run}-*.html"):
        old.unlink(missing_ok=True)


def _line(event: Event) -> LogLine:
    return LogLine(seq=event.seq, at_ms=event.at_ms, kind=event.kind, text=log_line(event))
