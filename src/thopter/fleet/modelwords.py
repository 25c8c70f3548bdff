"""The model gateway's word: rate limits, requests that got through, and refusals, as evidence.

An agent's own hooks say nothing while it retries; the gateway sees every request as it ends.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from thopter.fleet.deps import Deps
from thopter.fleet.live import LiveBox
from thopter.fleet.pumps import take
from thopter.model.errors import ThopterError
from thopter.model.evidence import Evidence, Fact, Source
from thopter.model.sockets import Reading

log = logging.getLogger(__name__)

_LIMITED = frozenset({429, 529})
_PAUSE_S = 1.0
_MESSAGES = "/messages"  # only a real model call says something about the agent


def read_record(record: dict[str, Any], now_ms: int) -> Evidence | None:
    """What one finished request means for its run; None when it means nothing."""
    status, path = record.get("status"), str(record.get("path", ""))
    if not isinstance(status, int) or not path.endswith(_MESSAGES):
        return None
    at = record.get("at_ms")
    spent = str(record.get("budget") or "")
    at_ms = min(at, now_ms) if isinstance(at, int) else now_ms
    if spent and spent != "account":
        said = str(record.get("error") or "")
        return _evidence(Fact.OVER_BUDGET, at_ms, now_ms, said, what=spent)
    if 200 <= status < 300:
        return _evidence(Fact.ACTIVITY, at_ms, now_ms, "a model call got through")
    if status in _LIMITED:
        reset = record.get("reset_ms") or 0
        return _evidence(
            Fact.RATE_LIMITED, at_ms, now_ms, f"the model endpoint answered {status}", reset_ms=reset
        )
    return None


def _evidence(fact: Fact, at_ms: int, now_ms: int, detail: str, **data: Any) -> Evidence:
    return Evidence(source=Source.GATEWAY, fact=fact, at_ms=at_ms, seen_ms=now_ms, detail=detail, data=data)


def trouble(record: dict[str, Any]) -> str | None:
    """A sentence about a model call that failed, "" for one that got through, None for others."""
    status, path = record.get("status"), str(record.get("path", ""))
    if not isinstance(status, int) or not path.endswith(_MESSAGES) or status == 0:
        return None
    if 200 <= status < 300:
        return ""
    said = str(record.get("error") or "")[:200]
    return f"the model endpoint answers {status}" + (f": {said}" if said else "")


async def follow(deps: Deps, find: Callable[[str], LiveBox | None]) -> None:
    """Take the gateway's records as they come, for ever. What a restarted gateway forgot is gone:
    it is evidence of the moment, and the agent's own words say the rest."""
    boot, after = "", 0
    while True:
        try:
            page = await deps.gateways.model_log(after, 10_000)
        except ThopterError as e:
            log.debug("the model gateway's log can't be read: %s", e.message)
            await deps.clock.sleep(_PAUSE_S)
            continue
        if page.get("boot") != boot:
            if boot:
                after = 0
            boot = str(page.get("boot"))
        after = int(page.get("next", after))
        for record in page.get("records", []):
            await _one(deps, find(str(record.get("box", ""))), record)


async def _one(deps: Deps, live: LiveBox | None, record: dict[str, Any]) -> None:
    if live is None or live.run is None or record.get("run") != live.run.id:
        return
    if record.get("status") == 401 and isinstance(record.get("at_ms"), int):
        deps.gateways.login_refused(live.box.id, int(record["at_ms"]))
    said = trouble(record)
    if said is not None:
        live.trouble = said
    evidence = read_record(record, deps.clock.now_ms())
    if evidence is None:
        return
    if evidence.fact is Fact.ACTIVITY and not live.held_up:
        return  # only the end of a limit is news; each call would be one row more in the store
    live.held_up = evidence.fact is not Fact.ACTIVITY
    await take(live, [Reading(evidence=(evidence,))], {})
