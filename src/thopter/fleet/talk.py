"""Talking beyond a plain tell: messages that are kept, questions, notes, status lines, done."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from msgspec import structs

from thopter.fleet import tell as telling
from thopter.fleet.delivery import event_of, why_held
from thopter.fleet.deps import Deps, request_mark
from thopter.fleet.live import LiveBox
from thopter.kit.sanitize import clean, one_line
from thopter.model.api.talk import (
    LINE_MAX,
    DoneRequest,
    EditRequest,
    Message,
    NoteRequest,
    SendRequest,
    StatuslineRequest,
)
from thopter.model.errors import Conflict, NotNow
from thopter.model.events import Event
from thopter.model.evidence import Evidence, Fact, Source
from thopter.model.ids import new_id
from thopter.model.nouns import Box, BoxState, Run
from thopter.store.talk import Letter, Outcome

if TYPE_CHECKING:
    from thopter.fleet.crew import Crew

OPERATOR, AGENT = "operator", "agent"


class Talk:
    """The use cases of ``hub/api/talk.py``. What is acknowledged is committed; see the delivery for how
    it is delivered."""

    def __init__(self, deps: Deps, crew: Crew) -> None:
        self.deps = deps
        self._crew = crew

    # ---------------------------------------------------------------------------------- messages

    async def send(self, name: str, req: SendRequest) -> Message:
        """Keep a message. An ask is refused when nobody can take it now; a tell waits for its moment,
        whatever the thopter does at present, as long as it exists."""
        telling.check_text(req.text)
        box, run = await self._run(name)
        live = self._crew.live.get(box.id)
        if live is not None and live.agent is not None:
            live.agent.say(req.text)  # BadInput for what can't be entered
        if req.kind == "ask":
            self._must_answer(box, live)
        now = self.deps.clock.now_ms()
        letter = Letter(
            id=fresh_id(now), box=box.id, run=run.id, kind=req.kind, state="queued", text=req.text,
            created_ms=now, changed_ms=now,
        )  # fmt: skip
        letter = await self.deps.store.talk.add(letter, event_of(letter, box.name, now))
        if live is not None:
            await live.posted()
        return self._shown(letter, box)

    def _must_answer(self, box: Box, live: LiveBox | None) -> None:
        telling.must_be_up(box)
        if live is None or box.state is not BoxState.READY:
            raise NotNow(f"{box.name} is {box.state}", hint=f"see 'thopter status {box.name}'")
        telling.must_listen(live)
        telling.no_dialog(live)

    async def messages(self, name: str) -> list[Message]:
        """Those kept for a thopter, oldest first."""
        box = await self.deps.store.boxes.find(name)
        return await self.of_box(box)

    async def of_box(self, box: Box) -> list[Message]:
        """See :meth:`messages`."""
        return [self._shown(x, box) for x in await self.deps.store.talk.of_box(box.id)]

    async def message(self, key: str) -> Message:
        """One of them, also when its thopter is gone."""
        letter = await self.deps.store.talk.get(key)
        box = await self.deps.store.boxes.get(letter.box)
        if letter.open and box.state is BoxState.GONE:
            problem = "its thopter was destroyed"
            letter = structs.replace(letter, state="dropped", outcome=Outcome(problem=problem))
        return self._shown(letter, box)

    async def drop(self, key: str) -> Message:
        """Take one back that is not delivered yet; of a question, do not wait for its answer any more."""
        letter = await self.deps.store.talk.get(key)
        was = ("queued", "unclear") if letter.kind == "tell" else ("queued", "working", "asking", "unclear")
        return await self._change(letter, was, state="dropped")

    async def edit(self, key: str, req: EditRequest) -> Message:
        """Other words for one that is still queued; its place in the order stays."""
        telling.check_text(req.text)
        return await self._change(await self.deps.store.talk.get(key), ("queued",), text=req.text)

    async def _change(self, letter: Letter, was: tuple[str, ...], **values: str) -> Message:
        now = self.deps.clock.now_ms()
        box = await self.deps.store.boxes.get(letter.box)
        new = structs.replace(letter, changed_ms=now, **values)
        try:
            await self.deps.store.talk.update(new, event_of(new, box.name, now), was)
        except Conflict as e:
            raise Conflict(
                f"{e.message}: too late to change it", hint="see 'thopter queue NAME'", **e.data
            ) from None
        live = self._crew.live.get(box.id)
        if live is not None:
            await live.posted()
        return self._shown(new, box)

    def _shown(self, letter: Letter, box: Box) -> Message:
        live = self._crew.live.get(box.id)
        held = why_held(live, box.state) if letter.state == "queued" else ""
        if letter.unheard and live is not None and not live.agent_running and letter.run == live.run_id:
            held = "its agent ended before its conversation held this; 'thopter resume' has it said again"
        return Message(
            id=letter.id, name=box.name, box=box.id, run=letter.run, kind=letter.kind, state=letter.state,
            text=letter.text, created_ms=letter.created_ms, changed_ms=letter.changed_ms, held=held,
            heard_ms=letter.heard_ms,
            **structs.asdict(letter.outcome),
        )  # fmt: skip

    # ---------------------------------------------------------------------------------- labels

    async def note(self, name: str, req: NoteRequest) -> None:
        """Put the operator's note on a thopter, or remove it."""
        box = await self.deps.store.boxes.find(name)
        await self._label(box, "", "note", clean(req.text).strip())

    async def statusline(self, name: str, req: StatuslineRequest) -> None:
        """Put the operator's line in the place of the agent's, or give it back."""
        box, run = await self._run(name)
        await self._label(box, run.id, "statusline", one_line(req.text, LINE_MAX))

    async def _label(self, box: Box, run: str, kind: str, text: str) -> None:
        now = self.deps.clock.now_ms()
        data = {"name": box.name, "label": kind, "text": text[:200], "by": OPERATOR}
        event = Event(kind="label", at_ms=now, box=box.id, run=run, data=data)
        await self.deps.store.talk.label(box.id, kind, OPERATOR, run, now, text, event)

    # ---------------------------------------------------------------------------------- done

    async def done(self, name: str, req: DoneRequest) -> None:
        """A person declares the work done, or takes such a word back, whoever said it."""
        box, run = await self._run(name)
        now = self.deps.clock.now_ms()
        said = one_line(req.text, LINE_MAX)
        fact = Fact.DECLARED_OPEN if req.undo else Fact.DECLARED_DONE
        found = Evidence(
            source=Source.DECLARED, fact=fact, at_ms=now, seen_ms=now,
            detail=f"by {self.deps.owner}" + (f": {said}" if said else ""), data={"by": OPERATOR},
        )  # fmt: skip
        await self.deps.store.evidence.add(run.id, [found])
        live = self._crew.live.get(box.id)
        if live is not None:
            live.learn([found])
            await live.refold()

    async def _run(self, name: str) -> tuple[Box, Run]:
        box = await self.deps.store.boxes.find(name)
        run = await self._crew.run_of(box.id)
        if run is None:
            raise NotNow(f"{box.name} has no run")
        return box, run


def fresh_id(now_ms: int) -> str:
    """The same for every attempt at one call, so that it is kept once."""
    token = request_mark.get().token
    if not token:
        return new_id("msg", now_ms)
    return "msg_" + hashlib.sha256(b"thopter message\0" + token.encode()).hexdigest()[:26]
