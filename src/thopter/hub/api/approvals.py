"""Routes about approvals: what agents ask a person, and the person's answer."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from thopter.hub.auth import APPROVE, READ
from thopter.hub.routes import Call, NoQuery, Route
from thopter.model.api import Nothing
from thopter.model.api.approvals import AnswerRequest, Approval, ApprovalList


class ApprovalsQuery(Struct, kw_only=True):
    """``name``: only of this thopter; ``all``: also those that are over."""

    name: Annotated[str, Meta(max_length=200)] = ""
    all: bool = False


async def list_approvals(call: Call[ApprovalsQuery, Nothing]) -> ApprovalList:
    """What agents ask."""
    return ApprovalList(approvals=await call.fleet.approvals.asked(call.query.name, call.query.all))


async def answer_approval(call: Call[NoQuery, AnswerRequest]) -> Approval:
    """Approve, deny or answer one."""
    return await call.fleet.approvals.answer(call.key, call.body)


ROUTES = (
    Route(
        method="GET",
        path="/v1/approvals",
        summary="What agents ask a person, over all thopters, oldest first",
        scope=READ,
        handler=list_approvals,
        query=ApprovalsQuery,
        response=ApprovalList,
    ),
    Route(
        method="POST",
        path="/v1/approvals/{id}",
        summary="Approve, deny or answer exactly what was shown (its digest); given to the agent once",
        scope=APPROVE,
        handler=answer_approval,
        request=AnswerRequest,
        response=Approval,
        mutating=True,
    ),
)
