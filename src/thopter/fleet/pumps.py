"""From a box into the store: journal, transcripts, status files, heartbeat.

Each batch is stored with the cursor that follows it in one transaction, so that whatever is read is
read once: a crash between reading and storing reads it again, and entries and evidence are
idempotent on their keys. Everything here is hostile input; what can't be understood is counted.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, TypeVar

from thopter.fleet import asks, reports, sessions
from thopter.fleet.evidence_window import admit, clock_offset
from thopter.fleet.live import LiveBox
from thopter.fleet.reports import Report
from thopter.fleet.transcripts import Copies, folder_of
from thopter.kit.boxprograms import MOST, programs
from thopter.kit.channel import BoxLink
from thopter.kit.threads import finish
from thopter.model.errors import ThopterError
from thopter.model.events import Event
from thopter.model.evidence import Evidence, Fact, Source
from thopter.model.nouns import Entry, Role, RunState
from thopter.model.sockets import LaunchContext, Reading
from thopter.store.approvals import Asked

log = logging.getLogger(__name__)

HEARTBEAT_S = 10.0
STATUS_START_S = 0.5  # while it comes up: somebody waits for its prompt
STATUS_S = 2.0  # while it works: an interrupt fires no hook
STATUS_OVER_S = 60.0  # when its agent has ended: a person may have started another one
STATUS_FILES = 64
STATUS_REST_S = 10.0  # while it waits: a person may type at its terminal
_OVER = (RunState.DONE, RunState.FAILED, RunState.STOPPED)
_BATCH = 200
_QUEUE = 1000
T = TypeVar("T")


async def pump(live: LiveBox, link: BoxLink, ctx: LaunchContext | None) -> None:
    """Run all pumps of one box until the link is lost (then the group raises)."""
    async with asyncio.TaskGroup() as group:
        group.create_task(_heartbeat(live, link))
        group.create_task(_journal(live, link))
        group.create_task(asks.serve(live, link))
        if live.agent is not None and live.run is not None and ctx is not None:
            group.create_task(_transcripts(live, link, ctx))
            group.create_task(_status(live, link, ctx))


async def _heartbeat(live: LiveBox, link: BoxLink) -> None:
    samples: deque[tuple[int, int, int]] = deque(maxlen=5)
    while True:
        sent = live.deps.clock.now_ms()
        box_time = await link.ping()
        live.heard()
        samples.append((sent, box_time, live.alive_ms))
        live.offset_ms = clock_offset(samples)
        await live.deps.clock.sleep(HEARTBEAT_S)


async def _batches(source: AsyncIterator[T]) -> AsyncIterator[list[T]]:
    """Group what arrives together, so that a burst costs one commit and a single item no delay."""
    queue: asyncio.Queue[T | None] = asyncio.Queue(_QUEUE)

    async def fill() -> None:
        async for item in source:
            await queue.put(item)
        await queue.put(None)

    async with asyncio.TaskGroup() as group:
        filler = group.create_task(fill())
        try:
            while (first := await queue.get()) is not None:
                batch = [first]
                while len(batch) < _BATCH and not queue.empty():
                    item = queue.get_nowait()
                    if item is None:
                        yield batch
                        return
                    batch.append(item)
                yield batch
        finally:
            filler.cancel()


async def _journal(live: LiveBox, link: BoxLink) -> None:
    cursors = await live.deps.store.cursors.load(live.box.id)
    after = int(cursors.get("journal", 0))
    async for batch in _batches(link.journal(after=after, follow=True)):
        readings: list[Reading] = []
        said: list[Report] = []
        held: list[Asked | asks.Closed] = []
        for record in batch:
            readings.append(_read_record(live, record, said, held))
            seq = record.get("last" if record.get("kind") == "gap" else "seq")
            if isinstance(seq, int):
                after = max(after, seq)
        await live.keep_session()
        readings += await asks.keep(live, held)
        await take(live, readings, {"journal": after}, await reports.keep(live, said) if said else [])


def _read_record(
    live: LiveBox, record: dict[str, Any], said: list[Report], held: list[Asked | asks.Closed]
) -> Reading:
    now = live.deps.clock.now_ms()
    at = record.get("at_ms")
    at_ms = at if isinstance(at, int) else now
    kind = record.get("kind")
    of_run = str(record.get("run") or "").partition(".")[0]  # later lives are called RUN.1, RUN.2, …
    if live.run is not None and of_run not in ("", live.run.id):
        return Reading(problem="a record of another run")
    if kind == "hook" and live.agent is not None:
        body = str(record.get("body", "")).encode(errors="surrogateescape")
        reading = live.agent.read_hook(str(record.get("event", "")), body, at_ms, now)
        asked = asks.asked(live, record, reading, at_ms)
        if asked is not None:
            held.append(asked)
        return sessions.own(live, sessions.spoken(record, reading))
    ended = asks.closed(record, at_ms)
    if ended is not None:
        held.append(ended)
    if kind == "said":
        report = reports.read(record, at_ms, now)
        if report is None:
            return Reading(problem="a report that makes no sense")
        said.append(report)
        return Reading(evidence=report.evidence)
    if kind == "run.started":
        data = {"pid": record.get("pid")}
        live.pid = record["pid"] if isinstance(record.get("pid"), int) else live.pid
        return _fact(Source.PROCESS, Fact.PROCESS_ALIVE, at_ms, now, "the agent's process started", data)
    if kind == "run.exited":
        how, data = _ending(record)
        return _fact(Source.PROCESS, Fact.PROCESS_EXITED, at_ms, now, f"the agent ended: {how}", data)
    if kind == "gap":
        log.warning("box %s: journal has a gap of %s records", live.box.name, record.get("count"))
    return Reading()


def _ending(record: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """How the agent's process ended, in words and as data."""
    pid, code, signal = record.get("pid"), record.get("exit"), record.get("signal")
    if isinstance(code, int):
        return f"exit code {code}", {"code": code, "pid": pid}
    if isinstance(signal, int):
        return f"killed by signal {signal}", {"code": -signal, "pid": pid}
    return "nobody saw how", {"pid": pid}


