"""Delivering the messages that the hub keeps: each once, in order, at the right moment.

A message is recorded as ``sending`` *before* its first key is pressed, with how far the box had been
read. Whoever finds it so (this hub after a failure, or a later one after kill -9) looks at what the box
has recorded since: its own hooks and transcript say whether the message arrived. If they say so it was
delivered; if nothing of it came within :data:`LOOK_S` of an answering box it is sent (again); if the
record has a gap it is ``unclear``, and told so instead of being said twice.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from msgspec import structs

from thopter.fleet import tell as telling
from thopter.fleet.evidence_window import CLOSINGS
from thopter.fleet.heard import Said, heard_in, in_turn
from thopter.fleet.live import LiveBox
from thopter.fleet.questions import Questions
from thopter.fleet.turns import same_words, taken_at
from thopter.kit import failpoint
from thopter.kit.channel import BoxLink
from thopter.model.api import TellRequest
from thopter.model.errors import BadInput, Conflict, NotFound, NotNow, ThopterError, TimedOut
from thopter.model.events import Event
from thopter.model.evidence import Fact, Verdict
from thopter.model.nouns import BoxState, RunState, WaitReason
from thopter.model.reading import Reading
from thopter.store.talk import Letter, Outcome

log = logging.getLogger(__name__)

LOOK_S = 10.0  # a key that was pressed shows in the box's record long before
_RECEIPT_MS = 20_000
_FAR_S = 3600.0
_AGAIN_S = 2.0
_ASK_S = 5.0  # a question that can not be asked is looked at again


def gave_up(v: Verdict) -> bool:
    """The agent waits at its prompt after a rate limit on which it ended its turn."""
    return v.reason is WaitReason.RATE_LIMIT and bool(v.because) and v.because[0].fact is Fact.TURN_FAILED


def at_prompt(live: LiveBox) -> bool:
    """The agent waits at its prompt for a person's next words, as far as truth knows."""
    v = live.verdict
    if not (live.linked and live.agent_running and live.box.state is BoxState.READY):
        return False
    if v.state is RunState.DONE:  # it may have said so in the middle of its turn
        started = max((e.at_ms for e in live.evidence if e.fact is Fact.TURN_STARTED), default=0)
        return any(e.fact in CLOSINGS and e.at_ms >= started for e in live.evidence)
    if v.state is not RunState.WAITING or telling.dialog(live) is not None:
        return False
    return v.reason in (WaitReason.TURN_END, WaitReason.QUESTION) or gave_up(v)


def listens(live: LiveBox) -> bool:
    """The agent takes a message now, if only into its own queue."""
    up = live.linked and live.agent_running and live.box.state is BoxState.READY
    known = live.verdict.state in (RunState.WORKING, RunState.WAITING, RunState.DONE)
    return up and known and telling.dialog(live) is None


def why_held(live: LiveBox | None, state: BoxState) -> str:
    """Why a message for an agent at its prompt is not delivered now; empty: it is about to be."""
    if state is BoxState.FROZEN:
        return "the box is frozen; it is delivered after 'thopter thaw', when the agent is at its prompt"
    if state in (BoxState.SUSPENDED, BoxState.STOPPED):
        return f"the box is {state}; it is delivered after 'thopter resume', when the agent is at its prompt"
    if live is None or not live.linked:
        return "the box does not answer now"
    if at_prompt(live):
        return ""
    v = live.verdict
    if not live.agent_running:
        return "its agent is not running"
    why = f" ({v.reason})" if v.reason else ""
    return f"the agent is {v.state}{why}; it is delivered when it is at its prompt"


