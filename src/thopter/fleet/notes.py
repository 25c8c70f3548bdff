"""Notes to people: decides them from the event log and from silence, and answers about them.

The log is read from a stored place: a note and the place behind its event are recorded together, so
a hub that is killed at any moment decides every event once. Silence (stuck, unknown) makes no event;
it is looked for now and then, and its key in the store keeps it from ringing twice.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

from thopter.fleet import note_rules
from thopter.fleet.deps import Deps, request_mark
from thopter.fleet.disk_guard import HELD
from thopter.fleet.live import LiveBox
from thopter.fleet.note_rules import Ring, Situation
from thopter.fleet.note_sender import GIVE_UP_MS, WORKERS, Sender
from thopter.fleet.push_devices import PushDevices
from thopter.fleet.views import ALIVE_WITHIN_MS
from thopter.model.api.notes import MuteRequest, NoteView, NotifyState, TestRequest
from thopter.model.api.notes import Notes as NotePage
from thopter.model.errors import NotFound, ThopterError
from thopter.model.events import Event
from thopter.model.ids import new_id
from thopter.model.notes import Note, NoteKind
from thopter.model.nouns import BoxState, Run, RunState, WaitReason
from thopter.store.events import EventFilter

log = logging.getLogger(__name__)

LOOK_S = 5.0
_WANT = EventFilter(kinds=("run.state", "run.budget"))
_TROUBLE_S = 5.0
_PAGE = 200
_KEPT_MS = 30 * 86_400_000
_FORGET_EVERY_MS = 3_600_000
_TOLD_MS = 2 * GIVE_UP_MS  # a note is given up after a day: that is told for another
Spawn = Callable[[str, Coroutine[Any, Any, Any]], object]


class Notes:
    """One per hub. ``live`` are the boxes looked after now, by id."""

    def __init__(self, deps: Deps, live: Mapping[str, LiveBox]) -> None:
        self._deps = deps
        self._live = live
        self.devices = PushDevices(deps)
        self._sender = Sender(deps, self.devices)
        self._rung: set[str] = set()  # keys the store has already; only saves writes
        self._forgot_ms = 0

    async def start(self, spawn: Spawn) -> None:
        """Begin to watch, look and send, until the fleet stops. What an earlier hub had in hand, or
        was waiting to try again, is tried at once."""
        await self._deps.store.notes.hurry(self._deps.clock.now_ms())
        spawn("notes: events", self._always(self._watch))
        spawn("notes: silence", self._always(self._look))
        for _ in range(WORKERS):
            spawn("notes: sending", self._sender.run())

    async def _always(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        while True:
            try:
                await work()
            except ThopterError as e:
                log.warning("notes: %s", e.message)
                await self._deps.clock.sleep(_TROUBLE_S)

    # ------------------------------------------------------------------------------ deciding

    async def _watch(self) -> None:
        """Decide every event after the stored place, once."""
        store = self._deps.store
        after = await store.notes.cursor()
        page = await store.events.read(after, _PAGE, _WANT)
        for event in page.events:
            await self._event(event)
        await store.notes.move(page.upto)
        if len(page.events) < _PAGE:
            await self._next(page.upto)

    async def _next(self, seen: int) -> None:
        """Wait for an event after ``seen`` that may matter."""
        events = self._deps.store.events
        while True:
            page = await events.read(seen, 1, _WANT)
            if page.events:
                return
            seen = page.upto
            await events.changed(seen)

    async def _event(self, event: Event) -> None:
        try:
            run = await self._deps.store.runs.get(event.run)
        except NotFound:
            return
        if await self._deps.store.pools.holds(event.box):
            return  # a warm box is nobody's yet
        if event.kind == "run.budget":
            found: Ring | None = await self._budget(event)
        else:
            found = await self._state(event, run)
        if found is not None:
            budget = event.kind == "run.budget"
            detail = str(event.data.get("text", "")) if budget else ""
            what = note_rules.BUDGET_WHAT.get(str(event.data.get("level")), "") if budget else ""
            await self._record(found, run, str(event.data.get("name", "")), detail, event.seq, what)

    async def _state(self, event: Event, run: Run) -> Ring | None:
        try:
            state = RunState(str(event.data.get("state")))
            reason = WaitReason(str(event.data["reason"])) if event.data.get("reason") else None
        except ValueError:
            return None  # an event of another version
        live = self._live.get(event.box)
        evidence = live.evidence if live is not None else []
        situation = Situation(
            run=run.id,
            at_ms=event.at_ms,
            state=state,
            reason=reason,
            since_ms=int(event.data.get("since_ms") or event.at_ms),
            recorded_ms=event.at_ms,
            prompted_ms=note_rules.prompted_ms(evidence),
            people=live.people if live is not None else 0,
            muted=await self._muted(event.box),
            over=(run.state, run.reason) != (state, reason),
        )
        return note_rules.ring(situation, note_rules.rules_of(self._deps.settings))

    async def _budget(self, event: Event) -> Ring | None:
        wanted = NoteKind.BUDGET in note_rules.rules_of(self._deps.settings).on
        if event.data.get("level") == "raised" or not wanted:
            return None
        held = "muted" if await self._muted(event.box) else ""
        return Ring(NoteKind.BUDGET, f"{event.run}:budget:{event.seq}", held)

    async def _look(self) -> None:
        """Look for silence in every box, and forget what is old."""
        now = self._deps.clock.now_ms()
        rules = note_rules.rules_of(self._deps.settings)
        for live in list(self._live.values()):
            if live.run is None or live.pooled:
                continue
            situation = Situation(
                run=live.run.id,
                at_ms=now,
                state=live.run.state,
                reason=live.run.reason,
                since_ms=live.run.changed_ms,
                recorded_ms=live.run.changed_ms,
                shown_ms=note_rules.shown_ms(live.evidence),
                box_state=live.box.state,
                answers=now - live.alive_ms <= ALIVE_WITHIN_MS,
                people=live.people,
            )
            found = note_rules.ring(situation, rules)
            if found is None or found.kind not in (NoteKind.STUCK, NoteKind.UNKNOWN):
                continue  # the rest is told by events
            if found.key not in self._rung:
                if not found.held and await self._muted(live.box.id):
                    found = Ring(found.kind, found.key, "muted")
                await self._record(found, live.run, live.box.name, "", 0)
                self._rung.add(found.key)
        await self._look_at_disk(rules)
        if now - self._forgot_ms > _FORGET_EVERY_MS:
            await self._deps.store.notes.forget(now - _KEPT_MS)
            self._forgot_ms = now
        await self._deps.clock.sleep(LOOK_S)

    async def _look_at_disk(self, rules: note_rules.Rules) -> None:
        """One note for all that stand still for want of disk, named after the first of them."""
        held = [
            (live.box.changed_ms, live.box.name, live.run, live.box)
            for live in self._live.values()
            if live.run is not None and not live.pooled
            if live.box.state is BoxState.FROZEN and live.box.problem == HELD
        ]
        if not held or NoteKind.DISK not in rules.on:
            return
        since, name, run, box = min(held, key=lambda h: h[:2])
        key = f"disk:{since}"
        if key in self._rung:
            return
        muted = "muted" if await self._muted(box.id) else ""
        what = f"and {len(held) - 1} more stand still" if len(held) > 1 else ""
        await self._record(Ring(NoteKind.DISK, key, muted), run, name, HELD, 0, what)
        self._rung.add(key)

    async def _muted(self, box: str) -> bool:
        muted = await self._deps.store.notes.muted()
        return "" in muted or box in muted

    async def _record(
        self, found: Ring, run: Run, name: str, detail: str, cursor: int, what: str = ""
    ) -> None:
        settings, now = self._deps.settings, self._deps.clock.now_ms()
        words = {
            "name": name,
            "state": run.state.value,
            "task": run.prompt,
            "repo": run.repo.source if run.repo else "",
            "detail": detail or self._detail(found.kind, run),
            "what": what,
        }
        note = Note(
            id=new_id("note", now), key=found.key, kind=found.kind, created_ms=now, box=run.box, run=run.id,
            name=name, held=found.held, letter=note_rules.write(found.kind, settings, words),
        )  # fmt: skip
        targets = [] if found.held else await self._deps.postman.names()
        targets += [] if found.held else await self.devices.wanting(found.kind)
        limit = int(settings.get("notify.per_hour"))
        if await self._deps.store.notes.add(note, targets, per_hour=limit, cursor=cursor):
            self._sender.wake()

    def _detail(self, kind: NoteKind, run: Run) -> str:
        """What is asked or went wrong, else the last words; empty when neither is known."""
        live = self._live.get(run.box)
        if kind in (NoteKind.FAILED, NoteKind.UNKNOWN, NoteKind.STUCK) and run.problem:
            return run.problem
        if live is None:
            return ""
        asks = kind in (NoteKind.WAITING_PERMISSION, NoteKind.WAITING_QUESTION)
        if asks and live.verdict.because and live.verdict.because[0].detail:
            return live.verdict.because[0].detail
        return live.last_message

    # ------------------------------------------------------------------------------ use cases

    async def list(self, limit: int, name: str) -> NotePage:
        """The newest notes and their fate."""
        box = (await self._deps.store.boxes.find(name)).id if name else ""
        return NotePage(notes=await self._deps.store.notes.list(limit, box))

    async def state(self) -> NotifyState:
        """Where notes go, about what, and who is muted."""
        store, now = self._deps.store, self._deps.clock.now_ms()
        muted = await store.notes.muted()
        names = [b.name for b in await store.boxes.list() if b.id in muted]
        counts = await store.notes.counts(now - _TOLD_MS)
        return NotifyState(
            targets=await self._deps.postman.targets() + await self.devices.targets(),
            on=sorted(note_rules.rules_of(self._deps.settings).on),
            muted="" in muted,
            muted_thopters=names,
            queued=counts.get("queued", 0),
            given_up=counts.get("given_up", 0),
        )

    async def test(self, req: TestRequest) -> NoteView:
        """Send a test to one target or all, and wait for what comes of it."""
        names = await self._deps.postman.names() + await self.devices.wanting(NoteKind.TEST)
        if not names:
            raise NotFound(
                "there is nowhere to send it",
                hint="set notify.ntfy_topic, or add an address: thopter notify add NAME",
            )
        if req.target and req.target not in names:
            raise NotFound(f"there is no target {req.target!r}", hint=f"there is {', '.join(names)}")
        now = self._deps.clock.now_ms()
        note = Note(
            id=new_id("note", now), key=f"test:{request_mark.get().token or new_id('test', now)}",
            kind=NoteKind.TEST, created_ms=now, name="thopter",
            letter=note_rules.write(
                NoteKind.TEST, self._deps.settings, {"name": "thopter", "detail": "This is a test."}
            ),
        )  # fmt: skip
        added = await self._deps.store.notes.add(note, [req.target] if req.target else names)
        if added is None:
            note = await self._deps.store.notes.of_key(note.key)
        self._sender.wake()
        until = self._deps.clock.monotonic() + req.patience_ms / 1000
        while (view := await self._deps.store.notes.get(note.id)).fate == "queued":
            left = until - self._deps.clock.monotonic()
            if left <= 0:
                break
            await self._sender.news(min(left, 1.0))
        return view

    async def mute(self, req: MuteRequest) -> NotifyState:
        """Mute a thopter or everything, or let it be heard again. Durable, idempotent."""
        box = (await self._deps.store.boxes.find(req.name)).id if req.name else ""
        await self._deps.store.notes.mute(box, req.muted, self._deps.clock.now_ms())
        return await self.state()
