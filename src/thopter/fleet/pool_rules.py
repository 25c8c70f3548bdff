"""What a pool of warm boxes needs next, decided purely: no clock, no I/O."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct, field

from thopter.fleet.live import LiveBox
from thopter.model.evidence import Fact
from thopter.model.nouns import BoxState, RunState, WaitReason
from thopter.store.pools import FILLING, RETIRED, WARM, Pool

AT_ONCE = 2  # boxes under way in all pools together: what people wait for comes first
DOUBT_MS = 60_000  # how long a warm box may be in a state from which it can't be given out
_FIRST_RETRY_MS = 5_000
_LAST_RETRY_MS = 600_000
_OVER = (RunState.DONE, RunState.FAILED, RunState.STOPPED)


class Seen(Struct, frozen=True, kw_only=True):
    """A box of a pool, as it is now. ``flow``: how its making stands (``running``, ``done``, ``failed``,
    ``called off``), ``problem`` what that said; ``fitness`` see :func:`fitness`; ``doubt_ms``: for how
    long it is not fit."""

    box: str
    state: str
    recipe: str
    box_state: BoxState
    flow: str = "done"
    problem: str = ""
    fitness: str = "fit"
    doubt_ms: int = 0


class Plan(Struct, kw_only=True):
    """What to do: boxes to forget, declare warm, retire, or whose making is called off; how many to make;
    and the problem that the newest failure left (None: nothing new, empty: it works again)."""

    forget: list[str] = field(default_factory=list)
    warm: list[str] = field(default_factory=list)
    retire: list[str] = field(default_factory=list)
    call_off: list[str] = field(default_factory=list)
    fill: int = 0
    problem: str | None = None


def fitness(live: LiveBox | None, box_state: BoxState) -> str:
    """``fit`` to be given out now; ``unfit``: never again (its agent is gone, or somebody has talked to
    it); ``doubtful``: not at this moment."""
    if box_state is not BoxState.READY:
        return "unfit"
    if live is None or live.run is None:
        return "doubtful"
    if live.verdict.state in _OVER or any(e.fact is Fact.TURN_STARTED for e in live.evidence):
        return "unfit"
    waits = live.verdict.state is RunState.WAITING and live.verdict.reason is WaitReason.TURN_END
    return "fit" if waits and live.linked and live.agent_running else "doubtful"


def decide(pool: Pool | None, seen: Sequence[Seen], recipe: str, now_ms: int, slots: int) -> Plan:
    """What to do for one pool (None: it is wanted no more). ``recipe``: what its boxes must be made of;
    empty: that is not known now, so nothing is judged by it and nothing made. ``slots``: how many boxes
    may be begun."""
    plan = Plan()
    kept: list[Seen] = []
    for one in seen:
        stale = pool is None or bool(recipe and one.recipe != recipe)
        if one.box_state is BoxState.GONE:
            plan.forget.append(one.box)
            if one.state == FILLING and one.flow == "failed" and not stale:
                plan.problem = one.problem or "a box could not be made"
        elif one.state == FILLING and one.flow == "running":
            (plan.call_off.append(one.box) if stale else kept.append(one))
        elif one.state == FILLING and one.flow == "done" and not one.problem and not stale:
            plan.warm.append(one.box)
            plan.problem = ""
            kept.append(one)
        elif one.state == FILLING:
            plan.retire.append(one.box)
            plan.problem = plan.problem if stale or one.flow == "called off" else one.problem
        elif one.state == WARM:
            hopeless = one.fitness == "unfit" or (one.fitness == "doubtful" and one.doubt_ms > DOUBT_MS)
            (plan.retire.append(one.box) if stale or hopeless else kept.append(one))
        elif one.state == RETIRED:
            plan.retire.append(one.box)
    if pool is not None:
        _level(plan, pool, kept, recipe, now_ms, slots)
    return plan


def _level(plan: Plan, pool: Pool, kept: list[Seen], recipe: str, now_ms: int, slots: int) -> None:
    """Make what is missing, or let go of what is too much: those under way first."""
    surplus = len(kept) - pool.want
    order = sorted(kept, key=lambda one: (one.flow != "running", one.fitness == "fit", one.box))
    for one in order[: max(surplus, 0)]:
        if one.flow == "running" and one.state == FILLING:
            plan.call_off.append(one.box)
        else:
            plan.retire.append(one.box)
            plan.warm = [box for box in plan.warm if box != one.box]
    failed = bool(plan.problem)
    if recipe and not failed and (now_ms >= pool.retry_ms or plan.problem == ""):
        plan.fill = max(0, min(-surplus, slots))


def retry_after(failures: int) -> int:
    """Milliseconds to wait after so many failures in a row."""
    return int(min(_FIRST_RETRY_MS * 2 ** max(failures - 1, 0), _LAST_RETRY_MS))
