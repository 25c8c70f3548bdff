"""The flow ``destroy``: afterwards nothing of the box is left on any machine; its branch stays in
the mirror until its name is used again."""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from thopter.fleet.deps import Deps
from thopter.fleet.saving import Saver
from thopter.flow.engine import FlowContext
from thopter.model.errors import Refused
from thopter.model.nouns import Box, RunState, SnapshotState


class DestroyArgs(Struct, frozen=True, kw_only=True):
    """Which box, as recorded."""

    box: str
    name: str


async def end_box(deps: Deps, box: Box) -> str:
    """Submit the destruction of a box, or join the one under way, or try again after one that failed;
    returns the flow."""
    async with deps.crew.turnstile.through(box.id, box.name, "destroy"):
        for attempt in range(1, 1000):
            flow = f"flow_end_{box.id}.{attempt}"
            known = await deps.engine.knows(flow)
            if not known or (await deps.engine.status(flow)).status != "failed":
                await deps.engine.submit("destroy", DestroyArgs(box=box.id, name=box.name), flow_id=flow)
                return flow
    raise Refused(f"{box.id} could not be destroyed in a thousand attempts", hint="see 'thopter hub logs'")


class Destroyer:
    """The steps of ``destroy``, each safe to repeat; nothing is undone."""

    def __init__(self, deps: Deps, saver: Saver) -> None:
        self.deps = deps
        self.saver = saver

    async def destroy(self, ctx: FlowContext, args: DestroyArgs) -> dict[str, Any]:
        """See the module docstring."""
        await ctx.step("detach", lambda: self._detach(args), title="close its ways out")
        await ctx.step("remove", lambda: self._remove(args), title="remove the box")
        await ctx.step("record", lambda: self._record(args))
        await ctx.step("checkpoints", lambda: self._checkpoints(args), title="remove its checkpoints")
        return {"name": args.name}

    async def _detach(self, args: DestroyArgs) -> None:
        await self.deps.crew.release(args.box)
        await self.deps.gateways.detach(args.box)

    async def _remove(self, args: DestroyArgs) -> None:
        box = await self.deps.store.boxes.get(args.box)
        await self.deps.providers[box.provider].destroy(args.box)

    async def _checkpoints(self, args: DestroyArgs) -> int:
        """They are moments of this box alone; snapshots with a name stay."""
        found = await self.deps.store.snapshots.of_box(args.box)
        for one in found:
            if one.state is not SnapshotState.MAKING:  # its own flow drops what it can't finish
                await self.saver.drop(one.id)
        return len(found)

    async def _record(self, args: DestroyArgs) -> None:
        await self.deps.crew.retire(args.box, RunState.STOPPED, "")
