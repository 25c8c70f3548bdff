"""The calls about notes to people; see :class:`thopter.mesh.client.HubClient` for what all calls promise."""

from __future__ import annotations

from thopter.mesh.client import HubClient
from thopter.mesh.http import query
from thopter.model.api.notes import MuteRequest, Notes, NoteView, NotifyState, TestRequest


def notes(hub: HubClient, limit: int = 50, name: str = "") -> list[NoteView]:
    """The newest notes, newest first, and their fate."""
    return hub._get("/v1/notes" + query(limit=limit, name=name), Notes).notes


def state(hub: HubClient) -> NotifyState:
    """Where notes go, about what, and who is muted."""
    return hub._get("/v1/notes/state", NotifyState)


def test(hub: HubClient, target: str = "") -> NoteView:
    """Send a test to one target or all; the answer is its fate."""
    return hub._post("/v1/notes/test", TestRequest(target=target), NoteView, timeout=120.0)


def mute(hub: HubClient, name: str, muted: bool) -> NotifyState:
    """Mute a thopter (empty: everything) or let it be heard again; idempotent."""
    return hub._post("/v1/notes/mute", MuteRequest(name=name, muted=muted), NotifyState)
