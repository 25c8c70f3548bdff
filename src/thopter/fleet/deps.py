"""What the fleet is made of, handed in by the hub's composition root."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from typing import TYPE_CHECKING

from msgspec import Struct

from thopter.fleet.ports import Gateways, Mirrors, Policies, Postman, Upstreams
from thopter.flow.engine import FlowEngine
from thopter.kit.clock import Clock
from thopter.kit.paths import Paths
from thopter.kit.settings import Settings
from thopter.model.sockets import Agent, Provider
from thopter.store.store import Store

if TYPE_CHECKING:
    from thopter.fleet.crew import Crew


class RequestMark(Struct, frozen=True):
    """Which call is being served. ``token`` is the same for every attempt at one idempotency key;
    ``again`` says that an earlier hub died while it served the call."""

    token: str = ""
    again: bool = False


_NO_MARK = RequestMark()
request_mark: ContextVar[RequestMark] = ContextVar("request_mark", default=_NO_MARK)


@dataclasses.dataclass(kw_only=True)
class Deps:
    """The parts. Everything that differs between a real hub and a test comes in here."""

    paths: Paths
    settings: Settings
    clock: Clock
    store: Store
    engine: FlowEngine
    providers: Mapping[str, Provider]
    agents: Mapping[str, Agent]
    gateways: Gateways
    mirrors: Mirrors
    upstreams: Upstreams
    policies: Policies
    postman: Postman
    owner: str
    identity: tuple[str, str]  # user.name and user.email for commits made in boxes
    credential_problem: Callable[[str], str]  # agent name -> why it can't reach its model, or ""
    golden_lock: asyncio.Lock = dataclasses.field(default_factory=asyncio.Lock)
    pool_wake: asyncio.Event = dataclasses.field(default_factory=asyncio.Event)  # look at the pools now
    _crew: Crew | None = None

    @property
    def crew(self) -> Crew:
        """Who looks after the boxes; the flows' steps need it."""
        assert self._crew is not None  # set by Crew.__init__
        return self._crew

    @crew.setter
    def crew(self, crew: Crew) -> None:
        self._crew = crew
