"""Requests and answers about thopters that sleep, wake, and how long they may go on."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

Minutes = Annotated[float, Meta(ge=0, le=5_256_000)]  # ten years


class SuspendRequest(Struct, kw_only=True):
    """``POST /v1/thopters/{name}/suspend``. ``disk``: end its processes (its files stay)."""

    disk: bool = False


class SuspendResult(Struct, kw_only=True):
    """``state``: the box's state now; ``reclaimed``: bytes of memory given back (0: there was no swap
    to put them into); ``flow``: where the progress can be read, empty when it is done."""

    name: str
    state: str
    reclaimed: int = 0
    flow: str = ""


class ResumeRequest(Struct, kw_only=True):
    """``POST /v1/thopters/{name}/resume``. ``go_on``: an agent that died in the middle of its turn is told
    to go on with it, where the setting ``run.go_on`` says so too."""

    go_on: bool = True


class RestartRequest(Struct, kw_only=True):
    """``POST /v1/thopters/{name}/restart``. ``fresh``: with a new session, the old one stays in its files."""

    fresh: bool = False


class KeepAliveRequest(Struct, kw_only=True):
    """``POST /v1/thopters/{name}/keepalive``. Minutes, 0 for no end; null leaves a length as it is.
    ``on_idle``: freeze, suspend, stop, destroy or none; empty leaves it."""

    keep_alive: Minutes | None = None
    idle_timeout: Minutes | None = None
    on_idle: Annotated[str, Meta(max_length=20)] = ""


class LeaseView(Struct, kw_only=True):
    """How long a box may go on: minutes (0: no end) and when that is (0: never, or it is not idle)."""

    name: str
    keep_alive: float
    expires_ms: int
    idle_timeout: float
    idle_until_ms: int
    on_idle: str
