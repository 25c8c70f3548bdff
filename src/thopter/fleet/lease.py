"""How long a box may go on, decided purely: leases, what counts as idle, and jumps of the clock.

Deadlines are wall times, so that they survive a restart; while the hub runs, a jump of the wall clock
against the monotonic one moves them along, so that setting the clock ends nobody's time.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import structs

from thopter.kit.settings import Settings
from thopter.model.evidence import Verdict
from thopter.model.nouns import BoxState, Lease, RunState, WaitReason

ON_IDLE = ("freeze", "suspend", "stop", "destroy", "none")
JUMP_MS = 2_000  # a difference between the two clocks that no slow machine explains
_MINUTE_MS = 60_000
_RESTING = (RunState.DONE, RunState.FAILED, RunState.STOPPED)
_ASKS = (WaitReason.PERMISSION, WaitReason.QUESTION)


def new_lease(
    box: str, settings: Settings, now_ms: int, keep_min: float | None = None, idle_min: float | None = None
) -> Lease:
    """The lease of a box that begins now; lengths that are not given are those of the settings."""
    return renewed(
        Lease(
            box=box,
            keep_min=int(settings.get("box.keep_alive")) if keep_min is None else keep_min,
            idle_min=int(settings.get("box.idle_timeout")) if idle_min is None else idle_min,
            on_idle=str(settings.get("box.on_idle")),
        ),
        now_ms,
    )


def renewed(lease: Lease, now_ms: int) -> Lease:
    """Its time begun anew."""
    expires = now_ms + round(lease.keep_min * _MINUTE_MS) if lease.keep_min else 0
    return structs.replace(lease, expires_ms=expires, idle_until_ms=0, from_ms=now_ms)


def is_idle(verdict: Verdict) -> bool:
    """By truth's word alone: its turn is over, or its work. A question or a permission that waits is
    not idle: it rings a person, and their answer must be taken at once."""
    if verdict.state is RunState.WAITING:
        return verdict.reason is WaitReason.TURN_END
    return verdict.state in _RESTING


def may_rest(verdict: Verdict) -> bool:
    """What the end of the keep-alive may put to sleep: everything but an agent at work, or one of
    which nobody knows whether it is."""
    return is_idle(verdict) or (verdict.state is RunState.WAITING and verdict.reason in _ASKS)


def busiest(verdicts: Sequence[Verdict]) -> Verdict:
    """The one of several agents in a box that decides how long it may go on: one at work before one
    that asks a person, before the one that came to rest last."""
    return max(verdicts, key=lambda v: (not may_rest(v), not is_idle(v), v.since_ms))


def moved(lease: Lease, jump_ms: int) -> Lease:
    """Its deadlines after the wall clock jumped by ``jump_ms``."""
    if not jump_ms:
        return lease
    expires = lease.expires_ms + jump_ms if lease.expires_ms else 0
    idle = lease.idle_until_ms + jump_ms if lease.idle_until_ms else 0
    return structs.replace(lease, expires_ms=expires, idle_until_ms=idle, from_ms=lease.from_ms + jump_ms)


def step(lease: Lease, state: BoxState, verdict: Verdict, attended: bool, now_ms: int) -> tuple[Lease, str]:
    """What becomes of a box at ``now_ms``: its lease, and the action that is due (or empty).

    Only a box that is up is ever acted on, and never while its agent is at work or a person has a
    terminal or a command open in it."""
    if state is not BoxState.READY:
        return structs.replace(lease, idle_until_ms=0), ""
    idle = is_idle(verdict) and not attended
    if not idle or not lease.idle_min:
        lease = structs.replace(lease, idle_until_ms=0)
    elif not lease.idle_until_ms:
        since = min(max(verdict.since_ms or now_ms, lease.from_ms), now_ms)
        lease = structs.replace(lease, idle_until_ms=since + round(lease.idle_min * _MINUTE_MS))
    if lease.on_idle == "none":
        return lease, ""
    if lease.idle_until_ms and now_ms >= lease.idle_until_ms:
        return lease, lease.on_idle
    if lease.expires_ms and now_ms >= lease.expires_ms and may_rest(verdict) and not attended:
        return lease, lease.on_idle
    return lease, ""
