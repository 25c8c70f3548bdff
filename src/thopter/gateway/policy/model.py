"""What a policy is, once read: frozen facts that travel to the gateway as they are."""

from __future__ import annotations

import base64
from typing import Literal

from msgspec import Struct

HEADERS_OF_CLIENTS = ("authorization", "cookie", "x-api-key", "x-auth-token", "private-token", "x-csrf-token")
#: Where a credential is added more stays behind: other spellings of a box's own credential, and what would
#: let it ask for another method than the policy looked at, for pieces of an echo, or for an encoded one.
HEADERS_BESIDE_A_CREDENTIAL = (
    *HEADERS_OF_CLIENTS, "x-goog-api-key", "api-key", "x-gitlab-token", "job-token", "x-amz-security-token",
    "dd-api-key", "x-vault-token", "circle-token", "x-access-token", "authentication", "www-authenticate",
    "x-http-method", "x-http-method-override", "x-method-override",
    "range", "if-range", "accept-encoding", "sec-websocket-extensions",
)  # fmt: skip
QUERY_OF_CLIENTS = frozenset(
    {"access_token", "private_token", "auth_token", "api_key", "apikey", "api-key", "job_token",
     "oauth_token", "x-amz-security-token", "x-amz-signature", "x-goog-signature"}
)  # fmt: skip


class Rule(Struct, frozen=True, kw_only=True):
    """Hosts that may be reached and how. ``name`` is what logs and explanations call it.

    ``methods`` and ``paths`` empty: any. ``inspect``: https is opened by the gateway, to look at method
    and path or to add a credential. ``plain``: ``http://`` too. ``tls`` false: the tunnel need not be TLS.
    ``addresses``: networks, not public, that the hosts may be in. ``query_max``: bytes of a query.
    """

    name: str
    hosts: tuple[str, ...]
    ports: tuple[int, ...] = (443,)
    methods: tuple[str, ...] = ()
    paths: tuple[str, ...] = ()
    credential: str = ""
    inspect: bool = False
    plain: bool = False
    tls: bool = True
    ech: bool = False
    client_credentials: bool = False
    addresses: tuple[str, ...] = ()
    query_max: int = 4096

    @property
    def read_only(self) -> bool:
        """Whether only requests without effect are allowed (so none has a body)."""
        return bool(self.methods) and set(self.methods) <= {"GET", "HEAD", "OPTIONS"}


class Credential(Struct, frozen=True, kw_only=True):
    """Where a secret of the operator may be used: the only ``hosts`` it is ever sent to (by https), in
    which ``header``, and how (``{}`` in ``format`` is the secret; what follows ``Basic`` is encoded).
    ``secret`` names it, never is it. ``env``: a variable in which tools of the box look for it; they find
    a placeholder there."""

    name: str
    secret: str
    hosts: tuple[str, ...]
    header: str = "authorization"
    format: str = "Bearer {}"
    env: str = ""

    @property
    def placeholder(self) -> str:
        """What a box holds in the secret's place; worth nothing anywhere."""
        return f"thopter-secret-{self.secret}"

    def value(self, secret: str) -> str:
        """The header's value with the secret in it."""
        scheme, _, rest = self.format.partition(" ")
        if scheme.lower() == "basic" and ":" in rest:
            pair = rest.replace("{}", secret)
            return f"{scheme} {base64.b64encode(pair.encode()).decode()}"
        return self.format.replace("{}", secret)


class GitRights(Struct, frozen=True, kw_only=True):
    """What a box may do to its repository. ``push``: ``none``; ``mirror`` (its own branch in the hub's
    mirror, for ``pull``); ``upstream`` (from there on to the repository it came from). ``workflows``: the
    shipped list of protected paths does not hold; ``protected`` adds to it. ``credential`` names one of the
    policy's credentials, for upstreams reached by https; empty means the operator's own login."""

    push: Literal["none", "mirror", "upstream"] = "mirror"
    force: bool = True
    workflows: bool = False
    protected: tuple[str, ...] = ()
    blob_mb: float = 50.0
    push_mb: float = 512.0
    secrets: Literal["refuse", "allow"] = "refuse"
    secrets_in: tuple[str, ...] = ()
    submodules: bool = False
    lfs: bool = False
    filters: bool = False
    links: bool = False
    credential: str = ""


class Budgets(Struct, frozen=True, kw_only=True):
    """What a thopter may spend, and all of this policy together a day; 0 means no bound."""

    usd: float = 0.0
    tokens: int = 0
    hours: float = 0.0
    turns: int = 0
    usd_per_day: float = 0.0
    tokens_per_day: int = 0


class EgressLimits(Struct, frozen=True, kw_only=True):
    """Bounds of one box's traffic; 0 means no bound (but for ``connections``)."""

    connections: int = 128
    bytes_per_second: int = 0
    sent_mb: int = 0
    received_mb: int = 0
    requests_per_minute: int = 6000
    idle_seconds: int = 600


class BoxLimits(Struct, frozen=True, kw_only=True):
    """The most that a box may have; 0 means no bound of the policy's."""

    memory_mb: int = 0
    pids: int = 0
    cpus: float = 0.0
    disk_mb: int = 0


class Commands(Struct, frozen=True, kw_only=True):
    """What may be run in a box by hand. ``allow``: argument lists; ``admins``: held are also those who may
    change the policy; ``files``: files may be carried; ``terminal``: commands may have one."""

    mode: Literal["any", "listed", "none"] = "any"
    allow: tuple[tuple[str, ...], ...] = ()
    admins: bool = True
    files: bool = False
    terminal: bool = False


class Policy(Struct, frozen=True, kw_only=True):
    """One named policy. ``deny`` beats every rule; among rules the most specific host decides."""

    name: str
    doc: str = ""
    rules: tuple[Rule, ...] = ()
    deny: tuple[str, ...] = ()
    registries: tuple[str, ...] = ()
    registry_addresses: tuple[str, ...] = ()
    credentials: tuple[Credential, ...] = ()
    unknown: Literal["deny", "ask"] = "deny"
    ask_seconds: int = 60
    isolation: Literal["any", "namespaces", "gvisor", "vm"] = "any"
    git: GitRights = GitRights()
    budgets: Budgets = Budgets()
    limits: EgressLimits = EgressLimits()
    commands: Commands = Commands()
    box: BoxLimits = BoxLimits()

    @property
    def inspects(self) -> bool:
        """Whether any rule needs TLS opened, so that boxes must trust the hub's certificate."""
        return any(rule.inspect for rule in self.rules)


class Request(Struct, frozen=True, kw_only=True):
    """One wish of a box. ``scheme``: ``connect`` (a tunnel is asked for), ``http`` or ``https`` (a request
    that can be seen). ``host`` is as the client spelt it; ``target`` is path and query."""

    scheme: Literal["connect", "http", "https"]
    host: str
    port: int
    method: str = "CONNECT"
    target: str = "/"
    has_body: bool = False


class Allow(Struct, frozen=True, kw_only=True, tag="allow"):
    """Go: to ``host`` (canonical), by ``rule``. ``inspect``: open the tunnel's TLS."""

    host: str
    port: int
    rule: Rule
    inspect: bool = False


class Deny(Struct, frozen=True, kw_only=True, tag="deny"):
    """No: ``code`` for programs, ``reason`` for people. ``host``: canonical, or as given when it can't be."""

    code: str
    reason: str
    host: str = ""


class Ask(Struct, frozen=True, kw_only=True, tag="ask"):
    """Not without a person's word."""

    host: str
    port: int
    reason: str


Decision = Allow | Deny | Ask
