"""The calls about the page's sessions; see :class:`thopter.mesh.client.HubClient` for what all promise."""

from __future__ import annotations

from urllib.parse import quote

from thopter.mesh.client import HubClient
from thopter.model.api import Nothing
from thopter.model.api.sessions import Ended, LinkRequest, LoginLink, Role, SessionList, SessionView


def link(hub: HubClient, role: Role) -> LoginLink:
    """A link that logs a page in, once; opens a loopback address when there is none."""
    return hub._post("/v1/sessions/links", LinkRequest(role=role), LoginLink)


def sessions(hub: HubClient) -> list[SessionView]:
    """Who is logged in."""
    return hub._get("/v1/sessions", SessionList).sessions


def end(hub: HubClient, session: str) -> None:
    """Log one out and end what is open with it."""
    hub._do("DELETE", "/v1/sessions/" + quote(session, safe=""))


def end_all(hub: HubClient) -> int:
    """Log everybody out; how many there were."""
    return hub._post("/v1/sessions/end-all", Nothing(), Ended).ended
