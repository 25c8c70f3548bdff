"""Requests and answers about approvals: what agents ask a person, and what the person said."""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import Meta, Struct, field

from thopter.model.asks import Question

OPEN = ("open", "answering")  # states from which something may still come
MESSAGE_MAX = 10_000


class Approval(Struct, kw_only=True):
    """One thing that an agent asked while it waits. ``state``:

    ``open`` nobody has answered; ``answering`` an answer is recorded and on its way to the agent;
    ``approved`` and ``denied`` the agent's hook got that answer; ``elsewhere`` it was closed without
    us, at the agent's own terminal; ``expired`` nobody can answer it here any more, ``detail`` says why.

    ``digest`` binds an answer to exactly this ``tool`` with this ``input``. ``whole``: false when the
    input was too long to be recorded in full: it can be denied here, not approved. ``for_run``: what
    approving for the rest of the run would allow. ``agent``: the further agent of its box that asks
    (``NAME.2``), empty for its own. Words in here are an agent's: hostile text.
    """

    id: str
    name: str
    box: str
    run: str
    kind: str
    tool: str
    summary: str
    digest: str
    state: str
    asked_ms: int
    changed_ms: int
    input: dict[str, Any] = field(default_factory=dict)
    whole: bool = True
    for_run: str = ""
    questions: list[Question] = field(default_factory=list)
    message: str = ""
    answers: list[str] = field(default_factory=list)
    allowed_for_run: bool = False
    detail: str = ""
    agent: str = ""


class ApprovalList(Struct, kw_only=True):
    """``GET /v1/approvals?name=&all=``: oldest first; ``all``: also those that are over."""

    approvals: list[Approval]


class AnswerRequest(Struct, kw_only=True):
    """``POST /v1/approvals/{id}``. ``digest`` is that of the approval as it was shown; another one is
    refused. ``answers``: to a question, one for each in their order."""

    digest: Annotated[str, Meta(max_length=128)]
    allow: bool
    message: Annotated[str, Meta(max_length=MESSAGE_MAX)] = ""
    for_run: bool = False
    answers: Annotated[list[Annotated[str, Meta(max_length=MESSAGE_MAX)]], Meta(max_length=20)] = field(
        default_factory=list
    )
