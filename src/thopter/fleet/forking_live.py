"""Forks with their processes: what of ``fork --live`` differs from a fork whose agent is resumed.

All forks start from one instant of the original: its files, its processes, and what was known of it
then. The agent goes on with the very session; what it says in one box is heard in that box alone.
"""

from __future__ import annotations

from typing import Any

from msgspec import structs

from thopter.fleet.deps import Deps
from thopter.fleet.live import LiveBox
from thopter.fleet.places import places_of
from thopter.fleet.saving import Saver
from thopter.kit.channel import BoxLink
from thopter.model.errors import NotNow, ProviderError, Refused, Unsupported
from thopter.model.evidence import Evidence, Fact
from thopter.model.nouns import Box, BoxState, Run
from thopter.model.sockets import ForksLive
from thopter.store.store import Tx

FACET = "forks live"
_HEARD_TRIES, _HEARD_PAUSE_S = 100, 0.05
_ASK_S = 20.0


def heritage(box: Box, parent: Run, token: str, run: str) -> dict[str, Any]:
    """What is remembered of a fork: the tokens and runs that its processes were started with."""
    past = list(box.memory.get("inherits", {}).get("past", ()))
    return {"inherits": {"run": run, "past": [*past, [token, parent.id]]}}


class LiveForker:
    """Checks, saves and starts; holds no state."""

    def __init__(self, deps: Deps, saver: Saver) -> None:
        self.deps = deps
        self.saver = saver

    async def check(self, box: Box, prompt: str) -> None:
        """Raise, in a person's words, when ``box`` can't be forked with its processes now."""
        self._provider(box)
        instead = f"'thopter fork {box.name}' forks its files and its conversation"
        caps = await self.deps.providers[box.provider].caps()
        if FACET not in caps.facets:
            why = caps.missing.get(FACET) or f"provider {box.provider} can't fork running processes"
            raise Unsupported(why, hint=instead)
        if prompt:
            raise Refused(
                "a live fork goes on with what the original does; nothing can be said to it at its start",
                hint=f"fork it, then 'thopter tell {box.name}-2 …'",
            )
        if box.state is not BoxState.READY:
            raise NotNow(f"{box.name} is {box.state}: no process of it runs", hint=instead)
        live = await self.deps.crew.adopt(box.id)
        if not live.agent_running:
            raise NotNow(f"no agent runs in {box.name}", hint=instead)
        await self._terminal(live)

    def _provider(self, box: Box) -> ForksLive:
        provider: object = self.deps.providers.get(box.provider)
        if not isinstance(provider, ForksLive):
            raise Unsupported(f"provider {box.provider} can't fork running processes")
        return provider

    async def _terminal(self, live: LiveBox) -> int:
        """The process of the box's terminal server, with which nobody may be connected."""
        link = await live.link(30.0)
        socket = f"{places_of(live.box).run}/tmux.sock"
        ask = ["tmux", "-S", socket, "display-message", "-p", "#{pid}", ";", "list-clients"]
        result = await link.exec(ask, timeout=_ASK_S)
        first, _, clients = result.stdout.decode("utf-8", "replace").strip().partition("\n")
        if result.exit != 0 or not first.isdigit():
            raise NotNow(f"the terminal of {live.box.name} does not answer")
        if clients:
            raise NotNow(
                f"somebody is attached to {live.box.name}: a terminal can't be forked under a viewer",
                hint="detach (Ctrl-B d), then fork",
            )
        return int(first)

    # ---------------------------------------------------------------------------------- steps

    async def snapshot(self, box_id: str, snap: str, forks: dict[str, str]) -> int:
        """Save files and processes, and give each fork (run → its life) what was known at that moment."""
        box = await self.deps.store.boxes.get(box_id)
        record = await self.deps.store.snapshots.get(snap)
        live = await self.deps.crew.adopt(box_id)
        root = await self._terminal(live)
        tags = {"kind": str(record.kind), "source": box.name}
        handle = await self._provider(box).snapshot_live(box_id, snap, tags, root)
        await self.saver.ready(snap, handle.snapshot)
        await _heard(live, await live.link(30.0))
        parent = await self.deps.crew.run_of(box_id)
        if parent is None:
            raise ProviderError(f"{box.name} has no run")
        known = [e for e in await self.deps.store.evidence.of_run(parent.id) if e.at_ms <= handle.at_ms]
        session = live.session or parent.session

        def give(tx: Tx) -> None:
            for run, life in forks.items():
                if not tx.evidence.of_run(run):
                    tx.evidence.add(run, _as_own(known, life, parent.id))
                tx.runs.update(structs.replace(tx.runs.get(run), session=session))

        await self.deps.store.write(give)
        return handle.snapshot.own_bytes

    async def start(self, box_id: str, snap: str, run: str, life: str) -> dict[str, Any]:
        """Start the processes in the fork ``box_id`` and watch its agent as ``life`` of ``run``."""
        box = await self.deps.store.boxes.get(box_id)
        await self._provider(box).start_live(box_id, snap)
        live = await self.deps.crew.adopt(box_id)
        link = await live.link(30.0)
        evidence = await self.deps.store.evidence.of_run(run)
        was = next(str(e.data["was"]) for e in reversed(evidence) if e.data.get("life") == life)
        pid = await link.run_inherit(life, was)
        await live.refold()
        return {"started": True, "problem": "", "pid": pid}


def _as_own(known: list[Evidence], life: str, parent: str) -> list[Evidence]:
    """The same facts for a fork; the last launch is called ``life`` there, and what it ``was``."""
    last = max((e for e in known if e.fact is Fact.LAUNCHED), key=lambda e: e.at_ms, default=None)
    if last is None:
        raise ProviderError("how the agent was started is not on record")
    data = {**last.data, "life": life, "was": str(last.data.get("life") or parent)}
    return [structs.replace(e, data=data) if e is last else e for e in known]


async def _heard(live: LiveBox, link: BoxLink) -> None:
    """Wait until all has been read that the box has recorded until now (some seconds at most)."""
    journal = (await link.hello()).get("journal")
    last = journal.get("last") if isinstance(journal, dict) else 0
    last = last if isinstance(last, int) and not isinstance(last, bool) else 0
    for _ in range(_HEARD_TRIES):
        if (await live.deps.store.cursors.load(live.box.id)).get("journal", 0) >= last:
            return
        await live.deps.clock.sleep(_HEARD_PAUSE_S)


__all__ = ["FACET", "LiveForker", "heritage"]
