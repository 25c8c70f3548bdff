"""The flow ``take``: a warm box becomes the thopter of a run that was accepted with it.

The box is the run's already when this begins: the store gave it in the transaction that accepted the
run. Here its clone is brought to the wanted commit and its agent hears the task, with a receipt. Where
anything about the box is not as it should be, it is destroyed first and a fresh one made in its place,
under the same name and record; so there are never two at work.
"""

from __future__ import annotations

import shlex
import uuid
from collections.abc import Sequence
from typing import Any

from msgspec import structs

from thopter.fleet import tell as telling
from thopter.fleet.boxnet import chosen
from thopter.fleet.deps import Deps
from thopter.fleet.furnish import repos_of
from thopter.fleet.launch import FlyArgs, Launcher, launch_context
from thopter.fleet.live import LiveBox
from thopter.fleet.places import move_run, places_of
from thopter.fleet.unsent import record_prompt
from thopter.flow.engine import FlowContext
from thopter.kit import failpoint
from thopter.kit.channel import BoxLink
from thopter.model.api import TellRequest
from thopter.model.errors import ProviderError, Refused, ThopterError
from thopter.model.events import Event
from thopter.model.evidence import Evidence, Fact, Source
from thopter.model.nouns import Box, BoxState, Lease, Run
from thopter.store.intents import Intent
from thopter.store.store import Tx

_RECEIPT_MS = 20_000
_LATE_S = 1.0
_CAUGHT_UP_S = 15.0  # for what the box has noted while no hub listened
_REFRESH_TIMEOUT_S = 600.0
_WORDS = (Fact.TURN_STARTED, Fact.ACTIVITY)


class TakeArgs(FlyArgs, frozen=True, kw_only=True):
    """As for ``fly``; ``taken_ms``: when the box was given to the run."""

    taken_ms: int


