"""What an agent that ended had been told, or was in the middle of, and does not have any more.

Asked once for each new life of a run, while nothing runs that could still write: the transcript is read
to its end, and what was acknowledged but is not in it goes back to the messages that wait. All of it is
recorded with the launch of the new life, in one transaction: a hub killed anywhere does it once.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterable, Sequence
from typing import Any

from msgspec import Struct, structs

from thopter.fleet.delivery import caught_up, event_of
from thopter.fleet.evidence_window import Window
from thopter.fleet.heard import Said, heard_in
from thopter.fleet.live import LiveBox
from thopter.fleet.questions import words_of
from thopter.fleet.tell import tell
from thopter.fleet.truth_turn import TruthLimits, cut_short
from thopter.kit.channel import BoxLink
from thopter.model.api import TellRequest, TellResult
from thopter.model.errors import NotFound, TimedOut
from thopter.model.events import Event
from thopter.model.evidence import Evidence, Fact, Source
from thopter.model.nouns import Role, Run
from thopter.model.sockets import Agent, LaunchContext
from thopter.store.store import Tx
from thopter.store.talk import Letter, Outcome

_LOOK_S = 60.0
_PAUSED = "pause"  # a stop with this in its data was meant to be gone on from


class Unsent(Struct, frozen=True, kw_only=True):
    """``heard``: messages that the conversation holds; ``back``: those it lacks; ``lost``: those of which
    nobody can tell; ``cut``: the last work of a turn that did not come to its end."""

    heard: frozenset[str] = frozenset()
    back: tuple[Letter, ...] = ()
    lost: tuple[Letter, ...] = ()
    cut: Evidence | None = None


class After(Struct, frozen=True, kw_only=True):
    """What is done about it: ``go_on`` (empty: nothing is said); ``fresh``: the conversation is given
    up, and with it what was said to it; ``prompt``: what the launch itself says."""

    life: str
    at_ms: int
    go_on: str = ""
    fresh: bool = False
    prompt: str = ""


async def look(live: LiveBox, link: BoxLink, run: Run, ctx: LaunchContext, agent: Agent) -> Unsent:
    """Read what the ended life left behind. Its agent must be dead: it would write on."""
    store = live.deps.store
    await caught_up(live, link)
    told = [x for x in await store.talk.of_box(live.box.id) if x.run == run.id]
    evidence = await store.evidence.of_run(run.id)
    cut = ended_in_work(evidence)
    open_ = [x for x in told if x.unheard or x.state == "sending"]
    if not open_:
        return Unsent(cut=cut)
    unread, whole = await _unread(live, link, ctx, agent)
    after = min(
        (x.entries for x in told if x.sent_ms), default=0
    )  # also what was heard claims its own prompt
    prompts = said(await store.entries.prompts(run.id, after), unread, live.offset_ms)
    heard = heard_in(told, prompts, lambda x: words_of(agent, x))
    heard |= {x.id for x in open_ if x.kind == "prompt" and _worked(evidence, x.sent_ms)}
    missing = tuple(x for x in open_ if x.id not in heard and x.kind != "ask")
    if any(x.outcome.receipt != "queued" for x in missing):
        cut = None  # its turn had hardly begun: what it was told is told again
    return Unsent(
        heard=frozenset(heard), back=missing if whole else (), lost=() if whole else missing, cut=cut
    )


def _worked(evidence: Iterable[Evidence], since_ms: int) -> bool:
    """The conversation went on after a launch, so it holds what the launch said (a command, say, is
    written down in other words)."""
    return any(
        e.fact is Fact.ACTIVITY and e.source is Source.TRANSCRIPT and not e.data.get("side")
        and e.at_ms > since_ms
        for e in evidence
    )  # fmt: skip


def said(stored: Sequence[tuple[int, Any]], unread: Iterable[Any], offset_ms: int) -> list[Said]:
    """The prompts of a conversation: those in the store, then those that were only in the box."""
    known = {(e.session, e.key) for _, e in stored}
    found = [Said(ordinal=n, at_ms=e.at_ms + offset_ms, text=e.text) for n, e in stored]
    last = stored[-1][0] if stored else 0
    fresh = [e for e in unread if (e.session, e.key) not in known]
    far = 1 << 50  # behind everything that was counted when a message was sent
    return found + [
        Said(ordinal=far + last + n, at_ms=e.at_ms + offset_ms, text=e.text) for n, e in enumerate(fresh)
    ]


async def _unread(live: LiveBox, link: BoxLink, ctx: LaunchContext, agent: Agent) -> tuple[list[Any], bool]:
    """Prompts in the box's transcripts that the store has not got, and whether nothing of them is gone."""
    root, glob = agent.transcript_root(ctx)
    saved = await live.deps.store.cursors.load(live.box.id)
    cursors = {k[2:]: v for k, v in saved.items() if k.startswith("t:")}
    now, found, whole = live.deps.clock.now_ms(), [], True
    try:
        async with asyncio.timeout(_LOOK_S):
            async for part in link.tail(root, glob, cursors, follow=False):
                whole = whole and "reset" not in part
                for line in part.get("lines", ()):
                    raw = str(line).encode(errors="surrogateescape")
                    read = agent.read_transcript(str(part.get("file", "")), raw, now).entries
                    found += [e for e in read if e.role is Role.USER and not e.sidechain]
    except TimeoutError:
        raise TimedOut("the box's transcripts could not be read in time") from None
    except NotFound:
        whole = not any(cursors.values())
    return [e for e in found if live.of_this_run(e) and live.was_own(e.session)], whole


