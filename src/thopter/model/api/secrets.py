"""Secrets and where they may be used: requests and answers of the hub's API. No value is ever in one."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct, field

Name = Annotated[str, Meta(min_length=1, max_length=100)]
Change = Literal["set", "deleted"]


class Binding(Struct, frozen=True, kw_only=True):
    """A secret that the egress gateway adds for boxes of a policy: on this host and port, in this header,
    for these methods and paths (none: any). ``env``: the variable in which boxes find its placeholder."""

    policy: str
    name: str
    host: str
    port: int = 443
    header: str = "authorization"
    format: str = "Bearer {}"
    methods: tuple[str, ...] = ()
    paths: tuple[str, ...] = ()
    addresses: tuple[str, ...] = ()
    env: str = ""


class SecretView(Struct, kw_only=True):
    """One secret. ``stored`` False: policies name it, and there is none."""

    name: str
    stored: bool
    bindings: list[Binding] = field(default_factory=list)


class SecretList(Struct, kw_only=True):
    """``GET /v1/secrets``."""

    secrets: list[SecretView]


class BindRequest(Struct, kw_only=True):
    """``POST /v1/secrets/bind``. ``policy`` empty: the default one. ``env`` None: made from the name."""

    name: Name
    host: Annotated[str, Meta(min_length=1, max_length=300)]
    port: Annotated[int, Meta(ge=1, le=65535)] = 443
    header: Annotated[str, Meta(max_length=64)] = "authorization"
    format: Annotated[str, Meta(max_length=200)] = "Bearer {}"
    methods: Annotated[list[str], Meta(max_length=20)] = []
    paths: Annotated[list[str], Meta(max_length=100)] = []
    addresses: Annotated[list[str], Meta(max_length=20)] = []
    policy: Annotated[str, Meta(max_length=60)] = ""
    env: Annotated[str, Meta(max_length=128)] | None = None


class Bound(Struct, kw_only=True):
    """What holds now. ``stored`` False: the secret is not there yet. ``older``: thopters that are under the
    policy already: their tools don't have ``env``, the gateway adds the secret all the same."""

    binding: Binding
    stored: bool
    older: list[str] = field(default_factory=list)


class UnbindRequest(Struct, kw_only=True):
    """``POST /v1/secrets/unbind``: everywhere, or only on ``host`` or in ``policy``."""

    name: Name
    host: Annotated[str, Meta(max_length=300)] = ""
    policy: Annotated[str, Meta(max_length=60)] = ""


class Unbound(Struct, kw_only=True):
    """What no longer holds; requests under way that used it have ended."""

    removed: list[Binding]


class SecretChanged(Struct, kw_only=True):
    """``POST /v1/secrets/changed``: the store holds another value of it now, or none."""

    name: Name
    change: Change


def variable_of(name: str) -> str:
    """The variable in which tools look for a secret of that name: ``github.token`` → ``GITHUB_TOKEN``."""
    found = "".join(c if c.isalnum() else "_" for c in name.upper())
    return f"_{found}" if found[:1].isdigit() else found
