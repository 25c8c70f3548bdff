"""Keeps what agents ask while their hook is held open, carries answers to them, notes how it ended.

An answer is recorded (``answering``) before it is sent. boxd gives a held hook one answer, and writes
how the hook ended into its journal before it sends a byte; so whoever finds an ``answering`` approval
(this hub after a lost link, or a later one after kill -9) sends the answer again: either the hook is
still held, or the journal says what became of it. A hook of an earlier boxd is held by nobody.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
from typing import Any

from msgspec import Struct

from thopter.fleet.evidence_window import admit
from thopter.fleet.live import LiveBox
from thopter.fleet.truth import still_asked
from thopter.kit import failpoint
from thopter.kit.channel import BoxLink
from thopter.model.api.approvals import OPEN
from thopter.model.asks import Ask, AskReply
from thopter.model.errors import BadInput, NotFound, TimedOut
from thopter.model.events import Event
from thopter.model.evidence import Evidence, Fact, Source
from thopter.model.ids import new_id
from thopter.model.sockets import Reading
from thopter.store.approvals import Asked

log = logging.getLogger(__name__)

_FAR_S = 3600.0
_AGAIN_S = 2.0
_TOLD_S = 10.0  # how a hook ended is in the journal at once
_DYING_MS = 3_000  # an agent that ends closes its hooks shortly before it is seen to have ended


class Closed(Struct, frozen=True):
    """A held hook came to an end: ``answered`` by us, ``gone`` by its agent, ``expired``; or
    (``exited``) the agent's process did, and every hook of it."""

    hook: str
    how: str
    at_ms: int


def digest_of(hook: str, ask: Ask) -> str:
    """What an answer is bound to: this hook, this tool, exactly this input, and what a yes for the
    whole run would allow."""
    plain = json.dumps([hook, ask.kind, ask.tool, ask.input, ask.for_run], sort_keys=True)
    return hashlib.sha256(plain.encode()).hexdigest()


def asked(live: LiveBox, record: dict[str, Any], reading: Reading, at_ms: int) -> Asked | None:
    """The approval that a journal's record of a held hook stands for, or None."""
    hook = record.get("id")
    if reading.ask is None or live.run is None or not isinstance(hook, str) or not hook:
        return None
    data = reading.evidence[0].data if reading.evidence else {}
    call, side = str(data.get("call") or ""), bool(data.get("side"))
    at = at_ms + live.offset_ms
    return Asked(
        id=new_id("apr"), box=live.box.id, run=live.run.id, hook=hook, state="open", asked_ms=at,
        changed_ms=at, digest=digest_of(hook, reading.ask), call=call, body=str(record.get("body", "")),
        ask=reading.ask, whole=not record.get("truncated"), side=side,
    )  # fmt: skip


def closed(record: dict[str, Any], at_ms: int) -> Closed | None:
    """What a journal's record says about the end of held hooks, or None."""
    if record.get("kind") == "hook.closed":
        return Closed(str(record.get("id") or ""), str(record.get("how") or ""), at_ms)
    return Closed("", "exited", at_ms) if record.get("kind") == "run.exited" else None


async def keep(live: LiveBox, found: list[Asked | Closed]) -> list[Reading]:
    """Record these, in order; doing it again changes nothing. Returns what they say about turns."""
    readings: list[Reading] = []
    for item in found:
        if isinstance(item, Asked):
            await live.deps.store.approvals.add(item, event_of(item, live.box.name, "approval.asked"))
        elif item.how == "exited":
            await _exited(live, item.at_ms + live.offset_ms)
        else:
            kept = await live.deps.store.approvals.of_hook(live.box.id, item.hook)
            if kept is not None:
                readings += await _ended(live, kept, item)
    if found:
        await live.posted()
    return readings


async def _ended(live: LiveBox, kept: Asked, end: Closed) -> list[Reading]:
    detail = ""
    if end.how == "answered":
        state = "denied" if kept.reply is not None and not kept.reply.allow else "approved"
    elif end.how == "expired":
        state, detail = "expired", "nobody answered in time; the dialog at the terminal is still open"
    else:
        state = "elsewhere"
    await settle(live, kept, state, end.at_ms + live.offset_ms, detail)
    if end.how == "expired":
        return []
    session = other_session(live, kept)
    now = live.deps.clock.now_ms()
    word = "answered by a person" if end.how == "answered" else "closed at the terminal"
    data = {"tool": kept.ask.tool, "call": kept.call}
    answered = Evidence(
        source=Source.HOOK, fact=Fact.ANSWERED, at_ms=end.at_ms, seen_ms=now, detail=word, data=data
    )
    if session:
        live.others.said(session, "", 0, [admit(answered, live.offset_ms)], now)
        return []
    return [Reading(evidence=(answered,))]


def session_of(live: LiveBox, kept: Asked) -> str:
    """The session that asks, by the hook's own words."""
    if live.agent is None:
        return ""
    body = kept.body.encode(errors="surrogateescape")
    return live.agent.read_hook("PermissionRequest", body, 0, 0).session


def other_session(live: LiveBox, kept: Asked) -> str:
    """The same when another agent of the box is in it and the run's is not; else empty."""
    session = session_of(live, kept)
    known = session and session != live.session and live.others.find(session) is not None
    return session if known else ""


async def _exited(live: LiveBox, at_ms: int) -> None:
    """What the agent's end closed was answered by nobody."""
    for kept in await live.deps.store.approvals.asked(live.box.id, all_=True):
        near = kept.state == "elsewhere" and at_ms - _DYING_MS <= kept.changed_ms <= at_ms
        if (kept.state in OPEN or near) and kept.asked_ms <= at_ms and not other_session(live, kept):
            await settle(live, kept, "expired", at_ms, "the agent ended before it was answered", near)


