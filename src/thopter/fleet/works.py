"""A thopter's work as a person reaches for it: words, screen, files, branch, commands in its box."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager

from thopter.fleet import changes, work
from thopter.fleet import tell as telling
from thopter.fleet.crew import Crew
from thopter.fleet.deps import Deps
from thopter.fleet.furnish import chosen
from thopter.fleet.launch import GIT_PORT
from thopter.fleet.live import LiveBox
from thopter.fleet.person import Hands
from thopter.fleet.places import places_of
from thopter.fleet.pushes import may_push
from thopter.kit.channel import ExecStream
from thopter.model.api import DiffResult, PullInfo, TranscriptPage
from thopter.model.api.changes import ChangeList, FileDiff
from thopter.model.errors import NotFound, ProviderError, Refused
from thopter.model.nouns import Box, Run
from thopter.model.others import numbered


class Works:
    """One per fleet. ``live`` finds a box that is up, by its name; ``hands`` writes down what people do."""

    def __init__(
        self, deps: Deps, crew: Crew, live: Callable[[str], Awaitable[tuple[LiveBox, Run]]], hands: Hands
    ) -> None:
        self._deps = deps
        self._crew = crew
        self._live = live
        self._hands = hands

    async def transcript(self, name: str, after: int, limit: int, last: int) -> TranscriptPage:
        """A page of the conversation; of ``NAME.2`` what that agent said in the session it is in."""
        name, number = numbered(name)
        box = await self._deps.store.boxes.find(name)
        run = await self._crew.run_of(box.id)
        session = await self._session(box, number) if number else ""
        if run is None:
            return TranscriptPage(entries=[], next=0, total=0)
        if session == run.session:
            session = ""  # it goes on with the run's own conversation
        return await self._deps.store.entries.page(run.id, after, limit, last, session)

    async def _session(self, box: Box, number: int) -> str:
        """The session of a further agent of the box; NotFound."""
        live = self._crew.live.get(box.id)
        known = live.others.all() if live is not None else await self._deps.store.others.of_box(box.id)
        found = next((a for a in known if a.number == number and a.session), None)
        if found is None:
            names = ", ".join(f"{box.name}.{a.number}" for a in known) or "none"
            raise NotFound(
                f"there is no agent {box.name}.{number}",
                hint=f"further agents in the box of {box.name}: {names}",
            )
        return found.session

    async def screen(self, name: str) -> str:
        """The agent's pane as plain text."""
        live, _run = await self._live(name)
        return str((await (await live.link()).tmux_capture(telling.PANE)).get("screen", ""))

    async def diff(self, name: str, checkout: str = "") -> DiffResult:
        """The work so far."""
        live, run = await self._live(name)
        return await work.diff(await live.link(), chosen(run, checkout))

    async def changes(self, name: str, checkout: str = "") -> ChangeList:
        """Which files it changed."""
        live, run = await self._live(name)
        return await changes.changes(await live.link(), chosen(run, checkout))

    async def change(self, name: str, checkout: str, file: str, context: int) -> FileDiff:
        """What it changed in one of them."""
        live, run = await self._live(name)
        return await changes.change(await live.link(), chosen(run, checkout), file, context)

    async def pull(self, name: str, wip: bool, checkout: str = "") -> PullInfo:
        """Bring the box's commits into its branch of the mirror."""
        live, run = await self._live(name)
        run = chosen(run, checkout)
        if run.repo is None:
            raise Refused("this thopter has no repository", hint="start it with --repo")
        may_push(self._deps, live.box, run)
        url = f"http://127.0.0.1:{places_of(live.box).port(GIT_PORT)}/r/{run.repo.slug}.git"
        commits, dirty = await work.push_from_box(await live.link(), run, live.box.name, url, wip)
        head = await self._deps.mirrors.branch_head(run.repo.slug, live.box.name)
        if head is None:
            raise ProviderError("the push did not arrive in the mirror", hint="see 'thopter hub logs'")
        return PullInfo(
            branch=f"thopter/{live.box.name}",
            head=head,
            base=run.repo.base,
            commits=commits,
            dirty=dirty,
            wip=wip and dirty > 0,
        )

    async def bundle(self, name: str, checkout: str = "") -> AsyncIterator[bytes]:
        """The branch as a git bundle, from the mirror (works while the box is frozen or lost)."""
        box = await self._deps.store.boxes.find(name)
        run = await self._crew.run_of(box.id)
        run = run and chosen(run, checkout)
        if run is None or run.repo is None:
            raise Refused("this thopter has no repository", hint="start it with --repo")
        if await self._deps.mirrors.branch_head(run.repo.slug, box.name) is None:
            raise NotFound(f"{box.name} has pushed nothing yet", hint=f"'thopter pull {box.name}' does it")
        async for chunk in self._deps.mirrors.bundle(run.repo.slug, run.repo.base, box.name):
            yield chunk

    @asynccontextmanager
    async def exec(
        self,
        name: str,
        argv: Sequence[str],
        env: Mapping[str, str] | None,
        cwd: str | None,
        pty: tuple[int, int] | None,
        stdin: bool,
    ) -> AsyncIterator[ExecStream]:
        """Run ``argv`` in the box, in the run's folder unless ``cwd`` says otherwise; without an ``env``
        of its own with the operator's variables, as login shells and the agent have them."""
        live, run = await self._live(name)
        link = await live.link()
        where = cwd or run.cwd or places_of(live.box).work
        await self._hands.command(live.box, run, argv, env, where, pty is not None)
        more = live.ctx.settings.get("env") if live.ctx is not None else None
        opened = link.open_exec(list(argv), env=env, cwd=where, pty=pty, stdin=stdin, more_env=more)
        with live.person(pty is not None):
            async with opened as session:
                yield session

    async def put(self, name: str, path: str, body: AsyncIterator[bytes]) -> int:
        """Write a file in the box, atomically."""
        live, run = await self._live(name)
        await self._hands.file("put", live.box, run, path)
        return await (await live.link()).put_stream(path, body)

    async def fetch(self, name: str, path: str) -> AsyncIterator[bytes]:
        """Read a file of the box."""
        live, run = await self._live(name)
        await self._hands.file("fetch", live.box, run, path)
        async for chunk in (await live.link()).fetch_stream(path):
            yield chunk
