"""Policies on top of others: what is inherited goes on with its secret, and no bound is rounded away."""

from __future__ import annotations

import pytest

from thopter.gateway.egress.route import Attach, Route, Traffic
from thopter.gateway.egress.upstream import Far
from thopter.gateway.policy.decide import decide
from thopter.gateway.policy.model import Allow, Policy, Request
from thopter.gateway.policy.read import PolicyError, read_book
from thopter.gateway.policy.shipped import SHIPPED
from thopter.hub.bindings import with_binding
from thopter.model.api.secrets import Binding

FILE = '[policies.base]\nextends = "default"\n[policies.team]\nextends = "base"\n'


def _bound(text: str, policy: str, host: str, header: str = "authorization", form: str = "Bearer {}") -> str:
    return with_binding(
        text,
        Binding(policy=policy, name="tracker", host=host, port=443, header=header, format=form, methods=(),
                paths=(), addresses=(), env=""),
    )  # fmt: skip


def _added(policy: Policy, host: str) -> tuple[str, str] | None:
    """The header that the gateway adds to a request of a box under ``policy``, as it does it."""
    request = Request(scheme="https", host=host, port=443, method="GET", target="/")
    found = decide(request, policy)
    assert isinstance(found, Allow), found
    secrets = {c.name: f"value-of-{c.secret}" for c in policy.credentials}
    route = Route(Attach(box="b", policy=policy, secrets=secrets), Traffic())
    added = route.added_header(found.rule, Far("https", host, 443))
    return (added.header, added.value) if added is not None else None


def test_binding_a_secret_to_one_more_host_keeps_the_inherited_binding() -> None:
    text = _bound(_bound(FILE, "base", "a.test"), "team", "b.test")
    book = read_book(text, SHIPPED)
    for host in ("a.test", "b.test"):
        assert _added(book.policies["team"], host) == ("authorization", "Bearer value-of-tracker"), host
    assert _added(book.policies["base"], "a.test") == ("authorization", "Bearer value-of-tracker")
    assert not isinstance(
        decide(Request(scheme="https", host="b.test", port=443, method="GET", target="/"),
               book.policies["base"]), Allow,
    )  # fmt: skip


@pytest.mark.parametrize(("header", "form"), [("x-key", "{}"), ("authorization", "token {}")])
def test_another_header_for_the_same_secret_is_refused_where_an_inherited_host_would_go_without(
    header: str, form: str
) -> None:
    text = _bound(_bound(FILE, "base", "a.test"), "team", "b.test", header, form)
    with pytest.raises(PolicyError, match=r"what this policy extends uses tracker on a\.test"):
        read_book(text, SHIPPED)
    whole = read_book(_bound(text, "team", "a.test", header, form), SHIPPED).policies["team"]
    for host in ("a.test", "b.test"):
        assert _added(whole, host) == (header, form.replace("{}", "value-of-tracker")), host


@pytest.mark.parametrize(
    ("table", "key"),
    [("limits", "requests_per_minute"), ("limits", "connections"), ("budgets", "turns"),
     ("budgets", "tokens"), ("box", "memory_mb"), ("box", "pids")],
)  # fmt: skip
def test_half_of_what_only_comes_whole_is_refused_rather_than_taken_for_no_bound(
    table: str, key: str
) -> None:
    text = "[policies.p]\n[policies.p.{}]\n{} = {}\n"
    with pytest.raises(PolicyError, match=f"{key}: a whole number is needed"):
        read_book(text.format(table, key, 0.5), SHIPPED)
    for good in ("8", "8.0"):
        found = getattr(read_book(text.format(table, key, good), SHIPPED).policies["p"], table)
        assert getattr(found, key) == 8


@pytest.mark.parametrize(("table", "key"), [("budgets", "usd"), ("budgets", "hours"), ("box", "cpus")])
def test_halves_of_what_can_be_halved_are_taken(table: str, key: str) -> None:
    book = read_book(f"[policies.p]\n[policies.p.{table}]\n{key} = 0.5\n", SHIPPED)
    assert getattr(getattr(book.policies["p"], table), key) == 0.5
