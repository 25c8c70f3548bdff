"""Accepting work: everything that can be refused is refused here, before anything is made; what is
accepted is committed with its intent in one transaction, so that a crash can't lose it."""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import shutil
import uuid
from typing import Any

from msgspec import Struct, convert, structs

from thopter.fleet.budget_terms import first_budget
from thopter.fleet.deps import Deps, request_mark
from thopter.fleet.facts import complete_enough, snapshot_ready
from thopter.fleet.furnish import WORK, Stage, check_uploads
from thopter.fleet.launch import FlyArgs, new_limits, new_token
from thopter.fleet.lease import new_lease
from thopter.fleet.ports import HOME, Chosen
from thopter.fleet.take import TakeArgs, claim, hand_over
from thopter.fleet.tell import check_text
from thopter.fleet.walls import capped, check_walls, raised
from thopter.fleet.warm import offers, recipe, speakable
from thopter.kit import failpoint
from thopter.kit.caller import caller
from thopter.kit.instructions import read_instructions
from thopter.kit.names import friendly
from thopter.kit.settings import parse
from thopter.model.api import Accepted, RunRequest
from thopter.model.errors import BadInput, NotAllowed, NotFound, Refused, StorageFull, ThopterError
from thopter.model.events import Event
from thopter.model.ids import BoxId, RunId, check_name, new_id
from thopter.model.nouns import Box, BoxState, Lease, Run, RunState, Snapshot
from thopter.store.budgets import Budget
from thopter.store.intents import Intent
from thopter.store.pools import PoolBox
from thopter.store.store import Tx

_BRANCH = re.compile(r"(?!-)[A-Za-z0-9/_.+-]{1,200}")
_URL = re.compile(r"(?:https|ssh)://\S+|[A-Za-z0-9_.-]+@[A-Za-z0-9.-]+:\S+")
_LEAST_DISK = 1 << 30
_NAMES_TRIED = 50


class Ids(Struct, frozen=True):
    """The ids of one request; the same for every attempt at one idempotency key."""

    box: BoxId
    run: RunId
    flow: str

    @classmethod
    def make(cls, now_ms: int) -> Ids:
        """Derive them from the present call's mark, or draw fresh ones."""
        token = request_mark.get().token
        if not token:
            return cls(BoxId(new_id("box", now_ms)), RunId(new_id("run", now_ms)), new_id("flow", now_ms))
        stem = hashlib.sha256(b"thopter ids\0" + token.encode()).hexdigest()[:26]
        return cls(BoxId("box_" + stem), RunId("run_" + stem), "flow_" + stem)


class Wanted(Struct, frozen=True, kw_only=True):
    """What a request comes to, ready to be recorded under a name that is free."""

    box: Box
    run: Run
    args: FlyArgs
    lease: Lease
    flow: str
    trust: str = "operator"
    budget: dict[str, int] = {}

    def record(self, tx: Tx, names: list[str]) -> Intent:
        """Record box, run, lease and intent; returns the intent."""
        box = tx.boxes.reserve_name(self.box, names)
        tx.runs.insert(self.run)
        tx.leases.put(self.lease)
        self.allow(tx, box.id)
        request = structs.asdict(structs.replace(self.args, name=box.name))
        now = self.run.created_ms
        intent = Intent(
            id=self.flow, kind="fly", request=request, created_ms=now, flow=self.flow, trust=self.trust
        )
        created = Event(
            kind="run.created",
            at_ms=now,
            box=box.id,
            run=self.run.id,
            flow=self.flow,
            data={"name": box.name, "policy": box.memory["policy"]["name"], "trust": self.trust},
        )
        tx.events.append([created])
        return tx.intents.add(intent)

    def allow(self, tx: Tx, box: str) -> None:
        """Record what it may spend, if anybody said."""
        if self.budget:
            tx.budgets.put(Budget(box=box, own=self.budget))


