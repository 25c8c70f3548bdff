"""What people and programs are shown of a thopter: one line, or the detail with its evidence."""

from __future__ import annotations

import time

from msgspec import to_builtins

from thopter.fleet.live import LiveBox
from thopter.fleet.ports import ModelRoute
from thopter.fleet.ratelimit import resets_ms
from thopter.model.api import ThopterDetail, ThopterView
from thopter.model.api.talk import TalkView
from thopter.model.events import Event
from thopter.model.evidence import Verdict
from thopter.model.nouns import Box, BoxState, Run, RunState

ALIVE_WITHIN_MS = 30_000  # three missed heartbeats
_TASK_CHARS = 200
_HIDDEN = frozenset({BoxState.GONE})


def one_line(text: str, limit: int = _TASK_CHARS) -> str:
    """The first words of ``text`` on one line."""
    flat = " ".join(text.split())
    return flat if len(flat) <= limit else flat[: limit - 1] + "…"


def view(
    box: Box, run: Run | None, live: LiveBox | None, owner: str, now_ms: int, talk: TalkView | None = None
) -> ThopterView:
    """One line. Without a live box only what is recorded is said, and nothing is guessed."""
    if live is not None and live.box.changed_ms > box.changed_ms:
        box = live.box  # what became of it could not be recorded yet (the disk is full)
    verdict = live.verdict if live is not None else Verdict(state=run.state if run else RunState.UNKNOWN)
    heartbeat = live.alive_ms if live is not None else 0
    talk = talk or TalkView()
    return ThopterView(
        name=box.name,
        id=box.id,
        owner=owner,
        provider=box.provider,
        box_state=box.state,
        isolation=box.isolation or "",
        agent=run.agent if run else "",
        run=run.id if run else "",
        state=(verdict.state if live is not None else run.state) if run else "",
        reason=(verdict.reason if live is not None else run.reason) or "" if run else "",
        since_ms=verdict.since_ms or (run.changed_ms if run else box.changed_ms),
        task=talk.statusline or (one_line(run.prompt) if run else ""),
        repo=run.repo.source if run and run.repo else "",
        branch=f"thopter/{box.name}" if run and run.repo else "",
        created_ms=box.created_ms,
        heartbeat_ms=heartbeat,
        alive=bool(heartbeat) and now_ms - heartbeat <= ALIVE_WITHIN_MS,
        agent_running=live.agent_running if live is not None else False,
        last_message=live.last_message if live is not None else "",
        last_message_ms=live.last_message_ms if live is not None else 0,
        resets_ms=resets_ms(verdict) if live is not None else 0,
        problem=box.problem or (run.problem if run else "") or (live.trouble if live is not None else ""),
        contradiction=verdict.contradiction,
        note=talk.note,
        statusline=talk.statusline,
        statusline_by=talk.statusline_by,
        queued=talk.queued,
        agents=live.others.views(box.name, run.agent if run else "") if live is not None else [],
    )


def detail(
    line: ThopterView,
    box: Box,
    run: Run | None,
    live: LiveBox | None,
    log: list[Event],
    route: ModelRoute | None,
) -> ThopterDetail:
    """The line, the evidence behind it (strongest first, then the newest), and recent happenings."""
    picture = live.picture() if live is not None else []
    newest = sorted(picture, key=lambda e: e.at_ms, reverse=True)[:30]
    return ThopterDetail(
        view=line,
        because=list(live.verdict.because) if live is not None else [],
        evidence=newest,
        log=[log_line(e) for e in log],
        prompt=run.prompt if run else "",
        session=run.session if run else "",
        cwd=run.cwd if run else "",
        model_endpoint=route.upstream if route else "",
        limits=to_builtins(box.limits),
        checkouts={r.folder: r.source for r in run.repo.beside} if run and run.repo else {},
    )


def log_line(event: Event) -> str:
    """One event for a person; words in it may be a box's."""
    d = event.data
    if event.kind == "run.state":
        said = f"{d.get('state')}" + (f" ({d['reason']})" if d.get("reason") else "")
    elif event.kind == "flow.step":
        said = f"{d.get('title') or d.get('name')}: {d.get('status')}"
    elif event.kind == "message":
        said = f"{d.get('kind')} {d.get('state')}: {one_line(str(d.get('text') or ''), 100)}"
    elif event.kind in ("approval.asked", "approval.answered"):
        said = f"{d.get('state')}: {one_line(str(d.get('summary') or ''), 200)}"
    elif event.kind == "git.refused":
        said = f"{d.get('code')}: {one_line(str(d.get('reason') or ''), 200)}"
    elif event.kind.startswith("git.upstream."):
        said = one_line(f"{d.get('branch')} {str(d.get('commit'))[:12]} {d.get('problem') or ''}", 240)
    elif event.kind == "box.said":
        said = f"{d.get('verb')} {one_line(str(d.get('text') or ''), 300)}".strip()
    else:
        said = one_line(str(d.get("text") or d.get("summary") or d.get("state") or ""), 120)
    at = time.strftime("%H:%M:%S", time.localtime(event.at_ms / 1000))
    return f"{at}  {event.kind}  {said}".rstrip()