async def settle(
    live: LiveBox, kept: Asked, state: str, at_ms: int, detail: str = "", again: bool = False
) -> None:
    """Record the end of one that is open (``again``: or that counts as ``elsewhere``), with its event."""
    was = (*OPEN, "elsewhere") if again else OPEN
    event = event_of(kept, live.box.name, "approval.answered", state, at_ms, detail)
    await live.deps.store.approvals.settle(kept.id, was, state, at_ms, detail, event)


def event_of(
    kept: Asked, name: str, kind: str, state: str = "open", at_ms: int = 0, detail: str = ""
) -> Event:
    """``approval.asked`` or ``approval.answered``; its words are an agent's."""
    data = {
        "name": name, "id": kept.id, "kind": kept.ask.kind, "tool": kept.ask.tool, "state": state,
        "summary": kept.ask.summary[:300], "digest": kept.digest, "detail": detail,
    }  # fmt: skip
    return Event(kind=kind, at_ms=at_ms or kept.asked_ms, box=kept.box, run=kept.run, data=data)


async def serve(live: LiveBox, link: BoxLink) -> None:
    """While the link is up: carry recorded answers to the agent; first let go of what nobody holds."""
    store = live.deps.store
    await _caught_up(live, link)
    boot = str(link.facts.get("boot") or "")
    for kept in await store.approvals.asked(live.box.id):
        if not kept.hook.startswith(f"{boot}-"):
            why = "the box's supervisor was restarted; answer at its terminal"
            await settle(live, kept, "expired", live.deps.clock.now_ms(), why)
    while True:
        mail, known = live.mail, (live.evidence, live.others.version)
        kept_open = await store.approvals.asked(live.box.id)
        for kept in kept_open:
            if not still_open(live, kept):
                await _closed_there(live, link, kept)
            elif kept.state == "answering" and kept.reply is not None:
                await _give(live, link, kept, kept.reply)
        await _news(live, mail, known if kept_open else None)


async def _news(live: LiveBox, mail: int, known: tuple[list[Evidence], int] | None) -> None:
    """Wait for mail, or (when something is open) for evidence."""

    def is_news(b: LiveBox) -> bool:
        seen = known is None or (b.evidence is known[0] and b.others.version == known[1])
        return b.mail != mail or not seen

    await live.until(is_news, _FAR_S)


def still_open(live: LiveBox, kept: Asked) -> bool:
    """Whether its dialog is open, for all that the agent's own signs say. The hook tells nothing: an agent
    whose dialog is closed at its terminal goes on holding it."""
    fact = Fact.QUESTION_ASKED if kept.ask.kind == "question" else Fact.PERMISSION_ASKED
    at = min(kept.asked_ms, live.deps.clock.now_ms())
    data = {"call": kept.call, **({"side": True} if kept.side else {})}
    ask = Evidence(source=Source.HOOK, fact=fact, at_ms=at, seen_ms=at, data=data)
    session = session_of(live, kept)
    others = live.others.evidence(session) if session else None
    # Two agents in one session: the dialog is open as long as it may be in either.
    mine = others is None or session == live.session
    return (mine and still_asked(live.evidence, ask)) or (others is not None and still_asked(others, ask))


async def _closed_there(live: LiveBox, link: BoxLink, kept: Asked) -> None:
    await settle(live, kept, "elsewhere", live.deps.clock.now_ms())
    with contextlib.suppress(NotFound, TimedOut):  # a hook without a decision: nobody waits for it any more
        await link.hook_answer(kept.hook, 204)
    await live.posted()


async def _give(live: LiveBox, link: BoxLink, kept: Asked, reply: AskReply) -> None:
    assert live.agent is not None  # only a run's agent asks
    now = live.deps.clock.now_ms
    try:
        body = live.agent.answer_hook(kept.body.encode(errors="surrogateescape"), reply).decode()
    except BadInput as e:  # it was accepted by a driver that could: nothing was sent
        await settle(live, kept, "expired", now(), f"its answer can't be given: {e.message}")
        return
    failpoint.hit("approval.recorded")
    try:
        await link.hook_answer(kept.hook, 200, body)
    except NotFound:
        gone = await _told(live, kept.id)
        if not gone:
            await settle(live, kept, "expired", now(), "it is not open any more; how it ended is not known")
        return
    except TimedOut:  # a box that was just frozen; whether it got there the next try or the journal tells
        log.info("approval %s: %s does not answer", kept.id, live.box.name)
        await live.deps.clock.sleep(_AGAIN_S)
        await live.posted()
        return
    failpoint.hit("approval.given")
    await settle(live, kept, "approved" if reply.allow else "denied", now())
    await live.posted()


async def _told(live: LiveBox, key: str) -> bool:
    """Wait until the box's record has said how it ended; False when it says nothing."""
    ends = live.deps.clock.monotonic() + _TOLD_S
    while live.deps.clock.monotonic() < ends:
        if (await live.deps.store.approvals.get(key)).state not in OPEN:
            return True
        await live.deps.clock.sleep(0.1)
    return False


async def _caught_up(live: LiveBox, link: BoxLink) -> None:
    """Wait until all has been read that the box had recorded when the link was made."""
    facts = link.facts.get("journal")
    last = facts.get("last") if isinstance(facts, dict) else 0
    while isinstance(last, int):
        if (await live.deps.store.cursors.load(live.box.id)).get("journal", 0) >= last:
            return
        await live.deps.clock.sleep(0.1)
