"""The agent's terminal: one tmux server per box on its own socket, driven by the tmux program."""

from __future__ import annotations

import re
from typing import Any, Dict, List, Optional, Tuple

from thopter.boxd import fields, wire
from thopter.boxd.box import Box
from thopter.boxd.conn import Call, Channel, Handler
from thopter.boxd.fields import OpError, Request, bad
from thopter.boxd.launcher import plain_script, write_script
from thopter.boxd.task import sleep
from thopter.boxd.tools import ToolResult

_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_TARGET = re.compile(r"[A-Za-z0-9_@%:.=+$-]{1,100}")
_KEY = re.compile(r"[\x21-\x7e]{1,32}")
_TYPED = 4000  # bytes of one send-keys (a message to the tmux server is cut at 16 KiB)
_MAX_PAUSE = 60_000
_LEAVING = (b"server exited", b"lost server", b"no server running")
_SCREEN = 700 << 10  # of a screen's JSON form
_OPTIONS: Tuple[Tuple[str, ...], ...] = (
    ("-g", "history-limit", "50000"),
    ("-g", "default-terminal", "tmux-256color"),
    ("-g", "status", "off"),  # the pane has exactly the rows that were asked for
    ("-g", "update-environment", ""),  # who attaches does not change what runs here
    ("-g", "allow-rename", "off"),
    ("-g", "automatic-rename", "off"),
    ("-s", "set-clipboard", "off"),  # output of the box must not reach a person's clipboard
    ("-s", "escape-time", "10"),
)


class Tmux:
    """Commands to the box's tmux server."""

    def __init__(self, box: Box) -> None:
        self._box = box
        socket = box.config.run_dir + "/tmux.sock"
        self._base = [wire.to_bytes(w) for w in (box.config.tmux, "-u", "-S", socket, "-f", "/dev/null")]

    async def run(self, *words: str, stdin: bytes = b"") -> ToolResult:
        """Run tmux with ``words`` (``";"`` separates commands) and return how it ended."""
        try:
            return await self._box.tool(self._base + [wire.to_bytes(w) for w in words], stdin)
        except OpError as e:
            why = "there is no tmux to run in this box (%s): install it where the box's /usr comes from"
            raise OpError("failed", why % e.message) from None

    async def must(self, *words: str, stdin: bytes = b"") -> bytes:
        """Like :meth:`run`; returns the output or raises the OpError that the failure means."""
        result = await self.run(*words, stdin=stdin)
        if result.code != 0:
            raise failure(result)
        return result.out

    async def new_session(self, name: str, script: str, cwd: str, cols: int, rows: int) -> None:
        """Start ``script`` in a new session, the server too when there is none; ``conflict`` when
        the session exists."""
        words = ["start-server"]
        for option in _OPTIONS:
            words += [";", "set-option", *option]
        words += [";", "new-session", "-d", "-s", name, "-x", str(cols), "-y", str(rows)]
        words += ["-c", cwd, "--", "/bin/sh", script]
        for _ in range(5):
            result = await self.run(*words)
            if result.code == 0:
                return
            if not any(said in result.err for said in _LEAVING):
                break
            await sleep(self._box.loop, 0.1)  # the old server is just going away
        raise failure(result)

    async def screen(self, target: str, history: int = 0) -> str:
        """The text of a pane; empty when it is not there."""
        result = await self.run("capture-pane", "-p", "-t", target, "-S", str(-history))
        return result.out.decode("utf-8", "replace") if result.code == 0 else ""


def failure(result: ToolResult) -> OpError:
    """What tmux's complaint means."""
    text = result.err.decode("utf-8", "replace").strip() or f"tmux ended with {result.code}"
    low = text.lower()
    if "duplicate session" in low:
        return OpError("conflict", text)
    if "can't find" in low or "no server running" in low or "error connecting" in low or "no current" in low:
        return OpError("not_found", text)
    return OpError("failed", "tmux: " + text[:500])


