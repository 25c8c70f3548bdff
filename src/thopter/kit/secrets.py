"""The operator's secrets: in the desktop's keyring where there is one, else in a file of mode 0600.

A secret is never in an argument, in an environment we make, in a log or in an exception. Names are
not secret (``agents.claude.credential``) and are always listed in the file, which also says where
each secret is, so that a keyring that cannot be reached is an error and never "no such secret".
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import stat
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from msgspec import Struct

from thopter.kit.durable import write_private
from thopter.kit.paths import Paths, private_dir
from thopter.model.errors import BadInput, Refused, TimedOut

KINDS = ("bearer", "x-api-key", "plain")
CLAUDE = "agents.claude.credential"
_SERVICE = "thopter"
_KEYRING_SECONDS = 10.0
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,99}")

# In order of strength: what Claude Code itself reads, with the header each one goes into.
_CLAUDE_ENV = (
    ("ANTHROPIC_API_KEY", "x-api-key"),
    ("ANTHROPIC_AUTH_TOKEN", "bearer"),
    ("CLAUDE_CODE_OAUTH_TOKEN", "bearer"),
)


class Secret(Struct, frozen=True, kw_only=True):
    """A secret and the way it is presented: ``bearer``, ``x-api-key`` or ``plain``."""

    kind: str
    secret: str

    def __repr__(self) -> str:
        return f"Secret(kind={self.kind!r}, secret=<{len(self.secret)} characters>)"

    __str__ = __repr__


def secret(kind: str, value: str) -> Secret:
    """Check and make a secret; surrounding white space (a pasted newline) is taken off."""
    value = value.strip()
    if kind not in KINDS:
        raise BadInput(f"{kind!r} is not a kind of secret", hint="kinds: " + ", ".join(KINDS))
    if not value or len(value) > 65536 or any(ord(c) < 0x20 or ord(c) > 0x7E for c in value):
        raise BadInput("that can't be a secret: it is empty, too long, or has characters no header may carry")
    return Secret(kind=kind, secret=value)


def claude_credential(env: Mapping[str, str]) -> tuple[Secret, str] | None:
    """Return Claude Code's credential from ``env`` with the variable it came from, or None."""
    for name, kind in _CLAUDE_ENV:
        if env.get(name, "").strip():
            return secret(kind, env[name]), name
    return None


def without_credentials(env: Mapping[str, str]) -> dict[str, str]:
    """Return ``env`` without the variables that hold credentials (for processes that need none)."""
    return {k: v for k, v in env.items() if k not in {name for name, _ in _CLAUDE_ENV}}


