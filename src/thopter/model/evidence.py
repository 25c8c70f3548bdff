"""Evidence: dated facts about one run, each with its source. States are derived from these alone."""

from __future__ import annotations

import enum
from typing import Any

from msgspec import Struct, field

from thopter.model.nouns import RunState, WaitReason


class Source(enum.StrEnum):
    """Where a fact comes from."""

    HOOK = "hook"  # the agent's own hooks, through boxd's journal
    TRANSCRIPT = "transcript"
    PROCESS = "process"  # boxd watches the agent's process
    SCREEN = "screen"  # the pane, and the agent's own status file
    HEARTBEAT = "heartbeat"  # boxd answers the hub
    PROVIDER = "provider"
    GATEWAY = "gateway"  # what the model gateway saw
    HUB = "hub"  # what the hub itself did (launched, told, stopped)
    DECLARED = "declared"  # what the agent (by thopter-status in its box) or a person says of the work


class Fact(enum.StrEnum):
    """What was observed. Agents translate their own vocabulary into these."""

    LAUNCHED = "launched"
    SESSION_STARTED = "session_started"
    TURN_STARTED = "turn_started"
    ACTIVITY = "activity"  # a tool call, a tool result, a growing transcript
    PERMISSION_ASKED = "permission_asked"
    QUESTION_ASKED = "question_asked"
    ANSWERED = "answered"
    TURN_ENDED = "turn_ended"
    INTERRUPTED = "interrupted"
    TURN_FAILED = "turn_failed"  # data["error"]: authentication_failed, rate_limit, ...
    RATE_LIMITED = "rate_limited"
    OVER_BUDGET = "over_budget"  # a model call was not made: what may be spent is used up
    BUDGET_RAISED = "budget_raised"
    SESSION_ENDED = "session_ended"
    BUSY = "busy"  # the agent's status file or screen says so
    IDLE = "idle"
    PROCESS_ALIVE = "process_alive"
    PROCESS_EXITED = "process_exited"  # data["code"]: exit code, or negative signal number
    BOX_ALIVE = "box_alive"
    BOX_SILENT = "box_silent"
    BOX_FROZEN = "box_frozen"
    BOX_GONE = "box_gone"
    STOP_REQUESTED = "stop_requested"
    DECLARED_DONE = "declared_done"  # the agent or the operator says the work is done
    DECLARED_WAITING = "declared_waiting"  # the agent says that it needs a person
    DECLARED_OPEN = "declared_open"  # such a word is taken back: there is work to do


class Evidence(Struct, frozen=True, kw_only=True):
    """One fact. ``at_ms``: when it happened (its own clock); ``seen_ms``: when the hub read it."""

    source: Source
    fact: Fact
    at_ms: int
    seen_ms: int
    detail: str = ""
    data: dict[str, Any] = field(default_factory=dict)


class Verdict(Struct, frozen=True, kw_only=True):
    """A derived state with what it rests on, strongest first.

    ``since_ms`` does not move while the state lasts. ``problem``: why it failed, or what went wrong
    in a turn that has ended. ``contradiction``: what disagrees, when that made it ``unknown``.
    """

    state: RunState
    reason: WaitReason | None = None
    since_ms: int = 0
    because: tuple[Evidence, ...] = ()
    contradiction: str = ""
    problem: str = ""
