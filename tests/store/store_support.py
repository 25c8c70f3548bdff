"""Nouns to put into a store."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from thopter.model.events import Event
from thopter.model.evidence import Evidence, Fact, Source
from thopter.model.ids import BoxId, RunId
from thopter.model.nouns import Box, BoxState, Entry, Role, Run, RunState
from thopter.store.store import Store

Use = Callable[[Callable[[Store], Awaitable[Any]]], Any]


def box(n: int = 1, name: str = "", **more: Any) -> Box:
    """Box ``box_<n>``."""
    given: dict[str, Any] = {
        "id": BoxId(f"box_{n}"),
        "name": name or f"heron-{n}",
        "provider": "local",
        "state": BoxState.CREATING,
        "created_ms": 1000 + n,
        "changed_ms": 1000 + n,
    }
    return Box(**{**given, **more})


def run(n: int = 1, of: int = 1, **more: Any) -> Run:
    """Run ``run_<n>`` of box ``box_<of>``."""
    given: dict[str, Any] = {
        "id": RunId(f"run_{n}"),
        "box": BoxId(f"box_{of}"),
        "agent": "claude",
        "prompt": "mend it",
        "state": RunState.QUEUED,
        "created_ms": 2000 + n,
        "changed_ms": 2000 + n,
    }
    return Run(**{**given, **more})


def event(n: int = 1, **more: Any) -> Event:
    """An event that says ``n``."""
    return Event(**{"kind": "note", "at_ms": n, "data": {"n": n}, **more})


def entry(n: int = 1, **more: Any) -> Entry:
    """Transcript entry ``k<n>`` of session ``s``."""
    given: dict[str, Any] = {
        "session": "s",
        "key": f"k{n}",
        "at_ms": n,
        "role": Role.ASSISTANT,
        "summary": f"said {n}",
    }
    return Entry(**{**given, **more})


def evidence(n: int = 1, fact: Fact = Fact.ACTIVITY, source: Source = Source.HOOK, **more: Any) -> Evidence:
    """A fact of time ``n``."""
    return Evidence(**{"source": source, "fact": fact, "at_ms": n, "seen_ms": n, **more})
