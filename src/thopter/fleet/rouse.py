"""Bringing an agent back into a box that is up: its session resumed, copied, or begun anew.

Every start is a *life* of the run, named ``RUN.N``: boxd starts each life once, and truth takes what
happened before the launch of the present one for history. All of this is safe to repeat.
"""

from __future__ import annotations

import asyncio
from typing import Any

from msgspec import Struct, convert, structs, to_builtins

from thopter.fleet import boxnet, status_tool, unsent
from thopter.fleet.delivery import caught_up
from thopter.fleet.deps import Deps
from thopter.fleet.facts import Facts, facts_of
from thopter.fleet.launch import launch_context, prompt_file
from thopter.fleet.live import LiveBox
from thopter.fleet.places import places_of
from thopter.fleet.unsent import After, Unsent
from thopter.kit.channel import BoxLink
from thopter.model.errors import Conflict, NotFound, ProviderError, Refused, TimedOut
from thopter.model.evidence import Evidence, Fact, Source
from thopter.model.nouns import Run, RunState
from thopter.model.sockets import Agent, Launch, LaunchContext
from thopter.store.store import Tx

_SIGN_S = 45.0
_LOOK_S = 60.0
_OVER = (RunState.FAILED, RunState.STOPPED, RunState.DONE)
_SIGNS = (Fact.SESSION_STARTED, Fact.TURN_STARTED, Fact.ACTIVITY, Fact.IDLE, Fact.BUSY)


class Wish(Struct, frozen=True, kw_only=True):
    """How an agent shall come back. ``life`` names this start; ``prompt`` is said first; ``spare`` is
    the id of the session that is begun when there is none to go on with; ``fresh`` forgets the
    conversation; ``from_session`` copies that one instead of going on with the run's own; ``go_on``: an
    agent whose turn was cut short is told to go on, where the setting says so."""

    run: str
    life: str
    spare: str
    prompt: str = ""
    fresh: bool = False
    from_session: str = ""
    go_on: bool = False


class Way(Struct, frozen=True, kw_only=True):
    """How it was decided to begin: ``resume``, ``fork`` of the session ``past``, or ``new``."""

    how: str
    past: str = ""
    prompt: str = ""