def _fact(source: Source, fact: Fact, at_ms: int, now: int, detail: str, data: dict[str, Any]) -> Reading:
    return Reading(
        evidence=(Evidence(source=source, fact=fact, at_ms=at_ms, seen_ms=now, detail=detail, data=data),)
    )


async def _transcripts(live: LiveBox, link: BoxLink, ctx: LaunchContext) -> None:
    assert live.agent is not None  # pump checked
    root, glob = live.agent.transcript_root(ctx)
    saved = await live.deps.store.cursors.load(live.box.id)
    assert live.run is not None  # pump checked
    copies = await finish(Copies, folder_of(live.deps.paths.state, live.run.id))
    cursors = copies.cursors({k[2:]: int(v) for k, v in saved.items() if k.startswith("t:")})
    async for batch in _batches(link.tail(root, glob, cursors, follow=True)):
        now = live.deps.clock.now_ms()
        await finish(copies.take, batch)
        readings: list[Reading] = []
        moved: dict[str, int] = {}
        for part in batch:
            if "reset" in part:
                moved["t:" + str(part["reset"])] = 0
                continue
            name = str(part.get("file", ""))
            for line in part.get("lines", []):
                raw = str(line).encode(errors="surrogateescape")
                readings.append(sessions.written(live, live.agent.read_transcript(name, raw, now)))
            moved["t:" + name] = int(part.get("offset", 0))
        await take(live, readings, moved)


