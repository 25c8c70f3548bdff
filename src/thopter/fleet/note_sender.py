"""Sends what is in the outbox of notes: claimed, tried, and tried again with growing pauses for a day.

A note is sent at least once: a hub killed after the other side took it and before that was recorded
sends it again. Nothing waits for a sending but the sending itself.
"""

from __future__ import annotations

import asyncio
import logging

from msgspec import structs

from thopter.fleet.deps import Deps
from thopter.fleet.push_devices import PREFIX, PushDevices
from thopter.kit import failpoint
from thopter.model.errors import ThopterError
from thopter.model.events import Event
from thopter.model.notes import Letter, Note, NoteKind, Pushed, Send

log = logging.getLogger(__name__)

WORKERS = 3
LEASE_MS = 120_000  # longer than any attempt takes
GIVE_UP_MS = 86_400_000
_PAUSES_S = (5, 15, 60, 300, 900, 1800)
_LATE_MS = 120_000
_LOOK_S = 30.0
_TROUBLE_S = 5.0


class Sender:
    """One per hub; ``run`` is spawned :data:`WORKERS` times."""

    def __init__(self, deps: Deps, devices: PushDevices) -> None:
        self._deps = deps
        self._devices = devices
        self._news = asyncio.Event()

    def wake(self) -> None:
        """Something was queued or settled: look now."""
        old, self._news = self._news, asyncio.Event()
        old.set()

    async def news(self, seconds: float) -> None:
        """Wait for that, at most ``seconds``."""
        await _wait(self._news, seconds)

    async def run(self) -> None:
        """Send, for ever. A store that has no room is waited for."""
        while True:
            try:
                await self._round()
            except ThopterError as e:
                log.warning("notes can't be sent now: %s", e.message)
                await self._deps.clock.sleep(_TROUBLE_S)

    async def _round(self) -> None:
        notes, clock = self._deps.store.notes, self._deps.clock
        news = self._news  # before looking: what comes meanwhile is not missed
        for send, note in await notes.due(clock.now_ms()):
            now = clock.now_ms()
            if await notes.claim(send, now, now + LEASE_MS):
                await self._try(structs.replace(send, attempts=send.attempts + 1), note)
                return
        due = await notes.next_due()
        wait = _LOOK_S if due is None else (due - clock.now_ms()) / 1000
        await _wait(news, min(max(wait, 0.05), _LOOK_S))

    async def _try(self, send: Send, note: Note) -> None:
        letter = _dated(note, self._deps.clock.now_ms())
        failpoint.hit("notes.claimed")
        if send.target.startswith(PREFIX):
            pushed = await self._devices.post(send.target, note, letter)
        else:
            pushed = Pushed(problem=await self._deps.postman.post(send.target, note.kind, letter))
        failpoint.hit("notes.posted")
        problem, now = pushed.problem, self._deps.clock.now_ms()
        if pushed.gone:  # nobody's fault, and nothing to tell
            await self._deps.store.notes.settle(structs.replace(send, state="given_up", problem=problem))
            self.wake()
            return
        settled = after(send, note, problem, now)
        events = []
        if settled.state == "given_up" and note.kind is not NoteKind.TEST:
            log.warning("note %r was given up for %s: %s", note.letter.title, send.target, problem)
            said = f"not delivered to {send.target}: {problem}"
            events = [
                Event(
                    kind="note", at_ms=now, box=note.box, run=note.run, data={"name": note.name, "text": said}
                )
            ]
        elif problem and send.attempts == 1:
            log.warning("note %r did not reach %s yet: %s", note.letter.title, send.target, problem)
        await self._deps.store.notes.settle(settled, *events)
        self.wake()


async def _wait(news: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await news.wait()
    except TimeoutError:
        return


def after(send: Send, note: Note, problem: str, now_ms: int) -> Send:
    """What becomes of a sending whose attempt ended with ``problem`` ("" when it was taken).

    A test is tried once: somebody is waiting for its answer."""
    if not problem:
        return structs.replace(send, state="sent", problem="", sent_ms=now_ms)
    pause = _PAUSES_S[min(send.attempts, len(_PAUSES_S)) - 1] * 1000
    over = note.kind is NoteKind.TEST or now_ms + pause > note.created_ms + GIVE_UP_MS
    return structs.replace(
        send, state="given_up" if over else "queued", problem=problem, next_ms=now_ms + pause
    )


def _dated(note: Note, now_ms: int) -> Letter:
    """A note that comes late says so."""
    late = now_ms - note.created_ms
    if late < _LATE_MS:
        return note.letter
    minutes = late // 60_000
    age = f"{minutes} min" if minutes < 120 else f"{minutes // 60} h"
    return structs.replace(note.letter, title=f"{note.letter.title} ({age} ago)")
