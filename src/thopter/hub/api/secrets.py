"""Routes about secrets: their names and where they may be used. No answer holds a value."""

from __future__ import annotations

from thopter.hub.auth import ADMIN, READ
from thopter.hub.routes import Call, NoQuery, Route
from thopter.model.api import Nothing
from thopter.model.api.secrets import BindRequest, Bound, SecretChanged, SecretList, UnbindRequest, Unbound


async def list_secrets(call: Call[NoQuery, Nothing]) -> SecretList:
    """Names and bindings."""
    return await call.fleet.secrets.list()


async def bind_secret(call: Call[NoQuery, BindRequest]) -> Bound:
    """Let boxes of a policy use one on a host."""
    return await call.fleet.secrets.bind(call.body)


async def unbind_secret(call: Call[NoQuery, UnbindRequest]) -> Unbound:
    """Take that back."""
    return await call.fleet.secrets.unbind(call.body)


async def secret_changed(call: Call[NoQuery, SecretChanged]) -> Nothing:
    """Use what is stored now."""
    await call.fleet.secrets.changed(call.body)
    return Nothing()


ROUTES = (
    Route(
        method="GET",
        path="/v1/secrets",
        summary="Names of secrets, and where each may be used; never what they are",
        scope=READ,
        handler=list_secrets,
        response=SecretList,
    ),
    Route(
        method="POST",
        path="/v1/secrets/bind",
        summary="Let boxes of a policy use a secret on a host, without holding it",
        scope=ADMIN,
        handler=bind_secret,
        request=BindRequest,
        response=Bound,
        mutating=True,
        repeatable=True,
    ),
    Route(
        method="POST",
        path="/v1/secrets/unbind",
        summary="Take the use of a secret back",
        scope=ADMIN,
        handler=unbind_secret,
        request=UnbindRequest,
        response=Unbound,
        mutating=True,
    ),
    Route(
        method="POST",
        path="/v1/secrets/changed",
        summary="Use the secrets that are stored now: one was set or deleted",
        scope=ADMIN,
        handler=secret_changed,
        request=SecretChanged,
        mutating=True,
        repeatable=True,
    ),
)