class Taker:
    """The steps of ``take``; bound to the fleet's parts, registered with the flow engine."""

    def __init__(self, deps: Deps, launcher: Launcher) -> None:
        self.deps = deps
        self.launcher = launcher
        deps.engine.register("take", self.take, TakeArgs)

    async def take(self, ctx: FlowContext, args: TakeArgs) -> dict[str, Any]:
        """See the module docstring. The result is that of ``fly``, and ``warm``: was it that box."""
        await ctx.step("accept", lambda: self._accept(args), undo=lambda _r: self._give_up(ctx, args))
        note: dict[str, Any] = {}
        if args.repo:
            note = await ctx.step(
                "mirror", lambda: self.launcher.furnisher.mirror(args), title="repository mirror"
            )
        done = await ctx.step("warm", lambda: self._warm(args), title="warm box")
        if done["moved"] and args.post_create:
            command = self.launcher.furnisher.post_create
            await ctx.step("post-create", lambda: command(ctx, args), title="post-create command")
        if not done["problem"] and args.prompt:
            done = await ctx.step("prompt", lambda: self._prompt(args), title="give it the task")
        if not done["problem"]:
            shown = {"dirty": note.get("dirty", 0), "state": done["state"], "problem": ""}
            return {"name": args.name, "warm": True, **shown}
        title = f"a fresh box instead ({done['problem'].rstrip('.')})"
        fresh = await ctx.step("replace", lambda: self._replace(args, ctx.flow_id), title=title)
        again = structs.replace(args, since_ms=fresh["since_ms"])
        await ctx.step("golden", lambda: self.launcher.golden(ctx, again), title="golden box")
        seen = await self.launcher.raise_box(ctx, again)
        return {"name": args.name, "dirty": note.get("dirty", 0), "warm": False, **seen}

    # ---------------------------------------------------------------------------------- steps

    async def _accept(self, args: TakeArgs) -> dict[str, Any]:
        """Say once more in the records whose box it is: what looked after it as a warm one may have
        written the state it knew just after the box was given away."""
        await self.deps.crew.adopt(args.box)
        await hand_over(self.deps, args)
        return {"box": args.box, "name": args.name}

    async def _give_up(self, ctx: FlowContext, args: TakeArgs) -> None:
        await self.deps.gateways.detach(args.box)
        await self._destroy(args)
        await self.launcher.give_up(ctx.flow_id, args)

    async def _destroy(self, args: TakeArgs) -> None:
        box = await self.deps.store.boxes.get(args.box)
        await self.deps.crew.release(args.box)
        await self.deps.providers[box.provider].destroy(args.box)

    async def _warm(self, args: TakeArgs) -> dict[str, Any]:
        """Its clone and what the gateways know of it become this run's."""
        try:
            live, link, run = await self._at(args)
            if not live.agent_running or (await link.tmux_capture(telling.PANE)).get("dead"):
                raise ProviderError("its agent has ended")
            await self.deps.crew.attach_gateways(args.box)
            moved = False if args.adopt else await self._refresh(link, args, run)
            await self._files(link, live.box, args, run)
        except ThopterError as e:
            return {"problem": e.message, "state": "", "moved": False}
        if not args.prompt:
            await self._ready(args, live)
        return {"problem": "", "state": live.verdict.state, "moved": moved}

    async def _refresh(self, link: BoxLink, args: TakeArgs, run: Run) -> bool:
        """Bring each clone to the wanted commit; True when one stood at another."""
        used = "used" if args.post_create else ""  # its command may have left things in the clone
        moved = False
        for ref in repos_of(run):
            script = REFRESH.format(dir=shlex.quote(ref.folder or run.cwd))
            argv = ["/bin/sh", "-c", script, "sh", ref.base, f"thopter/{args.name}", used]
            result = await link.exec(argv, cwd="/", timeout=_REFRESH_TIMEOUT_S)
            if result.exit in WHY:
                raise ProviderError(WHY[result.exit])
            if result.exit != 0:
                said = result.stderr.decode(errors="replace").strip().splitlines()
                raise ProviderError(f"its clone could not be refreshed: {said[-1] if said else 'no message'}")
            moved |= result.stdout.strip() == b"moved"
        return moved

    async def _files(self, link: BoxLink, box: Box, args: TakeArgs, run: Run) -> None:
        """What is different in the agent's files now that it has a task; the rest is in use."""
        agent = self.deps.agents[args.agent]
        now = launch_context(run, box, args.settings, args.token)
        before = {f.path: f for f in agent.prepare(structs.replace(now, prompt="", prompt_file=""))}
        for file in agent.prepare(now):
            if before.get(file.path) != file:
                await link.put(file.path, file.content, mode=file.mode)
        if args.prompt:
            await link.put(now.prompt_file, args.prompt.encode(errors="surrogateescape"), mode=0o600)

    async def _prompt(self, args: TakeArgs) -> dict[str, Any]:
        """Say the task as the user's first message, once. Where an earlier hub died over this, nothing
        is said again: either the agent shows that it has heard it, or the box is not used."""
        live, _link, _run = await self._at(args)
        begun = next((e for e in live.evidence if e.data.get("told") == args.taken_ms), None)
        if begun is None:
            begun, patience = await self._begin(args, live), _LATE_S
            failpoint.hit("pool.telling")
            problem = await self._say(live, args.prompt)
        else:
            problem, patience = "it did not take the task before the hub ended", _CAUGHT_UP_S
        since = begun.at_ms
        if problem and await live.until(lambda b: _heard(b, since), patience):
            problem = ""
        if not problem:
            await self._ready(args, live)
        return {"problem": problem, "state": live.verdict.state}

    async def _say(self, live: LiveBox, prompt: str) -> str:
        """Enter it; returns why there is no receipt, or nothing."""
        try:
            await telling.tell(live, TellRequest(text=prompt, receipt_timeout_ms=_RECEIPT_MS))
        except ThopterError as e:
            return e.message
        return ""

    async def _begin(self, args: TakeArgs, live: LiveBox) -> Evidence:
        """Record that the task is on its way, just before it is: what comes later belongs to this run."""
        begun = launched(args, self.deps.clock.now_ms(), "is given its task", told=args.taken_ms)
        run = await self.deps.store.runs.get(args.run)

        def both(tx: Tx) -> None:
            tx.evidence.add(args.run, [begun])
            record_prompt(tx, run, args.prompt, begun.at_ms)

        await self.deps.store.write(both)
        live.learn([begun])
        await live.refold()
        return begun

    async def _replace(self, args: TakeArgs, flow: str) -> dict[str, Any]:
        """Destroy the box; what follows makes another one in its place, with a session of its own."""
        box = await self.deps.store.boxes.get(args.box)
        if box.state is BoxState.GONE:
            raise Refused(f"{args.name} was destroyed meanwhile")
        await self.deps.gateways.detach(args.box)
        await self._destroy(args)
        session = str(uuid.uuid5(uuid.NAMESPACE_URL, "thopter:" + flow))

        def record(tx: Tx) -> None:
            tx.cursors.forget(args.box)
            _box, run = given(tx, args)
            tx.runs.update(structs.replace(run, session=session))

        await self.deps.store.write(record)
        return {"since_ms": self.deps.clock.now_ms()}

    # -------------------------------------------------------------------------------- helpers

    async def _ready(self, args: TakeArgs, live: LiveBox) -> None:
        now = self.deps.clock.now_ms()

        def record(tx: Tx) -> tuple[Box, Run]:
            box, run = given(tx, args)
            box = structs.replace(box, state=BoxState.READY, changed_ms=now)
            tx.boxes.update(box)
            return box, run

        live.box, live.run = await self.deps.store.write(record)

    async def _at(self, args: TakeArgs) -> tuple[LiveBox, BoxLink, Run]:
        live = await self.deps.crew.adopt(args.box)
        recorded = await self.deps.store.runs.get(args.run)
        run = move_run(recorded, places_of(live.box))  # the mirror step knows the usual places only
        if run is not recorded:
            await self.deps.store.runs.update(run)
        live.run = run
        return live, await live.link(10.0), run


