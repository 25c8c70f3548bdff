"""Bindings in the policy file: written as a careful person would, refused when the file could not be used."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thopter.gateway.policy.decide import decide
from thopter.gateway.policy.model import Allow, Request
from thopter.gateway.policy.read import read_book
from thopter.gateway.policy.registries import REGISTRIES
from thopter.gateway.policy.shipped import SHIPPED
from thopter.hub.bindings import bindings_of, with_binding, without_bindings
from thopter.hub.shelf import Shelf
from thopter.kit.paths import Paths
from thopter.kit.secrets import SecretStore, secret
from thopter.model.api.secrets import Binding, BindRequest, UnbindRequest, variable_of
from thopter.model.errors import BadInput, NotFound, Refused

FILE = """# ours
default = "team"

[policies.team]   # the team's
extends = "default"

[[policies.team.hosts]]
host = "docs.test"
methods = ["GET"]
"""


@pytest.fixture
def shelf(root: Path) -> Iterator[Shelf]:
    paths = Paths(root / "config", root / "state", root / "run")
    paths.config.mkdir(mode=0o700)
    store = SecretStore(paths, {}, "file")
    store.set("api.key", secret("plain", "a-secret-value"))
    yield Shelf(paths, store)


def bind(shelf: Shelf, name: str, host: str, **more: Any) -> Binding:
    found = asyncio.run(shelf.bind(BindRequest(name=name, host=host, **more)))
    shelf.poll()
    return found


def unbind(shelf: Shelf, name: str, **more: Any) -> list[tuple[str, str]]:
    found = asyncio.run(shelf.unbind(UnbindRequest(name=name, **more)))
    shelf.poll()
    return [(b.policy, b.host) for b in found]


def credential_for(
    shelf: Shelf, policy: str, host: str, port: int = 443, target: str = "/", method: str = "GET"
) -> str:
    """The credential of the rule that lets it go; "-" when none does."""
    request = Request(scheme="https", host=host, port=port, method=method, target=target)
    found = decide(request, shelf.get(policy))
    return found.rule.credential if isinstance(found, Allow) else "-"


def test_a_binding_is_written_beside_what_stands_there_and_counts(shelf: Shelf) -> None:
    shelf.file.write_text(FILE)
    shelf.poll()
    more = {"paths": ["/v1/*"], "methods": ["get"], "header": "X-Key", "format": "{}", "env": "K"}
    found = bind(shelf, "api.key", "API.Test.", **more)
    assert (found.policy, found.host, found.header) == ("team", "api.test", "x-key")
    assert shelf.file.read_text().startswith(FILE), "nothing that was there changed"
    assert shelf.bindings() == [found]
    assert credential_for(shelf, "team", "api.test", target="/v1/x") == "api.key"
    for host, port, path in (
        ("docs.test", 443, "/"),
        ("api.test", 443, "/other"),
        ("api.test", 8443, "/v1/x"),
    ):
        assert credential_for(shelf, "team", host, port, path) in ("", "-"), (host, port, path)
    assert credential_for(shelf, "team", "api.test", target="/v1/x", method="DELETE") == "-"
    assert credential_for(shelf, "default", "api.test", target="/v1/x") == "-", "another policy has it not"
    assert shelf.choose("", "")["env"] == {"K": "thopter-secret-api.key"}
    assert shelf.choose("closed", "")["env"] == {}
    assert "a-secret-value" not in shelf.file.read_text()


def test_binding_again_replaces_and_another_host_is_added(shelf: Shelf) -> None:
    bind(shelf, "api.key", "a.test", paths=["/old"])
    bind(shelf, "api.key", "b.test", port=8443)
    bind(shelf, "api.key", "a.test", paths=["/new"], header="x-key", format="{}")
    assert sorted((b.host, b.port, b.paths, b.header) for b in shelf.bindings()) == [
        ("a.test", 443, ("/new",), "x-key"),
        ("b.test", 8443, (), "x-key"),
    ]
    assert unbind(shelf, "api.key", host="a.test") == [("default", "a.test")]
    assert [b.host for b in shelf.bindings()] == ["b.test"]
    assert credential_for(shelf, "default", "a.test") == "-"
    assert unbind(shelf, "api.key") == [("default", "b.test")]
    assert unbind(shelf, "api.key") == [] and shelf.bindings() == []
    assert shelf.get("default").credentials == ()


def test_a_registrys_host_gets_the_secret_and_stays_read_only_elsewhere(shelf: Shelf) -> None:
    host = REGISTRIES["npm"].hosts[0]
    bind(shelf, "api.key", host, methods=["GET"], paths=["/@ours/*"])
    assert credential_for(shelf, "default", host, target="/@ours/x") == "api.key"
    assert credential_for(shelf, "default", host, target="/left-pad") == ""
    assert credential_for(shelf, "default", host, target="/@ours/x", method="PUT") == "-"


@pytest.mark.parametrize(
    ("more", "error"),
    [
        ({"host": "*.test"}, BadInput),
        ({"host": "a b"}, BadInput),
        ({"host": "a.test\nx"}, BadInput),
        ({"name": "Bad Name"}, BadInput),
        ({"header": ""}, BadInput),
        ({"header": "host"}, Refused),
        ({"header": "x\r\ny"}, Refused),
        ({"format": "no braces"}, Refused),
        ({"format": "{} {}"}, Refused),
        ({"format": "{}\n"}, None),
        ({"env": "PATH"}, Refused),
        ({"env": "1X"}, Refused),
        ({"paths": ["relative"]}, Refused),
        ({"methods": ["GET\n"]}, Refused),
        ({"addresses": ["0.0.0.0/0"]}, Refused),
        ({"policy": "nothing"}, NotFound),
    ],
)
def test_what_no_policy_could_hold_is_refused_and_changes_nothing(
    shelf: Shelf, more: dict[str, Any], error: type[Exception] | None
) -> None:
    fields = {"name": "api.key", "host": "a.test"} | more
    if error is None:
        assert bind(shelf, **fields).format == "{}"
        return
    with pytest.raises(error):
        bind(shelf, **fields)
    assert not shelf.file.exists()


def test_a_file_that_can_not_be_used_is_not_changed(shelf: Shelf) -> None:
    shelf.file.write_text("[policies.default]\nunknwon = 1\n")
    shelf.poll()
    with pytest.raises(Refused):
        bind(shelf, "api.key", "a.test")
    assert shelf.file.read_text() == "[policies.default]\nunknwon = 1\n"


def test_a_host_that_is_open_already_is_not_opened_twice(shelf: Shelf) -> None:
    asyncio.run(shelf.allow_always("default", "a.test", 443))
    shelf.poll()
    with pytest.raises(Refused, match="open here"):
        bind(shelf, "api.key", "a.test")


def test_variables_are_made_from_names() -> None:
    assert variable_of("github.token") == "GITHUB_TOKEN"
    assert variable_of("1st-key") == "_1ST_KEY"


NAMES = st.sampled_from(["a", "b.c", "d-e"])
HOSTS = st.sampled_from(["a.test", "b.test", "127.0.0.1", "2001:db8::1"])
POLICIES = st.sampled_from(["default", "ask", "team"])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.booleans(), NAMES, HOSTS, POLICIES, st.sampled_from([443, 8443])), max_size=12))
def test_the_file_agrees_with_a_model_after_any_order_of_binding_and_unbinding(
    moves: list[tuple[bool, str, str, str, int]],
) -> None:
    text, model = FILE, set[tuple[str, str, str, int]]()
    for adds, name, host, policy, port in moves:
        taken = {(h, p) for n, h, pol, p in model if n != name and pol == policy}
        if adds and (host, port) not in taken:
            text = with_binding(text, Binding(policy=policy, name=name, host=host, port=port))
            model.add((name, host, policy, port))
        elif not adds:
            text, gone = without_bindings(text, name, host, policy)
            expected = {m for m in model if m[:3] == (name, host, policy)}
            assert gone == {(policy, host) for _ in expected}
            model -= expected
        book = read_book(text, SHIPPED)
        found = {(b.name, b.host, p.name, b.port) for p in book.policies.values() for b in bindings_of(p)}
        extended = {(n, h, "team", p) for n, h, pol, p in model if pol == "default"}
        assert found == model | extended
    assert text.startswith("# ours\n") and "# the team's" in text
