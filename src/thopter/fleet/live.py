"""One box as the hub sees it now: its link, its window of evidence, its verdict, who waits for it.

A :class:`LiveBox` keeps the link up (reconnecting with backoff), runs the pumps while it is up, folds
evidence whenever some arrives or time passes, and stores a changed state. It holds nothing that is
not in the store or in the box: after a hub restart a new one goes on from the cursors.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager

from msgspec import structs

from thopter.fleet.deps import Deps
from thopter.fleet.evidence_window import number, order, prune
from thopter.fleet.facts import LIVES
from thopter.fleet.others import Others
from thopter.fleet.truth import fold
from thopter.kit.channel import BoxLink
from thopter.model.errors import NotNow, StorageError, ThopterError
from thopter.model.events import Event
from thopter.model.evidence import Evidence, Fact, Source, Verdict
from thopter.model.nouns import Box, BoxState, Entry, Run, RunState
from thopter.model.sockets import Agent, LaunchContext, Reading

log = logging.getLogger(__name__)

FOLD_EVERY_S = 5.0  # silence is evidence too: time alone can turn `working` into `unknown`
_SESSIONS = 1000  # that one run is remembered to have been in: a hostile box names as many as it likes
_BACKOFF_S = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)


class LiveBox:
    """See the module docstring. Made by the fleet for each box that should be up."""

    def __init__(self, deps: Deps, box: Box, run: Run | None, agent: Agent | None) -> None:
        self.deps = deps
        self.box = box
        self.run = run
        self.agent = agent
        self.evidence: list[Evidence] = []
        self.verdict = Verdict(state=RunState.QUEUED)
        self.alive_ms = 0  # last answer of boxd to a heartbeat
        self.agent_running = False
        self.last_message = ""
        self.last_message_ms = 0
        self.offset_ms = 0  # hub time minus box time
        self.others = Others()  # further agents in the box
        self.pid = 0  # the process that the run's agent is, in the box; 0: not known
        self.lineage: frozenset[str] = frozenset()  # sessions whose past is this run's own
        self.saved_turn = ""  # the end of turn that was saved last
        self.kept_turn = 0  # when the turn ended whose files were put on the disk last
        self.pooled = False  # it waits in a warm pool and is nobody's yet
        self.attended = 0  # commands and terminals that people have open in the box
        self.trouble = ""  # what the model gateway sees going wrong now
        self.held_up = False  # the model gateway saw a rate limit, and nothing get through since
        self.problems = 0  # inputs that could not be read, counted
        self.people = 0  # who is at a terminal of the box now (attach, ssh, a page)
        self.tell_lock = asyncio.Lock()
        self.changed = asyncio.Condition()
        self._recording = asyncio.Lock()
        self.ctx: LaunchContext | None = None  # how its run was launched, once the pumps know
        self.session_ms = 0  # when the run's own session was last seen to begin
        self.session_left = False  # that session ended, and its program goes on with another one
        # run, the session it was recorded with, and the one that its program has gone over to
        self._followed = ("", "", "")
        self.mail = 0  # grows with every message that is kept for it
        self.is_dead: Callable[[LiveBox], Awaitable[bool]] = _who_knows  # asked when the link is lost
        self._link: BoxLink | None = None
        self._receipts: list[Callable[[Reading], None]] = []

    # ------------------------------------------------------------------------------ the link

    @property
    def linked(self) -> bool:
        """True while boxd's channel is open."""
        return self._link is not None

    async def link(self, timeout: float = 10.0) -> BoxLink:
        """The open link; waits up to ``timeout`` seconds for it, then raises NotNow."""
        try:
            async with asyncio.timeout(timeout), self.changed:
                await self.changed.wait_for(lambda: self._link is not None)
        except TimeoutError:
            raise NotNow(
                f"the box of {self.box.name} does not answer",
                hint="see 'thopter status " + self.box.name + "' for the evidence",
            ) from None
        assert self._link is not None  # wait_for has just said so
        return self._link

    async def keep(self, pumps: Callable[[LiveBox, BoxLink], object]) -> None:
        """Connect, pump, reconnect; ends when cancelled, or when the box is dead by its provider's word.
        ``pumps`` returns a coroutine."""
        failures = 0
        while True:
            try:
                provider = self.deps.providers[self.box.provider]
                reader, writer = await provider.channel(self.box.id)
                async with BoxLink.connect(reader, writer) as link:
                    failures = 0
                    await self._set_link(link)
                    self.heard()
                    await pumps(self, link)  # type: ignore[misc]
            except (ThopterError, OSError, ExceptionGroup, asyncio.IncompleteReadError) as e:
                if failures in (0, len(_BACKOFF_S)):
                    log.warning("box %s: link lost: %s", self.box.name, _first(e))
                if failures >= 1 and await self.is_dead(self):
                    return
            finally:
                await self._set_link(None)
            await self.deps.clock.sleep(_BACKOFF_S[min(failures, len(_BACKOFF_S) - 1)])
            failures += 1

    async def _set_link(self, link: BoxLink | None) -> None:
        async with self.changed:
            self._link = link
            self.changed.notify_all()

    def heard(self) -> None:
        """boxd has just answered."""
        self.alive_ms = self.deps.clock.now_ms()

    @contextmanager
    def person(self, here: bool) -> Iterator[None]:
        """Somebody is at a terminal of the box while this lasts (when ``here``)."""
        self.people += here
        self.attended += 1
        try:
            yield
        finally:
            self.people -= here
            self.attended -= 1

    # ------------------------------------------------------------------------------ receipts

    def on_receipt(self, callback: Callable[[Reading], None]) -> Callable[[], None]:
        """Call ``callback`` for every reading that carries a receipt; returns the un-subscriber."""
        self._receipts.append(callback)
        return lambda: self._receipts.remove(callback)

    def receipts(self, reading: Reading) -> None:
        """Pass a reading's receipt to whoever waits for one."""
        if reading.receipt:
            for callback in list(self._receipts):
                callback(reading)

    def now_ms(self) -> int:
        """The hub's time."""
        return self.deps.clock.now_ms()

    @property
    def run_id(self) -> str:
        """Its run's id; empty when it has none."""
        return "" if self.run is None else self.run.id

    @property
    def session(self) -> str:
        """The agent's own session now."""
        if self.run is None:
            return ""
        run, before, now = self._followed
        return now if run == self.run.id and self.run.session in (before, now) else self.run.session

    def follow_session(self, session: str) -> None:
        """The agent's program went over to another session; recorded with the next batch."""
        if self.run is not None:
            if len(self.lineage) < _SESSIONS:
                self.lineage |= {self.session}
            self._followed = (self.run.id, self.run.session, session)
            self.others.taken(session)

    def was_own(self, session: str) -> bool:
        """Whether the run's conversation is, was, or began in that session."""
        return session in (self.session, self.run.session if self.run else "") or session in self.lineage

    async def keep_session(self) -> None:
        """Record the session that the agent went over to, so that it is resumed in that one."""
        if self.run is not None and self.session != self.run.session:
            run, session = self.run.id, self.session
            await self.deps.store.write(lambda tx: tx.entries.adopt(run, session))
            self.run = structs.replace(self.run, session=session)
            await self.deps.store.runs.update(self.run)

    async def posted(self) -> None:
        """A message was kept for this box, or changed."""
        async with self.changed:
            self.mail += 1
            self.changed.notify_all()

    # ------------------------------------------------------------------------------ truth

    def learn(self, found: Sequence[Evidence]) -> None:
        """Take evidence into the window (the store has it already)."""
        self.evidence = list(prune([*self.evidence, *found]))
        newest = max((e for e in self.evidence if e.fact in LIVES), key=order, default=None)
        named = [e for e in self.evidence if e.fact is Fact.PROCESS_ALIVE and number(e, "pid")]
        if named:
            self.pid = number(max(named, key=order), "pid") or 0
        if newest is not None:  # by the time of the event: a death may be read after the next launch
            self.agent_running = newest.fact is not Fact.PROCESS_EXITED

    def of_this_run(self, entry: Entry) -> bool:
        """False for what a box that was started from a saved one said in a life of its own."""
        if not self.box.snapshot or self.run is None or entry.at_ms >= self.run.created_ms:
            return True
        return bool(self.run.parent) and entry.session in self.lineage

    def recent(self, item: Evidence) -> bool:
        """False for facts that a saved box brought along: they are about another run."""
        return not self.box.snapshot or self.run is None or item.at_ms >= self.run.created_ms

    def picture(self) -> list[Evidence]:
        """The window plus what is only known at this moment (heartbeat, provider's word)."""
        alive = Evidence(
            source=Source.PROCESS,
            fact=Fact.PROCESS_ALIVE,
            at_ms=self.alive_ms,
            seen_ms=self.alive_ms,
            detail="boxd holds the agent's process",
        )
        held = [alive] if self.alive_ms and self.agent_running else []
        return [*self.evidence, *self.of_the_box(), *held]

    def of_the_box(self) -> list[Evidence]:
        """What is known of the box itself at this moment."""
        now = self.now_ms()
        extra: list[Evidence] = []
        if self.alive_ms:
            extra.append(
                Evidence(
                    source=Source.HEARTBEAT,
                    fact=Fact.BOX_ALIVE,
                    at_ms=self.alive_ms,
                    seen_ms=self.alive_ms,
                    detail="boxd answered",
                )
            )
        told = {
            BoxState.FROZEN: Fact.BOX_FROZEN,
            BoxState.SUSPENDED: Fact.BOX_FROZEN,
            BoxState.STOPPED: Fact.BOX_GONE,  # the evidence says who asked for that
            BoxState.LOST: Fact.BOX_GONE,
            BoxState.GONE: Fact.BOX_GONE,
        }
        if self.box.state in told:
            extra.append(
                Evidence(
                    source=Source.PROVIDER,
                    fact=told[self.box.state],
                    at_ms=self.box.changed_ms,
                    seen_ms=now,
                    detail=f"box is {self.box.state}",
                )
            )
        return extra

    async def show(self) -> None:
        """Derive the state anew, recording nothing."""
        verdict = fold(self.picture(), self.deps.clock.now_ms())
        async with self.changed:
            self.verdict = verdict
            self.changed.notify_all()

    async def refold(self) -> None:
        """Derive the state anew; store it and tell the world when it changed."""
        if self.run is None:
            return
        await self.show()
        async with self._recording:  # several fold at once; a change is recorded, and told, once
            await self._tell_others()
            if (self.verdict.state, self.verdict.reason) != (self.run.state, self.run.reason):
                await self._record(self.verdict)

    async def _tell_others(self) -> None:
        """Derive the states of further agents, and store and tell what changed."""
        if self.run is None or not len(self.others):
            return
        changed = self.others.fold(self.of_the_box(), self.now_ms())
        aside = self.others.pending()
        if changed or aside.agents or aside.forgotten:
            events = [
                Event(
                    kind="agent.state", at_ms=self.now_ms(), box=self.box.id, run=self.run.id,
                    data={
                        "name": self.box.name, "number": a.number, "session": a.session, "state": a.state,
                        "reason": a.reason,
                    },
                )
                for a in changed
            ]  # fmt: skip
            await self.deps.store.ingest(self.box.id, self.run.id, {}, events=events, aside=aside)
            self.others.stored(aside)
            self.others.told(changed)

    async def _record(self, verdict: Verdict) -> None:
        assert self.run is not None  # refold checked
        now = self.deps.clock.now_ms()
        problem = verdict.problem or verdict.contradiction
        run = structs.replace(
            self.run, state=verdict.state, reason=verdict.reason, changed_ms=now, problem=problem,
            session=self.session,
        )  # fmt: skip
        event = Event(
            kind="run.state",
            at_ms=now,
            box=self.box.id,
            run=run.id,
            data={
                "name": self.box.name,
                "state": run.state,
                "reason": run.reason,
                "since_ms": verdict.since_ms,
                "because": [f"{e.source}:{e.fact}" for e in verdict.because[:4]],
            },
        )
        await self.deps.store.runs.update(run, event)
        self.run = run

    async def keep_folding(self) -> None:
        """Fold now and then, because time passes."""
        while True:
            try:
                await self.refold()
            except StorageError as e:  # there is no room on the disk: what is known is recorded later
                log.error("box %s: its state could not be recorded: %s", self.box.name, e.message)
            await self.deps.clock.sleep(FOLD_EVERY_S)

    async def until(self, test: Callable[[LiveBox], bool], timeout: float) -> bool:
        """Wait until ``test(self)`` is true; False when ``timeout`` seconds have passed."""
        try:
            async with asyncio.timeout(timeout), self.changed:
                await self.changed.wait_for(lambda: test(self))
            return True
        except TimeoutError:
            return False


async def _who_knows(_live: LiveBox) -> bool:
    return False


def _first(e: BaseException) -> BaseException:
    while isinstance(e, BaseExceptionGroup) and e.exceptions:
        e = e.exceptions[0]
    return e
