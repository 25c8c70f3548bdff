"""Further agents in a box: who they are, and their states by the same truth as the run's own.

One :class:`Others` a box, in memory; what is worth keeping is stored with the cursors behind what was
read, so that a hub that was killed shows the same agents under the same numbers. What comes from a box
is hostile: at most :data:`KEPT` are kept, those whose process is there before those that have ended.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from msgspec import structs

from thopter.fleet.evidence_window import prune
from thopter.fleet.truth import fold
from thopter.kit.sanitize import one_line
from thopter.model.api.others import AgentView
from thopter.model.evidence import Evidence, Fact, Source, Verdict
from thopter.model.nouns import RunState
from thopter.model.others import NUMBER_FIRST, OtherAgent
from thopter.model.reading import Program, Reading
from thopter.store.store import Aside

KEPT = 16
_SESSION_MAX = 128
_WORDS_MAX = 200
_UNKNOWN_MAX = 32  # sessions of nobody known yet, whose last words are remembered
_GOES_ON = (RunState.STARTING, RunState.WORKING)
_ENDS = (Fact.PROCESS_EXITED, Fact.SESSION_ENDED, Fact.BOX_GONE)


class Others:
    """See the module docstring."""

    def __init__(self) -> None:
        self._all: dict[int, OtherAgent] = {}
        self._verdicts: dict[int, Verdict] = {}
        self._words: dict[str, tuple[str, int]] = {}
        self._changed: set[int] = set()
        self._forgotten: set[int] = set()
        self._untold: set[int] = set()
        self._last = NUMBER_FIRST - 1
        self.version = 0  # grows with all that is learnt of them

    def load(self, agents: Iterable[OtherAgent]) -> None:
        """Take over what was recorded."""
        self._all = {a.number: a for a in agents}
        self._last = max(self._all, default=NUMBER_FIRST - 1)

    def __len__(self) -> int:
        return len(self._all)

    def all(self) -> list[OtherAgent]:
        """Those that are kept, by number."""
        return sorted(self._all.values(), key=lambda a: a.number)

    # ------------------------------------------------------------------------------- hearing

    def find(self, session: str, program: Program | None = None) -> OtherAgent | None:
        """The agent with that process; without one, the newest in that session, living before ended."""
        if program is not None:
            mine = [a for a in self._all.values() if a.pid == program.pid and _same(a, program)]
            if mine:
                return mine[-1]
        free = [
            a for a in self._all.values()
            if session and a.session == session and (program is None or not a.pid or self.is_over(a))
        ]  # fmt: skip
        return max(free, key=lambda a: (not self.is_over(a), a.number), default=None)

    def living(self, session: str) -> bool:
        """Whether one that has not ended is in that session."""
        return any(a.session == session and not self.is_over(a) for a in self._all.values())

    def hear(self, reading: Reading, evidence: Sequence[Evidence], now_ms: int) -> OtherAgent:
        """Something that one of them reported (``evidence``: what it says, on the hub's clock). One that
        was not known yet is from now on."""
        session, program = one_line(reading.session, _SESSION_MAX), reading.program
        agent = self.find(session, program) or self._new(session, now_ms)
        changes: dict[str, Any] = {}
        if session and session != agent.session and program is not None:
            changes["session"] = session  # its program went over to another one
        found = list(evidence)
        if program is not None and (program.pid, program.started) != (agent.pid, agent.started):
            changes |= {"pid": program.pid, "started": program.started or agent.started}
            if program.pid != agent.pid or self.is_over(agent):
                found.append(_process(Fact.PROCESS_ALIVE, program.pid, now_ms, "its process is there"))
        if program is not None:
            changes |= {"headless": agent.headless or program.headless}
            changes |= {"cwd": one_line(program.cwd, 4096)} if program.cwd else {}
        said = self._words.pop(session, None)
        if said is not None and said[1] >= agent.said_ms:
            changes |= {"said": said[0], "said_ms": said[1]}
        agent = self._change(agent, now_ms, found, changes)
        self._bound()
        return agent

    def said(self, session: str, words: str, at_ms: int, evidence: Sequence[Evidence], now_ms: int) -> None:
        """Something that was said in a session (``words`` may be empty); of one that nobody is known to be
        in, the last words are kept until somebody is."""
        session = one_line(session, _SESSION_MAX)
        agent = self.find(session)
        words = one_line(words, _WORDS_MAX)
        if agent is None:
            if words:
                self._words[session] = (words, at_ms)
                while len(self._words) > _UNKNOWN_MAX:
                    del self._words[next(iter(self._words))]
            return
        changes = {"said": words, "said_ms": at_ms} if words and at_ms >= agent.said_ms else {}
        if changes or evidence:
            self._change(agent, now_ms, evidence, changes)

    def taken(self, session: str) -> None:
        """The run's own agent is in this session now: whoever was thought to be, is not another."""
        for agent in [a for a in self._all.values() if a.session == session and not a.pid]:
            self._drop(agent.number)

    def _new(self, session: str, now_ms: int) -> OtherAgent:
        self._last += 1
        agent = OtherAgent(number=self._last, session=session, first_ms=now_ms, changed_ms=now_ms)
        self._all[agent.number] = agent
        return agent

    def _change(
        self, agent: OtherAgent, now_ms: int, evidence: Sequence[Evidence], changes: Mapping[str, Any]
    ) -> OtherAgent:
        kept = prune([*agent.evidence, *evidence]) if evidence else agent.evidence
        new = structs.replace(agent, evidence=kept, **changes)
        if new != agent or agent.number not in self._verdicts:
            new = structs.replace(new, changed_ms=now_ms)
            self._changed.add(new.number)
        self._all[new.number] = new
        self.version += 1
        return new

    def _bound(self) -> None:
        while len(self._all) > KEPT:
            first = min(self._all.values(), key=lambda a: (bool(a.pid) and not self.is_over(a), a.number))
            self._drop(first.number)

    def _drop(self, number: int) -> None:
        self._all.pop(number, None)
        self._verdicts.pop(number, None)
        self._changed.discard(number)
        self._untold.discard(number)
        self._forgotten.add(number)

    # ------------------------------------------------------------------------------- looking

    def pids(self) -> list[int]:
        """Processes to be asked after."""
        return [a.pid for a in self._all.values() if a.pid and not self._exited(a)]

    def looked(self, programs: Sequence[Mapping[str, Any]], now_ms: int) -> None:
        """What the box says of the processes asked after: all that run."""
        there = {p["pid"]: p for p in programs if isinstance(p.get("pid"), int)}
        for agent in [a for a in self._all.values() if a.pid and not self._exited(a)]:
            seen = there.get(agent.pid)
            if seen is None or (agent.started and seen.get("started") != agent.started):
                gone = _process(Fact.PROCESS_EXITED, agent.pid, now_ms, "its process is gone")
                self._change(agent, now_ms, [gone], {})
                continue
            of = str(seen.get("of") or "")
            by = "agent" if of else "person" if seen.get("tty") else agent.by
            changes: dict[str, Any] = {
                "by": by, "tty": one_line(str(seen.get("tty") or ""), 64),
                "pane": one_line(str(seen.get("pane") or ""), 80),
                "cwd": agent.cwd or one_line(str(seen.get("cwd") or ""), 4096),
            }  # fmt: skip
            started = seen.get("started")
            if not agent.started and isinstance(started, int):
                changes["started"] = started
            self._change(agent, now_ms, (), changes)

    def shown(self, number: int, evidence: Sequence[Evidence]) -> None:
        """Its own word, read again: news for its state, not for the record."""
        agent = self._all.get(number)
        if agent is not None:
            self._all[number] = structs.replace(agent, evidence=prune([*agent.evidence, *evidence]))
            self.version += 1

    def _exited(self, agent: OtherAgent) -> bool:
        lives = (Fact.PROCESS_ALIVE, Fact.PROCESS_EXITED)
        last = max((e for e in agent.evidence if e.fact in lives), key=lambda e: e.at_ms, default=None)
        return last is not None and last.fact is Fact.PROCESS_EXITED

    # ------------------------------------------------------------------------------- telling

    def fold(self, beside: Sequence[Evidence], now_ms: int) -> list[OtherAgent]:
        """Derive all states anew (``beside``: what is known of the box); returns those that changed since
        what was last :meth:`told`."""
        for agent in list(self._all.values()):
            verdict = fold([*agent.evidence, *beside], now_ms)
            self._verdicts[agent.number] = verdict
            now = (_state(verdict), str(verdict.reason or ""))
            if now != (agent.state, agent.reason):
                new = structs.replace(agent, state=now[0], reason=now[1], changed_ms=now_ms)
                self._all[agent.number] = new
                self._changed.add(agent.number)
                self._untold.add(agent.number)
        return [self._all[n] for n in sorted(self._untold) if n in self._all]

    def is_over(self, agent: OtherAgent) -> bool:
        """Whether it has ended, as far as has been seen."""
        verdict = self._verdicts.get(agent.number)
        return _state(verdict) == "ended" if verdict is not None else agent.state == "ended"

    def at_work(self) -> bool:
        """Whether one of them goes on by itself, for all that is known."""
        return any(v.state in _GOES_ON for v in self._verdicts.values())

    def verdicts(self) -> list[Verdict]:
        """What each of them is doing, those that have ended included. What nobody can ever say any more
        (it never showed a process, and is silent) is left out."""
        known = [(self._all[n], v) for n, v in self._verdicts.items() if n in self._all]
        queued, unknown = RunState.QUEUED, RunState.UNKNOWN
        return [v for a, v in known if v.state is not queued and (a.pid or v.state is not unknown)]

    def evidence(self, session: str) -> list[Evidence] | None:
        """The window of the one in that session; None when there is none."""
        agent = self.find(session)
        return None if agent is None else list(agent.evidence)

    def pending(self, entries: Sequence[Any] = ()) -> Aside:
        """What has to be stored, with what they said (``entries``)."""
        agents = [self._all[n] for n in sorted(self._changed) if n in self._all]
        return Aside(entries=list(entries), agents=agents, forgotten=sorted(self._forgotten))

    def stored(self, aside: Aside) -> None:
        """That is durable now."""
        self._changed -= {a.number for a in aside.agents if self._all.get(a.number) == a}
        self._forgotten -= set(aside.forgotten)

    def told(self, agents: Sequence[OtherAgent]) -> None:
        """The world knows of these states."""
        self._untold -= {a.number for a in agents if self._state_of(a.number) == (a.state, a.reason)}

    def _state_of(self, number: int) -> tuple[str, str]:
        agent = self._all.get(number)
        return (agent.state, agent.reason) if agent is not None else ("", "")

    def views(self, name: str, kind: str) -> list[AgentView]:
        """As people see them, by number."""
        return [self._view(a, name, kind) for a in self.all()]

    def _view(self, a: OtherAgent, name: str, kind: str) -> AgentView:
        verdict = self._verdicts.get(a.number) or Verdict(state=RunState.UNKNOWN)
        return AgentView(
            name=f"{name}.{a.number}", number=a.number, session=a.session, kind=kind, state=_state(verdict),
            reason=str(verdict.reason or ""), since_ms=verdict.since_ms, by=a.by, pid=a.pid, tty=a.tty,
            pane=a.pane, cwd=a.cwd, headless=a.headless, first_ms=a.first_ms, last_message=a.said,
            last_message_ms=a.said_ms, problem=verdict.problem, contradiction=verdict.contradiction,
            because=list(verdict.because[:4]),
        )  # fmt: skip


def _same(agent: OtherAgent, program: Program) -> bool:
    return not agent.started or not program.started or agent.started == program.started


def _state(verdict: Verdict) -> str:
    """``ended`` for one that is not there any more, however it went; else as for a run."""
    over = verdict.state in (RunState.STOPPED, RunState.FAILED) and verdict.because
    if over and verdict.because[0].fact in _ENDS:
        return "ended"
    return str(RunState.UNKNOWN if verdict.state is RunState.QUEUED else verdict.state)


def _process(fact: Fact, pid: int, now_ms: int, words: str) -> Evidence:
    return Evidence(
        source=Source.PROCESS, fact=fact, at_ms=now_ms, seen_ms=now_ms, detail=words, data={"pid": pid}
    )