class Rouser:
    """See the module docstring. Holds no state."""

    def __init__(self, deps: Deps) -> None:
        self.deps = deps

    async def prepare(self, box: str, run: str) -> None:
        """Write the agent's files for ``run``: its hooks name the run they report to."""
        live, link, found, facts = await self._at(box, run)
        ctx = launch_context(found, live.box, facts.settings, facts.token)
        for file in (*status_tool.files(places_of(live.box)), *self._agent(found).prepare(ctx)):
            await link.put(file.path, file.content, mode=file.mode)

    async def start(self, box: str, wish: Wish, *, unless_running: bool) -> dict[str, Any]:
        """Start the agent; with ``unless_running`` one that is at work is left alone.

        The result is ``{"started", "problem", "again", "go_on"}``: what its screen or boxd said, how
        many messages are said again, and whether it is told to go on with its turn."""
        live, link, run, facts = await self._at(box, wish.run)
        known = await self.deps.store.evidence.of_run(run.id)
        mine = (e for e in known if e.fact is Fact.LAUNCHED and e.data.get("life") == wish.life)
        begun = next(mine, None)
        if begun is None:
            await caught_up(live, link)
        if unless_running and live.agent_running and begun is None:
            return {"started": False, "problem": ""}
        agent = self._agent(run)
        ctx = launch_context(run, live.box, facts.settings, facts.token)
        if begun is None:
            way = await self._choose(live, link, run, ctx, agent, wish)
            missing = await unsent.look(live, link, run, ctx, agent)
            run, begun = await self._record(live, run, agent, wish, way, missing)
        else:
            way = convert(begun.data.get("way"), Way)  # killed between the record and the start
        live.ctx = ctx = structs.replace(ctx, session=run.session)
        launch = self._launch(agent, ctx, way)
        if way.prompt:
            await link.put(prompt_file(ctx.home), way.prompt.encode(errors="surrogateescape"), mode=0o600)
        env = {**boxnet.variables(live.box), **launch.env, "THOPTER_RUN": wish.life}
        problem = ""
        try:
            await link.run_start(wish.life, list(launch.argv), env, launch.cwd, cols=200, rows=50)
        except Conflict:
            problem = "an earlier agent still runs in this box"
        except ProviderError as e:
            problem = e.message  # the box is fine; the agent's end is in the journal
        await live.refold()
        more = {k: begun.data.get(k, 0) for k in ("again", "go_on")}
        return {"started": True, "problem": problem, **more}

    async def _choose(
        self, live: LiveBox, link: BoxLink, run: Run, ctx: LaunchContext, agent: Agent, wish: Wish
    ) -> Way:
        """Go on where there is a conversation to go on with; else begin, with the task if it has one."""
        if wish.fresh:
            return Way(how="new", prompt=wish.prompt)
        past = wish.from_session or await self._past(live, link, run, ctx, agent)
        if not past:
            return Way(how="new", prompt=wish.prompt or run.prompt)  # it never heard its task
        if past == run.session and not wish.prompt:
            return Way(how="resume")
        return Way(how="fork", past=past, prompt=wish.prompt)

    def _launch(self, agent: Agent, ctx: LaunchContext, way: Way) -> Launch:
        file = prompt_file(ctx.home) if way.prompt else ""
        ctx = structs.replace(ctx, prompt=way.prompt, prompt_file=file)
        if way.how == "resume":
            return agent.resume(ctx)
        return agent.fork(ctx, way.past) if way.how == "fork" else agent.launch(ctx)

    async def _past(self, live: LiveBox, link: BoxLink, run: Run, ctx: LaunchContext, agent: Agent) -> str:
        """The session that holds the conversation so far, by the transcripts in the box: the run's own,
        else the newest of its ancestors' (a fork that nobody has told anything has none of its own)."""
        root, glob = agent.transcript_root(ctx)
        seen: dict[str, int] = {}
        now = self.deps.clock.now_ms()
        try:
            async with asyncio.timeout(_LOOK_S):
                async for part in link.tail(root, glob, {}, follow=False):
                    for line in part.get("lines", ()):
                        raw = str(line).encode(errors="surrogateescape")
                        for entry in agent.read_transcript(str(part.get("file", "")), raw, now).entries:
                            seen[entry.session] = max(seen.get(entry.session, 0), entry.at_ms)
                    if run.session in seen:
                        return run.session
        except TimeoutError:
            raise TimedOut("the box's transcripts could not be read in time") from None
        except NotFound:  # no transcripts at all
            return ""
        older = [s for s in seen if s in live.lineage]
        return max(older, key=lambda s: seen[s], default="")

    async def _record(
        self, live: LiveBox, run: Run, agent: Agent, wish: Wish, way: Way, missing: Unsent
    ) -> tuple[Run, Evidence]:
        """Record the new session, the launch, and what is said again, together, just before the agent
        is asked for."""
        now = self.deps.clock.now_ms()
        if way.how != "resume":
            run = structs.replace(run, session=wish.spare, changed_ms=now)
        text = str(self.deps.settings.get("run.go_on_text"))
        says = text if wish.go_on and self.deps.settings.get("run.go_on") else ""
        after = After(life=wish.life, at_ms=now, go_on=says, fresh=wish.fresh, prompt=way.prompt)

        def both(tx: Tx) -> Evidence:
            tx.runs.update(run)
            again, goes_on = unsent.record(tx, live, run, missing, after)
            told = "; it is told to go on" if goes_on else "; its turn was cut short" if missing.cut else ""
            told += f"; {again} of its messages said again" if again else ""
            launched = Evidence(
                source=Source.HUB, fact=Fact.LAUNCHED, at_ms=now, seen_ms=now,
                detail=f"{agent.name} started again{told}",
                data={
                    "prompt": bool(way.prompt), "life": wish.life, "way": to_builtins(way), "again": again,
                    "go_on": goes_on,
                },
            )  # fmt: skip
            tx.evidence.add(run.id, [launched])
            return launched

        launched = await self.deps.store.write(both)
        live.run, live.lineage = run, live.lineage | {run.session}
        live.follow_session(run.session)
        live.learn([launched])
        await live.posted()
        return run, launched

    async def sign(self, box: str, life: str, prompt: bool) -> dict[str, Any]:
        """Wait for the first sign of this life; one that shows none is reported, not taken down."""
        live = await self.deps.crew.adopt(box)
        begun = max((e.at_ms for e in live.evidence if e.data.get("life") == life), default=0)
        want = _SIGNS[1:3] if prompt else _SIGNS
        seen = await live.until(
            lambda b: (
                b.verdict.state in _OVER or any(e.fact in want and e.at_ms >= begun for e in b.evidence)
            ),
            _SIGN_S,
        )
        problem = "" if seen else f"no sign of work within {_SIGN_S:.0f} s"
        if live.verdict.state in _OVER:
            problem = (live.run.problem if live.run else "") or f"the agent is {live.verdict.state}"
        return {"state": live.verdict.state, "problem": problem}

    async def end(self, box: str, run: str) -> None:
        """End the agent of the present life and record who wished it. No agent: nothing to do."""
        live, link, found, _facts = await self._at(box, run)
        if not live.agent_running:
            return
        now = self.deps.clock.now_ms()
        stop = Evidence(
            source=Source.HUB, fact=Fact.STOP_REQUESTED, at_ms=now, seen_ms=now, detail="asked to stop"
        )
        await self.deps.store.evidence.add(found.id, [stop])
        live.learn([stop])
        launched = [e for e in live.evidence if e.fact is Fact.LAUNCHED]
        life = str(max(launched, key=lambda e: e.at_ms).data.get("life", "")) if launched else ""
        try:
            await link.run_stop(life or found.id)
        except NotFound:
            return  # boxd knows no such agent: it is gone
        if not await live.until(lambda b: not b.agent_running, _SIGN_S):
            raise TimedOut(f"the agent of {live.box.name} does not end", hint="see 'thopter hub logs'")

    # -------------------------------------------------------------------------------- inside

    def _agent(self, run: Run) -> Agent:
        agent = self.deps.agents.get(run.agent)
        if agent is None:
            raise Refused(f"there is no agent {run.agent!r} here any more")
        return agent

    async def _at(self, box: str, run: str) -> tuple[LiveBox, BoxLink, Run, Facts]:
        live = await self.deps.crew.adopt(box)
        found = await self.deps.store.runs.get(run)
        facts = await facts_of(self.deps, live.box)
        if facts is None:
            raise Refused(f"how {live.box.name} was started is not on record")
        live.run = found
        return live, await live.link(30.0), found, facts


__all__ = ["Rouser", "Wish"]