class Delivery:
    """Serves one box for as long as the hub looks after it."""

    def __init__(self, live: LiveBox) -> None:
        self.live = live
        self.store = live.deps.store
        self.questions = Questions(live, self.settle)
        self._mouth = asyncio.Lock()  # one of us at a time decides that it is the moment, and speaks
        self._asked = ""  # the question whose turn is under way

    async def keep(self) -> None:
        """Deliver whatever comes; ends only when cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._lane("tell"))
            group.create_task(self._listen())
            group.create_task(self._lane("ask"))

    async def _lane(self, kind: str) -> None:
        while True:
            seen = self.live.mail
            kept = await self.store.talk.of_box(self.live.box.id)
            letters = in_turn(x for x in kept if x.open and (x.kind == "ask") is (kind == "ask"))
            if not letters:
                await self._news(seen)
                continue
            try:
                await self._serve(letters[0])
            except (Conflict, NotFound) as e:  # it was dropped or changed meanwhile: look again
                log.info("message %s: %s", letters[0].id, e.message)
            except ThopterError as e:
                log.warning("message %s for %s: %s", letters[0].id, self.live.box.name, e.message)
                await self.live.deps.clock.sleep(_AGAIN_S)

    async def _news(self, seen: int) -> None:
        await self.live.until(lambda b: b.mail != seen, _FAR_S)

    async def _serve(self, letter: Letter) -> None:
        if letter.state == "sending":
            await self._look_back(letter)
        elif letter.state == "queued" and letter.kind == "ask":
            if await self._askable(letter):
                await self._when(letter, listens)
        elif letter.state == "queued":
            await self._when(letter, at_prompt)
        else:
            self._asked = letter.id
            try:
                await self.questions.follow(letter)
            finally:
                self._asked = ""

    async def _askable(self, letter: Letter) -> bool:
        """Whether a question that nobody has yet may still be asked; records what is in its way."""
        dead = self.questions.dead(letter)
        if dead:
            await self.settle(letter, "failed", Outcome(problem=f"{dead}; it was not asked"))
            return False
        asked = telling.dialog(self.live)
        reason = "" if asked is None else str(self.live.verdict.reason)
        if reason != letter.outcome.reason:
            await self.settle(letter, "queued", Outcome(reason=reason, asks=asked.detail if asked else ""))
            return False
        return True

    # ---------------------------------------------------------------------------------- sending

    async def _when(self, letter: Letter, moment: Callable[[LiveBox], bool]) -> None:
        live, seen = self.live, self.live.mail

        def now(b: LiveBox) -> bool:
            return moment(b) and not (letter.kind == "tell" and self._asked)

        patience = _ASK_S if letter.kind == "ask" else _FAR_S
        await live.until(lambda b: now(b) or b.mail != seen, patience)
        if not now(live):
            return  # something changed: the lane looks again at what is first
        await caught_up(live, await live.link(30.0))
        async with self._mouth:
            await live.refold()
            if now(live):
                await self._send(letter)

    async def _send(self, letter: Letter) -> None:
        live = self.live
        assert live.run is not None  # at_prompt and listens need a run's verdict
        marks = await self.store.cursors.load(live.box.id)
        entries = (await self.store.entries.page(live.run.id, last=1)).total
        letter = await self.settle(
            letter, "sending", Outcome(), was=("queued",),
            sent_ms=live.deps.clock.now_ms(), marks=marks, entries=entries, run=live.run.id,
        )  # fmt: skip
        failpoint.hit("talk.recorded")
        try:
            request = TellRequest(text=letter.text, receipt_timeout_ms=_RECEIPT_MS)
            told = await telling.tell(live, request)
        except TimedOut:
            return await self._look_back(letter, again=False)
        except BadInput as e:
            await self.settle(letter, "failed", Outcome(problem=e.message))
            return None
        except NotNow as e:  # refused before any key was pressed
            log.info("message %s is not for now: %s", letter.id, e.message)
            await self.settle(letter, "queued", Outcome())
            await live.deps.clock.sleep(_AGAIN_S)
            return None
        failpoint.hit("talk.told")
        await live.refold()
        return await self._arrived(letter, told.receipt, told.evidence)

    async def _arrived(self, letter: Letter, receipt: str, evidence: str) -> None:
        outcome = Outcome(receipt=receipt, evidence=evidence)
        await self.settle(letter, "working" if letter.kind == "ask" else "delivered", outcome)

    async def _look_back(self, letter: Letter, again: bool = True) -> None:
        """Decide by the box's own record whether a message that was begun to be typed has arrived.
        ``again``: one of which nothing came is sent again; otherwise it is told as unclear (its words
        may still stand in the input line)."""
        live = self.live
        await live.until(lambda b: b.linked and b.ctx is not None, _FAR_S)
        link = await live.link(30.0)
        ends = live.deps.clock.monotonic() + LOOK_S
        while True:
            found = await self._arrival(link, letter)
            if found or live.deps.clock.monotonic() >= ends:
                break
            await live.deps.clock.sleep(1.0)
        if found in ("taken", "queued"):
            await caught_up(live, link)
            await live.refold()
            await self._arrived(letter, found, "found in the box's record after an interruption")
        elif found == "gap" or not again:
            why = "the box's record has a gap" if found == "gap" else "no sign came that the agent has it"
            problem = f"{why}: it may or may not have arrived, and is not sent again"
            await self.settle(letter, "unclear", Outcome(problem=problem))
        else:
            log.info("message %s did not arrive before the interruption; it is sent again", letter.id)
            await self.settle(letter, "queued", Outcome())

    async def _arrival(self, link: BoxLink, letter: Letter) -> str:
        """``taken`` or ``queued`` when the box recorded it, ``gap`` when that can't be told."""
        live = self.live
        assert live.agent is not None and live.ctx is not None  # _look_back waited for the pumps' word
        words = self.words(letter)
        page = await self.store.entries.page(letter.run, after=letter.entries, limit=1000)
        if taken_at(words, page.entries, 0)[0] >= 0:
            return "taken"
        after = letter.marks.get("journal", 0)
        async for record in link.journal(after=after, kinds=["hook", "gap"]):
            if record.get("kind") == "gap":
                return "gap"
            body = str(record.get("body", "")).encode(errors="surrogateescape")
            reading = live.agent.read_hook(str(record.get("event", "")), body, 0, 0)
            if self._own(reading) and any(same_words(word, reading.receipt) for word in words):
                return reading.receipt_kind or "taken"
        root, glob = live.agent.transcript_root(live.ctx)
        cursors = {k[2:]: v for k, v in letter.marks.items() if k.startswith("t:")}
        async for part in link.tail(root, glob, cursors):
            for line in part.get("lines", []):
                raw = str(line).encode(errors="surrogateescape")
                reading = live.agent.read_transcript(str(part.get("file", "")), raw, 0)
                if self._own(reading) and any(same_words(word, reading.receipt) for word in words):
                    return reading.receipt_kind or "taken"
        return ""

    def _own(self, reading: Reading) -> bool:
        """Whether the run's own agent says so, and not another one of its box."""
        return reading.session in ("", self.live.session)

    def words(self, letter: Letter) -> tuple[str, ...]:
        """The message as it was given, and as the agent's driver enters it."""
        return self.questions.words(letter)

    async def _listen(self) -> None:
        """Note which messages the conversation holds: those need not be said again after a death."""
        live = self.live
        while True:
            seen = live.mail
            try:
                kept = [x for x in await self.store.talk.of_box(live.box.id) if x.run == live.run_id]
                waiting = [x for x in kept if x.unheard]
                if waiting:
                    after = min((x.entries for x in kept if x.sent_ms), default=0)
                    stored = await self.store.entries.prompts(live.run_id, after)
                    prompts = [
                        Said(ordinal=n, at_ms=e.at_ms + live.offset_ms, text=e.text) for n, e in stored
                    ]
                    found = heard_in(kept, prompts, self.words)
                    fresh = [x.id for x in waiting if x.id in found]
                    if fresh:
                        await self.store.talk.heard(fresh, live.deps.clock.now_ms())
            except ThopterError as e:
                log.warning("messages of %s: %s", live.box.name, e.message)
                await live.deps.clock.sleep(_AGAIN_S)
                continue
            await self._news(seen)

    # ---------------------------------------------------------------------------------- recording

    async def settle(
        self, letter: Letter, state: str, outcome: Outcome, was: tuple[str, ...] = (), **more: object
    ) -> Letter:
        """Record what came of it, with its event; Conflict when it was dropped meanwhile."""
        return await settle(self.live, letter, state, outcome, was or (letter.state,), **more)


