"""Rate limits come to an end by themselves: when that is, and telling an agent that gave up to go on then."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping

from thopter.fleet.delivery import event_of, gave_up
from thopter.fleet.deps import Deps
from thopter.fleet.live import LiveBox
from thopter.model.errors import ThopterError
from thopter.model.evidence import Fact, Verdict
from thopter.model.nouns import RunState, WaitReason
from thopter.store.talk import Letter

log = logging.getLogger(__name__)

LOOK_S = 2.0
UNSAID_MS = 300_000  # nobody said when it is over: tried again after so long
_GRACE_MS = 1_000


def resets_ms(verdict: Verdict) -> int:
    """When the limit that holds a run up is over; 0 when that is not known, or it is not held up."""
    if verdict.reason is not WaitReason.RATE_LIMIT:
        return 0
    told = [e.data.get("reset_ms") for e in verdict.because if e.fact is Fact.RATE_LIMITED]
    return max((t for t in told if isinstance(t, int)), default=0)


def due_ms(verdict: Verdict) -> int:
    """When an agent that gave up its turn shall be told to go on; 0: never."""
    if verdict.state is not RunState.WAITING or not gave_up(verdict):
        return 0
    return (resets_ms(verdict) or verdict.because[0].at_ms + UNSAID_MS) + _GRACE_MS


async def keep(deps: Deps, live: Mapping[str, LiveBox]) -> None:
    """Tell them, for ever. The message's id is made of the turn that failed: it is kept once, whatever
    becomes of hubs in between."""
    told: set[str] = set()
    while True:
        for one in list(live.values()):
            due = due_ms(one.verdict) if one.run is not None and not one.pooled else 0
            if due and deps.clock.now_ms() >= due and deps.settings.get("run.go_on"):
                try:
                    await _go_on(deps, one, told)
                except ThopterError as e:
                    log.warning("%s can't be told that its rate limit is over: %s", one.box.name, e.message)
        await deps.clock.sleep(LOOK_S)


async def _go_on(deps: Deps, live: LiveBox, told: set[str]) -> None:
    assert live.run is not None  # the caller looked
    mark = f"{live.run.id}:{live.verdict.because[0].at_ms}"
    key = "msg_" + hashlib.sha256(b"thopter rate limit\0" + mark.encode()).hexdigest()[:26]
    if key in told:
        return
    now = deps.clock.now_ms()
    letter = Letter(
        id=key, box=live.box.id, run=live.run.id, kind="tell", state="queued",
        text=str(deps.settings.get("run.limit_over_text")), created_ms=now, changed_ms=now,
    )  # fmt: skip
    await deps.store.talk.add(letter, event_of(letter, live.box.name, now))
    told.add(key)
    await live.posted()
