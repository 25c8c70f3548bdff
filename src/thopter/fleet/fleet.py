"""The fleet: what the hub's API calls. Each method is one use case; the work is in its siblings."""

from __future__ import annotations

import logging
from functools import partial

from msgspec import Struct, structs

from thopter.fleet import ratelimit
from thopter.fleet import tell as telling
from thopter.fleet.accept import Acceptor
from thopter.fleet.approvals import Approvals
from thopter.fleet.audit import Audits
from thopter.fleet.budgets import Budgets
from thopter.fleet.crew import UP, Crew
from thopter.fleet.deps import Deps, request_mark
from thopter.fleet.dials import Dials
from thopter.fleet.disk_guard import DiskGuard
from thopter.fleet.doctor import doctor
from thopter.fleet.egress import Egress
from thopter.fleet.end import end_box
from thopter.fleet.facts import how_to_wake, known
from thopter.fleet.keeper import Keeper
from thopter.fleet.launch import routes
from thopter.fleet.live import LiveBox
from thopter.fleet.notes import Notes
from thopter.fleet.page_sessions import PageSessions
from thopter.fleet.person import Hands
from thopter.fleet.pool import WarmPool
from thopter.fleet.pushes import LOG_KINDS as PUSH_KINDS
from thopter.fleet.pushes import Pushes
from thopter.fleet.saving import mend
from thopter.fleet.secrets import Secrets
from thopter.fleet.session_log import SessionLogs
from thopter.fleet.sleep import Sleep
from thopter.fleet.snapshots import Snapshots
from thopter.fleet.talk import Talk, fresh_id
from thopter.fleet.tokens import Tokens
from thopter.fleet.unsent import say_now
from thopter.fleet.usage import Usages
from thopter.fleet.variables import Variables
from thopter.fleet.views import detail, view
from thopter.fleet.works import Works
from thopter.model.api import (
    Accepted,
    Check,
    CheckResult,
    CreateRequest,
    FlowView,
    RunRequest,
    TellRequest,
    TellResult,
    ThopterDetail,
    ThopterView,
)
from thopter.model.errors import Ambiguous, NotNow, ProviderError, Unsupported
from thopter.model.events import Event
from thopter.model.nouns import Box, BoxState, Leak, Run
from thopter.model.sockets import Suspends
from thopter.store.events import EventFilter

log = logging.getLogger(__name__)

_PATIENCE_S = 2.0  # a hub that has just started is asked again only after it has looked around
_SETTLE_S = 20.0  # looking for leftovers makes sense only when recovery has swept
_LOG_KINDS = (
    "run.created",
    "run.state",
    "run.told",
    "run.budget",
    "box.state",
    "box.said",
    "flow.step",
    "note",
    "message",
    "approval.asked",
    "approval.answered",
    *PUSH_KINDS,
)
QUEUE_SHOWN = ("queued", "sending", "working", "asking", "unclear")


class Info(Struct, frozen=True):
    """What ``GET /v1/hub`` says of the fleet."""

    boxes: int
    problem: str
    warm: int = 0


