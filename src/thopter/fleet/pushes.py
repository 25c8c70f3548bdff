"""What boxes push, and how it gets upstream: durable, never twice, tried until it is there.

A hook's note is on disk before git moves the branch; it becomes a row of the outbox before it is taken away.
An attempt is recorded before it is made, so that after a death the next one knows its predecessor's work. The
mirror keeps what was pushed whatever happens upstream.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

from msgspec import structs

from thopter.fleet.deps import Deps
from thopter.fleet.egress import policy_of, route_of
from thopter.fleet.furnish import chosen, repos_of
from thopter.fleet.live import LiveBox
from thopter.fleet.refresh import Refresher
from thopter.kit import failpoint
from thopter.model.api.pushes import PushList, PushRequest, PushView
from thopter.model.errors import BadInput, NotAllowed, NotFound, Refused, ThopterError
from thopter.model.events import Event
from thopter.model.nouns import Box, RepoRef, Run
from thopter.model.pushes import Note, Outcome
from thopter.store.pushes import BLOCKED, QUEUED, SENT, PushRow
from thopter.store.store import Tx

log = logging.getLogger(__name__)
KINDS = {"deny": "git.refused", "allow": "git.pushed"}
LOG_KINDS = ("git.refused", "git.upstream.sent", "git.upstream.waits", "git.upstream.blocked")
_PAUSE_S = 1.0
_WAIT_MS = 10_000
_LOOK_S = 2.0
_UNMOVED_S = 30.0  # how long a hook's note may be ahead of its branch
_FIRST_MS, _LONGEST_MS, _LOGIN_MS = 2_000, 300_000, 60_000
_AT_ONCE = 4
_TRIED_KEPT = 8
_KEPT = ("verdict", "code", "reason", "scheme", "method", "host", "path", "detail", "was", "count")
Spawn = Callable[[str, Coroutine[Any, Any, Any]], object]


def may_push(deps: Deps, box: Box, run: Run) -> str:
    """The policy of a box that may push somewhere, be it by a person's word; else NotAllowed."""
    policy = policy_of(deps, box, run)
    if deps.policies.push_right(policy) == "none":
        raise NotAllowed(f"policy {policy} lets {box.name} push nothing", hint='say push = "mirror" there')
    return policy