async def caught_up(live: LiveBox, link: BoxLink) -> None:
    """Wait until all has been read that the box had recorded when the link was made (at most 30 s)."""
    facts = link.facts.get("journal")
    last = facts.get("last") if isinstance(facts, dict) else 0
    last = last if isinstance(last, int) and not isinstance(last, bool) else 0
    for _ in range(300):
        if (await live.deps.store.cursors.load(live.box.id)).get("journal", 0) >= last:
            break
        await live.deps.clock.sleep(0.1)
    await live.refold()


async def settle(
    live: LiveBox, letter: Letter, state: str, outcome: Outcome, was: tuple[str, ...], **more: object
) -> Letter:
    """See :meth:`Delivery.settle`."""
    now = live.deps.clock.now_ms()
    new = structs.replace(letter, state=state, outcome=outcome, changed_ms=now, **more)
    await live.deps.store.talk.update(new, event_of(new, live.box.name, now), was)
    await live.posted()
    return new


def event_of(letter: Letter, name: str, now_ms: int) -> Event:
    """The event of a message's present state."""
    data = {"name": name, "id": letter.id, "kind": letter.kind, "state": letter.state,
            "text": letter.text[:200], "problem": letter.outcome.problem[:200]}  # fmt: skip
    return Event(kind="message", at_ms=now_ms, box=letter.box, run=letter.run, data=data)
