"""Takes credentials out of text that leaves the hub for a log or a person."""

from __future__ import annotations

import re

# Shapes of credentials people really have; known ones are hidden exactly as well (Redactor.hide).
_SHAPES = re.compile(
    r"sk-[A-Za-z0-9_-]{16,}"
    r"|gh[pousr]_[A-Za-z0-9]{16,}|github_pat_[A-Za-z0-9_]{16,}|glpat-[A-Za-z0-9_-]{16,}"
    r"|thp_[A-Za-z0-9_-]{16,}"
    r"|AKIA[0-9A-Z]{16}"
    r"|eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY-----[\s\S]*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)"
)
_CARRIERS = re.compile(
    r"(?i)((?:authorization|proxy-authorization|x-api-key|api[_-]?key|token|secret|password)"
    r"[\"']?\s*[:=]\s*[\"']?(?:bearer\s+|basic\s+)?|\bbearer\s+|://[^/\s:@]{0,200}:)"
    r"([^\s\"'@,;&]{6,})"
)


class Redactor:
    """Takes credentials out of text: every known one, and what looks like one."""

    def __init__(self) -> None:
        self._known: list[str] = []

    def hide(self, secret: str) -> None:
        """From now on this exact text is never logged."""
        if len(secret) >= 6 and secret not in self._known:
            self._known.append(secret)

    def __call__(self, text: str) -> str:
        """Return ``text`` without credentials."""
        for secret in self._known:
            text = text.replace(secret, "[hidden]")
        return _CARRIERS.sub(r"\1[hidden]", _SHAPES.sub("[hidden]", text))
