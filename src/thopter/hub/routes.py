"""What a route is: one line of the table from which the application, the OpenAPI document and the
tests of every route are made."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Annotated, Any, Generic, Literal, TypeVar
from urllib.parse import parse_qsl

import msgspec
from msgspec import Meta, Struct, field

from thopter.hub.answers import Headers, bad_request
from thopter.hub.auth import OPERATOR, Holder
from thopter.hub.life import Hub
from thopter.hub.ports import Composition, FleetPort
from thopter.model.api import Nothing

MIB = 1 << 20
Count = Annotated[int, Meta(ge=0, le=1 << 53)]

Q = TypeVar("Q")
B = TypeVar("B")


class Visit(Struct, frozen=True):
    """Where a request comes from: the address to count failures by, the origin of our pages as it is seen
    from there ("" on the unix socket), and what its browser says it is."""

    source: str = ""
    origin: str = ""
    agent: str = ""


class Call(Struct, Generic[Q, B]):
    """One request, checked: the hub, its inside (None for routes served ``alone``), the path
    parameter ``key``, query and body in their types, the body's bytes for uploads, and who calls."""

    hub: Hub
    inside: Composition | None
    key: str
    query: Q
    body: B
    chunks: AsyncIterator[bytes]
    holder: Holder = OPERATOR
    visit: Visit = Visit()
    headers: Headers = field(default_factory=list)  # the answer's, beside the usual ones

    @property
    def parts(self) -> Composition:
        """The inside, up and (for a mutating route) ready."""
        if self.inside is None:
            raise RuntimeError("this route is served without the inside of the hub")
        return self.inside

    @property
    def fleet(self) -> FleetPort:
        """The use cases."""
        return self.parts.fleet


class NoQuery(Struct, kw_only=True):
    """A route without query parameters (unknown ones are ignored)."""


Kind = Literal["json", "upload", "bytes", "events", "exec"]


class Route(Struct, frozen=True, kw_only=True):
    """One line of the table.

    ``kind``: ``json`` (handler returns the answer's value), ``upload`` (raw request body), ``bytes``
    (handler returns an async iterator), or a conversation of its own. ``mutating``: takes an
    ``Idempotency-Key`` and waits until the fleet is ready. ``repeatable``: doing it twice is doing
    it once, so its answer need not be kept. ``alone``: served without the inside of the hub.
    """

    method: str
    path: str
    summary: str
    scope: str
    handler: Callable[..., Any]
    request: type[Struct] = Nothing
    response: Any = Nothing
    query: type[Struct] = NoQuery
    status: int = 200
    mutating: bool = False
    repeatable: bool = False
    alone: bool = False
    kind: Kind = "json"
    body_max: int = MIB

    @property
    def parameter(self) -> str:
        """Name of the path parameter, or empty."""
        _, _, rest = self.path.partition("{")
        return rest.partition("}")[0]

    @property
    def operation(self) -> str:
        """Name of the operation in the OpenAPI document: the handler's."""
        return str(getattr(self.handler, "__name__", self.path)).strip("_")


def parse_query(kind: type[Struct], raw: bytes) -> Struct:
    """Read a query string into its type; a name given twice or a bad value is an error."""
    found: dict[str, str] = {}
    try:
        pairs = parse_qsl(raw.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=50)
    except (ValueError, UnicodeDecodeError):
        raise bad_request("the query string can't be read") from None
    for name, value in pairs:
        if name in found:
            raise bad_request(f"the query has {name[:40]!r} twice", status=422)
        found[name] = value
    try:
        return msgspec.convert(found, kind, strict=False)
    except msgspec.ValidationError as e:
        raise bad_request(f"bad query: {e}", status=422, at=_at(str(e))) from None


def parse_body(kind: type[Struct], raw: bytes) -> Struct:
    """Read a JSON body into its type; errors name the place (``$.prompt``)."""
    try:
        return msgspec.json.decode(raw, type=kind)
    except msgspec.ValidationError as e:
        raise bad_request(f"bad body: {e}", status=422, at=_at(str(e))) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as e:
        raise bad_request(f"the body is not JSON: {e}") from None


def _at(text: str) -> str:
    _, found, place = text.rpartition(" - at `")
    return place.rstrip("`") if found else "$"