def claim(
    tx: Tx,
    candidates: Sequence[str],
    recipe: str,
    want: FlyArgs,
    lease: Lease,
    flow: str,
    now: int,
    trust: str = "operator",
) -> Intent | None:
    """Give the first warm box that is still there to the run that is wanted, with all records of it; None
    when there is none. Whoever commits first has it; the others find it gone."""
    key = tx.pools.take(candidates, recipe)
    if not key:
        return None
    box, run = tx.boxes.get(key), tx.runs.of_box(key)[-1]
    made = tx.intents.get(str(box.memory.get("flow"))).request  # its agent was started with these
    same = {"box": key, "run": run.id, "name": box.name, "session": run.session, "token": made["token"]}
    args = TakeArgs(**{**structs.asdict(want), **same, "taken_ms": now})
    memory = {**box.memory, "flow": flow}
    tx.boxes.update(structs.replace(box, state=BoxState.CREATING, changed_ms=now, problem="", memory=memory))
    given(tx, args)
    if args.prompt:
        tx.evidence.add(run.id, [launched(args, now, "taken from the warm pool")])
    tx.leases.put(structs.replace(lease, box=key))
    policy = chosen(box).get("name", "")
    data = {"name": box.name, "warm": True, "policy": policy, "trust": trust}
    tx.events.append([Event(kind="run.created", at_ms=now, box=key, run=run.id, flow=flow, data=data)])
    return tx.intents.add(
        Intent(id=flow, kind="take", request=structs.asdict(args), created_ms=now, flow=flow, trust=trust)
    )


def given(tx: Tx, args: TakeArgs) -> tuple[Box, Run]:
    """Record that the warm box belongs to this run: born when it was taken, with this task."""
    box, run = tx.boxes.get(args.box), tx.runs.get(args.run)
    run = structs.replace(run, prompt=args.prompt, created_ms=args.taken_ms)
    box = structs.replace(box, created_ms=args.taken_ms)
    tx.boxes.update(box)
    tx.runs.update(run)
    return box, run


async def hand_over(deps: Deps, args: TakeArgs) -> None:
    """Let what looks after the box know whose it is. The records are written again: a state that was
    being recorded when the box was given away may have overwritten them."""
    live = deps.crew.live.get(args.box)
    if live is None:
        return
    live.pooled = False
    if live.run is not None:
        live.run = structs.replace(live.run, prompt=args.prompt, created_ms=args.taken_ms)
    live.box, live.run = await deps.store.write(lambda tx: given(tx, args))
    live.learn(await deps.store.evidence.of_run(args.run))


def launched(args: TakeArgs, now_ms: int, what: str, **data: int) -> Evidence:
    """What comes after this belongs to the run; there is a task on its way."""
    return Evidence(
        source=Source.HUB,
        fact=Fact.LAUNCHED,
        at_ms=now_ms,
        seen_ms=now_ms,
        detail=f"{args.agent} {what}",
        data={"prompt": True, "taken": args.taken_ms, **data},
    )


def _heard(live: LiveBox, since: int) -> bool:
    return any(e.fact in _WORDS and e.at_ms >= since for e in live.evidence)


# Run in the box. Positional: base, branch, "used" when a command was run in it. The clone is exactly as it
# was made, or it is not used; the folder stays, the agent lives in it. What an agent reads only when it
# starts must not have changed.
REFRESH = """
set -e
export GIT_TERMINAL_PROMPT=0
cd {dir}
[ "$(git symbolic-ref -q HEAD)" = "refs/heads/$2" ] || exit 43
[ -n "$3" ] || [ -z "$(git status --porcelain=v1)" ] || exit 44
old="$(git rev-parse HEAD)"
[ "$old" != "$1" ] || exit 0
git fetch --quiet --prune origin
git cat-file -e "$1^{{commit}}"
git diff --quiet "$old" "$1" -- CLAUDE.md CLAUDE.local.md AGENTS.md .claude .mcp.json || exit 42
git checkout --quiet -B "$2" "$1"
echo moved
"""
WHY = {
    42: "the repository's instructions for agents have changed since it was made",
    43: "its clone is not on its branch",
    44: "its clone is not as it was made",
}
