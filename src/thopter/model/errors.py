"""One tree of errors.

Each has a stable ``code`` (for programs), an exit code (DESIGN 11.10), an HTTP status and a
``hint`` that says what to do next. *Refused* is not *failed*: a refusal is the system working.

::

    ThopterError                exit 1  http 500
    +-- BadInput                exit 2  http 422
    |   +-- BadName
    +-- NotFound                exit 3  http 404
    +-- HubUnreachable          exit 4  http 503
    +-- Refused                 exit 5  http 409
    |   +-- Conflict
    |   +-- Cancelled
    +-- NotAllowed              exit 6  http 403
    +-- TimedOut                exit 7  http 504
    +-- PartlyDone              exit 8  http 207
    +-- StorageError            exit 1  http 500
    |   +-- StorageFull         exit 1  http 507
    +-- ProviderError
        +-- Throttled           (retry_after seconds)
        +-- NotNow              the thing exists but is not in a state to do this
        +-- Unsupported
        +-- Ambiguous           sent, outcome unknown: look up by tag before retrying
"""

from __future__ import annotations

from typing import Any


class ThopterError(Exception):
    """Something went wrong; ``str(error)`` is one sentence for a person."""

    code = "failed"
    exit_code = 1
    http_status = 500
    default_hint = ""

    def __init__(self, message: str, *, hint: str | None = None, **data: Any) -> None:
        super().__init__(message)
        self.message = message
        self.hint = self.default_hint if hint is None else hint
        self.data = data

    def __reduce__(self) -> tuple[Any, ...]:
        """Survive pickling (durable flows store exceptions)."""
        return (_rebuild, (type(self), self.message, self.hint, self.data))

    def to_dict(self) -> dict[str, Any]:
        """Return the wire form: ``{"code", "message", "hint", "data"}``."""
        return {"code": self.code, "message": self.message, "hint": self.hint, "data": self.data}


def _rebuild(cls: type[ThopterError], message: str, hint: str, data: dict[str, Any]) -> ThopterError:
    error = cls.__new__(cls)
    ThopterError.__init__(error, message, hint=hint, **data)
    return error


class BadInput(ThopterError):
    """What was asked cannot be meant; nothing was done."""

    code = "bad_input"
    exit_code = 2
    http_status = 422


class BadName(BadInput):
    """A name that can't name a thopter."""

    code = "bad_name"

    def __init__(self, name: str, **kw: Any) -> None:
        shown = name if len(name) <= 60 else name[:57] + "..."
        super().__init__(
            f"{shown!r} is not a usable name",
            hint="use 1 to 61 of a-z, 0-9 and '-', not starting or ending with '-', e.g. fix-login",
            **kw,
        )


class NotFound(ThopterError):
    """There is no such thing."""

    code = "not_found"
    exit_code = 3
    http_status = 404


class HubUnreachable(ThopterError):
    """No hub answers, or it went away in the middle."""

    code = "hub_unreachable"
    exit_code = 4
    http_status = 503
    default_hint = "see 'thopter hub status' and 'thopter hub logs'"


class Refused(ThopterError):
    """The system declined, on purpose."""

    code = "refused"
    exit_code = 5
    http_status = 409


class Conflict(Refused):
    """It exists already, or somebody else holds it."""

    code = "conflict"


class Cancelled(Refused):
    """Somebody called it off before it was done; what it had done was undone."""

    code = "cancelled"


class NotAllowed(ThopterError):
    """The caller may not do this."""

    code = "not_allowed"
    exit_code = 6
    http_status = 403


class TimedOut(ThopterError):
    """The wait was bounded and the bound was reached; the thing itself may still happen."""

    code = "timed_out"
    exit_code = 7
    http_status = 504


class PartlyDone(ThopterError):
    """Some of several parts were done; ``data`` says which."""

    code = "partly_done"
    exit_code = 8
    http_status = 207


class StorageError(ThopterError):
    """The hub's own database could not do this; nothing of it was recorded."""

    code = "storage_failed"
    default_hint = "see 'thopter hub logs'; the disk or the database file may be damaged"


class StorageFull(StorageError):
    """There is no room on the hub's disk; nothing of this was recorded, the hub goes on."""

    code = "storage_full"
    http_status = 507
    default_hint = "free some space on the disk of the state folder, then do it again"


class ProviderError(ThopterError):
    """A provider could not do what was asked."""

    code = "provider_error"
    http_status = 502


class Throttled(ProviderError):
    """Asked too often; ``data["retry_after"]`` is in seconds."""

    code = "throttled"
    http_status = 429


class NotNow(ProviderError):
    """The thing exists but is not in a state in which this can be done."""

    code = "not_now"
    exit_code = 5
    http_status = 409


class Unsupported(ProviderError):
    """This kind of provider (with this spec) cannot do this at all."""

    code = "unsupported"
    exit_code = 5
    http_status = 501


class Ambiguous(ProviderError):
    """Sent, outcome unknown. Look the thing up by its tag before trying again."""

    code = "ambiguous"


def _walk(cls: type[ThopterError]) -> list[type[ThopterError]]:
    return [cls, *[found for sub in cls.__subclasses__() for found in _walk(sub)]]


def from_dict(data: dict[str, Any]) -> ThopterError:
    """Rebuild an error from its wire form; an unknown code becomes plain :class:`ThopterError`."""
    code = str(data.get("code", "failed"))
    cls = next((c for c in _walk(ThopterError) if c.code == code), ThopterError)
    extra = data.get("data")
    return _rebuild(
        cls,
        str(data.get("message", "unknown error")),
        str(data.get("hint", "")),
        extra if isinstance(extra, dict) else {},
    )
