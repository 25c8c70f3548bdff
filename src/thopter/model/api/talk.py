"""Requests and answers about talking: messages the hub keeps, notes, status lines, done."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct, field

LINE_MAX = 500  # characters of a status line, or of why something is done
NOTE_MAX = 10_000

Line = Annotated[str, Meta(max_length=LINE_MAX)]


class SendRequest(Struct, kw_only=True):
    """``POST /v1/thopters/{name}/messages``. ``tell``: kept until the agent is at its prompt, then said
    once. ``ask``: said now, and the end of the turn that takes it is waited for."""

    text: str
    kind: Literal["tell", "ask"] = "tell"


class Message(Struct, kw_only=True):
    """A message that the hub keeps. ``state``:

    ``queued`` waits for its moment; ``sending`` is being typed; ``delivered`` the agent has it;
    ``working`` (an ask) its turn is under way; ``asking`` (an ask) that turn waits for a person:
    ``reason`` permission or question, ``asks`` what; ``answered`` ``answer`` is the last the agent
    said in that turn; ``failed`` ``problem`` says why (``answer`` may hold a part); ``unclear`` it
    may or may not have arrived, and is not sent again; ``dropped`` somebody took it back.

    A queued ask with a ``reason`` is kept back by that dialog, and asked when it is closed.
    ``held``: why a queued one is not delivered now. ``turn_ms``: from the moment the agent took it
    to the end of its turn. ``heard_ms``: when a delivered one was seen in the agent's conversation, 0
    not yet: should its agent end before, it is queued again when it comes back. ``kind``: ``tell`` (kept
    for its moment), ``ask``, ``said`` (told at once), ``prompt`` (what its start said), ``go_on`` (said
    by the hub to an agent whose turn was cut short). ``tools``: the tools used in it, in order.
    """

    id: str
    name: str
    box: str
    run: str
    kind: str
    state: str
    text: str
    created_ms: int
    changed_ms: int
    held: str = ""
    receipt: str = ""
    evidence: str = ""
    answer: str = ""
    problem: str = ""
    reason: str = ""
    asks: str = ""
    tools: list[str] = field(default_factory=list)
    turn_ms: int = 0
    taken_ms: int = 0
    heard_ms: int = 0


class Messages(Struct, kw_only=True):
    """``GET /v1/thopters/{name}/messages``: oldest first, those that are over last shown as kept."""

    messages: list[Message]


class EditRequest(Struct, kw_only=True):
    """``POST /v1/messages/{id}/edit``: other words for a message that is still queued."""

    text: str


class NoteRequest(Struct, kw_only=True):
    """``POST /v1/thopters/{name}/note``: the operator's own note; empty removes it. Kept for ever."""

    text: Annotated[str, Meta(max_length=NOTE_MAX)] = ""


class StatuslineRequest(Struct, kw_only=True):
    """``POST /v1/thopters/{name}/statusline``: the line shown as its task; empty gives it back to the
    agent. What the operator sets counts until then, or until another run begins in the box."""

    text: Line = ""


class DoneRequest(Struct, kw_only=True):
    """``POST /v1/thopters/{name}/done``: a person declares the work done, or (``undo``) not done."""

    text: Line = ""
    undo: bool = False


class TalkView(Struct, frozen=True, kw_only=True):
    """What people put on a thopter, for one line: note, status line (``by`` agent or operator), and how
    many messages wait for it."""

    note: str = ""
    note_ms: int = 0
    statusline: str = ""
    statusline_by: str = ""
    statusline_ms: int = 0
    queued: int = 0
