"""What the hub's outer shell needs from inside: the use cases, the events, the idempotency record.

The shell (HTTP, events, terminals, process life) is written against these protocols alone;
``thopter.hub.compose`` fills them with ``thopter.fleet`` and ``thopter.store``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Protocol

from thopter.hub.ports.approvals import ApprovalsPort
from thopter.hub.ports.audit import AuditPort
from thopter.hub.ports.budget import BudgetsPort
from thopter.hub.ports.egress import EgressPort
from thopter.hub.ports.log import LogsPort
from thopter.hub.ports.notes import NotesPort
from thopter.hub.ports.page_sessions import PageSessionsPort
from thopter.hub.ports.pool import PoolPort
from thopter.hub.ports.pushes import PushesPort
from thopter.hub.ports.secrets import SecretsPort
from thopter.hub.ports.sleep import SleepPort
from thopter.hub.ports.snapshots import SnapshotsPort
from thopter.hub.ports.talk import TalkPort
from thopter.hub.ports.tokens import TokensPort
from thopter.hub.ports.usage import UsagePort
from thopter.hub.ports.variables import VariablesPort
from thopter.hub.ports.works import WorksPort
from thopter.kit.paths import Paths
from thopter.kit.settings import Settings
from thopter.model.api import (
    Accepted,
    Check,
    CheckResult,
    CreateRequest,
    FlowView,
    RunRequest,
    TellRequest,
    TellResult,
    ThopterDetail,
    ThopterView,
)
from thopter.model.events import Event
from thopter.model.nouns import Leak
from thopter.store.events import ANY, EventFilter, Page
from thopter.store.idempotency import Claim

if TYPE_CHECKING:
    from thopter.hub.ports.dials import DialsPort


class FleetInfo(Protocol):
    """What ``GET /v1/hub`` says of the fleet. ``problem`` is one sentence or empty."""

    @property
    def boxes(self) -> int:
        """Boxes that exist now."""

    @property
    def warm(self) -> int:
        """Of these, those that wait in warm pools."""

    @property
    def problem(self) -> str:
        """What keeps the hub from working as it should."""


class FleetPort(Protocol):
    """The use cases. ``name`` may be a unique prefix. Errors are those of ``model.errors``.

    ``ready`` is false while the fleet recovers after a start: reads are served, the shell lets
    mutations wait (bounded) until it is true. Async generators raise their first error before
    they yield anything.
    """

    @property
    def ready(self) -> bool:
        """True when mutations may come."""

    @property
    def dials(self) -> DialsPort:
        """Connections to ports inside boxes."""

    @property
    def works(self) -> WorksPort:
        """What thopters have done, and hands in their boxes."""

    @property
    def variables(self) -> VariablesPort:
        """Variables that new boxes get."""

    @property
    def pool(self) -> PoolPort:
        """Boxes that are kept ready."""

    @property
    def budgets(self) -> BudgetsPort:
        """What thopters may spend."""

    @property
    def notes(self) -> NotesPort:
        """Notes to people."""

    @property
    def egress(self) -> EgressPort:
        """Policies, and what boxes reach."""

    @property
    def secrets(self) -> SecretsPort:
        """Secrets, and where they may be used."""

    @property
    def tokens(self) -> TokensPort:
        """Tokens of callers over TCP."""

    @property
    def page_sessions(self) -> PageSessionsPort:
        """Pages that are logged in."""

    @property
    def pushes(self) -> PushesPort:
        """What boxes pushed, and how it gets upstream."""

    @property
    def talk(self) -> TalkPort:
        """Talking beyond a plain tell."""

    @property
    def approvals(self) -> ApprovalsPort:
        """What agents ask a person."""

    @property
    def audit(self) -> AuditPort:
        """What was decided and done, by whom."""

    @property
    def usage(self) -> UsagePort:
        """What runs used of their models."""

    @property
    def logs(self) -> LogsPort:
        """What happened in a thopter."""

    @property
    def snapshots(self) -> SnapshotsPort:
        """Saved boxes, forks, going back."""

    @property
    def sleep(self) -> SleepPort:
        """Suspending, resuming, restarting, how long boxes go on."""

    async def info(self) -> FleetInfo:
        """Counts, cheap."""

    async def start_run(self, req: RunRequest) -> Accepted:
        """Durable when this returns; the work goes on in the flow."""

    async def create(self, req: CreateRequest) -> Accepted:
        """As ``start_run``, without a prompt."""

    async def destroy(self, name: str) -> Accepted:
        """As ``start_run``; everything of the thopter goes."""

    async def views(self, include_gone: bool = False) -> list[ThopterView]:
        """All thopters."""

    async def detail(self, name: str) -> ThopterDetail:
        """One thopter and its evidence."""

    async def tell(self, name: str, req: TellRequest) -> TellResult:
        """Say something to the agent; answers with a receipt or an error."""

    async def interrupt(self, name: str) -> None:
        """Stop the agent's present turn."""

    async def freeze(self, name: str) -> None:
        """Stop every process of the box. Idempotent."""

    async def thaw(self, name: str) -> None:
        """Let them go on. Idempotent."""

    async def check(self, name: str) -> CheckResult:
        """Ask the box now."""

    async def flow(self, flow_id: str) -> FlowView:
        """Progress of a flow."""

    async def doctor(self) -> list[Check]:
        """What works on this machine and what to change."""

    async def leaks(self) -> list[Leak]:
        """What no recorded box accounts for."""

    async def sweep(self) -> list[Leak]:
        """Remove those."""