def session_name(request: Request, default: Optional[str] = None) -> str:
    """The field ``session``."""
    name = fields.string(request, "session", default)
    if not _NAME.fullmatch(name):
        raise bad("session must be 1 to 64 of letters, digits, '_' and '-'")
    return name


def pane(name: str) -> str:
    """The tmux target of a session's first pane (not the one a person has in front)."""
    return f"={name}:0.0"


def _target(request: Request) -> str:
    target = fields.string(request, "target", "agent")
    if not _TARGET.fullmatch(target) or target.startswith("-"):
        raise bad("target is not a tmux target")
    return pane(target) if _NAME.fullmatch(target) else target


def size(request: Request) -> Tuple[int, int]:
    """The fields ``cols`` and ``rows``."""
    return fields.integer(request, "cols", 200, 10, 1000), fields.integer(request, "rows", 50, 5, 1000)


def open_start(box: Box, channel: Channel, request: Request) -> Handler:
    """Serve ``tmux.start``: a session that runs argv with exactly env."""
    name, (cols, rows) = session_name(request), size(request)
    argv, env = fields.argv(request), fields.environment(request, box.env)
    cwd = fields.folder(request, "cwd", box.home)

    async def work() -> Dict[str, Any]:
        path = f"{box.config.run_dir}/session-{name}.sh"
        if (await box.tmux.run("has-session", "-t", "=" + name)).code == 0:
            raise OpError("conflict", f"there is a session {name} already")
        write_script(path, plain_script(argv, env, cwd))
        await box.tmux.new_session(name, path, wire.to_text(cwd), cols, rows)
        return {}

    return Call(channel, work())


class _Step:
    __slots__ = ("content", "keys", "kind", "pause")

    def __init__(self, raw: Any) -> None:
        if not isinstance(raw, dict):
            raise bad("a step must be an object")
        given = [k for k in ("text", "paste", "keys") if raw.get(k)]
        if len(given) > 1:
            raise bad("a step has exactly one of text, paste and keys")
        self.kind = given[0] if given else "pause"
        self.pause = fields.integer(raw, "pause_ms", 0, 0, _MAX_PAUSE)
        self.content = fields.string(raw, self.kind) if self.kind in ("text", "paste") else ""
        self.keys: List[str] = raw["keys"] if self.kind == "keys" else []
        if not isinstance(self.keys, list) or not all(
            isinstance(k, str) and _KEY.fullmatch(k) for k in self.keys
        ):
            raise bad("keys must be a list of tmux key names")


def open_keys(box: Box, channel: Channel, request: Request) -> Handler:
    """Serve ``tmux.keys``. Requests are served one after the other, so that two messages never
    mix; one whose connection is lost is still typed to its end."""
    target, raw = _target(request), request.get("steps")
    if not isinstance(raw, list) or len(raw) > 10_000:
        raise bad("steps must be a list")
    steps = [_Step(r) for r in raw]

    async def work() -> Dict[str, Any]:
        await box.keyboard.acquire()
        try:
            for step in steps:
                await _perform(box, target, step)
                if step.pause:
                    await sleep(box.loop, step.pause / 1000)
        finally:
            box.keyboard.release()
        return {}

    return Call(channel, work())


async def _perform(box: Box, target: str, step: _Step) -> None:
    if step.kind == "paste":
        await _paste(box, target, step.content)
    elif step.kind == "keys":
        await _send(box, target, ["send-keys", "-t", target, "--", *(_word(k) for k in step.keys)])
    elif step.kind == "text":
        for part in _parts(step.content):
            await _send(box, target, ["send-keys", "-t", target, "-l", "--", _word(part)])


async def _send(box: Box, target: str, command: List[str]) -> None:
    # A person who scrolls has the pane in a mode that would swallow the keys: leave it first.
    look = ["display-message", "-p", "-t", target, "#{pane_dead}", ";", "copy-mode", "-q", "-t", target, ";"]
    out = await box.tmux.must(*look, *command)
    if out.strip() == b"1":
        raise _dead(target)


