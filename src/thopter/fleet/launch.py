"""The flow ``fly``: from an accepted request to an agent at work in its own box.

Every step is idempotent and recorded; what a step made is undone when a later one fails. The steps
are what people see while it runs, so their names are for people.
"""

from __future__ import annotations

import asyncio
import secrets
from typing import Any

from msgspec import Struct, structs, to_builtins

from thopter.fleet import boxnet, status_tool, walls
from thopter.fleet.branch import own_branch
from thopter.fleet.deps import Deps
from thopter.fleet.furnish import Furnisher, Staged, repos_of
from thopter.fleet.golden import have_golden
from thopter.fleet.live import LiveBox
from thopter.fleet.places import move_run, places_of
from thopter.fleet.ports import GIT_PORT as GIT_PORT
from thopter.fleet.ports import HOME as HOME
from thopter.fleet.ports import HOOK_PORT as HOOK_PORT
from thopter.fleet.ports import MODEL_PORT as MODEL_PORT
from thopter.fleet.ports import GitRoute, ModelRoute
from thopter.fleet.unsent import record_prompt
from thopter.flow.engine import FlowContext
from thopter.kit.channel import BoxLink
from thopter.model.api.furnish import Checkout
from thopter.model.errors import ProviderError
from thopter.model.evidence import Evidence, Fact, Source
from thopter.model.nouns import Box, BoxState, Limits, Run, RunState
from thopter.model.sockets import Agent, BoxSpec, LaunchContext
from thopter.store.store import Tx

_FIRST_SIGN_S = 45.0


class FlyArgs(Struct, frozen=True, kw_only=True):
    """What the flow needs, as accepted."""

    box: str
    run: str
    name: str
    prompt: str
    repo: str
    branch: str
    agent: str
    session: str
    token: str
    settings: dict[str, Any]
    since_ms: int = 0  # a box made in the place of another: what the agent there did is not of this one
    adopt: bool = False  # the repository is the one in the saved box it starts from
    home: bool = False
    checkouts: tuple[Checkout, ...] = ()
    uploads: tuple[Staged, ...] = ()
    post_create: str = ""


def prompt_file(home: str) -> str:
    """Where the prompt stands in a box."""
    return f"{home}/.thopter/prompt.txt"


def launch_context(run: Run, box: Box, args_settings: dict[str, Any], token: str) -> LaunchContext:
    """What the agent may know of its run; made anew from the record whenever it is needed."""
    places = places_of(box)
    return LaunchContext(
        run=run.id,
        name=box.name,
        session=run.session,
        home=places.home,
        cwd=run.cwd,
        prompt=run.prompt,
        prompt_file=prompt_file(places.home) if run.prompt else "",
        opt=places.opt,
        model_url=f"http://127.0.0.1:{places.port(MODEL_PORT)}",
        hook_url=f"http://127.0.0.1:{places.port(HOOK_PORT)}",
        box_token=token,
        settings=args_settings,
    )


def box_spec(box: Box, token: str, owner: str) -> BoxSpec:
    """The wish that the provider's ``ensure`` is given, the same at every repetition."""
    return BoxSpec(
        key=box.id,
        name=box.name,
        golden=box.golden or "default",
        snapshot=box.snapshot,
        isolation=str(boxnet.chosen(box).get("isolation", "")),
        limits=box.limits,
        ports=(MODEL_PORT, GIT_PORT, boxnet.EGRESS_PORT),
        tags={"thopter": box.name, "owner": owner},
        native={
            "boxd": {
                "hook_token": token,
                "hook_port": HOOK_PORT,
                "env": {"THOPTER_NAME": box.name, "THOPTER_ID": box.id, "THOPTER_OWNER": owner},
                "net_env": boxnet.variables(box),
                "inherits": box.memory.get("inherits", {}),
            }
        },
    )


