"""A simulated agent's life with its true states, and what the hub gets to see of it.

The life follows the real Claude Code: an interrupt and API retries fire no hook, a queued prompt
starts the next turn within milliseconds, tools of one message run in parallel, a killed tool may
report after the interrupt, hooks and transcript tell the same thing some ms apart, the status file
is a moment late and is only sampled. Times are ms; everything comes from one seeded generator.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random

from thopter.model.evidence import Evidence, Fact, Source

T0 = 1_800_000_000_000
POLL_MS = 5_000
BEAT_MS = 10_000

_LIFE = (Fact.PROCESS_ALIVE, Fact.PROCESS_EXITED)
State = tuple[str, str]
STARTING, WORKING, DONE = ("starting", ""), ("working", ""), ("done", "")
TURN_END, PERMISSION, QUESTION = ("waiting", "turn_end"), ("waiting", "permission"), ("waiting", "question")
RATE_LIMIT, FAILED, STOPPED, FROZEN = (
    ("waiting", "rate_limit"),
    ("failed", ""),
    ("stopped", ""),
    ("frozen", ""),
)


@dataclass
class Delivery:
    """How evidence reaches the hub. ``lag``: up to so many ms late; ``twice``: share delivered again
    later; ``lost``: share that never comes; ``in_order``: boxd's journal (hooks and process) comes
    in its own order, as it really does, though other channels overtake it or fall behind."""

    lag: int = 4_000
    twice: float = 0.1
    lost: float = 0.0
    in_order: bool = True


@dataclass
class Life:
    """What happened: ``truth`` holds (since, state), ``heard`` the evidence with its ``seen_ms``,
    ``away`` the spans in which the hub could not reach the box (cut off, or frozen)."""

    truth: list[tuple[int, State]] = field(default_factory=list)
    heard: list[Evidence] = field(default_factory=list)
    away: list[tuple[int, int]] = field(default_factory=list)
    end: int = 0

    def states(self, begin: int, end: int) -> set[State]:
        """Return every true state of the span."""
        found = {s for t, s in self.truth if begin <= t <= end}
        before = [s for t, s in self.truth if t <= begin]
        return found | ({before[-1]} if before else set())


class SimulatedAgent:
    """Lives one life of ``turns`` turns; see the module docstring."""

    def __init__(self, seed: int, delivery: Delivery) -> None:
        self.rng = Random(seed)
        self.delivery = delivery
        self.now = T0 + self.rng.randrange(1_000_000)
        self.life = Life()
        self.sent: list[tuple[Source, Fact, int, dict[str, object]]] = []
        self.status: list[tuple[int, Fact]] = []  # (updatedAt, status)
        self.pid = 100
        self.calls = 0
        self.dead = False

    # ------------------------------------------------------------------------------- small parts

    def chance(self, share: float) -> bool:
        return self.rng.random() < share

    def wait(self, low: int, high: int) -> None:
        """Let time pass, short spans far more often than long ones."""
        self.now += int(low * (high / low) ** self.rng.random())

    def become(self, state: State) -> None:
        self.life.truth.append((self.now, state))

    def say(self, source: Source, fact: Fact, late: int = 0, **data: object) -> None:
        self.sent.append((source, fact, self.now + late, data))

    def both(self, fact: Fact, **data: object) -> None:
        """A fact that the hook tells at once and the transcript within some ms."""
        self.say(Source.HOOK, fact, **data)
        self.say(Source.TRANSCRIPT, fact, self.rng.randrange(-20, 20), **data)

    def show(self, status: Fact) -> None:
        """The agent writes its status file a moment later."""
        at = self.now + self.rng.randrange(0, 60)
        if self.status and at <= self.status[-1][0]:
            at = self.status[-1][0] + 1
        self.status.append((at, status))

    # -------------------------------------------------------------------------------------- life

    def live(self, turns: int = 6) -> Life:
        """Live, then be heard; returns the whole."""
        self.launch()
        for _ in range(turns):
            if not self.dead:
                self.turn()
            if not self.dead and self.chance(0.15):
                self.freeze()
            if not self.dead and self.chance(0.1):
                self.leave()
            if self.chance(0.15):
                break
            self.wait(20, 400_000)
            if self.dead:
                self.launch()
            else:
                self.prompt()
        self.now += 90_000
        self.life.end = self.now
        self.deliver()
        return self.life

    def launch(self) -> None:
        """Start the agent (again); it may die at once, else its prompt is taken."""
        self.dead = False
        self.pid += 1
        self.become(STARTING)
        self.say(Source.HUB, Fact.LAUNCHED, prompt=True)
        self.wait(5, 60)
        self.say(Source.PROCESS, Fact.PROCESS_ALIVE, pid=self.pid)
        if self.chance(0.08):
            self.wait(1, 800)
            self.die(self.rng.choice((1, 127, -11)))
            return
        self.wait(200, 3_000)
        self.say(Source.HOOK, Fact.SESSION_STARTED)
        self.show(Fact.IDLE)
        self.wait(50, 1_000)
        self.prompt()

    def prompt(self) -> None:
        self.become(WORKING)
        self.both(Fact.TURN_STARTED)
        self.show(Fact.BUSY)

    def turn(self) -> None:
        """One turn, begun by :meth:`prompt`, to one of its ends."""
        for _ in range(self.rng.randrange(0, 6)):
            self.wait(100, 90_000)
            if self.chance(0.1):
                self.rate_limit()
            if not self.tools():
                return
            if self.chance(0.06):
                return self.interrupt()
            if self.chance(0.04):
                return self.die(self.rng.choice((1, -9, -6, None)))
            if self.chance(0.03):
                self.freeze()
            if self.chance(0.03):
                self.wander()
        self.wait(100, 60_000)
        self.end_turn()

    def tools(self) -> bool:
        """One message's tool calls, some in parallel, one of them perhaps behind a dialog. False
        when that ended the turn."""
        calls = [self.next_call() for _ in range(self.rng.choice((1, 1, 1, 2, 3)))]
        for call in calls:
            self.both(Fact.ACTIVITY, tool="Bash", call=call)
            self.now += self.rng.randrange(1, 9)
        if self.chance(0.2) and not self.ask(calls[-1], calls[:-1]):
            return False
        for call in calls:
            self.wait(10, 120_000)
            self.both(Fact.ACTIVITY, tool="Bash", call=call)
        return True

    def next_call(self) -> str:
        self.calls += 1
        return f"c{self.calls}"

    def ask(self, call: str, others: list[str]) -> bool:
        """A dialog; a person answers it in the terminal or by the hub, or leaves it with Escape."""
        state, fact = self.rng.choice(((PERMISSION, Fact.PERMISSION_ASKED), (QUESTION, Fact.QUESTION_ASKED)))
        self.become(state)
        self.say(Source.HOOK, fact, call=call)
        self.show(fact)
        for other in others:  # what ran in parallel comes in while the dialog stands
            self.now += self.rng.randrange(20, 3_000)
            self.both(Fact.ACTIVITY, tool="Read", call=other)
        self.wait(200, 300_000)
        if self.chance(0.2):
            self.interrupt()
            return False
        self.become(WORKING)
        if self.chance(0.5):
            self.say(Source.HUB, Fact.ANSWERED, call=call)
        self.show(Fact.BUSY)
        return True

    def rate_limit(self) -> None:
        self.become(RATE_LIMIT)
        for _ in range(self.rng.randrange(1, 5)):
            self.say(Source.GATEWAY, Fact.RATE_LIMITED)
            self.wait(500, 20_000)
        self.become(WORKING)
        self.say(Source.GATEWAY, Fact.ACTIVITY)
        self.wait(100, 20_000)

    def interrupt(self) -> None:
        """Escape: no hook. The transcript mostly says so; a killed tool may report after it."""
        self.become(TURN_END)
        if self.chance(0.7):
            self.say(Source.TRANSCRIPT, Fact.INTERRUPTED)
        self.show(Fact.IDLE)
        if self.chance(0.3):
            self.now += self.rng.randrange(5, 1_500)
            self.both(Fact.ACTIVITY, tool="Bash", call=self.next_call())

    def end_turn(self) -> None:
        if self.chance(0.1):
            word = self.rng.choice(("authentication_failed", "rate_limit", "server_error"))
            self.become(
                {"authentication_failed": FAILED, "rate_limit": RATE_LIMIT, "server_error": TURN_END}[word]
            )
            self.say(Source.HOOK, Fact.TURN_FAILED, error=word)
        elif self.chance(0.1):
            self.background()
            return
        elif self.chance(0.1):
            self.become(DONE)
            self.say(Source.HUB, Fact.DECLARED_DONE)
            self.wait(50, 5_000)
            self.both(Fact.TURN_ENDED)
        else:
            self.become(TURN_END)
            self.both(Fact.TURN_ENDED)
        self.show(Fact.IDLE)

    def background(self) -> None:
        """The turn ends but a subagent goes on and wakes the agent, which then really ends."""
        self.say(Source.HOOK, Fact.TURN_ENDED, background=1)
        self.show(Fact.IDLE)
        for _ in range(self.rng.randrange(0, 4)):
            self.wait(500, 15_000)
            self.say(Source.HOOK, Fact.ACTIVITY, tool="Read", call=self.next_call(), side=True)
        self.wait(500, 15_000)
        self.prompt()
        self.wait(100, 20_000)
        self.become(TURN_END)
        self.both(Fact.TURN_ENDED)
        self.show(Fact.IDLE)

    def leave(self) -> None:
        """``/exit``, a stop by the hub, or a signal from somewhere."""
        kind = self.rng.choice(("exit", "stop", "term"))
        if self.life.truth[-1][1] != DONE:  # what was declared done stays done
            self.become(STOPPED)
        if kind == "stop":
            self.say(Source.HUB, Fact.STOP_REQUESTED)
        self.say(Source.HOOK, Fact.SESSION_ENDED)
        self.wait(20, 1_500)
        code = {"exit": 0, "stop": -15, "term": 143}[kind]
        self.say(Source.PROCESS, Fact.PROCESS_EXITED, pid=self.pid, code=code)
        self.dead = True

    def die(self, code: int | None) -> None:
        self.become(FAILED)
        self.say(
            Source.PROCESS, Fact.PROCESS_EXITED, pid=self.pid, **({} if code is None else {"code": code})
        )
        self.dead = True

    def freeze(self) -> None:
        """Somebody freezes the box and thaws it; what was going on goes on."""
        before = self.life.truth[-1][1]
        self.now += 50
        begin = self.now
        self.become(FROZEN if before in (WORKING, STARTING) else before)
        self.say(Source.PROVIDER, Fact.BOX_FROZEN)
        self.wait(1_000, 300_000)
        self.life.away.append((begin, self.now))
        self.become(before)

    def wander(self) -> None:
        """The hub can't reach the box for a while; the agent goes on."""
        self.life.away.append((self.now, self.now + self.rng.randrange(1_000, 200_000)))

    # -------------------------------------------------------------------------------- being heard

    def deliver(self) -> None:
        """Turn what was said into what the hub reads, with delays, repetitions and losses."""
        last_read = 0
        for source, fact, at, data in sorted(self.sent, key=lambda s: s[2]):
            hub_side = source in (Source.HUB, Source.PROVIDER)
            if not hub_side and self.chance(self.delivery.lost):
                continue
            seen = at if hub_side else self.arrival(at)
            if self.delivery.in_order and source in (Source.HOOK, Source.PROCESS):
                seen = last_read = max(seen, last_read)
            self.hear(source, fact, at, seen, data)
            if self.chance(self.delivery.twice):
                self.hear(source, fact, at, self.arrival(seen), data)
        first = self.life.truth[0][0]
        for at in range(first, self.life.end, BEAT_MS):
            if self.reachable(at):
                seen = at + self.rng.randrange(0, 200)
                self.hear(Source.HEARTBEAT, Fact.BOX_ALIVE, at, seen, {})
                if self.was_alive(at):
                    self.hear(Source.PROCESS, Fact.PROCESS_ALIVE, at, seen, {})
        for at in range(first + self.rng.randrange(POLL_MS), self.life.end, POLL_MS):
            self.poll(at)
        self.rng.shuffle(self.life.heard)

    def was_alive(self, at: int) -> bool:
        """Whether boxd held a process of the agent then."""
        marks = [(t, fact) for _, fact, t, _ in self.sent if fact in _LIFE and t <= at]
        return bool(marks) and max(marks)[1] is Fact.PROCESS_ALIVE

    def poll(self, at: int) -> None:
        written = [(t, s) for t, s in self.status if t <= at]
        exits = [t for _, fact, t, _ in self.sent if fact is Fact.PROCESS_EXITED and t <= at]
        if not written or not self.reachable(at) or self.chance(self.delivery.lost):
            return
        updated, status = written[-1]
        if exits and exits[-1] >= updated:
            return  # the file went with its process
        self.hear(Source.SCREEN, status, updated, self.arrival(at), {})

    def arrival(self, at: int) -> int:
        """When the hub reads what happened at ``at``: late, and never through a closed door."""
        seen = at + self.rng.randrange(0, self.delivery.lag)
        for begin, end in sorted(self.life.away):
            if begin <= seen < end:
                seen = end + self.rng.randrange(0, self.delivery.lag)
        return seen

    def reachable(self, at: int) -> bool:
        return not any(begin <= at < end for begin, end in self.life.away)

    def hear(self, source: Source, fact: Fact, at: int, seen: int, data: dict[str, object]) -> None:
        self.life.heard.append(
            Evidence(source=source, fact=fact, at_ms=min(at, seen), seen_ms=seen, data=dict(data))
        )
