"""boxd's configuration: a plain dict (JSON) given at its start, checked once."""

from __future__ import annotations

from typing import Any, Dict, List, Mapping

from thopter.boxd import wire

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/opt/thopter/claude/bin"


class Config:
    """Everything boxd is told. Unknown keys are ignored; a wrong type is a ValueError.

    ``inotify`` false makes tail look at files again and again, for file systems that tell nothing.
    ``hook_port`` 0 takes any free port, -1 means no hook listener. ``hook_token`` must not be
    empty when there is one: hooks without a token would be open to whoever shares the loopback.
    ``inherits``: see :class:`Inherits`.
    """

    def __init__(self, raw: Mapping[str, Any]) -> None:
        self.run_dir = _text(raw, "run_dir", "/run/thopter")
        self.var_dir = _text(raw, "var_dir", "/var/lib/thopter")
        self.hook_port = _number(raw, "hook_port", 8400)
        self.hook_token = _text(raw, "hook_token", "")
        self.home = _text(raw, "home", "/root")
        self.path = _text(raw, "path", DEFAULT_PATH)
        self.name = _text(raw, "name", "")
        self.key = _text(raw, "key", "")
        self.tmux = _text(raw, "tmux", "tmux")
        self.journal_segment = _number(raw, "journal_segment", 1 << 20)
        self.journal_segments = _number(raw, "journal_segments", 8)
        self.inotify = raw.get("inotify", True)
        extra = raw.get("env", {})
        if not isinstance(extra, dict) or not all(
            isinstance(k, str) and k and "=" not in k and isinstance(v, str) for k, v in extra.items()
        ):
            raise ValueError("env must be an object of texts")
        self.inherits = Inherits(raw.get("inherits", {}))
        if not isinstance(self.inotify, bool):
            raise ValueError("inotify must be true or false")
        self.env: Dict[str, str] = dict(extra)
        for name in ("run_dir", "var_dir", "home"):
            if not getattr(self, name).startswith("/"):
                raise ValueError(f"{name} must be an absolute path")
        if not -1 <= self.hook_port <= 65535:
            raise ValueError("hook_port must be from -1 to 65535")

    def box_env(self) -> Dict[bytes, bytes]:
        """The environment that processes of the box get when none is asked for."""
        env = {
            "HOME": self.home,
            "PATH": self.path,
            "LANG": "C.UTF-8",
            "TERM": "xterm-256color",
            "USER": "root",
            "LOGNAME": "root",
            "SHELL": "/bin/bash",
        }
        if self.name:
            env["THOPTER_NAME"] = self.name
        env.update(self.env)
        return {wire.to_bytes(k): wire.to_bytes(v) for k, v in env.items()}


class Inherits:
    """What the programs of a box bring along that were started in another one and forked with it:
    they still show that box's token and name its run. ``{"run": …, "past": [[token, run], …]}``."""

    def __init__(self, raw: Any) -> None:
        past = raw.get("past", []) if isinstance(raw, dict) else None
        if not isinstance(past, list) or not all(
            isinstance(p, list) and len(p) == 2 and all(isinstance(t, str) and t for t in p) for p in past
        ):
            raise ValueError("inherits must have past, a list of tokens with their runs")
        self.run = _text(raw, "run", "")
        self.tokens: List[str] = [token for token, _ in past]
        self._runs = {run for _, run in past}

    def own(self, run: str) -> str:
        """The run that is meant by ``run`` (or a life of it) here."""
        return self.run if run.partition(".")[0] in self._runs else run


def _text(raw: Mapping[str, Any], name: str, default: str) -> str:
    value = raw.get(name, default)
    if not isinstance(value, str) or "\0" in value:
        raise ValueError(f"{name} must be a text")
    return value


def _number(raw: Mapping[str, Any], name: str, default: int) -> int:
    value = raw.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"{name} must be a whole number")
    return value
