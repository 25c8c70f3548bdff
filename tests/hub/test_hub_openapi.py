"""The OpenAPI document says what the table says, and the hub does what the document says."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hub_support import HubProcess, hub_process, short_folder
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from thopter.hub.api import ROUTES
from thopter.hub.openapi import document
from thopter.hub.routes import Route

CONVERSATIONS = ("/v1/events", "/v1/thopters/{name}/exec", "/v1/thopters/{name}/dial", "/v1/hub/stop")
THE_WORLD = {"timed_out", "provider_error", "storage_full", "unsupported", "hub_unreachable"}


def did_not_fail(_ctx: Any, response: Any, case: Any) -> None:
    """The hub itself never breaks: a 5xx is the world's doing (a box that did not answer in time), and
    says which."""
    if response.status_code >= 500:
        assert response.json()["error"]["code"] in THE_WORLD, response.text


CHECKS = [
    did_not_fail,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]


@pytest.fixture(scope="module")
def schema(hub: HubProcess) -> dict[str, Any]:
    found: dict[str, Any] = hub.get("/v1/openapi.json").json()
    return found


@pytest.mark.battery("H2")
def test_every_route_is_in_the_document_and_nothing_else(schema: dict[str, Any]) -> None:
    told = {(method.upper(), path) for path, item in schema["paths"].items() for method in item}
    assert told == {(route.method, route.path) for route in ROUTES}
    operations = [op["operationId"] for item in schema["paths"].values() for op in item.values()]
    assert len(set(operations)) == len(operations)
    assert schema == json.loads(json.dumps(document(ROUTES)))


def test_every_reference_leads_somewhere(schema: dict[str, Any]) -> None:
    def references(value: Any) -> Iterator[str]:
        if isinstance(value, dict):
            if isinstance(value.get("$ref"), str):
                yield value["$ref"]
            for each in value.values():
                yield from references(each)
        elif isinstance(value, list):
            for each in value:
                yield from references(each)

    found = set(references(schema))
    assert len(found) > 15
    for reference in found:
        assert reference.removeprefix("#/components/schemas/") in schema["components"]["schemas"]


def test_the_document_is_sound_openapi(hub: HubProcess) -> None:
    loaded = schemathesis.openapi.from_dict(hub.get("/v1/openapi.json").json())
    loaded.validate()


def test_keys_and_scopes_are_told_where_they_count(schema: dict[str, Any]) -> None:
    for route in ROUTES:
        operation = schema["paths"][route.path][route.method.lower()]
        names = {p["name"] for p in operation["parameters"]}
        assert ("Idempotency-Key" in names) == (route.mutating and not route.repeatable)
        assert operation["x-scope"] == route.scope
        assert {"4XX", "5XX"} <= set(operation["responses"])


# Their bodies name what nobody can guess: a file, a binding, a token, a path of a conversation. That they do
# something is shown by tests of their own.
UNGUESSABLE = {"fetch_file", "unbind_secret", "revoke_token", "create_ticket"}
UNGUESSABLE |= {"log_in", "subscribe_device", "change_of_file"}


@pytest.mark.battery("H20")
@pytest.mark.parametrize(
    "route", [r for r in ROUTES if r.path not in CONVERSATIONS], ids=lambda r: r.operation
)
def test_generated_requests_never_make_the_hub_fail_and_answers_are_as_documented(route: Route) -> None:
    """A hub of its own for each route, over TCP with the token, as any client in any language."""
    with short_folder() as root, hub_process(root, "--listen", "127.0.0.1:0") as hub:
        hub.post("/v1/thopters", {"name": "one"})
        headers = {"Authorization": f"Bearer {hub.token}"}
        loaded = schemathesis.openapi.from_url(hub.tcp + "/v1/openapi.json", headers=headers)
        statuses: list[int] = []

        def call(case: Any) -> None:
            if "name" in case.path_parameters and len(statuses) % 2:
                case.path_parameters["name"] = "one"  # every second time one that is there
            response = case.call(headers=headers)
            statuses.append(response.status_code)
            case.validate_response(response, checks=CHECKS)

        bounded = settings(
            max_examples=40,
            deadline=None,
            database=None,
            derandomize=True,
            phases=[Phase.explicit, Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        bounded(given(case=loaded[route.path][route.method].as_strategy())(call))()
        assert statuses and hub.is_ready()
        if route.parameter != "id" and route.operation not in UNGUESSABLE:
            assert min(statuses) < 300, "some of them did something"