class SecretStore:
    """The secrets of one user. Every call reads the file anew; writers exclude each other by a lock.

    ``backend``: ``file``, ``keyring`` or ``auto`` (keyring when there is a session bus); the default
    is ``THOPTER_SECRETS_BACKEND`` or ``auto``. A keyring call takes 10 s at most, then TimedOut.
    """

    def __init__(self, paths: Paths, env: Mapping[str, str] | None = None, backend: str = "") -> None:
        self._env = os.environ if env is None else env
        self._folder = paths.config
        self._file = paths.config / "secrets.json"
        backend = backend or self._env.get("THOPTER_SECRETS_BACKEND", "") or "auto"
        if backend not in ("auto", "file", "keyring"):
            raise BadInput(f"there is no secrets backend {backend!r}", hint="auto, file or keyring")
        self._may_fall_back = backend == "auto"
        if backend == "auto":
            backend = "keyring" if self._has_desktop() else "file"
        self.backend = backend

    def _has_desktop(self) -> bool:
        return sys.platform == "darwin" or bool(self._env.get("DBUS_SESSION_BUS_ADDRESS"))

    def stamp(self) -> object:
        """Changes whenever a secret was set or deleted, wherever it is kept."""
        try:
            found = self._file.stat()
        except OSError as e:
            return e.errno
        return found.st_ino, found.st_mtime_ns, found.st_size

    def names(self) -> list[str]:
        """Return the names of all secrets, wherever they are."""
        return sorted(self._read())

    def get(self, name: str) -> Secret | None:
        """Return the secret, or None when there is none of that name."""
        found = self._read().get(check_secret_name(name))
        if found is None:
            return None
        value = found["secret"] if "secret" in found else self._keyring("get", name)
        return Secret(kind=found["kind"], secret=value)

    def set(self, name: str, value: Secret, before: Secret | None = None) -> str:
        """Keep the secret; returns where (``file`` or ``keyring``). Durable when it returns. With ``before``
        only in the place of that one; returns "" when another (or none) is there."""
        check_secret_name(name)
        with self._locked():
            if before is not None and self.get(name) != before:
                return ""
            tree = self._read()
            was = tree.get(name)
            backend = self.backend
            if backend == "keyring":
                try:
                    self._keyring("set", name, value.secret)
                except (Refused, TimedOut):
                    if not self._may_fall_back:
                        raise
                    backend = "file"
            in_file = {"secret": value.secret} if backend == "file" else {}
            tree[name] = {"kind": value.kind, "where": backend, **in_file}
            self._write(tree)
        if was is not None and was["where"] == "keyring" and backend == "file":
            with contextlib.suppress(Refused, TimedOut):  # the file counts now; the old one is only litter
                self._keyring("delete", name)
        return backend

    def delete(self, name: str) -> bool:
        """Forget the secret; False when there was none."""
        with self._locked():
            tree = self._read()
            found = tree.pop(check_secret_name(name), None)
            if found is None:
                return False
            if found["where"] == "keyring":
                self._keyring("delete", name)
            self._write(tree)
        return True

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        private_dir(self._folder)
        fd = os.open(self._folder / "secrets.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)

    def _read(self) -> dict[str, dict[str, str]]:
        try:
            fd = os.open(self._file, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            return {}
        except OSError as e:
            raise Refused(
                f"{self._file} can't be read: {e.strerror}", hint="it must be a plain file"
            ) from None
        with open(fd, "rb") as file:
            found = os.fstat(fd)
            if found.st_uid != os.getuid() or stat.S_IMODE(found.st_mode) & 0o077:
                raise Refused(
                    f"{self._file} may be read by others",
                    hint=f"chmod 600 {self._file}, make it yours; and change the key, it may be known",
                )
            return _parse(self._file, file.read())

    def _write(self, tree: Mapping[str, Mapping[str, str]]) -> None:
        text = json.dumps({"version": 1, "secrets": tree}, indent=1, sort_keys=True)
        write_private(self._file, text.encode() + b"\n")

    def _keyring(self, verb: str, name: str, value: str = "") -> str:
        """Call the keyring in a process of its own: D-Bus can hang, and a thread can't be ended."""
        try:
            done = subprocess.run(
                [sys.executable, "-m", "thopter.kit.secrets", verb, name],
                input=value, capture_output=True, text=True, timeout=_KEYRING_SECONDS,
                env=without_credentials(self._env),
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            raise TimedOut(
                f"the keyring did not answer within {_KEYRING_SECONDS:.0f} s",
                hint="unlock it, or keep secrets in a file: THOPTER_SECRETS_BACKEND=file thopter setup",
            ) from None
        if done.returncode:
            why = (done.stderr.strip().splitlines() or ["it gave no reason"])[-1]
            raise Refused(
                f"the keyring could not {verb} {name}: {why}",
                hint="keep secrets in a file: THOPTER_SECRETS_BACKEND=file thopter setup",
            )
        return done.stdout


def check_secret_name(name: str) -> str:
    """Return ``name`` when it may name a secret, else raise BadInput."""
    if not _NAME.fullmatch(name):
        raise BadInput(f"{name[:60]!r} is not a name of a secret", hint="e.g. " + CLAUDE)
    return name


def _parse(path: Path, raw: bytes) -> dict[str, dict[str, str]]:
    try:
        tree = json.loads(raw)["secrets"]
        for name, item in tree.items():
            check_secret_name(name)
            if not all(isinstance(v, str) for v in item.values()) or not {"kind", "where"} <= item.keys():
                raise ValueError
            if item["where"] == "file" and "secret" not in item:
                raise ValueError
    except (ValueError, KeyError, TypeError, AttributeError, BadInput):
        # No detail: an exception's text could quote the secret.
        raise Refused(
            f"{path} is damaged; it was left as it is", hint="move it away and run 'thopter setup'"
        ) from None
    return dict(tree)


def _helper(argv: list[str]) -> int:
    """``python -m thopter.kit.secrets get|set|delete NAME``: the secret goes through the pipes only."""
    import keyring
    import keyring.errors

    verb, name = argv
    try:
        if verb == "set":
            keyring.set_password(_SERVICE, name, sys.stdin.read())
        elif verb == "delete":
            with contextlib.suppress(keyring.errors.PasswordDeleteError):
                keyring.delete_password(_SERVICE, name)
        else:
            value = keyring.get_password(_SERVICE, name)
            if value is None:
                print("it has no such secret", file=sys.stderr)
                return 1
            sys.stdout.write(value)
    except (keyring.errors.KeyringError, RuntimeError, OSError) as e:
        print(type(e).__name__ + ": " + str(e), file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(_helper(sys.argv[1:]))
