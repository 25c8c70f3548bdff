"""What a flow leaves on disk: one record for each step, one for its outcome (JSON, additive only)."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec
from msgspec import Struct, field

from thopter.model.errors import ThopterError, from_dict
from thopter.store import codec

R = TypeVar("R")
VALUE_MAX = 16 << 20  # characters of one recorded value

OUTCOME = "flow outcome"  # the step that records how a flow ended
UNDO = "undo "  # prefix of the steps that undo


class StepRecord(Struct, kw_only=True, omit_defaults=True):
    """One step that ran. ``unsure``: it failed in a way that leaves open what it did."""

    ok: bool
    title: str = ""
    ms: float = 0.0
    value: msgspec.Raw = field(default_factory=lambda: msgspec.Raw(b"null"))
    error: dict[str, Any] | None = None
    unsure: bool = False


class Outcome(Struct, kw_only=True, omit_defaults=True):
    """How a flow ended. ``status``: done or failed. ``problems``: what could not be undone."""

    status: str
    result: dict[str, Any] = field(default_factory=dict)
    error: dict[str, Any] | None = None
    problems: list[dict[str, Any]] = field(default_factory=list)

    def shown(self) -> dict[str, Any]:
        """The result as people see it, with the problems in it."""
        return {**self.result, "problems": self.problems} if self.problems else self.result


def dump(value: Any) -> str:
    """Encode a record."""
    return msgspec.json.encode(value).decode()


def load(text: str, kind: type[R]) -> R:
    """Decode a record that :func:`dump` wrote."""
    return msgspec.json.decode(text, type=kind)


def value_of(value: Any) -> msgspec.Raw:
    """A step's value, encoded. ThopterError when it is no JSON or too much of it."""
    try:
        raw = msgspec.json.encode(value)
    except (TypeError, ValueError, RecursionError) as e:
        raise ThopterError(
            f"a step's result can't be recorded: {e}", hint="this is a defect of thopter; please report it"
        ) from e
    if len(raw) > VALUE_MAX:
        raise ThopterError(f"a step's result is too large to be recorded ({len(raw):,} bytes)")
    return msgspec.Raw(raw)


def error_of(error: ThopterError) -> dict[str, Any]:
    """An error's wire form, surely encodable."""
    return codec.from_json(codec.to_json(error.to_dict()), dict[str, Any])


def error_from(data: dict[str, Any] | None) -> ThopterError:
    """The error again, of its own class."""
    return from_dict(data or {})
