"""Noticing that a box died while the hub was looking: by its provider's word, never by silence."""

from __future__ import annotations

import asyncio

from msgspec import structs

from thopter.fleet.deps import Deps
from thopter.fleet.live import LiveBox
from thopter.model.errors import NotFound, ThopterError
from thopter.model.events import Event
from thopter.model.nouns import BoxState


async def notice_death(deps: Deps, live: LiveBox) -> bool:
    """After a lost link: ask the provider what became of the box, and record a box whose processes are
    gone as lost. True when it is, so that nobody waits for its boxd any more."""
    try:
        async with asyncio.timeout(10.0):
            handle = await deps.providers[live.box.provider].get(live.box.id)
    except NotFound:
        state, text = BoxState.LOST, "the box is gone"
    except (ThopterError, TimeoutError):
        return False
    else:
        state, text = handle.state, "its processes are gone; its files are there"
    if state not in (BoxState.LOST, BoxState.STOPPED) or live.box.state is BoxState.CREATING:
        return False
    now = deps.clock.now_ms()
    box = structs.replace(live.box, state=state, changed_ms=now, problem=text)
    data = {"name": box.name, "state": state, "text": text}
    try:
        await deps.store.boxes.update(box, Event(kind="box.state", at_ms=now, box=box.id, data=data))
    except NotFound:
        pass
    except ThopterError:  # it can't be written down now: shown all the same, and asked again
        live.alive_ms = 0
        live.agent_running = False
        live.box = box
        await live.show()
        return False
    live.box = box
    live.alive_ms = 0
    live.agent_running = False
    await live.refold()
    return True
