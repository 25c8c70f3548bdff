"""Following a question that an agent has: until the turn that took it is over, or waits for a person."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from msgspec import structs

from thopter.fleet.live import LiveBox
from thopter.fleet.tell import dialog
from thopter.fleet.turns import Answer, answer, end_of_turn, taken_at
from thopter.model.errors import BadInput
from thopter.model.evidence import Evidence, Fact, Verdict
from thopter.model.nouns import BoxState, Entry, RunState
from thopter.model.sockets import Agent
from thopter.store.talk import Letter, Outcome

_STEP_S = 5.0  # something may have changed that nobody told
_TRANSCRIPT_S = 10.0  # the transcript lags behind the hooks
_PAGE = 1000


class Settle(Protocol):
    """Records what came of a message; Conflict when it was dropped meanwhile."""

    async def __call__(
        self, letter: Letter, state: str, outcome: Outcome, was: tuple[str, ...] = (), **more: Any
    ) -> Letter:
        """See :meth:`thopter.fleet.delivery.Delivery.settle`."""


def words_of(agent: Agent | None, letter: Letter) -> tuple[str, ...]:
    """A message as it was given, and as the agent's driver enters it."""
    given = [letter.text]
    if agent is not None:
        try:
            steps = agent.say(letter.text)
        except BadInput:
            steps = ()
        given.append("".join(step.text or step.paste for step in steps))
    return tuple(given)


class Questions:
    """One for each box; at most one question is under way at a time."""

    def __init__(self, live: LiveBox, settle: Settle) -> None:
        self.live = live
        self._settle = settle

    def words(self, letter: Letter) -> tuple[str, ...]:
        """The message as it was given, and as the agent's driver enters it."""
        return words_of(self.live.agent, letter)

    async def follow(self, letter: Letter) -> None:
        """Return when it is answered, has failed, or was dropped (Conflict). Safe to begin again."""
        live = self.live
        words = self.words(letter)
        while True:
            seen = live.verdict
            entries = await self._entries(letter)
            at, taken_ms = taken_at(words, entries, live.offset_ms)
            facts = await live.deps.store.evidence.of_run(letter.run)
            end = end_of_turn(facts, taken_ms) if at >= 0 else None
            if end is not None:
                return await self._over(letter, at, taken_ms, end)
            dead = self.dead(letter)
            if dead:
                await self._settle(letter, "failed", structs.replace(letter.outcome, problem=dead))
                return
            letter = await self._asking(letter, at)
            await self._change(seen, live.mail, _STEP_S if at >= 0 else 0.5)

    async def _change(self, verdict: Verdict, mail: int, seconds: float) -> None:
        await self.live.until(lambda b: b.verdict != verdict or b.mail != mail, seconds)

    async def _entries(self, letter: Letter) -> list[Entry]:
        found: list[Entry] = []
        after = letter.entries
        while True:
            page = await self.live.deps.store.entries.page(letter.run, after=after, limit=_PAGE)
            found += [e for e in page.entries if e.session in ("", self.live.session)]
            after = page.next
            if len(page.entries) < _PAGE:
                return found

    def dead(self, letter: Letter) -> str:
        """Why no answer will ever come, or empty."""
        live, v = self.live, self.live.verdict
        if live.box.state in (BoxState.LOST, BoxState.GONE):
            return f"its box is {live.box.state}"
        if v.state in (RunState.FAILED, RunState.STOPPED) and v.since_ms >= letter.sent_ms:
            return f"the agent is {v.state}" + (f": {v.problem}" if v.problem else "")
        launched = max((e.at_ms for e in live.evidence if e.fact is Fact.LAUNCHED), default=0)
        anew = 0 < letter.sent_ms < launched
        return "the agent was started anew before it answered" if anew else ""

    async def _asking(self, letter: Letter, at: int) -> Letter:
        """Record that its turn waits for a person, or goes on again."""
        asked = dialog(self.live) if at >= 0 else None
        state = "working" if asked is None else "asking"
        if state == letter.state:
            return letter
        reason = "" if asked is None else str(self.live.verdict.reason)
        outcome = structs.replace(letter.outcome, reason=reason, asks=asked.detail if asked else "")
        return await self._settle(letter, state, outcome)

    async def _over(self, letter: Letter, at: int, taken_ms: int, end: Evidence) -> None:
        found = await self._answer(letter, at, end)
        problem = ""
        if end.fact is Fact.INTERRUPTED:
            problem = "its turn was interrupted"
        elif end.fact is Fact.TURN_FAILED:
            problem = "its turn failed: " + (end.detail or "no reason was given")
        elif not found.said:
            problem = "its turn ended without a word"
        outcome = structs.replace(
            letter.outcome, answer=found.said, tools=found.tools, problem=problem, reason="", asks="",
            turn_ms=max(end.at_ms - taken_ms, 0), taken_ms=taken_ms,
        )  # fmt: skip
        await self._settle(letter, "failed" if problem else "answered", outcome)

    async def _answer(self, letter: Letter, at: int, end: Evidence) -> Answer:
        """Wait for the transcript to hold what the turn ended with (bounded)."""
        live = self.live
        ends = live.deps.clock.monotonic() + _TRANSCRIPT_S
        before: Sequence[Entry] = ()
        while True:
            entries = (await self._entries(letter))[at + 1 :]
            found = answer(entries, end, live.offset_ms)
            # Without the hook's word on how it ended, two looks that show the same must do.
            quiet = "last" not in end.data and found.said and len(entries) == len(before)
            if found.whole or quiet or live.deps.clock.monotonic() >= ends:
                return found
            before = entries
            await live.deps.clock.sleep(0.2 if "last" in end.data else 1.0)