class Pushes:
    """One per hub."""

    def __init__(self, deps: Deps, live: Mapping[str, LiveBox]) -> None:
        self._deps = deps
        self._live = live
        self._wake = asyncio.Event()
        self._busy: set[tuple[str, str]] = set()
        self._room = asyncio.Semaphore(_AT_ONCE)
        self._spawn: Spawn = lambda _name, _work: None
        self._refresher = Refresher(deps, live)

    async def start(self, spawn: Spawn) -> None:
        """Begin to read the gateway's log and to empty the outbox, until the fleet stops."""
        self._spawn = spawn
        spawn("git gateway's log", self._follow())
        spawn("pushes upstream", self._work())
        spawn("mirrors", self._refresher.watch())

    # ------------------------------------------------------------------------------ the log

    async def _follow(self) -> None:
        boot, after = await self._deps.store.pushes.cursor()
        while True:
            try:
                page = await self._deps.gateways.git_log(after, _WAIT_MS)
                if page.get("boot") != boot:
                    boot, after = str(page.get("boot")), 0
                    page = await self._deps.gateways.git_log(0, 0)
                if page.get("boot") == boot and int(page["next"]) > after:
                    after = int(page["next"])
                    await self._keep(boot, after, page)
                    self._wake.set()
            except ThopterError as e:
                log.debug("the git gateway's log can't be read: %s", e.message)
                await self._deps.clock.sleep(_PAUSE_S)

    async def _keep(self, boot: str, after: int, page: Mapping[str, Any]) -> None:
        events = [self._heard(r) for r in page.get("records", []) if r.get("verdict") in KINDS]

        def record(tx: Tx) -> None:
            tx.pushes.set_cursor(boot, after)
            tx.events.append(events)

        await self._deps.store.write(record)

    def _heard(self, record: Mapping[str, Any]) -> Event:
        box = str(record.get("box", ""))
        live = self._live.get(box)
        data = {k: record[k] for k in _KEPT if record.get(k)} | {"name": live.box.name if live else ""}
        return Event(
            kind=KINDS[record["verdict"]],
            at_ms=int(record.get("at_ms") or self._deps.clock.now_ms()),
            box=box,
            run=str(record.get("run", "")),
            data=data,
        )

    # ------------------------------------------------------------------------------ the outbox

    async def _work(self) -> None:
        while True:
            pause = _LOOK_S
            try:
                pause = await self._round()
            except (ThopterError, OSError) as e:
                log.warning("the outbox of pushes: %s", e)
            try:
                async with asyncio.timeout(pause):
                    await self._wake.wait()
            except TimeoutError:
                pass
            self._wake.clear()

    async def _round(self) -> float:
        """Take up notes, begin what is due; returns when to look again, in seconds."""
        notes = await asyncio.to_thread(self._deps.upstreams.notes, time.time())
        early = False
        for note in notes:
            early = not await self._take(note) or early
        now, pause = self._deps.clock.now_ms(), 0.1 if early else _LOOK_S
        for row in await self._deps.store.pushes.queued():
            key = (row.slug, row.box)
            if key in self._busy:
                continue
            if row.due_ms > now:
                pause = min(pause, max((row.due_ms - now) / 1000, 0.05))
                continue
            self._busy.add(key)
            self._spawn(f"push of {row.name}", self._deliver(row))
        return pause

    async def _take(self, note: Note) -> bool:
        """Make a note a row of the outbox; False when its branch has not moved yet."""
        try:
            head = await self._deps.mirrors.branch_head(note.slug, note.name)
            box = await self._deps.store.boxes.get(note.box)
        except (NotFound, BadInput) as e:  # its mirror or its box is not there any more
            log.warning("a push of %s is not brought upstream: %s", note.name, e.message)
            await asyncio.to_thread(self._deps.upstreams.taken, note)
            return True
        except ThopterError as e:  # git or the store could not say it now: the note stays
            log.warning("a push of %s waits: %s", note.name, e.message)
            return True
        if head != note.new and note.age_s < _UNMOVED_S:
            return False
        run = await self._deps.crew.run_of(box.id)
        ref = next((r for r in repos_of(run) if r.slug == note.slug), None) if run else None
        # Another one than the note's: a push that failed wrote its note over that of the one before it.
        if head is not None and run is not None and ref is not None and box.name == note.name:
            await self._queue(box, run, ref, head, "box")
        await asyncio.to_thread(self._deps.upstreams.taken, note)
        return True

    async def _queue(
        self, box: Box, run: Run, ref: RepoRef, head: str, by: str, has: str | None = None
    ) -> None:
        policy = (await route_of(self._deps, box, run)).policy
        now = self._deps.clock.now_ms()

        def put(tx: Tx) -> None:
            old = tx.pushes.of(ref.slug, box.id)
            row = old or PushRow(slug=ref.slug, name=box.name, box=box.id, run=run.id, source=ref.source,
                                 policy=policy, wanted=head)  # fmt: skip
            if old is not None and old.wanted == head and old.state == SENT and by == "box":
                return
            tx.pushes.put(
                structs.replace(
                    row,
                    run=run.id,
                    policy=policy,
                    wanted=head,
                    state=QUEUED,
                    origin=by,
                    attempts=0,
                    due_ms=now,
                    changed_ms=now,
                    problem="",
                    has=row.has if has is None else has,
                )
            )

        await self._deps.store.write(put)
        failpoint.hit("push.queued")
        self._wake.set()

    async def _deliver(self, row: PushRow) -> None:
        try:
            async with self._room:
                await self._attempt(row)
        except Exception:  # nothing says when to try again (a full disk): not at once
            await self._deps.clock.sleep(_FIRST_MS / 1000)
            raise
        finally:
            self._busy.discard((row.slug, row.box))
            self._wake.set()

    async def _attempt(self, row: PushRow) -> None:
        """One attempt, recorded before and after."""
        if row.origin == "box" and self._deps.policies.push_right(row.policy) != "upstream":
            why = f"policy {row.policy} does not let it go upstream any more"
            return await self._settle(row, Outcome(kind="refused", text=why))
        mark = await self._mark(row)
        if mark is None:
            return None
        failpoint.hit("push.tried")
        found = await self._deps.upstreams.push(
            row.slug, row.name, row.source, row.policy, row.wanted, mark.has
        )
        failpoint.hit("push.sent")
        if found.kind == "moved" and found.theirs and found.theirs != mark.has:
            ours = found.theirs in mark.tried.split()
            if ours or found.behind:  # an earlier attempt of our own, or nothing that would be lost
                mark = structs.replace(mark, has=found.theirs)
                found = await self._deps.upstreams.push(
                    row.slug, row.name, row.source, row.policy, row.wanted, mark.has
                )
        await self._settle(mark, found)
        return None

    async def _mark(self, row: PushRow) -> PushRow | None:
        """Record that an attempt begins; None when the row is another's by now."""

        def put(tx: Tx) -> PushRow | None:
            now = tx.pushes.of(row.slug, row.box)
            if now is None or now.state != QUEUED or now.wanted != row.wanted:
                return None
            ids = list(dict.fromkeys([*now.tried.split(), row.wanted]))[-_TRIED_KEPT:]
            marked = structs.replace(now, tried=" ".join(ids))
            tx.pushes.put(marked)
            return marked

        return await self._deps.store.write(put)

    async def _settle(self, row: PushRow, found: Outcome) -> None:
        """Record what came of it; when the box has pushed anew meanwhile, that stays to be done."""
        now = self._deps.clock.now_ms()
        kinds = {"done": SENT, "refused": BLOCKED, "moved": BLOCKED}
        state = kinds.get(found.kind, QUEUED)
        wait = min(_FIRST_MS << min(row.attempts, 12), _LONGEST_MS)
        wait = max(wait, _LOGIN_MS) if found.kind == "login" else wait
        text = "" if state == SENT else found.text
        word = {SENT: "sent", BLOCKED: "blocked"}.get(state, "waits")
        data = {"name": row.name, "repo": row.source, "branch": f"thopter/{row.name}", "commit": row.wanted,
                "by": row.origin, "attempts": row.attempts + 1, "problem": text}  # fmt: skip
        event = Event(kind=f"git.upstream.{word}", at_ms=now, box=row.box, run=row.run, data=data)

        def put(tx: Tx) -> None:
            old = tx.pushes.of(row.slug, row.box)
            if old is None:
                return
            has = row.wanted if state == SENT else row.has
            if (old.wanted, old.changed_ms) != (row.wanted, row.changed_ms):  # queued anew meanwhile
                tx.pushes.put(structs.replace(old, has=has if state == SENT else old.has))
            else:
                tx.pushes.put(
                    structs.replace(
                        old,
                        has=has,
                        tried="" if state == SENT else row.tried,
                        state=state,
                        attempts=old.attempts + 1,
                        problem=text,
                        changed_ms=now,
                        due_ms=now + wait,
                    )
                )
            if state != QUEUED or old.problem != text:
                tx.events.append([event])

        await self._deps.store.write(put)
        failpoint.hit("push.recorded")
        await self._tell(row, state, text)

    async def _tell(self, row: PushRow, state: str, text: str) -> None:
        words = {
            SENT: f"upstream has it: thopter/{row.name} at {row.wanted[:12]}",
            BLOCKED: f"taken, but not brought upstream: {text}; a person has to look",
        }
        said = words.get(state, f"taken; upstream can't have it yet ({text}), the hub goes on trying")
        try:
            await asyncio.to_thread(
                self._deps.upstreams.tell, row.slug, row.name, row.wanted, said, state != QUEUED
            )
        except OSError as e:
            log.warning("the box %s can't be told about its push: %s", row.name, e.strerror)

    # ------------------------------------------------------------------------------ people

    async def view(self, name: str) -> PushList:
        """How a thopter's branches stand."""
        box = await self._deps.store.boxes.find(name)
        return PushList(pushes=await self.of_box(box, await self._deps.crew.run_of(box.id)))

    async def refresh(self, name: str) -> PushList:
        """Bring what is new upstream into the mirrors of a thopter."""
        box = await self._deps.store.boxes.find(name)
        run = await self._deps.crew.run_of(box.id)
        if run is None or run.repo is None:
            raise Refused(f"{box.name} has no repository", hint="start it with --repo")
        for ref in repos_of(run):
            await self._refresher.now(ref, policy_of(self._deps, box, run))
        return PushList(pushes=await self.of_box(box, run))

    async def of_box(self, box: Box, run: Run | None) -> list[PushView]:
        """The same of a box that is at hand."""
        if run is None or run.repo is None:
            return []
        rows = {r.slug: r for r in await self._deps.store.pushes.of_box(box.id)}
        policy = (await route_of(self._deps, box, run)).policy
        allowed = self._deps.policies.push_right(policy) == "upstream"
        return [await self._view(box, ref, rows.get(ref.slug), policy, allowed) for ref in repos_of(run)]

    async def _view(
        self, box: Box, ref: RepoRef, row: PushRow | None, policy: str, allowed: bool
    ) -> PushView:
        try:
            head = await self._deps.mirrors.branch_head(ref.slug, box.name) or ""
        except NotFound:
            head = ""
        names = ("wanted", "has", "state", "attempts", "due_ms", "changed_ms", "problem")
        fields: dict[str, Any] = {k: getattr(row, k) for k in names} if row is not None else {}
        return PushView(
            source=ref.source, folder=ref.folder, branch=f"thopter/{box.name}", policy=policy,
            allowed=allowed, head=head, **fields,
        )  # fmt: skip

    async def order(self, name: str, req: PushRequest) -> PushList:
        """A person's word: bring the branch upstream as the mirror has it, durable when this returns.
        What the policy lets the box do by itself does not matter then, unless that is nothing at all."""
        box = await self._deps.store.boxes.find(name)
        run = await self._deps.crew.run_of(box.id)
        if run is None or run.repo is None:
            raise Refused(f"{box.name} has no repository", hint="start it with --repo")
        ref = chosen(run, req.checkout).repo
        assert ref is not None  # chosen() has found one
        policy = may_push(self._deps, box, run)
        head = await self._deps.mirrors.branch_head(ref.slug, box.name)
        if head is None:
            raise NotFound(f"{box.name} has pushed nothing yet", hint=f"'thopter pull {box.name}' does it")
        has = None
        if req.force:
            has = await self._deps.upstreams.where(ref.slug, box.name, ref.source, policy)
        await self._queue(box, run, ref, head, "person", has)
        return PushList(pushes=await self.of_box(box, run))