async def _status(live: LiveBox, link: BoxLink, ctx: LaunchContext) -> None:
    """The agent's own word, asked for only while it matters (a turn may have ended silently)."""
    assert live.agent is not None  # pump checked
    root, glob = live.agent.status_root(ctx)
    last: dict[str, str] = {}
    while root:
        await live.until(lambda b: b.verdict.state not in _OVER or b.others.at_work(), STATUS_OVER_S)
        try:
            files = await link.read_files(root, glob, STATUS_FILES)
        except ThopterError:
            files = []
        now = live.now_ms()
        others: list[tuple[Reading, bool]] = []
        shown: dict[str, str] = {}
        for f in files:
            name, content = str(f.get("file", "")), str(f.get("content", ""))
            reading = live.agent.read_status(name, content.encode(errors="surrogateescape"), now)
            again = last.get(name) == content
            if not sessions.status_is_own(live, reading):
                others.append((reading, again))
            elif again:  # seen again: news for the fold, not for the store
                live.learn([admit(e, live.offset_ms) for e in reading.evidence])
            else:
                await take(live, [reading], {})
            shown[name] = content
        last = shown  # of files that are gone nothing is kept: a box may make new ones for ever
        await _look_at_others(live, link, others)
        await live.refold()
        if _active(live):  # a box that is being made, too
            starting = live.verdict.state is RunState.STARTING
            await live.deps.clock.sleep(STATUS_START_S if starting else STATUS_S)
        else:
            await live.until(_active, STATUS_REST_S)  # it may be launched anew, or told something


async def _look_at_others(live: LiveBox, link: BoxLink, shown: list[tuple[Reading, bool]]) -> None:
    """Which further agents run, and what they show of themselves. A status file alone is no sign of life:
    a program that was killed leaves it behind."""
    named = {r.program.pid: (r, again) for r, again in shown if r.program is not None}
    pids = [*live.others.pids(), *named][:MOST]
    if not pids:
        return
    try:
        there, _runs = await programs(link, pids)
    except ThopterError as e:  # a supervisor from before
        log.debug("box %s: its further agents can't be looked at: %s", live.box.name, e.message)
        return
    now = live.now_ms()
    for program in there:
        reading, again = named.get(program["pid"], (Reading(), False))
        if reading.program is None or program["started"] != reading.program.started:
            continue
        evidence = [admit(e, live.offset_ms) for e in reading.evidence]
        known = live.others.find(reading.session, reading.program)
        if known is not None and again:
            live.others.shown(known.number, evidence)
        else:
            live.others.hear(reading, evidence, now)
    live.others.looked(there, now)


def _active(live: LiveBox) -> bool:
    return live.verdict.state not in (RunState.WAITING, *_OVER) or live.others.at_work()


async def take(
    live: LiveBox, readings: list[Reading], cursors: dict[str, int], events: Sequence[Event] = ()
) -> None:
    """Store a batch with its cursors, then learn from it, pass receipts on and fold."""
    entries = [e for r in readings if not r.aside for e in r.entries if live.of_this_run(e)]
    aside = live.others.pending([e for r in readings if r.aside for e in r.entries if live.of_this_run(e)])
    evidence = [e for e in (admit(e, live.offset_ms) for r in readings for e in r.evidence) if live.recent(e)]
    for reading in readings:
        if reading.problem:
            live.problems += 1
            log.debug("box %s: unreadable input: %s", live.box.name, reading.problem)
    run_id = live.run.id if live.run is not None else ""
    if entries or evidence or cursors or aside.agents or aside.entries:
        await live.deps.store.ingest(
            live.box.id,
            run_id,
            cursors,
            entries,
            evidence,
            [*_entry_events(live, entries), *events],
            aside,
        )
        live.others.stored(aside)
    remember_words(live, entries)
    live.learn(evidence)
    for reading in readings:
        live.receipts(reading)
    if evidence or aside.agents:
        await live.refold()
    if any(e.role is Role.USER for e in entries):
        await live.posted()  # a message may be in the conversation now


def _entry_events(live: LiveBox, entries: list[Entry]) -> list[Event]:
    now = live.deps.clock.now_ms()
    return [
        Event(
            kind="entry",
            at_ms=now,
            box=live.box.id,
            run=live.run.id if live.run else "",
            data={
                "name": live.box.name,
                "role": e.role,
                "summary": e.summary,
                "key": e.key,
                "session": e.session,
                "entry_ms": e.at_ms,
            },
        )
        for e in entries
    ]


def remember_words(live: LiveBox, entries: list[Entry]) -> None:
    """Keep the newest words of the conversation, for the one-line view."""
    for e in entries:
        if e.role in (Role.ASSISTANT, Role.USER) and not e.sidechain and e.at_ms >= live.last_message_ms:
            live.last_message, live.last_message_ms = e.summary, e.at_ms


Pumps = Callable[[LiveBox, BoxLink], Any]
