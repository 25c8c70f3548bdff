"""What the fleet needs from its siblings (gateways), handed in by the hub."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, NotRequired, Protocol, TypedDict

from msgspec import Struct

from thopter.model.api import Check
from thopter.model.api.egress import Findings, PolicyBook, PolicyInfo, Verdict
from thopter.model.api.notes import Target
from thopter.model.api.secrets import Binding, BindRequest, UnbindRequest
from thopter.model.budget import Terms
from thopter.model.notes import Letter, NoteKind, Pushed, PushOrder
from thopter.model.nouns import RepoRef
from thopter.model.pushes import Note, Outcome

HOOK_PORT, MODEL_PORT, GIT_PORT = 8400, 8401, 8402  # on the box's own loopback
HOME = "/root"


class ModelRoute(Struct, frozen=True, kw_only=True):
    """Where a box's model calls go. ``credential`` names an entry of the secret store, never its
    value; empty means that the endpoint wants none. ``terms``: what its calls may spend."""

    upstream: str
    credential: str = ""
    terms: Terms = Terms()


class GitRoute(Struct, frozen=True, kw_only=True):
    """The mirror a box sees and the one branch it may push there, descending from ``base``; ``beside``:
    further mirrors it sees. ``source_branch``: the source's branch it was read from."""

    slug: str
    branch: str
    base: str
    source_branch: str = ""
    beside: tuple[GitRoute, ...] = ()


class EgressRoute(Struct, frozen=True, kw_only=True):
    """How a box may go out: by which policy, and (host, port) that a person allowed it besides. ``name``
    is the thopter's, for what the gateway says to tools."""

    name: str
    policy: str
    grants: tuple[tuple[str, int], ...] = ()


class Gateways(Protocol):
    """The only ways out of a box. All calls are idempotent."""

    async def start(self) -> None:
        """Adopt running gateways or start them."""

    async def stop(self, end_processes: bool) -> None:
        """Let go; ``end_processes`` also ends them (no box needs them any more)."""

    async def attach(
        self,
        box: str,
        run: str,
        listeners: Mapping[int, socket.socket],
        model: ModelRoute,
        git: GitRoute | None,
        egress: EgressRoute,
    ) -> None:
        """Serve this box from now on; replaces an earlier attachment of it."""

    async def detach(self, box: str) -> None:
        """Stop serving it."""

    async def attached(self) -> set[str]:
        """Boxes served now by every gateway they need."""

    async def model_log(self, after: int, wait_ms: int) -> dict[str, Any]:
        """``{boot, records, next, dropped}``: model calls that ended, after a cursor; waits for the
        first one. Another ``boot`` is another process: cursors begin again."""

    async def model_books(self) -> Sequence[str]:
        """The durable accounts of model calls, oldest first."""

    async def model_book(self, name: str, after: int) -> dict[str, Any]:
        """``{lines, next, current, lost}`` of one after a number of lines."""

    async def forget_book(self, name: str) -> None:
        """Remove one that has been counted to its end."""

    def login_refused(self, box: str, at_ms: int) -> None:
        """A model call of the box, made then, was refused as not logged in: renew its login."""

    async def model_terms(self, box: str, terms: Terms) -> bool:
        """Bind the box's model calls by other terms; False when no gateway takes that now (the next
        process does)."""

    async def model_spent(self, accounts: Sequence[str]) -> dict[str, Any]:
        """``{"spent": {account: {usd, tokens, turns, hours, cut, under_way}}, "problem"}`` in the units of
        :class:`Limit`; ``problem``: why the account can't be written."""

    async def usage(self, box: str) -> dict[str, Any]:
        """What the model gateway counted for it."""

    async def egress_log(self, after: int, wait_ms: int, box: str = "") -> dict[str, Any]:
        """As ``model_log``: what went out and what was refused."""

    async def egress_usage(self, box: str) -> dict[str, Any]:
        """``{sent, received, allowed, refused}`` in the life of the egress gateway's process."""

    async def git_log(self, after: int, wait_ms: int) -> dict[str, Any]:
        """As ``model_log``: pushes that were taken and refused."""

    async def allow_once(self, box: str, host: str, port: int) -> None:
        """Let the next connection to that place pass."""

    async def reroute(self, box: str, egress: EgressRoute) -> None:
        """Serve the box's egress by another route; connections that it does not allow end."""

    async def policies_changed(self) -> None:
        """Look at the policy file now and serve every box by what it says."""

    async def secrets_changed(self) -> None:
        """Serve every box with the secrets that are stored now."""


class Chosen(TypedDict):
    """A policy chosen for a box, as kept with the box. ``ca``: it opens TLS; ``isolation``: the weakest
    kind of box it takes; ``most``: limits of the box, 0 for none; ``env``: placeholders of the secrets that
    may be used (absent in boxes of an older thopter). ``raised``: the request asked for a stronger kind
    than the policy."""

    name: str
    why: str
    raised: NotRequired[bool]
    ca: bool
    isolation: str
    most: dict[str, float]
    env: dict[str, str]


