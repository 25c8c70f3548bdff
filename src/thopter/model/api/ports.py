"""What is said about ports inside boxes."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct


class DialRequest(Struct, kw_only=True):
    """First message of ``WS /v1/thopters/{name}/dial``: connect to ``port`` on the box's loopback
    (127.0.0.1, else ::1). Then as with exec: binary ``0 + data`` to it, ``1 + data`` from it."""

    port: Annotated[int, Meta(ge=1, le=65535)]
