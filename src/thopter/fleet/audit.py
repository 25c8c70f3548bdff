"""The audit as use cases: reading it, looking the chain over, and anchoring it outside the database.

Records are written by the store, with the facts they are about, and here for what people do to a box that
is no fact of the store (commands, files): committed before it is done.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from typing import TYPE_CHECKING, Any

from msgspec import structs

from thopter.kit import failpoint
from thopter.kit.caller import caller
from thopter.model.api import Check
from thopter.model.api.audit import AuditFault, AuditPage, AuditVerdict
from thopter.model.errors import BadInput, StorageFull
from thopter.model.events import Event
from thopter.model.nouns import Box
from thopter.store.anchors import Anchors
from thopter.store.anchors import Found as AnchorFile
from thopter.store.audit import Wanted
from thopter.store.audit_chain import Anchor

if TYPE_CHECKING:
    from thopter.fleet.deps import Deps

log = logging.getLogger(__name__)
EVERY_S = 1.0  # what is cut off the chain's end unseen is at most this much of it
_HEAD = re.compile(r"([0-9]{1,18}):([0-9a-f]{64})")
_PAGE = 1000
_LATE, _LATE_S = 1000, 5.0
Spawn = Callable[[str, Coroutine[Any, Any, Any]], object]


class Audits:
    """One per hub."""

    def __init__(self, deps: Deps) -> None:
        self._deps = deps
        self._anchors = Anchors(deps.paths.state / "audit.anchors")
        self._anchored = 0
        self._late: deque[tuple[Event, str]] = deque()
        self._problem = ""

    async def start(self, spawn: Spawn) -> None:
        """Compare the chain with what was anchored, then anchor what comes, until the fleet stops."""
        found = await asyncio.to_thread(self._anchors.read)
        self._problem = await self._disagreement(found)
        if self._problem:
            log.error("the audit: %s", self._problem)
            await self._write(self._event("audit.disagrees", {"text": self._problem}))
        if not found.anchors:
            await self._write(self._event("audit.anchors_begun", {}))
        spawn("audit anchors", self._keep())

    async def stop(self) -> None:
        """Anchor where the chain ends now; called when nothing is written any more."""
        await self._write_late()
        await self._anchor()

    async def _keep(self) -> None:
        while True:
            await self._write_late()
            await self._anchor()
            await self._deps.clock.sleep(EVERY_S)
            try:
                async with asyncio.timeout(_LATE_S):
                    await self._deps.store.audit.changed(self._anchored)
            except TimeoutError:
                continue  # nothing new; what is late is tried again

    async def _anchor(self) -> None:
        head = await self._deps.store.audit.head()
        if head.seq > self._anchored:
            failpoint.hit("audit.before_anchor")
            now = self._deps.clock.now_ms()
            try:
                anew = await asyncio.to_thread(self._anchors.add, Anchor(head.seq, head.hash, now))
            except OSError as e:
                log.error("the audit's anchors can't be written: %s", e.strerror)
                return
            self._anchored = head.seq
            if anew:
                await self._write(self._event("audit.anchors_begun", {}))

    async def _disagreement(self, found: AnchorFile) -> str:
        """Why the newest anchor does not fit the chain, or "": cheap, where verifying is thorough."""
        if not found.anchors:
            return ""
        last = max(found.anchors, key=lambda a: a.seq)
        rows = await self._deps.store.audit.rows(last.seq - 1, 1)
        if not rows or rows[0].seq != last.seq:
            return (
                f"record {last.seq} was anchored and is not there: its end was cut off, or it is an older one"
            )
        if rows[0].hash != last.hash:
            return f"record {last.seq} is not the one that was anchored"
        return ""

    def _event(self, kind: str, data: Mapping[str, Any], box: Box | None = None, run: str = "") -> Event:
        at = self._deps.clock.now_ms()
        return Event(kind=kind, at_ms=at, box=box.id if box else "", run=run, data=dict(data))

    # ------------------------------------------------------------------------------ people

    async def act(self, kind: str, box: Box, data: Mapping[str, Any] | None = None, run: str = "") -> None:
        """What a person is about to do to a box; committed when this returns."""
        event = self._event(kind, {"name": box.name, **(data or {})}, box, run)
        await self._write(event)

    async def _write(self, event: Event) -> None:
        """Commit a record. On a full disk it waits in memory for room, some do: a hub that refused them
        could not be used to make any. Those are marked, and a hub that dies meanwhile loses them."""
        try:
            await self._deps.store.audit.append(event)
        except StorageFull as e:
            if len(self._late) >= _LATE:
                raise
            log.error("no room for the audit: %s of %s waits: %s", event.kind, event.box, e.message)
            self._late.append((structs.replace(event, data={**event.data, "late": True}), caller.get().name))

    async def _write_late(self) -> None:
        while self._late:
            event, by = self._late[0]
            try:
                await self._deps.store.audit.append(event, by)
            except StorageFull:
                return
            self._late.popleft()

    # ------------------------------------------------------------------------------ reading

    async def page(self, want: Wanted, after: int, limit: int, last: bool, wait_ms: int) -> AuditPage:
        """Records in order; with none after ``after`` it waits for ``wait_ms`` at most for more."""
        store = self._deps.store.audit
        if wait_ms and not last:
            try:
                async with asyncio.timeout(wait_ms / 1000):
                    await store.changed(after)
            except TimeoutError:
                pass  # an empty page is the answer
        head = (await store.head()).seq
        lines = await store.read(want, after, limit, last)
        full = len(lines) == limit and not last
        upto = lines[-1].seq if full else max(head, after, *(line.seq for line in lines))
        return AuditPage(lines=lines, next=upto, head=head)

    async def export(self) -> AsyncIterator[bytes]:
        """All of it as lines ``{"hash":"…","record":{…}}``, the record's bytes as they were hashed."""
        after = 0
        while True:
            rows = await self._deps.store.audit.rows(after, _PAGE)
            yield "".join(f'{{"hash":"{r.hash}","record":{r.record}}}\n' for r in rows).encode()
            if len(rows) < _PAGE:
                return
            after = rows[-1].seq

    async def verify(self, expect: str) -> AuditVerdict:
        """Look over every record, and whether it is what was anchored, and what ``expect``
        (``NUMBER:HASH``) says that somebody wrote down. What is wrong is the answer, not an error."""
        match = _HEAD.fullmatch(expect)
        if expect and not match:
            raise BadInput("a head is NUMBER:HASH", hint="'thopter audit --verify' prints it")
        file = await asyncio.to_thread(self._anchors.read)
        noted = [Anchor(int(match[1]), match[2])] if match else []
        anchors = [*file.anchors, *(a for a in noted if a.seq)]
        head, faults = await self._deps.store.audit.faults(anchors)
        found = [AuditFault(seq=f.seq, text=f.text) for f in faults]
        if file.bad:
            found.append(
                AuditFault(seq=0, text=f"{file.bad} lines of {self._anchors.path.name} are no anchors")
            )
        if not file.there and self._anchored:
            found.append(AuditFault(seq=0, text=f"{self._anchors.path.name} is gone"))
        begun = await self._deps.store.audit.read(Wanted(kind="audit.anchors_begun"), limit=100)
        found += [AuditFault(seq=b.seq, text="the file of anchors was begun anew here") for b in begun[1:]]
        return AuditVerdict(
            ok=not found, records=head.seq, head=f"{head.seq}:{head.hash}", anchors=len(file.anchors),
            anchored=max((a.seq for a in file.anchors), default=0), expected=expect,
            file=str(self._anchors.path), faults=found,
        )  # fmt: skip

    async def check(self) -> Check:
        """For the doctor: what was found at the start, and whether anchors can be written."""
        head = (await self._deps.store.audit.head()).seq
        if self._late:
            text = f"{len(self._late)} records wait in memory: there is no room for them"
            return Check(name="audit", level="fail", text=text, fix="free some space")
        if self._problem:
            return Check(name="audit", level="fail", text=self._problem, fix="thopter audit --verify")
        return Check(name="audit", level="ok", text=f"{head} records, anchored up to {self._anchored}")