class Policies(Protocol):
    """The policies in force on this hub; see ``docs/reference/policy.md``."""

    @property
    def problem(self) -> str:
        """Why the policy file is not in force; empty when it is."""

    def choose(self, wanted: str, repo: str, trust: str = "") -> Chosen:
        """The policy for a new box; ``trust``: how far the author of its text is trusted. NotFound when
        there is none of that name."""

    def may_run(
        self,
        policy: str,
        argv: Sequence[str],
        env: Sequence[str],
        cwd: str,
        home: str,
        terminal: bool,
        admin: bool,
    ) -> str:
        """Why a command may not be run by hand, "" when it may; ``home``: where the run's work is."""

    def may_carry(self, policy: str, admin: bool) -> str:
        """Why files may not be put or fetched by hand, "" when they may."""

    def push_right(self, name: str) -> str:
        """How far pushes of boxes with that policy go: ``none``, ``mirror``, ``upstream``."""

    def canonical(self, host: str) -> str:
        """The one spelling of a host; BadInput when it can't be one."""

    def view(self) -> PolicyBook:
        """All of them."""

    def info(self, name: str) -> PolicyInfo:
        """One of them; of one that is gone, that it allows nothing."""

    def check(self, text: str) -> Findings:
        """Look at a text as if it were the policy file."""

    def test(self, name: str, url: str, method: str, grants: tuple[tuple[str, int], ...]) -> Verdict:
        """Would that go out?"""

    async def checks(self) -> list[Check]:
        """For the doctor."""

    async def allow_always(self, policy: str, host: str, port: int) -> None:
        """Write a host into a policy of the file; Refused when the file is not what can be added to."""

    async def secret_names(self) -> list[str]:
        """Names of the secrets in the hub's store."""

    def bindings(self) -> list[Binding]:
        """Where policies let secrets be used."""

    async def bind(self, req: BindRequest) -> Binding:
        """Write a binding into a policy of the file; BadInput, NotFound, Refused as for a host."""

    async def unbind(self, req: UnbindRequest) -> list[Binding]:
        """Take bindings out of the file; returns them."""

    def ca_cert(self) -> str:
        """The certificate of this hub's authority, in PEM. Blocking when it must be made."""


class Mirrors(Protocol):
    """Bare mirrors of repositories, owned by the hub."""

    async def prepare(self, source: str, branch: str, policy: str) -> tuple[RepoRef, int]:
        """Make or refresh the mirror of ``source``, logged in as ``policy`` says; return where ``branch``
        (default: HEAD) is and how many uncommitted files the source has (they are not in the mirror)."""

    async def drop_branch(self, slug: str, name: str) -> str | None:
        """Free ``thopter/<name>`` (its commits stay in the mirror)."""

    async def branch_head(self, slug: str, name: str) -> str | None:
        """Commit of ``thopter/<name>`` in the mirror."""

    def bundle(self, slug: str, base: str, name: str) -> AsyncIterator[bytes]:
        """A git bundle of ``base..thopter/<name>``."""


class Upstreams(Protocol):
    """Brings boxes' branches from mirrors to where their repositories came from."""

    def notes(self, now: float) -> list[Note]:
        """What the git gateway's hooks noted; ``now`` in seconds since 1970. Blocking."""

    def taken(self, note: Note) -> None:
        """It is recorded. Blocking."""

    def tell(self, slug: str, name: str, new: str, text: str, final: bool) -> None:
        """What the box shall hear of its push of commit ``new``. Blocking."""

    async def push(self, slug: str, name: str, source: str, policy: str, wanted: str, has: str) -> Outcome:
        """Make ``thopter/<name>`` upstream be ``wanted`` if it is ``has`` there; again is the same."""

    async def where(self, slug: str, name: str, source: str, policy: str) -> str:
        """The commit of ``thopter/<name>`` upstream, "" for none."""


class Postman(Protocol):
    """Brings notes to people. Addresses and their secrets stay with it."""

    async def names(self) -> list[str]:
        """Targets by name, as they are set now."""

    async def targets(self) -> list[Target]:
        """The same with their addresses, no secret in them."""

    async def post(self, target: str, kind: NoteKind, letter: Letter) -> str:
        """Send; "" when the other side took it, else why not. Bounded in time; never raises for what
        the other side does. It may have arrived although this says no."""

    async def push(self, order: PushOrder) -> Pushed:
        """The same to a browser, by its push service."""

    async def push_key(self) -> str:
        """The hub's public key, with which browsers subscribe."""

    async def vet(self, endpoint: str) -> None:
        """BadInput or NotAllowed for a push service that must not be written to."""
