"""Routes about what boxes get from their operator: variables, and (outside them) credentials."""

from __future__ import annotations

from thopter.hub.auth import ADMIN, OPERATE, READ
from thopter.hub.routes import Call, NoQuery, Route
from thopter.model.api import Nothing
from thopter.model.api.variables import Deleted, DeleteVariable, Renewed, SetVariables, VariableList


async def list_variables(call: Call[NoQuery, Nothing]) -> VariableList:
    """All of them, masked."""
    return VariableList(variables=await call.fleet.variables.masked())


async def set_variables(call: Call[NoQuery, SetVariables]) -> Nothing:
    """Set all of them or none."""
    await call.fleet.variables.set(call.body.values)
    return Nothing()


async def delete_variable(call: Call[NoQuery, DeleteVariable]) -> Deleted:
    """Forget one."""
    return Deleted(found=await call.fleet.variables.delete(call.body.name))


async def renew_credentials(call: Call[NoQuery, Nothing]) -> Renewed:
    """Give the gateways what is in the secret store now."""
    return Renewed(thopters=await call.fleet.variables.renew())


ROUTES = (
    Route(
        method="GET",
        path="/v1/variables",
        summary="Variables that new boxes get, masked",
        scope=READ,
        handler=list_variables,
        response=VariableList,
    ),
    Route(
        method="POST",
        path="/v1/variables",
        summary="Set variables for new boxes, all or none",
        scope=ADMIN,
        handler=set_variables,
        request=SetVariables,
        mutating=True,
        repeatable=True,
    ),
    Route(
        method="POST",
        path="/v1/variables/delete",
        summary="Forget a variable; boxes that exist keep it",
        scope=ADMIN,
        handler=delete_variable,
        request=DeleteVariable,
        response=Deleted,
        mutating=True,
    ),
    Route(
        method="POST",
        path="/v1/credentials/renew",
        summary="Let running thopters use the credentials that are stored now",
        scope=OPERATE,
        handler=renew_credentials,
        response=Renewed,
        mutating=True,
        repeatable=True,
    ),
)
