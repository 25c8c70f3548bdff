"""Policies and egress: requests and answers of the hub's API."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct, field

Scope = Literal["once", "run", "always"]


class Finding(Struct, kw_only=True):
    """Something about a line of a policy file."""

    line: int
    text: str


class PolicyInfo(Struct, kw_only=True):
    """One policy. ``origin``: ``shipped`` or ``file``; ``policy``: its fields, as the gateway gets them."""

    name: str
    origin: str
    doc: str = ""
    policy: dict[str, Any] = field(default_factory=dict)


class PolicyBook(Struct, kw_only=True):
    """``GET /v1/policies``. ``source`` says what is in force: ``shipped`` (there is no file), ``file``,
    ``last good`` (the file has the ``problem``), ``closed`` (it has, and there was none before)."""

    file: str
    source: str
    default: str
    problem: str = ""
    warnings: list[Finding] = field(default_factory=list)
    repos: dict[str, str] = field(default_factory=dict)
    policies: list[PolicyInfo] = field(default_factory=list)


class PolicyText(Struct, kw_only=True):
    """``POST /v1/policies/check``: the text of a policy file."""

    text: Annotated[str, Meta(max_length=1 << 20)]


class Findings(Struct, kw_only=True):
    """What is wrong with it (then nothing of it would be used), and what is unwise."""

    problems: list[Finding]
    warnings: list[Finding]


class TryRequest(Struct, kw_only=True):
    """``POST /v1/policies/test``: would ``method url`` go out? By policy ``policy``, by that of thopter
    ``name`` (with what was allowed it), or by the default one."""

    url: Annotated[str, Meta(min_length=1, max_length=8192)]
    method: Annotated[str, Meta(pattern="^[A-Z]{1,16}$")] = "GET"
    policy: str = ""
    name: str = ""


class Verdict(Struct, kw_only=True):
    """``verdict``: allow, deny, ask. ``inspect``: the gateway opens the TLS. ``note`` adds what a test
    without the network can't know."""

    verdict: str
    policy: str
    host: str = ""
    port: int = 0
    code: str = ""
    reason: str = ""
    rule: str = ""
    inspect: bool = False
    credential: str = ""
    note: str = ""


class EgressLine(Struct, kw_only=True):
    """One connection, request or refusal; ``count`` above 1 stands for so many alike. Texts come from a
    box: hostile."""

    at_ms: int
    verdict: str
    code: str = ""
    reason: str = ""
    method: str = ""
    host: str = ""
    port: int = 0
    path: str = ""
    rule: str = ""
    status: int = 0
    sent: int = 0
    received: int = 0
    count: int = 1


class Grant(Struct, kw_only=True):
    """What a person allowed a thopter besides its policy."""

    host: str
    port: int
    at_ms: int = 0


class EgressView(Struct, kw_only=True):
    """``GET /v1/thopters/{name}/egress``. ``why``: why it has that policy. ``up``: the gateway serves it.
    ``lines``: refusals (from the events), and with ``all`` what the gateway's process still remembers.
    ``isolation``: of its box; ``least``: the tier that was asked for it, empty for any."""

    name: str
    policy: str
    why: str
    up: bool
    sent: int = 0
    received: int = 0
    allowed: int = 0
    refused: int = 0
    grants: list[Grant] = field(default_factory=list)
    lines: list[EgressLine] = field(default_factory=list)
    info: PolicyInfo | None = None
    isolation: str = ""
    least: str = ""


class AllowRequest(Struct, kw_only=True):
    """``POST /v1/thopters/{name}/egress/allow``. ``once``: the next connection, within ten minutes and the
    life of the gateway's process; ``run``: as long as the box lives; ``always``: written to the policy."""

    host: Annotated[str, Meta(min_length=1, max_length=300)]
    port: Annotated[int, Meta(ge=1, le=65535)] = 443
    scope: Scope = "run"


class Allowed(Struct, kw_only=True):
    """What is allowed now, in canonical spelling, and how far that reaches."""

    host: str
    port: int
    scope: str
    policy: str
