"""What secrets look like. Standard library only: the hook that judges pushes uses it.

Each shape has fixed text that must be there before its expression is tried, so that searching megabytes
costs a few passes of memmem. Packed and encoded text is not looked into.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator

#: name → (fixed texts, expression). The name is what the refusal says; the secret itself is never shown.
SHAPES: dict[str, tuple[tuple[bytes, ...], re.Pattern[bytes]]] = {
    name: (fixed, re.compile(expression))
    for name, fixed, expression in (
        ("private key", (b"PRIVATE KEY",), rb"-----BEGIN (?:[A-Z0-9]+ ){0,3}PRIVATE KEY(?: BLOCK)?-----"),
        ("AWS access key", (b"AKIA", b"ASIA"), rb"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b"),
        ("GitHub token", (b"gh",), rb"\bgh[pousr]_[A-Za-z0-9]{36,255}\b"),
        ("GitHub personal token", (b"github_pat_",), rb"\bgithub_pat_[A-Za-z0-9_]{50,255}\b"),
        ("GitLab token", (b"glpat-",), rb"\bglpat-[A-Za-z0-9_-]{20,}"),
        ("Anthropic key", (b"sk-ant-",), rb"\bsk-ant-[a-z0-9]{2,12}-[A-Za-z0-9_-]{20,}"),
        ("OpenAI key", (b"sk-proj-", b"sk-svcacct-"), rb"\bsk-(?:proj|svcacct)-[A-Za-z0-9_-]{40,}"),
        ("Slack token", (b"xox",), rb"\bxox[abeprs]-[0-9A-Za-z-]{20,}"),
        ("Slack webhook", (b"hooks.slack.com",), rb"hooks\.slack\.com/services/T\w+/B\w+/\w{20,}"),
        ("Google API key", (b"AIza",), rb"\bAIza[0-9A-Za-z_-]{35}\b"),
        ("Stripe key", (b"k_live_",), rb"\b[rs]k_live_[0-9A-Za-z]{24,}\b"),
        ("npm token", (b"npm_",), rb"\bnpm_[A-Za-z0-9]{36}\b"),
        ("PyPI token", (b"pypi-AgEI",), rb"\bpypi-AgEI[A-Za-z0-9_-]{50,}"),
        ("Hugging Face token", (b"hf_",), rb"\bhf_[A-Za-z0-9]{34,}\b"),
        ("SendGrid key", (b"SG.",), rb"\bSG\.[\w-]{22}\.[\w-]{43}\b"),
        ("DigitalOcean token", (b"do",), rb"\bdo[opr]_v1_[0-9a-f]{64}\b"),
        ("Tailscale key", (b"tskey-",), rb"\btskey-[a-z]+-[A-Za-z0-9]{8,}-[A-Za-z0-9]{16,}"),
        ("password in an address", (b"://",), rb"\bhttps?://[^\s/:@'\"<>{}$]{1,100}:[^\s/:@'\"<>{}$*]{8,200}@[\w.-]+\."),
    )
}  # fmt: skip

_WORD = re.compile(rb"[A-Za-z0-9_.~+/=:-]{12,4096}")
_EDGES = b".,:=/+~-_"
WORD_MIN = 12


def find(data: bytes) -> str:
    """The name of the first shape found in ``data``, or ""."""
    for name, (fixed, expression) in SHAPES.items():
        if any(text in data for text in fixed) and expression.search(data):
            return name
    return ""


def marks(secret: str) -> list[str]:
    """How :func:`known` recognizes a secret without having it: the lengths and hashes of its words."""
    words = (word.strip(_EDGES) for word in _WORD.findall(secret.encode("utf-8", "surrogateescape")))
    return [_mark(word) for word in words if len(word) >= WORD_MIN]


def _mark(word: bytes) -> str:
    return hashlib.sha256(b"thopter:" + word).hexdigest()


def known(data: bytes, wanted: Iterable[str]) -> bool:
    """Whether ``data`` has a word whose mark is among ``wanted``; also within quotes and assignments."""
    marks_ = frozenset(wanted)
    return bool(marks_) and any(_mark(w) in marks_ for word in _WORD.findall(data) for w in _parts(word))


def _parts(word: bytes) -> Iterator[bytes]:
    """What is left of a word, and of its parts, without what glues words together (``key=VALUE==``)."""
    bare = word.strip(_EDGES)
    yield bare
    for glue in (b"=", b":", b"/"):
        if glue in bare:
            for piece in (part.strip(_EDGES) for part in bare.split(glue)):
                if len(piece) >= WORD_MIN:
                    yield piece
