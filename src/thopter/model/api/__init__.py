"""Requests and answers of the hub's HTTP API (JSON; unknown fields are ignored by both sides)."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct, field

from thopter.model.api.approvals import Approval
from thopter.model.api.budget import BudgetAmount
from thopter.model.api.furnish import Furnishing
from thopter.model.api.others import AgentView
from thopter.model.api.pushes import PushView
from thopter.model.api.talk import Message
from thopter.model.api.usage import Usage
from thopter.model.evidence import Evidence
from thopter.model.nouns import Entry, Leak
from thopter.model.tiers import Tier


class RunRequest(Struct, kw_only=True):
    """``POST /v1/runs``: a box with an agent at work on ``prompt``.

    ``repo``: absolute path of a local git repository, or an ``https://``/``ssh://``/``git@`` URL;
    empty for none. ``branch``: where to start, default the repository's HEAD. ``name``: empty for
    a friendly one. ``snapshot``: start from that saved box (name or id), not from the default one;
    ``fresh``: from none. ``keep_alive``, ``idle_timeout``: minutes, 0 for no end, null for the settings'.
    ``trust``: who wrote the prompt's text: the operator, somebody who may write to the repository, others.
    ``isolation``: the least tier of its box; it can be more than the policy asks for, never less.
    ``budget``: what it may spend of its models; what is 0 is as the setting ``run.budget`` says.
    """

    prompt: str
    name: str = ""
    repo: str = ""
    branch: str = ""
    agent: str = "claude"
    permission_mode: str = ""
    model: str = ""
    snapshot: str = ""
    fresh: bool = False
    keep_alive: Annotated[float, Meta(ge=0, le=5_256_000)] | None = None
    idle_timeout: Annotated[float, Meta(ge=0, le=5_256_000)] | None = None
    furnishing: Furnishing = field(default_factory=Furnishing)
    policy: str = ""
    trust: Literal["operator", "writer", "outsider"] = "operator"
    isolation: Tier = "any"
    budget: BudgetAmount = field(default_factory=BudgetAmount)


class CreateRequest(Struct, kw_only=True):
    """``POST /v1/thopters``: a box with the agent at its prompt, waiting (no task yet)."""

    name: str = ""
    repo: str = ""
    branch: str = ""
    agent: str = "claude"
    snapshot: str = ""
    fresh: bool = False
    keep_alive: Annotated[float, Meta(ge=0, le=5_256_000)] | None = None
    idle_timeout: Annotated[float, Meta(ge=0, le=5_256_000)] | None = None
    furnishing: Furnishing = field(default_factory=Furnishing)
    policy: str = ""
    isolation: Tier = "any"
    budget: BudgetAmount = field(default_factory=BudgetAmount)


class Accepted(Struct, kw_only=True):
    """The answer to a mutating call: it is durable; ``flow`` is where its progress can be read. ``warm``:
    it begins in a box that was made ahead, whose agent runs already."""

    flow: str
    name: str
    box: str = ""
    run: str = ""
    warm: bool = False


class Step(Struct, kw_only=True):
    """Progress of a flow, also the ``data`` of ``flow.step`` events. ``status``: started,
    progress (``title`` is a line of its output), done, failed, undone. ``ms`` is how long it took."""

    name: str
    status: str
    title: str = ""
    ms: float = 0.0
    error: dict[str, Any] | None = None


class FlowView(Struct, kw_only=True):
    """``GET /v1/flows/{id}``. ``status``: running, done, failed."""

    id: str
    kind: str
    status: str
    name: str = ""
    steps: list[Step] = field(default_factory=list)
    error: dict[str, Any] | None = None
    result: dict[str, Any] = field(default_factory=dict)


class ThopterView(Struct, kw_only=True):
    """One line of ``thopter status``; the names in T3-014 of the old JSON are given by the CLI.

    ``task``: the status line where there is one, else the prompt's beginning. ``queued``: how many
    messages the hub keeps for it."""

    name: str
    id: str
    owner: str
    provider: str
    box_state: str
    isolation: str = ""
    agent: str = ""
    run: str = ""
    state: str = ""
    reason: str = ""
    since_ms: int = 0
    task: str = ""
    repo: str = ""
    branch: str = ""
    created_ms: int = 0
    heartbeat_ms: int = 0
    alive: bool = False
    agent_running: bool = False
    last_message: str = ""
    last_message_ms: int = 0
    resets_ms: int = 0  # waiting for a rate limit: when that is over and it goes on by itself; 0: not known
    problem: str = ""
    contradiction: str = ""
    note: str = ""
    statusline: str = ""
    statusline_by: str = ""
    queued: int = 0
    pool: str = ""  # the warm pool it waits in, nobody's yet
    approvals: int = 0  # how many things it asks a person
    usage: Usage | None = None  # of its run; null: it has called no model
    agents: list[AgentView] = field(default_factory=list)  # further ones in its box


class ThopterDetail(Struct, kw_only=True):
    """``GET /v1/thopters/{name}``: the line, the evidence it rests on, and recent log lines."""

    view: ThopterView
    because: list[Evidence] = field(default_factory=list)
    evidence: list[Evidence] = field(default_factory=list)
    log: list[str] = field(default_factory=list)
    prompt: str = ""
    session: str = ""
    cwd: str = ""
    model_endpoint: str = ""
    limits: dict[str, Any] = field(default_factory=dict)
    queue: list[Message] = field(default_factory=list)
    approvals: list[Approval] = field(default_factory=list)
    checkouts: dict[str, str] = field(default_factory=dict)  # further repositories: folder -> source
    pushes: list[PushView] = field(default_factory=list)


class TellRequest(Struct, kw_only=True):
    """``POST /v1/thopters/{name}/tell``. ``receipt_timeout_ms`` bounds the wait for a receipt."""

    text: str
    interrupt: bool = False
    receipt_timeout_ms: Annotated[int, Meta(ge=0, le=600_000)] = 15000


class TellResult(Struct, kw_only=True):
    """``receipt``: ``taken`` (the agent has it as its prompt) or ``queued`` (it is busy, its own
    queue holds the message). Anything else is an error, never a guess. ``evidence`` says how."""

    receipt: str
    evidence: str = ""
    ms: float = 0.0


class TranscriptPage(Struct, kw_only=True):
    """``GET /v1/thopters/{name}/transcript?after=&limit=&last=``: ``next`` is the new cursor."""

    entries: list[Entry]
    next: int
    total: int


class CheckResult(Struct, kw_only=True):
    """``GET /v1/thopters/{name}/check``."""

    tmux: bool
    agent: bool
    box: bool


class DiffResult(Struct, kw_only=True):
    """``GET /v1/thopters/{name}/diff``: base to working tree, untracked files included. ``head``: the
    last commit in the box, empty when it could not be told."""

    diff: str
    stat: str
    commits: int
    dirty: int
    truncated: bool = False
    head: str = ""


class PullInfo(Struct, kw_only=True):
    """``POST /v1/thopters/{name}/pull`` answer; the bundle is then at ``GET .../bundle``.

    ``head`` is the commit that branch ``thopter/<name>`` has in the mirror; ``dirty`` counts files
    changed but not committed (included in ``head`` only when ``wip`` was asked).
    """

    branch: str
    head: str
    base: str
    commits: int
    dirty: int
    wip: bool = False


class Check(Struct, kw_only=True):
    """One line of ``thopter doctor``. ``level``: ok, warn, fail."""

    name: str
    level: str
    text: str
    fix: str = ""


class HubInfo(Struct, kw_only=True):
    """``GET /v1/hub``."""

    version: str
    pid: int
    state_dir: str
    started_ms: int
    ready: bool
    boxes: int = 0
    warm: int = 0  # of these, how many wait in warm pools
    problem: str = ""
    listeners: list[str] = field(default_factory=list)


class Nothing(Struct, kw_only=True):
    """``{}``: the body of a call that needs none, and the answer when "done" says it all."""


class Thopters(Struct, kw_only=True):
    """``GET /v1/thopters``."""

    thopters: list[ThopterView]


class ScreenText(Struct, kw_only=True):
    """``GET /v1/thopters/{name}/screen``: the pane as plain text, hostile like all box text."""

    screen: str


class PullRequest(Struct, kw_only=True):
    """``POST /v1/thopters/{name}/pull``. ``wip``: commit what is not committed, first. ``checkout``:
    another repository of the box than its main one, by its folder below /work."""

    wip: bool = False
    checkout: str = ""


class Written(Struct, kw_only=True):
    """``POST /v1/thopters/{name}/put``: bytes now in the file."""

    size: int


class Checks(Struct, kw_only=True):
    """``GET /v1/doctor``."""

    checks: list[Check]


class Leaks(Struct, kw_only=True):
    """``GET /v1/doctor/leaks``; ``POST /v1/doctor/sweep`` answers those it removed."""

    leaks: list[Leak]


class PtySize(Struct, frozen=True, kw_only=True):
    """A terminal's size in character cells."""

    rows: Annotated[int, Meta(ge=1, le=65535)] = 24
    cols: Annotated[int, Meta(ge=1, le=65535)] = 80


class ExecRequest(Struct, kw_only=True):
    """First message of ``WS /v1/thopters/{name}/exec``. ``env`` null: the box's default one
    and the operator's variables; ``cwd`` empty: the box's work folder; ``stdin`` false: the command reads an
    empty stdin."""

    argv: Annotated[list[str], Meta(min_length=1)]
    env: dict[str, str] | None = None
    cwd: str = ""
    pty: PtySize | None = None
    stdin: bool = True


class ErrorInfo(Struct, kw_only=True):
    """The wire form of an error; see ``model.errors``."""

    code: str
    message: str
    hint: str = ""
    data: dict[str, Any] = field(default_factory=dict)


class ErrorBody(Struct, kw_only=True):
    """Every answer that is not a success: ``{"error": {…}}``."""

    error: ErrorInfo