class Launcher:
    """The steps of ``fly``; bound to the fleet's parts, registered with the flow engine."""

    def __init__(self, deps: Deps) -> None:
        self.deps = deps
        self.furnisher = Furnisher(deps, self._at)

    async def fly(self, ctx: FlowContext, args: FlyArgs) -> dict[str, Any]:
        """See the module docstring. The result is ``{"name", "state", "problem"}``."""
        await ctx.step("accept", lambda: self._accept(args), undo=lambda _r: self.give_up(ctx.flow_id, args))
        await ctx.step("golden", lambda: self.golden(ctx, args), title="golden box")
        repo: dict[str, Any] = {}
        if args.repo or args.checkouts:
            repo = await ctx.step("mirror", lambda: self.furnisher.mirror(args), title="repository mirror")
        seen = await self.raise_box(ctx, args)
        return {"name": args.name, "dirty": repo.get("dirty", 0), **seen}

    async def raise_box(self, ctx: FlowContext, args: FlyArgs) -> dict[str, Any]:
        """From nothing but the records and the mirrors to an agent that shows itself."""
        await ctx.step("box", lambda: self._box(args), undo=lambda _r: self._unbox(args))
        await ctx.step("gateways", lambda: self._gateways(args), undo=lambda _r: self._detach(args))
        if args.repo or args.checkouts:
            await ctx.step("clone", lambda: self.furnisher.clone(args))
        elif args.adopt:
            await ctx.step("repository", lambda: self._adopt(args), title="its own branch")
        await ctx.step("prepare", lambda: self._prepare(args), title="prepare agent")
        if args.uploads:
            await ctx.step("upload", lambda: self.furnisher.upload(args, ctx.flow_id))
        if args.post_create:
            command = self.furnisher.post_create
            await ctx.step("post-create", lambda: command(ctx, args), title="post-create command")
        await ctx.step("launch", lambda: self._launch(args), title="start agent")
        seen: dict[str, Any] = await ctx.step(
            "sign", lambda: self._first_sign(args), title="first sign of work"
        )
        await asyncio.to_thread(self.furnisher.stage.drop, ctx.flow_id)
        return seen

    # ---------------------------------------------------------------------------------- steps

    async def _accept(self, args: FlyArgs) -> dict[str, Any]:
        """The name and the records were made when the request was accepted; look that they stand."""
        box = await self.deps.store.boxes.get(args.box)
        return {"box": box.id, "name": box.name}

    async def give_up(self, flow: str, args: FlyArgs) -> None:
        """Undo of everything recorded: the box is gone, the run failed, the name is free again."""
        await asyncio.to_thread(self.furnisher.stage.drop, flow)
        await self.deps.crew.retire(args.box, RunState.FAILED, "it could not be started")

    async def golden(self, ctx: FlowContext, args: FlyArgs) -> dict[str, Any]:
        """Build the golden box when there is none with the agent's version in it."""
        provider = await self._provider(args)
        return {"built": await have_golden(self.deps, ctx, provider, args.agent, args.settings)}

    async def _box(self, args: FlyArgs) -> dict[str, Any]:
        provider = await self._provider(args)
        box = await self.deps.store.boxes.get(args.box)
        handle = await provider.ensure(box_spec(box, args.token, self.deps.owner))
        walls.hold(box, handle.isolation)
        changed = structs.replace(
            box,
            state=BoxState.READY,
            isolation=handle.isolation,
            memory={
                **box.memory,
                "provider": dict(handle.memory),
                "places": to_builtins(handle.places),
            },
            changed_ms=self.deps.clock.now_ms(),
        )
        await self.deps.store.boxes.update(changed)
        run = await self.deps.store.runs.get(args.run)
        if (moved := move_run(run, handle.places)) is not run:
            await self.deps.store.runs.update(moved)
        live = await self.deps.crew.adopt(args.box)
        await live.link(30.0)
        return {"isolation": handle.isolation}

    async def _unbox(self, args: FlyArgs) -> None:
        provider = await self._provider(args)
        await self.deps.crew.release(args.box)
        await provider.destroy(args.box)

    async def _gateways(self, args: FlyArgs) -> dict[str, Any]:
        await self.deps.crew.attach_gateways(args.box)
        live, link, _run = await self._at(args)
        ca = await asyncio.to_thread(self.deps.policies.ca_cert) if boxnet.chosen(live.box).get("ca") else ""
        await boxnet.install(link, live.box, ca)
        return {}

    async def _detach(self, args: FlyArgs) -> None:
        await self.deps.gateways.detach(args.box)

    async def _adopt(self, args: FlyArgs) -> dict[str, Any]:
        _live, link, run = await self._at(args)
        await own_branch(self.deps, link, run, args.box, args.name)
        return {"cwd": run.cwd}

    async def _prepare(self, args: FlyArgs) -> dict[str, Any]:
        live, link, run = await self._at(args)
        agent = self.deps.agents[args.agent]
        ctx = launch_context(run, live.box, args.settings, args.token)
        files = (*status_tool.files(places_of(live.box)), *agent.prepare(ctx))
        for file in files:
            await link.put(file.path, file.content, mode=file.mode)
        if run.prompt:
            await link.put(ctx.prompt_file, run.prompt.encode(errors="surrogateescape"), mode=0o600)
        await self.furnisher.environment(args, agent.launch(ctx).env)
        return {"files": len(files)}

    async def _launch(self, args: FlyArgs) -> dict[str, Any]:
        live, link, run = await self._at(args)
        agent = self.deps.agents[args.agent]
        ctx = launch_context(run, live.box, args.settings, args.token)
        launch = agent.launch(ctx)
        env = boxnet.variables(live.box) | dict(launch.env)
        await self._launching(live, args, agent)
        problem = ""
        try:
            await link.run_start(run.id, list(launch.argv), env, launch.cwd, cols=200, rows=50)
        except ProviderError as e:
            problem = e.message  # the box is fine and says why; the agent's end is in the journal
        await live.refold()
        return {"problem": problem}

    async def _launching(self, live: LiveBox, args: FlyArgs, agent: Agent) -> None:
        """Record the launch just before it is asked for: what comes later belongs to this life. A
        repeated step finds its agent running and must not begin another life."""
        if any(e.fact is Fact.LAUNCHED and e.at_ms >= args.since_ms for e in live.evidence):
            return
        now = self.deps.clock.now_ms()
        launched = Evidence(
            source=Source.HUB,
            fact=Fact.LAUNCHED,
            at_ms=now,
            seen_ms=now,
            detail=f"{agent.name} started",
            data={"prompt": bool(args.prompt)},
        )
        run = await self.deps.store.runs.get(args.run)

        def both(tx: Tx) -> None:
            tx.evidence.add(args.run, [launched])
            if run.prompt:
                record_prompt(tx, run, run.prompt, now)

        await self.deps.store.write(both)
        live.learn([launched])
        await live.posted()

    async def _first_sign(self, args: FlyArgs) -> dict[str, Any]:
        """Wait for evidence; a launched agent that shows none is reported, not taken down: its box
        is what a person needs to find out why."""
        live, _link, _run = await self._at(args)
        over = (RunState.FAILED, RunState.STOPPED, RunState.DONE)
        signs = (Fact.SESSION_STARTED, Fact.TURN_STARTED, Fact.ACTIVITY, Fact.IDLE, Fact.BUSY)
        want = signs[1:3] if args.prompt else signs
        seen = await live.until(
            lambda b: (
                b.verdict.state in over
                or any(e.fact in want and e.at_ms >= args.since_ms for e in b.evidence)
            ),
            _FIRST_SIGN_S,
        )
        verdict = live.verdict
        problem = "" if seen else f"no sign of work within {_FIRST_SIGN_S:.0f} s"
        if verdict.state in over:
            problem = live.run.problem if live.run is not None else ""
            problem = problem or f"the agent is {verdict.state}"
        if problem:
            problem += await self._screen_tail(live)
        return {
            "state": verdict.state,
            "problem": problem,
            "evidence": to_builtins([e for e in verdict.because[:3]]),
        }

    # ---------------------------------------------------------------------------------- helpers

    async def _screen_tail(self, live: LiveBox) -> str:
        try:
            pane = await (await live.link(2.0)).tmux_capture("agent:0.0")
        except ProviderError:
            return ""
        lines = [x.rstrip() for x in str(pane.get("screen", "")).splitlines() if x.strip()]
        return "; its screen ends with: " + " / ".join(lines[-3:])[-400:] if lines else ""

    async def _provider(self, args: FlyArgs) -> Any:
        box = await self.deps.store.boxes.get(args.box)
        return self.deps.providers[box.provider]

    async def _at(self, args: FlyArgs) -> tuple[LiveBox, BoxLink, Run]:
        live = await self.deps.crew.adopt(args.box)
        run = await self.deps.store.runs.get(args.run)
        live.run = run
        return live, await live.link(30.0), run


def new_token() -> str:
    """A box's own token for its hook listener; it opens nothing else."""
    return secrets.token_urlsafe(24)


def new_limits(settings: dict[str, Any]) -> Limits:
    """Limits from the ``box.*`` settings."""
    return Limits(
        memory_bytes=settings["memory_mb"] << 20,
        pids=settings["pids"],
        cpus=settings["cpus"],
        disk_bytes=settings["disk_mb"] << 20,
    )


def routes(deps: Deps, box: Box, run: Run, agent: Agent) -> tuple[ModelRoute, GitRoute | None]:
    """What the gateways shall let this box reach."""
    base = str(deps.settings.get(f"agents.{agent.name}.base_url"))
    credential = f"agents.{agent.name}.credential"
    model = ModelRoute(upstream=base, credential=credential)
    own = f"thopter/{box.name}"
    git = [GitRoute(slug=r.slug, branch=own, base=r.base, source_branch=r.branch) for r in repos_of(run)]
    return model, structs.replace(git[0], beside=tuple(git[1:])) if git else None
