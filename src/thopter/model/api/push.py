"""Notes on devices by web push: requests and answers of the hub's API."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct, field

Minute = Annotated[int, Meta(ge=0, le=1439)]
Kind = Annotated[str, Meta(min_length=1, max_length=40)]


class PushKey(Struct, kw_only=True):
    """``GET /v1/push/key``: the ``applicationServerKey`` to subscribe with."""

    key: str


class PushKeys(Struct, frozen=True, kw_only=True):
    """The keys of a browser's subscription, as it gives them."""

    p256dh: Annotated[str, Meta(min_length=80, max_length=100)]
    auth: Annotated[str, Meta(min_length=20, max_length=30)]


class Quiet(Struct, frozen=True, kw_only=True):
    """Hours in which a device stays silent: from minute to minute of the day (over midnight, too), in a zone
    such as ``Europe/Berlin``. ``urgent``: what waits for you rings all the same."""

    start: Minute
    end: Minute
    zone: Annotated[str, Meta(max_length=60)] = "UTC"
    urgent: bool = False


class SubscribeRequest(Struct, kw_only=True):
    """``POST /v1/push/subscriptions``: this page's browser wants notes. ``kinds``: only of these kinds, empty
    for all of ``notify.on``. The same ``endpoint`` again: what it wants is replaced."""

    endpoint: Annotated[str, Meta(min_length=12, max_length=1000)]
    keys: PushKeys
    kinds: Annotated[list[Kind], Meta(max_length=20)] = field(default_factory=list)
    quiet: Quiet | None = None


class DeviceView(Struct, kw_only=True):
    """A device that gets notes. ``target``: its name for ``thopter notify test``; ``service``: whose push
    service brings them; the address itself is a secret and never shown."""

    id: str
    target: str
    session: str
    device: str
    service: str
    created_ms: int
    kinds: list[str] = field(default_factory=list)
    quiet: Quiet | None = None
    current: bool = False


class DeviceList(Struct, kw_only=True):
    """``GET /v1/push/subscriptions``: an admin's has all, others see their own."""

    devices: list[DeviceView]
