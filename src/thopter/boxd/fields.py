"""Reading the fields of a request: each getter returns a checked value or raises OpError."""

from __future__ import annotations

import errno
import os
from typing import Any, Dict, List, Optional, Tuple

from thopter.boxd import wire

Request = Dict[str, Any]


class OpError(Exception):
    """A request that ends with ``{"error": {code, message, …}}``; ``extra`` are further fields."""

    def __init__(self, code: str, message: str, **extra: Any) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.extra = extra

    def body(self) -> Dict[str, Any]:
        """The content of the error message."""
        return {**self.extra, "code": self.code, "message": self.message}


_CODES = {
    errno.ENOENT: "not_found",
    errno.ENOTDIR: "not_found",
    errno.ESRCH: "not_found",
    errno.EEXIST: "conflict",
    errno.EADDRINUSE: "conflict",
    errno.EACCES: "not_allowed",
    errno.EPERM: "not_allowed",
    errno.EROFS: "not_allowed",
    errno.ENOSPC: "no_space",
    errno.EDQUOT: "no_space",
    errno.EISDIR: "bad_input",
    errno.ENAMETOOLONG: "bad_input",
    errno.ELOOP: "bad_input",
    errno.E2BIG: "bad_input",
    errno.ECONNREFUSED: "not_now",
}


def from_os(error: OSError, what: str) -> OpError:
    """Turn what the system said into an OpError; ``what`` names the thing it is about."""
    code = _CODES.get(error.errno or 0, "failed")
    return OpError(code, f"{what}: {os.strerror(error.errno) if error.errno else error}")


def bad(message: str) -> OpError:
    """An OpError for a request that can't be meant."""
    return OpError("bad_input", message)


def string(request: Request, name: str, default: Optional[str] = None) -> str:
    """A text without NUL that stands for bytes; required when there is no default."""
    value = request.get(name)
    if value is None and default is not None:
        return default
    if not isinstance(value, str) or "\0" in value:
        raise bad(f"{name} must be a text without NUL")
    _encoded(value, name)
    return value


def _encoded(value: str, name: str) -> bytes:
    try:
        return wire.to_bytes(value)
    except ValueError:
        raise bad(f"{name} is not a text that stands for bytes") from None


def path(request: Request, name: str = "path") -> bytes:
    """An absolute path."""
    value = wire.to_bytes(string(request, name))
    if not value.startswith(b"/"):
        raise bad(f"{name} must be an absolute path")
    return value


def integer(request: Request, name: str, default: Optional[int], low: int, high: int) -> int:
    """A whole number from ``low`` to ``high``; required when ``default`` is None."""
    value = request.get(name)
    if value is None and default is not None:
        return default
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise bad(f"{name} must be a whole number from {low} to {high}")
    return value


def flag(request: Request, name: str, default: bool) -> bool:
    """True or false."""
    value = request.get(name)
    if value is None:
        return default
    if not isinstance(value, bool):
        raise bad(f"{name} must be true or false")
    return value


def argv(request: Request) -> List[bytes]:
    """A command: at least one word, the first not empty."""
    value = request.get("argv")
    if not isinstance(value, list) or not value or not value[0]:
        raise bad("argv must be a list of texts, the first not empty")
    words: List[bytes] = []
    for word in value:
        if not isinstance(word, str) or "\0" in word:
            raise bad("argv must hold texts without NUL only")
        words.append(_encoded(word, "argv"))
    return words


def environment(request: Request, default: Dict[bytes, bytes]) -> Dict[bytes, bytes]:
    """``env``: exactly those variables; null or missing means the box's default with ``more_env``."""
    value = request.get("env")
    if value is not None:
        return _variables(value, "env")
    more = request.get("more_env")
    return default if more is None else {**default, **_variables(more, "more_env")}


def _variables(value: Any, field: str) -> Dict[bytes, bytes]:
    if not isinstance(value, dict):
        raise bad(f"{field} must be an object of texts, or null")
    env: Dict[bytes, bytes] = {}
    for key, text in value.items():
        if not isinstance(text, str) or not key or "=" in key or "\0" in key or "\0" in text:
            raise bad(f"{field} must be an object of texts without NUL; names are not empty and hold no '='")
        env[_encoded(key, field)] = _encoded(text, field)
    return env


def clip(text: str, limit: int, keep_end: bool = False) -> Tuple[str, bool]:
    """Cut ``text`` so that its JSON form takes at most ``limit`` bytes; return it and whether it
    was cut. The beginning is kept, or the end."""
    cut = False
    while True:
        size = len(wire.dumps(text))
        if size <= limit:
            return text, cut
        cut = True
        keep = min(len(text) - 1, len(text) * limit // size)
        text = (text[len(text) - keep :] if keep_end else text[:keep]) if keep else ""


def folder(request: Request, name: str, default: bytes) -> bytes:
    """An absolute path of a folder that exists; ``not_found`` (``what``: the name) otherwise."""
    value = path(request, name) if request.get(name) else default
    if not os.path.isdir(value):
        raise OpError("not_found", f"the folder {wire.to_text(value)}: there is none", what=name)
    return value
