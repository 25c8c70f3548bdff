"""After a start of the hub: bring the records and the world together.

The provider's word on what exists wins over the record; the record's word on what *should* exist
wins over the world (the rest is swept). Flows that were under way go on by themselves and are left
what they made.
"""

from __future__ import annotations

import logging

from msgspec import Struct, structs

from thopter.fleet.deps import Deps
from thopter.fleet.facts import known
from thopter.model.errors import ThopterError
from thopter.model.events import Event
from thopter.model.nouns import Box, BoxState, Leak
from thopter.model.sockets import BoxHandle

log = logging.getLogger(__name__)


class Reconciled(Struct, kw_only=True):
    """What was found and done."""

    live: list[Box]
    lost: list[Box]
    swept: list[Leak]


def settle(box: Box, handle: BoxHandle | None, now_ms: int, in_flow: bool) -> Box:
    """Decide a recorded box's state from what the provider has. Pure."""
    if box.state is BoxState.GONE or (in_flow and handle is None):
        return box
    if handle is None:
        if box.state in (BoxState.LOST, BoxState.STOPPED):
            return box
        return structs.replace(
            box, state=BoxState.LOST, changed_ms=now_ms, problem="the box was not there when the hub started"
        )
    if in_flow and box.state is BoxState.CREATING:
        return box  # its flow says when it is ready
    if handle.state is box.state or (handle.state, box.state) == (BoxState.FROZEN, BoxState.SUSPENDED):
        return box  # a suspended box is a frozen one whose memory was given back
    problem = "its processes are gone; its files are there" if handle.state is BoxState.LOST else ""
    return structs.replace(box, state=handle.state, changed_ms=now_ms, problem=problem)


async def reconcile(deps: Deps, in_flow: frozenset[str]) -> Reconciled:
    """See the module docstring. ``in_flow``: keys of boxes that an unfinished flow works on."""
    now = deps.clock.now_ms()
    recorded = await deps.store.boxes.list()
    found: dict[str, BoxHandle] = {}
    reachable: set[str] = set()
    for name, provider in deps.providers.items():
        try:
            found |= {h.key: h for h in await provider.list()}
            reachable.add(name)
        except ThopterError:
            log.exception("provider %s can't list its boxes; its records stay as they are", name)
    result = Reconciled(live=[], lost=[], swept=[])
    for box in recorded:
        if box.provider not in reachable:
            continue
        new = settle(box, found.get(box.id), now, box.id in in_flow)
        if new != box:
            await deps.store.boxes.update(
                new,
                Event(
                    kind="box.state",
                    at_ms=now,
                    box=new.id,
                    data={"name": new.name, "state": new.state, "text": new.problem or f"box is {new.state}"},
                ),
            )
        if box.id in found and new.state is not BoxState.CREATING:
            result.live.append(new)  # also one that a flow works on: its later steps need it
        elif new.state is BoxState.LOST:
            result.lost.append(new)
    ours = await known(deps)
    for name in reachable:
        result.swept.extend(await deps.providers[name].sweep(ours))
    for leak in result.swept:
        log.warning("swept a leftover %s: %s", leak.kind, leak.what)
    return result