def ended_in_work(evidence: Sequence[Evidence]) -> Evidence | None:
    """The last sign of work of a turn that its agent's death cut short; None when no turn was under way,
    or when a person ended it."""
    launched = max((e.at_ms for e in evidence if e.fact is Fact.LAUNCHED), default=0)
    work = cut_short(Window.of(evidence).since(launched), TruthLimits())
    if work is None:
        return None
    for item in evidence:
        if item.at_ms < launched:
            continue
        asked = item.fact is Fact.STOP_REQUESTED and not item.data.get(_PAUSED)
        left = item.fact is Fact.SESSION_ENDED and item.data.get("reason") == "prompt_input_exit"
        if asked or left:
            return None
    return work


def record(tx: Tx, live: LiveBox, run: Run, found: Unsent, after: After) -> tuple[int, bool]:
    """Put back what is missing, inside the transaction that records the new life; how many messages
    are said again, and whether the agent is told to go on."""
    now, again = after.at_ms, 0
    tx.letters.heard(found.heard, now)
    for letter in (*found.back, *found.lost):
        fresh = tx.letters.get(letter.id)
        if not (fresh.unheard or fresh.state == "sending"):
            continue
        if fresh.kind == "prompt" and after.prompt and not after.fresh:
            continue  # this launch says it itself
        new = _put_back(fresh, letter in found.lost, after)
        again += new.state == "queued"
        tx.letters.update(new, (fresh.state,))
        tx.events.append([event_of(new, live.box.name, now)])
    if after.prompt:
        record_prompt(tx, run, after.prompt, now)
    waits = any(x.kind == "go_on" and x.open for x in tx.letters.of_box(live.box.id))
    goes_on = bool(after.go_on and found.cut is not None and not after.fresh and not waits)
    if goes_on:
        word = _letter(run, "go_on", after.life, after.go_on, now)
        tx.letters.add(word)
        tx.events.append([event_of(word, live.box.name, now)])
    return again, goes_on


def _put_back(letter: Letter, lost: bool, after: After) -> Letter:
    if after.fresh:
        state, problem = "dropped", "its conversation was given up before it was in it"
    elif lost:
        state, problem = "unclear", "the transcript it would be in is gone; it is not said again"
    else:
        state, problem = "queued", ""
    return structs.replace(letter, state=state, outcome=Outcome(problem=problem), changed_ms=after.at_ms)


def record_prompt(tx: Tx, run: Run, prompt: str, now_ms: int) -> None:
    """Keep what a launch says, until the conversation holds it; the same run's once."""
    letter = structs.replace(
        _letter(run, "prompt", f"{run.id} {run.box}", prompt, now_ms), state="delivered", sent_ms=now_ms,
        outcome=Outcome(receipt="launch"), run=run.id,
    )  # fmt: skip
    try:
        tx.letters.update(
            structs.replace(letter, ordinal=tx.letters.get(letter.id).ordinal),
            ("delivered", "queued", "unclear", "sending"),
        )
    except NotFound:
        tx.letters.add(letter)


def _letter(run: Run, kind: str, stem: str, text: str, now_ms: int) -> Letter:
    digest = hashlib.sha256(f"thopter {kind}\0{stem}".encode()).hexdigest()[:26]
    return Letter(
        id="msg_" + digest, box=run.box, run=run.id, kind=kind, state="queued", text=text,
        created_ms=now_ms, changed_ms=now_ms,
    )  # fmt: skip


async def say_now(live: LiveBox, run: Run, req: TellRequest, key: str) -> TellResult:
    """Say it, and record that the agent acknowledged it before anybody is told so: should the agent end
    before its conversation holds it, it is said again. ``key``: the id it is kept under."""
    store, clock = live.deps.store, live.deps.clock
    marks = await store.cursors.load(live.box.id)
    entries = (await store.entries.page(run.id, last=1)).total
    sent = clock.now_ms()
    result = await tell(live, req)
    now = clock.now_ms()
    letter = Letter(
        id=key, box=live.box.id, run=run.id, kind="said", state="delivered", text=req.text,
        created_ms=sent, changed_ms=now, sent_ms=sent, entries=entries, marks=marks,
        outcome=Outcome(receipt=result.receipt, evidence=result.evidence),
    )  # fmt: skip
    data = {"name": live.box.name, "receipt": result.receipt, "text": req.text[:500]}
    await store.talk.add(letter, Event(kind="run.told", at_ms=now, box=live.box.id, run=run.id, data=data))
    await live.posted()
    return result
