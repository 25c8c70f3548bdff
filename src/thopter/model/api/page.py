"""What the page asks first."""

from __future__ import annotations

from msgspec import Struct, field

from thopter.model.api.sessions import SessionView


class PageInfo(Struct, kw_only=True):
    """``GET /v1/page``: who asks, what they may, and where events stand. ``session`` null: they call with a
    token. ``event``: the newest event's number, of before this answer: list all, then follow from there.
    ``kinds``: what notes can be about; ``on``: those that are sent now."""

    version: str
    owner: str
    session: SessionView | None
    scopes: list[str]
    event: int
    now_ms: int
    kinds: list[str] = field(default_factory=list)
    on: list[str] = field(default_factory=list)
    url: str = ""
