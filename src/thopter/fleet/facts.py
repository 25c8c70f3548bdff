"""What the hub must still know of a box long after it was started: from the intent that made it."""

from __future__ import annotations

from typing import Any

from msgspec import Struct, field

from thopter.fleet.deps import Deps
from thopter.fleet.saving import saves
from thopter.model.errors import NotFound, Refused
from thopter.model.evidence import Fact
from thopter.model.nouns import Box, BoxState, Run, Snapshot, SnapshotState

_ANCESTORS = 50


class Facts(Struct, frozen=True):
    """A box's own token (it opens its hook listener only) and its agent's settings."""

    token: str = ""
    settings: dict[str, Any] = field(default_factory=dict)


async def facts_of(deps: Deps, box: Box) -> Facts | None:
    """The facts of ``box``; None for a box whose intent is not on record."""
    try:
        request = (await deps.store.intents.get(str(box.memory.get("flow", "")))).request
    except NotFound:
        return None
    for one in request.get("forks", ()):
        if one.get("box") == box.id:
            return Facts(str(one.get("token", "")), dict(request.get("settings") or {}))
    return Facts(str(request.get("token", "")), dict(request.get("settings") or {}))


def boxes_in(args: dict[str, Any]) -> set[str]:
    """Ids of the boxes that a flow with these arguments works on."""
    return {str(args.get("box", "")), *(str(one.get("box", "")) for one in args.get("forks", ()))} - {""}


async def known(deps: Deps) -> frozenset[str]:
    """Everything a provider may hold for us: boxes that are not gone, and saved boxes."""
    boxes = [b.id for b in await deps.store.boxes.list()]
    return frozenset([*boxes, *(s.id for s in await deps.store.snapshots.all())])


async def lineage(deps: Deps, run: Run) -> frozenset[str]:
    """Sessions whose past belongs to the conversation of ``run``: its own and its ancestors'."""
    found: set[str] = {run.session}
    parent = run.parent
    for _ in range(_ANCESTORS):
        if not parent:
            break
        try:
            ancestor = await deps.store.runs.get(parent)
        except NotFound:
            break
        found |= {ancestor.session, *await deps.store.entries.sessions(ancestor.id)}
        parent = ancestor.parent
    return frozenset(found - {""})


async def snapshot_ready(deps: Deps, word: str) -> Snapshot:
    """The usable snapshot that ``word`` names; NotFound or Conflict otherwise."""
    found = await deps.store.snapshots.find(word)
    if found.state is not SnapshotState.READY:
        raise NotFound(f"the snapshot {word} is {found.state}", hint="see 'thopter snapshot list'")
    return found


async def complete_enough(deps: Deps, saved: Snapshot, repo: bool) -> None:
    """Refused when an agent could not run (with ``repo``: could not work) in a box from ``saved``."""
    every = await saves(deps, saved.provider).snapshots()
    handle = next((h for h in every if h.id == saved.id), None)
    if handle is None:
        return  # its flow tells of that
    lacks = {k: why for k, why in handle.missing.items() if repo or k != "git"}
    if lacks:
        words = ", ".join(f"{name} ({why})" for name, why in lacks.items())
        raise Refused(
            f"snapshot {saved.name or saved.id} lacks {words}",
            hint="put it into the image and build the snapshot anew; --fresh starts without a snapshot",
        )


def how_to_wake(box: Box) -> str:
    """What to do with a box that is not up."""
    if box.state in (BoxState.FROZEN, BoxState.SUSPENDED, BoxState.STOPPED, BoxState.LOST):
        return f"'thopter resume {box.name}' lets it go on"
    return f"see 'thopter status {box.name}'"


LIVES = (Fact.LAUNCHED, Fact.PROCESS_ALIVE, Fact.PROCESS_EXITED)