class Fleet:
    """One per hub; see the module docstring and :class:`Crew`."""

    def __init__(self, deps: Deps) -> None:
        self.deps = deps
        self._acceptor = Acceptor(deps)
        self._crew = Crew(deps, self._acceptor)
        self.variables = Variables(deps)
        self.notes = Notes(deps, self._crew.live)
        self.egress = Egress(deps, self._crew.live)
        self.secrets = Secrets(deps)
        self.page_sessions = PageSessions(lambda: deps.store, deps.clock)
        self.tokens = Tokens(lambda: deps.store, deps.clock)
        self.pushes = Pushes(deps, self._crew.live)
        self.talk = Talk(deps, self._crew)
        self.approvals = Approvals(deps, self._crew)
        self.usage = Usages(deps)
        self.audit = Audits(deps)
        self._hands = Hands(deps, self.audit)
        self.dials = Dials(self._live, self._hands.dial)
        self.works = Works(deps, self._crew, self._live, self._hands)
        self.budgets = Budgets(deps)
        self.logs = SessionLogs(deps)
        self.snapshots = Snapshots(deps)
        self.sleep = Sleep(deps)
        self.pool = WarmPool(deps, self._acceptor)
        disk = DiskGuard(deps, self.freeze, self.thaw)
        self.keeper = Keeper(deps, self.sleep, self.snapshots, self.destroy, self.freeze, disk)
        self._crew.before_flows.append(partial(mend, deps, self._crew.saver))
        self.problem = ""

    @property
    def ready(self) -> bool:
        """True when what was there before this hub has been taken up again."""
        return self._crew.ready

    @property
    def live(self) -> dict[str, LiveBox]:
        """The boxes looked after now, by id."""
        return self._crew.live

    async def start(self) -> None:
        """See :meth:`Crew.start`."""
        await self._crew.start()
        await self.notes.start(self._crew.spawn)
        self._crew.spawn("old transcripts", self.logs.keep_house())
        self._crew.spawn("warm pool", self.pool.keep())
        self._crew.spawn("watch over boxes", self.keeper.watch())
        self._crew.spawn("usage", self.usage.follow())
        self._crew.spawn("budgets", self.budgets.follow())
        self._crew.spawn("rate limits", ratelimit.keep(self.deps, self._crew.live))
        self._crew.spawn("revival", self.keeper.revive_lost())
        await self.egress.start(self._crew.spawn)
        await self.audit.start(self._crew.spawn)
        await self.pushes.start(self._crew.spawn)

    async def stop(self) -> None:
        """See :meth:`Crew.stop`."""
        await self._crew.stop()
        await self.audit.stop()

    # ------------------------------------------------------------------------------ finding

    async def _find(self, name: str) -> Box:
        return await self.deps.store.boxes.find(name)

    async def _live(self, name: str, asleep: bool = False) -> tuple[LiveBox, Run]:
        box = await self._find(name)
        live = self.live.get(box.id)
        if live is None or live.box.state not in UP:
            raise NotNow(f"{box.name} is {box.state}", hint=how_to_wake(box))
        if live.box.state is not BoxState.READY and not asleep:
            raise NotNow(f"{box.name} is {live.box.state}", hint=how_to_wake(live.box))
        if live.run is None:
            raise NotNow(f"{box.name} has no run")
        return live, live.run

    # ------------------------------------------------------------------------------ use cases

    async def start_run(self, req: RunRequest) -> Accepted:
        """Accept a run: durable when this returns."""
        return await self._acceptor.accept(req, task=True)

    async def create(self, req: CreateRequest) -> Accepted:
        """Accept a thopter without a task; its agent waits at its prompt."""
        return await self._acceptor.accept(
            RunRequest(prompt="", **structs.asdict(req)),
            task=False,
        )

    async def destroy(self, name: str) -> Accepted:
        """Accept a destruction; asking twice joins the first."""
        box = await self._find(name)
        if box.state is BoxState.CREATING:
            raise NotNow(f"{box.name} is still being created", hint=f"wait for it: 'thopter wait {box.name}'")
        await self.audit.act("destroy.asked", box)
        flow = await end_box(self.deps, box)
        return Accepted(flow=flow, name=box.name, box=box.id)

    async def views(self, include_gone: bool = False) -> list[ThopterView]:
        """Every thopter, newest last; with ``include_gone`` also what waits in a warm pool."""
        await self._crew.settled(_PATIENCE_S)
        pooled = {b.box: b.pool for b in await self.deps.store.pools.boxes()}
        boxes = await self.deps.store.boxes.list(gone=include_gone)
        runs = await self.deps.store.runs.latest()
        talk = await self.deps.store.talk.views({box: run.id for box, run in runs.items()})
        now, owner = self.deps.clock.now_ms(), self.deps.owner
        shown = [b for b in boxes if include_gone or b.id not in pooled]
        lines = [view(b, runs.get(b.id), self.live.get(b.id), owner, now, talk.get(b.id)) for b in shown]
        for line in lines:
            line.pool = pooled.get(line.id, "")
            line.task = "(waits in the warm pool)" if line.pool else line.task
        return await self.usage.shown(await self.approvals.counted(lines))

    async def detail(self, name: str) -> ThopterDetail:
        """One thopter with the evidence behind its state."""
        await self._crew.settled(_PATIENCE_S)
        box = await self._find(name)
        run = await self._crew.run_of(box.id)
        live = self.live.get(box.id)
        if live is not None:
            await live.refold()
            run = live.run or run
        talk = await self.deps.store.talk.views({box.id: run.id if run else ""})
        line = view(box, run, live, self.deps.owner, self.deps.clock.now_ms(), talk.get(box.id))
        recent = (await self.deps.store.events.newest(20, EventFilter(box=box.id, kinds=_LOG_KINDS))).events
        route = routes(self.deps, box, run, self.deps.agents[run.agent])[0] if run else None
        found = detail(line, box, run, live, recent, route)
        found.approvals = await self.approvals.of_box(box)
        found.pushes = await self.pushes.of_box(box, run)
        line.approvals = len(found.approvals)
        await self.usage.shown([line])
        found.queue = [m for m in await self.talk.of_box(box) if m.state in QUEUE_SHOWN or m.held]
        return found

    async def tell(self, name: str, req: TellRequest) -> TellResult:
        """Say something to the agent; returns with a receipt or raises."""
        telling.check_text(req.text)
        if request_mark.get().again:
            raise Ambiguous(
                "the hub ended while this message was being delivered; it may or may not have arrived",
                hint=f"look with 'thopter tail {name}', then tell it again if it did not",
            )
        telling.must_be_up(await self._find(name))
        live, run = await self._live(name)
        if live.pooled:
            raise NotNow(f"{live.box.name} waits in the warm pool", hint="'thopter run' gives it a task")
        return await say_now(live, run, req, fresh_id(self.deps.clock.now_ms()))

    async def interrupt(self, name: str) -> None:
        """Stop the present turn."""
        live, run = await self._live(name)
        await self.audit.act("person.interrupt", live.box, run=run.id)
        async with live.tell_lock:
            await telling.interrupt(live)

    async def freeze(self, name: str) -> None:
        """Stop every process of the box at once; nothing in it notices."""
        await self._suspend(name, BoxState.FROZEN)

    async def thaw(self, name: str) -> None:
        """Let a frozen box go on."""
        await self._suspend(name, BoxState.READY)

    async def _suspend(self, name: str, state: BoxState) -> None:
        live, _run = await self._live(name, asleep=True)
        provider = self.deps.providers[live.box.provider]
        if not isinstance(provider, Suspends):
            raise Unsupported(f"boxes of provider {provider.name} can't be frozen")
        await (provider.freeze if state is BoxState.FROZEN else provider.thaw)(live.box.id)
        now = self.deps.clock.now_ms()
        box = structs.replace(live.box, state=state, changed_ms=now)
        await self.deps.store.boxes.update(
            box, Event(kind="box.state", at_ms=now, box=box.id, data={"name": box.name, "state": state})
        )
        live.box = box
        await live.refold()

    async def check(self, name: str) -> CheckResult:
        """Is the box there, is tmux up in it, is the agent's process alive: asked now."""
        box = await self._find(name)
        live = self.live.get(box.id)
        if live is None or box.state is not BoxState.READY:
            return CheckResult(tmux=False, agent=False, box=False)
        try:
            sessions = await (await live.link(5.0)).tmux_list()
        except ProviderError:
            return CheckResult(tmux=False, agent=False, box=False)
        return CheckResult(tmux=bool(sessions), agent=live.agent_running, box=True)

    async def flow(self, flow_id: str) -> FlowView:
        """How a flow is doing."""
        return await self.deps.engine.status(flow_id)

    async def doctor(self) -> list[Check]:
        """The hub's own checks."""
        await self._crew.settled(_SETTLE_S)
        return [*await doctor(self.deps), await self.audit.check()]

    async def leaks(self) -> list[Leak]:
        """What providers made that no record accounts for."""
        await self._crew.settled(_SETTLE_S)
        ours = await known(self.deps)
        return [leak for p in self.deps.providers.values() for leak in await p.leaks(ours)]

    async def sweep(self) -> list[Leak]:
        """Remove those."""
        ours = await known(self.deps)
        return [leak for p in self.deps.providers.values() for leak in await p.sweep(ours)]

    async def info(self) -> Info:
        """Counts, cheap."""
        pooled = sum(live.pooled for live in self.live.values())
        return Info(len(self.live), self.problem, pooled)
