"""Routes about notes on devices by web push: the key to subscribe with, which devices get notes."""

from __future__ import annotations

from thopter.hub.answers import bad_request
from thopter.hub.auth import ADMIN, READ
from thopter.hub.routes import Call, NoQuery, Route
from thopter.hub.sessions import own_id
from thopter.model.api import Nothing
from thopter.model.api.push import DeviceList, DeviceView, PushKey, SubscribeRequest
from thopter.model.errors import NotFound
from thopter.store.push_devices import DeviceRow


async def push_key(call: Call[NoQuery, Nothing]) -> PushKey:
    """The hub's public key."""
    return PushKey(key=await call.fleet.notes.devices.key())


async def list_devices(call: Call[NoQuery, Nothing]) -> DeviceList:
    """Devices that get notes: all for an admin, else one's own."""
    mine = own_id(call.holder)
    return DeviceList(devices=[_view(row, mine) for row in await _visible(call)])


async def subscribe_device(call: Call[NoQuery, SubscribeRequest]) -> DeviceView:
    """Let the browser of this session get notes."""
    mine = own_id(call.holder)
    if not mine:
        raise bad_request("notes go to pages that are logged in", "thopter dashboard", status=422)
    return _view(await call.fleet.notes.devices.subscribe(mine, call.body), mine)


async def forget_device(call: Call[NoQuery, Nothing]) -> Nothing:
    """Send it nothing any more: an admin's any, others their own."""
    if call.key not in {row.id for row in await _visible(call)}:
        raise NotFound(f"there is no device {call.key[:60]!r}")
    await call.fleet.notes.devices.forget(call.key)
    return Nothing()


async def _visible(call: Call[NoQuery, Nothing]) -> list[DeviceRow]:
    mine = own_id(call.holder)
    rows = await call.fleet.notes.devices.all()
    return [r for r in rows if ADMIN in call.holder.scopes or r.session == mine]


def _view(row: DeviceRow, mine: str) -> DeviceView:
    return DeviceView(
        id=row.id, target=row.target, session=row.session, device=row.device,
        service=row.service, created_ms=row.created_ms, kinds=list(row.kinds), quiet=row.quiet,
        current=row.session == mine,
    )  # fmt: skip


ROUTES = (
    Route(
        method="GET",
        path="/v1/push/key",
        summary="The key with which a browser subscribes to notes",
        scope=READ,
        handler=push_key,
        response=PushKey,
    ),
    Route(
        method="GET",
        path="/v1/push/subscriptions",
        summary="Devices that get notes: an admin sees all, others their own",
        scope=READ,
        handler=list_devices,
        response=DeviceList,
    ),
    Route(
        method="POST",
        path="/v1/push/subscriptions",
        summary="Let this page's browser get notes; the same endpoint again replaces what it wanted",
        scope=READ,
        handler=subscribe_device,
        request=SubscribeRequest,
        response=DeviceView,
        status=201,
        mutating=True,
        repeatable=True,
    ),
    Route(
        method="DELETE",
        path="/v1/push/subscriptions/{id}",
        summary="Send a device nothing any more; an admin any, others their own",
        scope=READ,
        handler=forget_device,
        mutating=True,
        repeatable=True,
    ),
)
