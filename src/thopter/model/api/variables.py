"""Requests and answers about variables for boxes, and the rules for their names."""

from __future__ import annotations

import re
from typing import Annotated

from msgspec import Meta, Struct

from thopter.model.errors import BadInput

VALUE_MAX = 65536
TOTAL_MAX = 512 << 10  # bytes of all together: they must fit beside an agent's arguments
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
_OURS = frozenset({
    "HOME", "PATH", "SHELL", "USER", "LOGNAME", "TERM", "PWD", "OLDPWD", "SHLVL", "IFS", "BASH_ENV", "ENV",
    "IS_SANDBOX", "ANTHROPIC_BASE_URL",
})  # fmt: skip
_MODEL_KEYS = frozenset({"ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN", "CLAUDE_CODE_OAUTH_TOKEN"})
_LOOKS_SECRET = re.compile(
    r"(^|_)(API_?KEY|KEY|TOKEN|SECRET|PASSWORD|PASSWD|PASS|PAT|CREDENTIALS?|PRIVATE)(_|$)", re.IGNORECASE
)
_SECRET_VALUE = re.compile(
    r"sk-[A-Za-z0-9_-]{16,}|gh[pousr]_[A-Za-z0-9]{20,}|github_pat_\w{20,}|glpat-[\w-]{16,}|xox[abprs]-[\w-]{10,}"
    r"|AKIA[0-9A-Z]{12,}|AIza[\w-]{30,}|-----BEGIN [A-Z ]*PRIVATE KEY-----|[a-z]+://[^/\s:@]+:[^/\s@]+@"
)


class VariableView(Struct, kw_only=True):
    """A variable as it is listed: of the value only its beginning."""

    name: str
    masked: str
    size: int
    changed_ms: int


class VariableList(Struct, kw_only=True):
    """``GET /v1/variables``."""

    variables: list[VariableView]


class SetVariables(Struct, kw_only=True):
    """``POST /v1/variables``: all are set, or none."""

    values: Annotated[dict[str, str], Meta(min_length=1, max_length=1000)]


class DeleteVariable(Struct, kw_only=True):
    """``POST /v1/variables/delete``."""

    name: Annotated[str, Meta(min_length=1, max_length=200)]


class Deleted(Struct, kw_only=True):
    """Its answer; ``found`` False: there was none, which is as good as deleted."""

    found: bool


class Renewed(Struct, kw_only=True):
    """``POST /v1/credentials/renew``: the thopters whose model calls go out with a stored credential."""

    thopters: list[str]


def check_variable(name: str, value: str) -> None:
    """BadInput for what can't be a variable of a box."""
    if not _NAME.fullmatch(name):
        raise BadInput(
            f"{name[:80]!r} can't name a variable",
            hint="letters, digits and _; not a digit first, e.g. NODE_ENV",
        )
    if name in _MODEL_KEYS:
        raise BadInput(
            f"{name} is the model credential: no box may hold it",
            hint="'thopter setup' keeps it outside boxes",
        )
    if name in _OURS or name.startswith("THOPTER_"):
        raise BadInput(f"{name} is set by thopter itself in every box")
    if "\0" in value or len(value.encode("utf-8", "surrogateescape")) > VALUE_MAX:
        raise BadInput(f"the value of {name} has a NUL character or is over {VALUE_MAX >> 10} KiB")


def looks_secret(name: str, value: str) -> bool:
    """True when it is probably a credential: by its name, or by the shape of its value."""
    return bool(value) and bool(_LOOKS_SECRET.search(name) or _SECRET_VALUE.search(value))


def masked(value: str) -> str:
    """The first four characters of a long value; nothing of a short one."""
    return value[:4] + "..." if len(value) > 8 else "***" if value else ""
