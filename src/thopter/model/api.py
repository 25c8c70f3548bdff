"""Requests and answers of the hub's HTTP API (JSON; unknown fields are ignored by both sides)."""

from __future__ import annotations

from typing import Any

from msgspec import Struct, field

from thopter.model.evidence import Evidence
from thopter.model.nouns import Entry


class RunRequest(Struct, kw_only=True):
    """``POST /v1/runs``: a box with an agent at work on ``prompt``.

    ``repo``: absolute path of a local git repository, or an ``https://``/``ssh://``/``git@`` URL;
    empty for none. ``branch``: where to start, default the repository's HEAD. ``name``: empty for
    a friendly one. A non-empty ``box`` puts the run into that existing box.
    """

    prompt: str
    name: str = ""
    repo: str = ""
    branch: str = ""
    agent: str = "claude"
    permission_mode: str = ""
    model: str = ""


class CreateRequest(Struct, kw_only=True):
    """``POST /v1/thopters``: a box with the agent at its prompt, waiting (no task yet)."""

    name: str = ""
    repo: str = ""
    branch: str = ""
    agent: str = "claude"


class Accepted(Struct, kw_only=True):
    """The answer to a mutating call: it is durable; ``flow`` is where its progress can be read."""

    flow: str
    name: str
    box: str = ""
    run: str = ""


class Step(Struct, kw_only=True):
    """Progress of a flow, also the ``data`` of ``flow.step`` events. ``status``: started, done,
    failed, undone. ``ms`` is how long it took."""

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
    """One line of ``thopter status``; the names in T3-014 of the old JSON are given by the CLI."""

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
    problem: str = ""
    contradiction: str = ""


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


class TellRequest(Struct, kw_only=True):
    """``POST /v1/thopters/{name}/tell``. ``receipt_timeout_ms`` bounds the wait for a receipt."""

    text: str
    interrupt: bool = False
    receipt_timeout_ms: int = 15000


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
    """``GET /v1/thopters/{name}/diff``: base to working tree, untracked files included."""

    diff: str
    stat: str
    commits: int
    dirty: int
    truncated: bool = False


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
    problem: str = ""
    listeners: list[str] = field(default_factory=list)
