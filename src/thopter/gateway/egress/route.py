"""What a box is attached to: its policy, what a person allowed besides, secrets, and its traffic so far."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
from msgspec import Struct

from thopter.gateway.connection import Limits
from thopter.gateway.egress.dial import turns_of_a_box
from thopter.gateway.egress.mask import LEAST, spellings
from thopter.gateway.egress.upstream import Far
from thopter.gateway.http1 import safe_value
from thopter.gateway.policy.hosts import BadHost, canonical_pattern
from thopter.gateway.policy.model import EgressLimits, Policy, Request, Rule
from thopter.model.errors import BadInput

_MIB = 1 << 20
_ONCE_SECONDS = 600.0


class Grant(Struct, frozen=True, kw_only=True):
    """A host and port that a person allowed this box, for as long as it lives."""

    host: str
    port: int


class Authority(Struct, frozen=True, kw_only=True, repr_omit_defaults=True):
    """The hub's certificate authority, in PEM; never shown."""

    cert: str
    key: str

    def __repr__(self) -> str:
        return "Authority(***)"


class Attach(Struct, frozen=True, kw_only=True):
    """The ``attach`` request. ``secrets``: values by the credential's name in the policy."""

    box: str
    policy: Policy
    run: str = ""
    name: str = ""
    grants: list[Grant] = []
    secrets: dict[str, str] = {}
    ca: Authority | None = None

    def __repr__(self) -> str:
        return f"Attach(box={self.box!r}, policy={self.policy.name!r}, secrets={sorted(self.secrets)})"


class Flow(Struct, eq=False):
    """A connection under way: by which wish, how to end it, and which credential went out with it."""

    request: Request
    cut: Callable[[], object]
    credential: str = ""


class Added(Struct, frozen=True):
    """A header of ours: the secret's name, and every spelling in which it must not come back."""

    header: str
    value: str
    secret: str
    needles: tuple[bytes, ...]

    def __repr__(self) -> str:
        return f"Added({self.header!r}, secret={self.secret!r})"


class OverLimit(Exception):
    """The box used up what its policy gives it."""


class Traffic:
    """One box's traffic in the life of this process; outlives its routes."""

    def __init__(self) -> None:
        self.limits = EgressLimits()
        self.sent = 0
        self.received = 0
        self.allowed = 0
        self.refused = 0
        self.flows: set[Flow] = set()
        self.turns = turns_of_a_box()
        self.changed = asyncio.Event()
        self._once: dict[tuple[str, int], float] = {}
        self._asks = _Bucket()
        self._bytes = _Bucket()

    def allow_once(self, host: str, port: int) -> None:
        """The next connection to that host and port may pass, within ten minutes."""
        self._once[(host, port)] = time.monotonic() + _ONCE_SECONDS
        self.tell()

    def take_once(self, host: str, port: int) -> bool:
        """Use such a permission up."""
        return self._once.pop((host, port), 0.0) > time.monotonic()

    def tell(self) -> None:
        """Something changed: whoever waits for a person's word looks again."""
        self.changed.set()
        self.changed = asyncio.Event()

    def may_ask(self) -> bool:
        """Count one request against the minute's."""
        per_minute = self.limits.requests_per_minute
        return not per_minute or self._asks.take(1, per_minute / 60, max(per_minute / 6, 10)) <= 0

    async def count(self, sent: int, received: int) -> None:
        """Count bytes; waits while the box is faster than it may be; raises OverLimit."""
        self.sent += sent
        self.received += received
        limits = self.limits
        if limits.sent_mb and self.sent > limits.sent_mb * _MIB:
            raise OverLimit(f"the box has sent the {limits.sent_mb} MiB that its policy gives it")
        if limits.received_mb and self.received > limits.received_mb * _MIB:
            raise OverLimit(f"the box has received the {limits.received_mb} MiB that its policy gives it")
        if limits.bytes_per_second:
            rate = limits.bytes_per_second
            wait = self._bytes.take(sent + received, rate, max(rate / 4, 65536))
            if wait > 0:
                await asyncio.sleep(wait)


class _Bucket:
    """A token bucket that may go into debt; says how long to wait."""

    def __init__(self) -> None:
        self._left = 0.0
        self._at = 0.0

    def take(self, count: float, rate: float, burst: float) -> float:
        now = time.monotonic()
        self._left = burst if not self._at else min(self._left + (now - self._at) * rate, burst)
        self._at = now
        self._left -= count
        return -self._left / rate if self._left < 0 else 0.0


class Route:
    """One attachment. ``policy`` has the grants in it as rules."""

    def __init__(self, attach: Attach, traffic: Traffic) -> None:
        self.attach = attach
        self.traffic = traffic
        self.policy = with_grants(attach.policy, attach.grants)

    def added_header(self, rule: Rule, far: Far) -> Added | None:
        """The header with the credential of ``rule``, or None; raises BadInput when the hub gave none,
        or it is not meant for that place."""
        if not rule.credential:
            return None
        found = next((c for c in self.policy.credentials if c.name == rule.credential), None)
        secret = self.attach.secrets.get(rule.credential)
        if found is None or not secret:
            raise BadInput(f"credential {rule.credential} has no secret; 'thopter doctor' says more")
        if far.scheme != "https" or far.host not in found.hosts:
            raise BadInput(f"credential {rule.credential} is not for {far.scheme}://{far.host}")
        if len(secret) < LEAST:
            raise BadInput(
                f"the secret of credential {rule.credential} is too short to be kept from coming back"
            )
        value = found.value(secret)
        return Added(found.header, value, found.secret, spellings(secret, value))


def with_grants(policy: Policy, grants: list[Grant]) -> Policy:
    """A policy in which the granted hosts are rules too: plain tunnels, or http on port 80."""
    rules = tuple(
        Rule(name="granted", hosts=(g.host,), ports=(g.port,), plain=g.port == 80, tls=g.port == 443)
        for g in grants
    )
    return msgspec.structs.replace(policy, rules=(*policy.rules, *rules))


def parse_attach(request: Mapping[str, Any]) -> tuple[Attach, Limits]:
    """Check an ``attach`` request; no message ever quotes a secret."""
    try:
        attach = msgspec.convert(request, Attach)
    except msgspec.ValidationError as e:
        raise BadInput(f"attach: {e}") from None
    for secret in attach.secrets.values():
        if not secret or len(secret) > 8192 or not safe_value(secret) or secret != secret.strip():
            raise BadInput("a secret is empty, too long or not printable ASCII")
    try:
        for pattern in (p for rule in attach.policy.rules for p in rule.hosts):
            if canonical_pattern(pattern) != pattern:
                raise BadInput(f"host {pattern[:80]!r} of the policy is not in canonical form")
    except BadHost as e:
        raise BadInput(f"a host of the policy: {e}") from None
    if attach.policy.inspects and attach.ca is None:
        raise BadInput("the policy needs a certificate authority and none came along")
    return attach, limits_for(attach.policy)


def limits_for(policy: Policy) -> Limits:
    """The bounds of one connection. Bodies are bounded by the policy's bytes, not singly."""
    idle = float(policy.limits.idle_seconds or 86400)
    return Limits(
        connections=policy.limits.connections,
        body_idle_seconds=min(idle, 120.0),
        body_seconds=86400.0,
        body_bytes=1 << 50,
        write_stall_seconds=min(idle, 120.0),
        upstream_idle_seconds=idle,
    )
