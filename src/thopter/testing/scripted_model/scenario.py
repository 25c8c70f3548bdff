"""Scenario files: what the scripted model says, does and breaks, as types; read from TOML or JSON.

The words are documented for people in docs/reference/scripted-model.md.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import msgspec
from msgspec import UNSET, Struct, UnsetType, field

from thopter.model.errors import BadInput

BUILT_IN = ("demo",)
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
ERROR_TYPES = {
    400: "invalid_request_error", 401: "authentication_error", 403: "permission_error",
    404: "not_found_error", 413: "request_too_large", 429: "rate_limit_error",
    500: "api_error", 529: "overloaded_error",
}  # fmt: skip


class Tool(Struct, frozen=True, forbid_unknown_fields=True):
    """One tool call; ``id`` is made up when empty. ``${cwd}`` and the like are filled in."""

    name: str
    input: dict[str, Any] = field(default_factory=dict)
    id: str = ""


class Usage(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Token counts; what is not given is estimated from the sizes (four characters a token)."""

    input_tokens: int | UnsetType = UNSET
    output_tokens: int | UnsetType = UNSET
    cache_creation_input_tokens: int = 0
    cache_read_input_tokens: int = 0


class Turn(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One answer of the model.

    ``status`` other than 200 is an HTTP error; with ``fail_first = N`` only the first N attempts
    of this very request fail. ``drop_after`` cuts the stream after that many pieces (0: before the
    first byte), ``error_after`` sends an error event there instead, ``stall_after`` goes silent
    there for ``stall_ms`` (-1: until the client leaves).
    """

    think: str = ""
    say: str = ""
    tools: tuple[Tool, ...] = ()
    delay_ms: int | UnsetType = UNSET
    chunk_ms: int | UnsetType = UNSET
    status: int = 200
    message: str = ""
    retry_after: float | None = None
    fail_first: int = 0
    drop_after: int | None = None
    error_after: int | None = None
    stall_after: int | None = None
    stall_ms: int = -1
    usage: Usage = Usage()
    stop_reason: str = ""

    def __post_init__(self) -> None:
        if not (self.think or self.say or self.tools or self.broken):
            raise ValueError("a turn must say, think, call a tool or fail")
        if self.fail_first and not self.broken:
            raise ValueError(
                "fail_first needs to know how to fail: set status, drop_after, error_after or stall_after"
            )

    @property
    def broken(self) -> bool:
        """Whether something goes wrong in this turn, on purpose."""
        cuts = (self.drop_after, self.error_after, self.stall_after)
        return self.status != 200 or any(cut is not None for cut in cuts)


class Script(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A named sequence of turns.

    Picked by ``script:NAME`` in a prompt, or by ``match`` (a regular expression, case ignored; its
    named groups can be used as ``${group}``); ``after`` restricts ``match`` to conversations in
    which one of those scripts came before. ``resume``: when its turns are over, the script that it
    interrupted goes on.
    """

    name: str
    turns: tuple[Turn, ...]
    match: str = ""
    after: tuple[str, ...] = ()
    resume: bool = False

    def __post_init__(self) -> None:
        if not NAME.fullmatch(self.name):
            raise ValueError(f"{self.name!r} cannot name a script: use letters, digits, '-', '_' and '.'")
        if not self.turns:
            raise ValueError(f"script {self.name!r} has no turns")
        try:
            re.compile(self.match)
        except re.error as e:
            raise ValueError(f"match of script {self.name!r} is not a regular expression: {e}") from None


_DEFAULT_SAY = (
    "I am the scripted model, not a language model: I play what my scenario file holds, and no script of it "
    "answers this prompt:\n\n> ${prompt}\n\nScripts I know: ${scripts}. Name one in the prompt as "
    "`script:NAME`, or connect a real model."
)


class Scenario(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A whole scenario file. ``delay_ms`` and ``chunk_ms`` are for turns that do not set their own;
    ``chunk_chars`` is the size of a streamed piece. ``require_key``: requests whose bearer token or
    ``x-api-key`` differs are answered 401. ``default`` answers prompts that no script claims;
    ``side`` answers requests without tools (titles, summaries)."""

    script: tuple[Script, ...] = ()
    default: tuple[Turn, ...] = (Turn(say=_DEFAULT_SAY),)
    side: Turn = Turn(say="Scripted session")
    model: str = "scripted-model"
    delay_ms: int = 0
    chunk_ms: int = 0
    chunk_chars: int = 40
    require_key: str = ""

    def __post_init__(self) -> None:
        names = [s.name for s in self.script]
        twice = sorted({n for n in names if names.count(n) > 1})
        if twice:
            raise ValueError(f"these scripts are there twice: {', '.join(twice)}")
        for script in self.script:
            missing = [n for n in script.after if n not in names]
            if missing:
                raise ValueError(f"script {script.name!r} comes after {missing[0]!r}, which is not there")
        if self.chunk_chars < 1:
            raise ValueError("chunk_chars must be at least 1")
        if not self.default:
            raise ValueError("default has no turns")

    def find(self, name: str) -> Script | None:
        """Return the script of that name, or None."""
        return next((s for s in self.script if s.name == name), None)

    def with_scripts(self, scripts: Iterable[Script]) -> Scenario:
        """Return this scenario with scripts added; those of the same name are replaced."""
        merged = {s.name: s for s in self.script} | {s.name: s for s in scripts}
        return msgspec.structs.replace(self, script=tuple(merged.values()))


def parse_scenario(data: Mapping[str, Any], origin: str) -> Scenario:
    """Check ``data`` against the schema; BadInput says where in ``origin`` it is wrong."""
    try:
        return msgspec.convert(data, Scenario)
    except msgspec.ValidationError as e:
        raise BadInput(f"{origin}: {e}", hint="see docs/reference/scripted-model.md") from None


def load_scenario(source: str | Path) -> Scenario:
    """Read a ``.toml`` or ``.json`` file, or a built-in scenario by its name (``demo``)."""
    path = Path(source)
    if str(source) in BUILT_IN and not path.is_file():
        text = resources.files(__package__).joinpath("scenarios", f"{source}.toml").read_text("utf-8")
        return parse_scenario(tomllib.loads(text), f"built-in scenario {source}")
    try:
        raw = path.read_bytes()
    except OSError as e:
        raise BadInput(
            f"scenario {path} can't be read: {e.strerror}", hint=f"built-in scenarios: {', '.join(BUILT_IN)}"
        ) from None
    try:
        data = msgspec.json.decode(raw) if path.suffix == ".json" else tomllib.loads(raw.decode())
    except (msgspec.DecodeError, tomllib.TOMLDecodeError, UnicodeDecodeError) as e:
        kind = "JSON" if path.suffix == ".json" else "TOML"
        raise BadInput(f"scenario {path} is not {kind}: {e}") from None
    return parse_scenario(data, f"scenario {path}")
