"""Talking to thopters by the hub's API: kept messages, notes, status lines, done."""

from __future__ import annotations

from thopter.mesh.client import HubClient
from thopter.mesh.http import quote
from thopter.model.api import Nothing
from thopter.model.api import talk as api
from thopter.model.errors import BadInput


class TalkClient:
    """The calls of ``hub/api/talk.py`` on one hub; errors as those of :class:`HubClient`."""

    def __init__(self, hub: HubClient) -> None:
        self._hub = hub

    def send(self, name: str, request: api.SendRequest) -> api.Message:
        """Keep a message; durable when this returns."""
        return self._hub._post(self._hub._of(name, "messages"), request, api.Message)

    def messages(self, name: str) -> list[api.Message]:
        """Those kept for a thopter, oldest first."""
        return self._hub._get(self._hub._of(name, "messages"), api.Messages).messages

    def message(self, key: str) -> api.Message:
        """One of them."""
        return self._hub._get(_message(key), api.Message)

    def drop(self, key: str) -> api.Message:
        """Take it back."""
        return self._hub._decode(self._hub._call("DELETE", _message(key)), api.Message)

    def edit(self, key: str, text: str) -> api.Message:
        """Change its words while it is queued."""
        return self._hub._post(_message(key) + "/edit", api.EditRequest(text=text), api.Message)

    def note(self, name: str, text: str) -> None:
        """Set the operator's note; empty removes it."""
        self._hub._post(self._hub._of(name, "note"), api.NoteRequest(text=text), Nothing)

    def statusline(self, name: str, text: str) -> None:
        """Set the line shown as its task; empty gives it back to the agent."""
        self._hub._post(self._hub._of(name, "statusline"), api.StatuslineRequest(text=text), Nothing)

    def done(self, name: str, text: str = "", *, undo: bool = False) -> None:
        """Declare the work done, or take that back."""
        self._hub._post(self._hub._of(name, "done"), api.DoneRequest(text=text, undo=undo), Nothing)


def _message(key: str) -> str:
    if not key or key in (".", ".."):  # a path segment of this kind means another address
        raise BadInput(f"{key!r} does not name a message", hint="see 'thopter queue NAME'")
    return f"/v1/messages/{quote(key)}"