async def _paste(box: Box, target: str, content: str) -> None:
    # Pasting into a dead pane kills the tmux server (seen with 3.3a) and every session with it:
    # the server itself must look and paste in one go.
    box.pastes += 1
    buffer = f"boxd-{box.pastes}"
    out = await box.tmux.must(
        "load-buffer", "-b", buffer, "-", ";",
        "if-shell", "-F", "-t", target, "#{pane_dead}",
        f"delete-buffer -b {buffer} ; display-message -p dead",
        f"paste-buffer -p -r -d -b {buffer} -t '{target}'",
        stdin=wire.to_bytes(content),
    )  # fmt: skip
    if out.strip() == b"dead":
        raise _dead(target)


def _dead(target: str) -> OpError:
    return OpError("not_now", f"what ran in {target} has ended")


def _word(text: str) -> str:
    """tmux takes a word that ends with ';' for the end of a command."""
    return text[:-1] + "\\;" if text.endswith(";") else text


def _parts(text: str) -> List[str]:
    parts: List[str] = []
    while text:
        part = text[:_TYPED]
        while len(wire.to_bytes(part)) > _TYPED:
            part = part[: len(part) // 2]
        parts.append(part)
        text = text[len(part) :]
    return parts


def open_capture(box: Box, channel: Channel, request: Request) -> Handler:
    """Serve ``tmux.capture``; a screen too large for one answer loses its oldest part."""
    target = _target(request)
    history = fields.integer(request, "history", 0, 0, 50_000)

    async def work() -> Dict[str, Any]:
        numbers = "#{cursor_x} #{cursor_y} #{pane_dead} #{pane_pid}"
        out = await box.tmux.must(
            "display-message", "-p", "-t", target, numbers, ";",
            "display-message", "-p", "-t", target, "#{pane_current_command}", ";",
            "display-message", "-p", "-t", target, "#{pane_title}", ";",
            "capture-pane", "-p", "-t", target, "-S", str(-history),
        )  # fmt: skip
        lines = out.decode("utf-8", "replace").split("\n", 3)
        first = lines[0].split()
        if len(lines) < 4 or len(first) != 4 or not all(n.isdigit() for n in first):
            raise OpError("not_found", f"tmux has no pane {target}")
        x, y, dead, pid = (int(n) for n in first)
        screen, cut = fields.clip(lines[3], _SCREEN, keep_end=True)
        found: Dict[str, Any] = {
            "screen": screen, "cursor": [x, y], "dead": bool(dead), "pid": pid,
            "command": lines[1][:256], "title": lines[2][:1024],
        }  # fmt: skip
        return {**found, "truncated": True} if cut else found

    return Call(channel, work())


_LIST = "\t".join(
    "#{" + name + "}"
    for name in (
        "session_name", "session_attached", "session_created", "pane_id", "pane_pid", "pane_dead",
        "pane_dead_status", "pane_current_command", "pane_title",
    )
)  # fmt: skip


def open_list(box: Box, channel: Channel, _request: Request) -> Handler:
    """Serve ``tmux.list``; without a server there are no sessions."""

    async def work() -> Dict[str, Any]:
        result = await box.tmux.run("list-panes", "-a", "-F", _LIST)
        sessions: Dict[str, Dict[str, Any]] = {}
        if result.code != 0:
            error = failure(result)
            if error.code != "not_found":
                raise error
        for line in result.out.decode("utf-8", "replace").splitlines():
            parts = line.split("\t", 8)
            if len(parts) != 9:
                continue
            name, attached, created, ident, pid, dead, status, command, title = parts
            session = sessions.setdefault(
                name, {"name": name, "attached": _int(attached), "created": _int(created), "panes": []}
            )
            session["panes"].append(
                {
                    "id": ident, "pid": _int(pid), "dead": dead == "1",
                    "dead_status": _int(status) if status else None,
                    "command": command[:256], "title": title[:1024],
                }
            )  # fmt: skip
        return {"sessions": list(sessions.values())}

    return Call(channel, work())


def _int(text: str) -> int:
    return int(text) if text.isdigit() else 0