class Acceptor:
    """Checks, records and submits; see the module docstring."""

    def __init__(self, deps: Deps) -> None:
        self.deps = deps
        self._stage = Stage(deps.paths.state)

    async def accept(self, req: RunRequest, *, task: bool) -> Accepted:
        """Record a run (``task`` false: a thopter that waits at its prompt) and start its flow: in a warm
        box where one is like what is asked for, else in a box that is made."""
        self._check(req, task)
        want = await self._wanted(req)
        names = [req.name] if req.name else [friendly() for _ in range(_NAMES_TRIED)]
        made_so = recipe(self.deps, want.box, want.args)
        warm = [] if req.name or not speakable(self.deps, want.args) else await offers(self.deps, made_so)

        def record(tx: Tx) -> Intent:
            before = tx.intents.find(want.flow)  # an earlier attempt at this very call
            now = want.run.created_ms
            taken = before or claim(tx, warm, made_so, want.args, want.lease, want.flow, now, want.trust)
            if taken is not None and before is None:
                want.allow(tx, str(taken.request["box"]))
            return taken or want.record(tx, names)

        try:
            intent = await self.deps.store.write(record)
        except ThopterError:
            await asyncio.to_thread(self._stage.drop, want.flow)
            raise
        if intent.kind == "take":
            failpoint.hit("pool.claimed")
            await hand_over(self.deps, convert(intent.request, TakeArgs))
            self.deps.pool_wake.set()
        await self.submit(intent)
        given = intent.request
        return Accepted(
            flow=intent.flow, name=str(given["name"]), box=str(given["box"]), run=str(given["run"]),
            warm=intent.kind == "take",
        )  # fmt: skip

    async def recipe(self, req: RunRequest) -> str:
        """What a box for this request would be made of; raises what accepting it would raise."""
        self._check(req, task=False)
        want = await self._wanted(req)
        return recipe(self.deps, want.box, want.args)

    async def fill(self, req: RunRequest, pool: str) -> None:
        """Begin a box for a pool: recorded as the pool's in the transaction that accepts it."""
        self._check(req, task=False)
        want = await self._wanted(req)
        made_so = recipe(self.deps, want.box, want.args)
        place = PoolBox(box=want.box.id, pool=pool, flow=want.flow, recipe=made_so)

        def record(tx: Tx) -> Intent:
            intent = want.record(tx, [friendly() for _ in range(_NAMES_TRIED)])
            tx.leases.forget(want.box.id)  # nobody's time runs yet, and nobody's money
            tx.budgets.put(Budget(box=want.box.id))
            tx.pools.add(place)
            return intent

        await self.submit(await self.deps.store.write(record))

    async def _wanted(self, req: RunRequest) -> Wanted:
        """Everything that is recorded of a request, but the name."""
        saved = await self._saved(req)
        now = self.deps.clock.now_ms()
        ids = Ids.make(now)
        chosen = raised(self.deps.policies.choose(req.policy, req.repo, req.trust), req.isolation)
        provider = saved.provider if saved else str(self.deps.settings.get("provider"))
        await check_walls(self.deps, provider, chosen, saved.id if saved else "")
        self._may_post_create(req, chosen)
        box, run = self._records(req, ids, now, saved, chosen)
        settings = await self._agent_settings(req)
        staged = await asyncio.to_thread(self._stage.put, ids.flow, req.furnishing.uploads)
        args = FlyArgs(
            box=ids.box,
            run=ids.run,
            name=req.name,
            prompt=req.prompt,
            repo=req.repo,
            branch=req.branch,
            agent=req.agent,
            session=run.session,
            token=new_token(),
            settings=settings,
            adopt=saved is not None and saved.repo is not None and not _places(req),
            home=req.furnishing.home,
            checkouts=tuple(req.furnishing.checkouts),
            uploads=staged,
            post_create=req.furnishing.post_create or str(self.deps.settings.get("box.post_create")),
        )
        lease = new_lease(ids.box, self.deps.settings, now, req.keep_alive, req.idle_timeout)
        budget = first_budget(self.deps.settings, req.budget)
        return Wanted(box=box, run=run, args=args, lease=lease, flow=ids.flow, budget=budget, trust=req.trust)

    async def _agent_settings(self, req: RunRequest) -> dict[str, Any]:
        """What the agent of this run is told, as things are now."""
        settings = self.deps.settings.section(f"agents.{req.agent}")
        settings |= {k: v for k, v in (("permission_mode", req.permission_mode), ("model", req.model)) if v}
        path, own = str(settings.pop("instructions", "")), req.furnishing.instructions
        own = own or read_instructions(path, f"agents.{req.agent}.instructions")
        settings |= {"instructions_text": own} if own else {}
        settings["env"] = {v.name: v.value for v in await self.deps.store.variables.all()}
        return settings

    def _may_post_create(self, req: RunRequest, chosen: Chosen) -> None:
        """A command that comes with a request is run by hand too, and a shell reads it."""
        command = req.furnishing.post_create
        if command:
            argv, name = ("/bin/sh", "-c", command), chosen["name"]
            why = self.deps.policies.may_run(name, argv, (), "", WORK, False, caller.get().admin)
            if why:
                raise NotAllowed(why, hint="start it without a post-create command of its own")

    def _records(
        self, req: RunRequest, ids: Ids, now: int, saved: Snapshot | None, chosen: Chosen
    ) -> tuple[Box, Run]:
        """The box and the run as they are first recorded."""
        asked = _limits(req.furnishing.limits)
        box = Box(
            id=ids.box,
            name=req.name,
            provider=saved.provider if saved else str(self.deps.settings.get("provider")),
            snapshot=saved.id if saved else "",
            state=BoxState.CREATING,
            created_ms=now,
            changed_ms=now,
            limits=capped(new_limits(self.deps.settings.section("box") | asked), chosen, asked),
            memory={"flow": ids.flow, "policy": dict(chosen)},
        )
        run = Run(
            id=ids.run,
            box=ids.box,
            agent=req.agent,
            prompt=req.prompt,
            state=RunState.QUEUED,
            created_ms=now,
            changed_ms=now,
            session=str(uuid.uuid4()),
            cwd=HOME if req.furnishing.home else WORK,
        )
        if saved is not None and not _places(req) and saved.cwd:
            run = structs.replace(run, repo=saved.repo, cwd=saved.cwd)
        return box, run

    async def _saved(self, req: RunRequest) -> Snapshot | None:
        """The saved box to start from: the one that is named, else the default one."""
        if req.snapshot and req.fresh:
            raise BadInput("a snapshot and none at all", hint="give either --snapshot or --fresh")
        if req.fresh:
            return None
        default = str(self.deps.settings.get("box.snapshot"))
        word = req.snapshot or default
        if not word:
            return None
        try:
            found = await snapshot_ready(self.deps, word)
            await complete_enough(self.deps, found, repo=bool(req.repo or req.furnishing.checkouts))
            return found
        except NotFound as e:
            if req.snapshot:
                raise
            raise NotFound(
                f"the default snapshot {word!r} can't be used: {e.message}",
                hint="'thopter snapshot default NAME' chooses another, 'thopter snapshot default --clear' "
                "none; --fresh starts without it this once",
            ) from None

    async def submit(self, intent: Intent) -> None:
        """Hand an intent to the flow engine; the same intent twice is one flow."""
        args = convert(intent.request, self.deps.engine.registry.get(intent.kind).args)
        await self.deps.engine.submit(intent.kind, args, flow_id=intent.flow)

    async def unheard(self, known: frozenset[str]) -> list[Intent]:
        """Intents recorded just before a crash, of which the flow engine has never heard."""
        found = []
        for box in await self.deps.store.boxes.list():
            if box.state is BoxState.CREATING:
                intent = await self.intent_of(box)
                if intent is not None and intent.flow not in known:
                    found.append(intent)
        return found

    async def intent_of(self, box: Box) -> Intent | None:
        """What a box was made for."""
        flow = box.memory.get("flow")
        try:
            return await self.deps.store.intents.get(str(flow)) if flow else None
        except NotFound:
            return None

    # ---------------------------------------------------------------------------------- checks

    def _check(self, req: RunRequest, task: bool) -> None:
        if req.agent not in self.deps.agents:
            raise BadInput(
                f"there is no agent {req.agent!r}", hint="known: " + ", ".join(sorted(self.deps.agents))
            )
        if task:
            check_text(req.prompt)
        if req.name:
            check_name(req.name)
        if req.branch and not req.repo:
            raise BadInput("a branch without a repository", hint="give --repo too")
        for repo, branch in [(req.repo, req.branch), *((c.repo, c.branch) for c in req.furnishing.checkouts)]:
            _check_branch(branch)
            _check_repo(repo)
        if not all(c.repo for c in req.furnishing.checkouts):
            raise BadInput("a checkout without a repository")
        check_uploads(req.furnishing.uploads)
        problem = self.deps.credential_problem(req.agent)
        if problem:
            raise Refused(
                problem, hint="'thopter setup' stores one; or point agents.claude.base_url elsewhere"
            )
        if shutil.disk_usage(self.deps.paths.state).free < _LEAST_DISK:
            raise StorageFull(
                f"less than 1 GiB is free for {self.deps.paths.state}", hint="free some space, then try again"
            )


def _places(req: RunRequest) -> bool:
    """True when the request says itself where the agent works."""
    return bool(req.repo or req.furnishing.home or req.furnishing.checkouts)


def _limits(given: dict[str, int | float]) -> dict[str, int | float]:
    known = ("memory_mb", "pids", "cpus", "disk_mb")
    for key in given:
        if key not in known:
            raise BadInput(f"there is no limit {key[:40]!r}", hint="limits: " + ", ".join(known))
    return {k: parse(f"box.{k}", v, "request").value for k, v in given.items()}


def _check_branch(branch: str) -> None:
    if branch and (not _BRANCH.fullmatch(branch) or ".." in branch):
        raise BadInput(f"{branch[:80]!r} is not a branch name")


def _check_repo(repo: str) -> None:
    if not repo or _URL.fullmatch(repo):
        return
    if not os.path.isabs(repo):
        raise BadInput(
            f"{repo[:200]!r} is neither an absolute path nor an https or ssh URL",
            hint="the command line turns '.' and 'owner/repo' into one",
        )
    if not os.path.isdir(repo):
        raise NotFound(f"there is no folder {repo}", hint="give a git repository with --repo")
