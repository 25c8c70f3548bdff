"""Approvals: what agents wait for a person to allow or to answer, over all thopters."""

from __future__ import annotations

from typing import TYPE_CHECKING

from thopter.fleet import tell as telling
from thopter.fleet.asks import other_session
from thopter.fleet.deps import Deps, request_mark
from thopter.kit import failpoint
from thopter.model.api import ThopterView
from thopter.model.api.approvals import OPEN, AnswerRequest, Approval
from thopter.model.asks import AskReply
from thopter.model.errors import BadInput, Conflict, NotNow, Refused
from thopter.model.nouns import Box
from thopter.store.approvals import Asked

if TYPE_CHECKING:
    from thopter.fleet.crew import Crew

_PATIENCE_S = 15.0  # for the answer to reach the agent; it goes on being carried afterwards


class Approvals:
    """The use cases of ``hub/api/approvals.py``. An answer that is accepted is committed: it reaches the
    agent once, or what came first is told; see :mod:`thopter.fleet.asks`."""

    def __init__(self, deps: Deps, crew: Crew) -> None:
        self.deps = deps
        self._crew = crew

    async def asked(self, name: str = "", everything: bool = False) -> list[Approval]:
        """Those of one thopter or of all, oldest first; without ``everything`` only open ones."""
        store = self.deps.store
        box = await store.boxes.find(name) if name else None
        found = await store.approvals.asked(box.id if box else "", everything)
        names = {str(b.id): b.name for b in ([box] if box else await store.boxes.list())}
        return [shown(a, names.get(a.box, ""), self._by(a)) for a in found]

    async def of_box(self, box: Box) -> list[Approval]:
        """Those of a box that are open."""
        return [shown(a, box.name, self._by(a)) for a in await self.deps.store.approvals.asked(box.id)]

    def _by(self, asked: Asked) -> int:
        """The number of the further agent of the box that asks; 0: the run's own."""
        live = self._crew.live.get(asked.box)
        session = other_session(live, asked) if live is not None else ""
        agent = live.others.find(session) if live is not None and session else None
        return agent.number if agent is not None else 0

    async def counted(self, views: list[ThopterView]) -> list[ThopterView]:
        """Say on each line how many wait for a person."""
        counts: dict[str, int] = {}
        for asked in await self.deps.store.approvals.asked():
            counts[asked.box] = counts.get(asked.box, 0) + 1
        for view in views:
            view.approvals = counts.get(view.id, 0)
        return views

    async def answer(self, key: str, req: AnswerRequest) -> Approval:
        """Give a person's answer to the agent. Conflict when it was answered already, is about something
        else (its digest differs), or was answered elsewhere first; NotNow when it can't be answered
        any more. Still ``answering`` when the box has not taken it in time: it is carried there."""
        store = self.deps.store
        kept = await store.approvals.get(key)
        box = await store.boxes.get(kept.box)
        reply = AskReply(
            allow=req.allow, message=req.message, for_run=req.for_run, answers=tuple(req.answers)
        )
        again = request_mark.get().again and kept.reply == reply and kept.digest == req.digest
        if not again:
            self._check(kept, reply)
            telling.must_be_up(box)
            await store.approvals.decide(key, req.digest, reply, self.deps.clock.now_ms())
        failpoint.hit("approval.decided")
        return _outcome(shown(await self._end(kept), box.name), reply)

    def _check(self, kept: Asked, reply: AskReply) -> None:
        if reply.allow and reply.message:
            raise BadInput("words go with a no; a yes takes none", hint="'thopter tell' says something")
        if reply.answers and kept.ask.kind != "question":
            raise BadInput(
                "this asks for a permission, not for an answer", hint="approve it without --answer"
            )
        if reply.allow and not kept.whole:
            raise Refused(
                "what it asks for is too long to be shown whole, so it can't be approved here",
                hint="deny it, or look at it and answer at the terminal: 'thopter attach'",
            )
        live = self._crew.live.get(kept.box)
        if live is None or live.agent is None:
            raise NotNow("its box is not looked after now", hint="see 'thopter status'")
        live.agent.answer_hook(kept.body.encode(errors="surrogateescape"), reply)

    async def _end(self, kept: Asked) -> Asked:
        """Wait, within bounds, until something has come of it."""
        store, clock, live = self.deps.store, self.deps.clock, self._crew.live.get(kept.box)
        ends = clock.monotonic() + _PATIENCE_S
        if live is not None:
            await live.posted()
        while True:
            seen = live.mail if live is not None else 0
            found = await store.approvals.get(kept.id)
            left = ends - clock.monotonic()
            if found.state not in OPEN or left <= 0 or live is None:
                return found
            await live.until(lambda b, seen=seen: b.mail != seen, left)  # type: ignore[misc]


def _outcome(found: Approval, reply: AskReply) -> Approval:
    if found.state == "elsewhere":
        raise Conflict(
            "it was answered elsewhere first, at the agent's own terminal",
            hint="see 'thopter approvals -a' and 'thopter status'",
            state=found.state,
        )
    if found.state == "expired":
        raise NotNow(f"it can't be answered any more: {found.detail}", hint="see 'thopter status'")
    if found.state not in OPEN and (found.state == "approved") != reply.allow:
        raise Conflict(f"it is {found.state} already", state=found.state)
    return found


def shown(asked: Asked, name: str, number: int = 0) -> Approval:
    """As the API tells it."""
    ask, reply = asked.ask, asked.reply or AskReply(allow=False)
    return Approval(
        id=asked.id, name=name, box=asked.box, run=asked.run, kind=ask.kind, tool=ask.tool,
        summary=ask.summary, digest=asked.digest, state=asked.state, asked_ms=asked.asked_ms,
        changed_ms=asked.changed_ms, input=dict(ask.input), whole=asked.whole, for_run=ask.for_run,
        questions=list(ask.questions), message=reply.message, answers=list(reply.answers),
        allowed_for_run=reply.for_run, detail=asked.detail, agent=f"{name}.{number}" if number else "",
    )  # fmt: skip
