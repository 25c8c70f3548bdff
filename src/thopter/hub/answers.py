"""How the hub answers: JSON, the error shape, and the headers that every answer carries."""

from __future__ import annotations

import logging
import math
from typing import Any

import msgspec

from thopter.hub.asgi import Scope, Send
from thopter.model.errors import BadInput, NotAllowed, NotFound, ThopterError, Throttled
from thopter.model.ids import new_id

log = logging.getLogger("thopter.hub.answers")

# On every answer, errors of the HTTP parser included: what comes from here is data, never a page.
SECURITY_HEADERS: tuple[tuple[bytes, bytes], ...] = (
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"x-content-type-options", b"nosniff"),
    (b"cache-control", b"no-store"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
)
JSON_TYPE = (b"content-type", b"application/json")
BYTES_TYPE = (b"content-type", b"application/octet-stream")
Headers = list[tuple[bytes, bytes]]

_encoder = msgspec.json.Encoder()


def encode(value: Any) -> bytes:
    """Encode as JSON. Lone surrogates (text of a box can hold them) become U+FFFD."""
    try:
        return _encoder.encode(value)
    except UnicodeEncodeError:
        return _encoder.encode(_mend(msgspec.to_builtins(value)))


def _mend(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, dict):
        return {_mend(k): _mend(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_mend(v) for v in value]
    return value


class _HttpError(ThopterError):
    """An error of the HTTP layer: a status of its own, a code that clients know."""

    def __init__(self, like: type[ThopterError], status: int, message: str, hint: str, **data: Any) -> None:
        super().__init__(message, hint=hint, **data)
        self.code = like.code
        self.exit_code = like.exit_code
        self.http_status = status


def bad_request(message: str, hint: str = "", *, status: int = 400, **data: Any) -> ThopterError:
    """What came is not a request of this API (400, 405, 413, 415, 422, 426, 431)."""
    return _HttpError(BadInput, status, message, hint, **data)


def not_allowed(message: str, hint: str = "", *, status: int = 403, **data: Any) -> ThopterError:
    """The caller did not show what this door wants (401, 403, 421)."""
    return _HttpError(NotAllowed, status, message, hint, **data)


def no_such_path(path: str) -> ThopterError:
    """There is no route like that."""
    shown = path if len(path) <= 100 else path[:97] + "..."
    return NotFound(f"there is nothing at {shown!r}", hint="see /v1/openapi.json")


def throttled(seconds: float) -> ThopterError:
    """Too many failures; ``seconds`` until the next may come."""
    return Throttled("too many failed attempts", hint="wait a little", retry_after=math.ceil(seconds))


def unexpected(scope: Scope, error: Exception) -> ThopterError:
    """Log a failure nobody foresaw, with its traceback; return what the client may know: an id."""
    incident = new_id("inc")
    data: dict[str, Any] = {"incident": incident, "method": scope.get("method", "WS"), "path": scope["path"]}
    log.error("unexpected failure of a request", exc_info=error, extra={"data": data})
    return ThopterError(
        "something unexpected went wrong in the hub",
        hint=f"'thopter hub logs' has the details under {incident}",
        incident=incident,
    )


def error_headers(error: ThopterError) -> Headers:
    """Headers that belong to the error's status."""
    headers = [JSON_TYPE]
    retry_after = error.data.get("retry_after")
    if isinstance(retry_after, int | float) and math.isfinite(retry_after) and retry_after >= 0:
        headers.append((b"retry-after", str(math.ceil(retry_after)).encode()))
    if error.http_status == 401:
        headers.append((b"www-authenticate", b'Bearer realm="thopter"'))
    allow = error.data.get("allow")
    if error.http_status == 405 and isinstance(allow, str):
        headers.append((b"allow", allow.encode("ascii")))
    if error.http_status == 426:
        headers.append((b"upgrade", b"websocket"))
    return headers


def error_body(error: ThopterError) -> bytes:
    """``{"error": {code, message, hint, data}}``; data that JSON can't hold is shown as text."""
    wire = error.to_dict()
    try:
        return encode({"error": wire})
    except (TypeError, ValueError, OverflowError, RecursionError):
        return encode({"error": wire | {"data": {"text": repr(error.data)[:500]}}})


async def send_body(send: Send, status: int, headers: Headers, body: bytes, websocket: bool = False) -> None:
    """Send a whole answer; ``websocket``: as the refusal of a handshake."""
    kind = "websocket.http.response" if websocket else "http.response"
    length = (b"content-length", str(len(body)).encode())
    await send({"type": f"{kind}.start", "status": status, "headers": [*headers, length]})
    await send({"type": f"{kind}.body", "body": body, "more_body": False})


async def send_json(send: Send, status: int, value: Any) -> None:
    """Answer ``value`` as JSON."""
    await send_body(send, status, [JSON_TYPE], encode(value))


async def send_error(send: Send, error: ThopterError, websocket: bool = False) -> None:
    """Answer an error."""
    await send_body(send, error.http_status, error_headers(error), error_body(error), websocket)