class EventsPort(Protocol):
    """The append-only events (``thopter.store.events.Events``). Numbers only grow, and once an event
    can be read no event with a smaller number appears any more."""

    async def append(self, events: Sequence[Event]) -> object:
        """Commit durably, in this order."""

    def last(self) -> int:
        """Number of the newest committed event, 0 when there is none."""

    async def read(self, after: int = 0, limit: int = 1000, want: EventFilter = ANY) -> Page:
        """The next ``limit`` events after a number that pass the filter, and how far that reaches."""

    async def changed(self, after: int) -> int:
        """Return as soon as an event numbered above ``after`` is committed."""


class IdempotencyPort(Protocol):
    """Remembers the answers of mutating calls (``thopter.store.idempotency.Idempotency``)."""

    async def begin(self, key: str, body: str, token: str, boot: str, now_ms: int) -> Claim:
        """Claim a key, or learn its answer. Conflict: it was used for another request. NotNow: this
        hub is at it. A claim that has another token than the one offered was an earlier hub's, which
        died in the middle: the work is done again under that token."""

    async def finish(self, key: str, status: int, response: Any) -> None:
        """Keep the answer of a claimed key; ``response`` is the JSON value."""

    async def abandon(self, key: str) -> None:
        """Give up a claim after a refusal that did nothing, so that a retry is really tried."""


class Composition(Protocol):
    """The inside of a hub, put together."""

    @property
    def fleet(self) -> FleetPort:
        """The use cases."""

    @property
    def events(self) -> EventsPort:
        """The event log."""

    @property
    def idempotency(self) -> IdempotencyPort:
        """The record of keys."""

    async def start(self) -> None:
        """Open everything. When this returns reads work; recovery may go on (``fleet.ready``)."""

    async def stop(self) -> None:
        """Let go of everything in good order; boxes go on."""

    async def reload(self, settings: Settings) -> None:
        """Take new settings where that is possible without a restart."""

    def mark(self, token: str, again: bool) -> AbstractContextManager[object]:
        """Inside this, use cases know which call they serve: ``token`` is the same for every attempt
        at one idempotency key, ``again`` says that an earlier hub died while it served the call."""


Compose = Callable[[Paths, Settings], Composition]

Json = dict[str, Any]
