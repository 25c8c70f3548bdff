"""What the page asks first: who it is, what it may, and where events stand."""

from __future__ import annotations

import thopter
from thopter.hub.api.sessions import view_of
from thopter.hub.auth import READ
from thopter.hub.routes import Call, NoQuery, Route
from thopter.hub.sessions import own_id
from thopter.kit.settings import split
from thopter.model.api import Nothing
from thopter.model.api.page import PageInfo
from thopter.model.notes import CHOICES


async def page_info(call: Call[NoQuery, Nothing]) -> PageInfo:
    """One answer with which the page begins."""
    hub, mine = call.hub, own_id(call.holder)
    event = (await hub.feed()).last()
    rows = [r for r in await call.fleet.page_sessions.all() if r.id == mine] if mine else []
    return PageInfo(
        version=thopter.__version__,
        owner=str(hub.settings.get("owner")),
        session=view_of(hub, rows[0], mine) if rows else None,
        scopes=sorted(call.holder.scopes),
        event=event,
        now_ms=hub.clock.now_ms(),
        kinds=list(CHOICES),
        on=split(str(hub.settings.get("notify.on"))),
        url=str(hub.settings.get("page.url")),
    )


ROUTES = (
    Route(
        method="GET",
        path="/v1/page",
        summary="What the page asks first: who it is, what it may, the newest event",
        scope=READ,
        handler=page_info,
        response=PageInfo,
    ),
)
