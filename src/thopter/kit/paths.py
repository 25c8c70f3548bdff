"""Where things are: state, runtime and config folders (XDG base directories), checked before use."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Mapping
from pathlib import Path

from msgspec import Struct

from thopter.model.errors import Refused

_SUN_PATH_ROOM = 60  # a unix socket path is cut at 108 bytes; file names below use up to 45


class Paths(Struct, frozen=True):
    """The folders of one hub. Nothing is created here; see :func:`private_dir`."""

    state: Path
    runtime: Path
    config: Path

    @property
    def hub_socket(self) -> Path:
        """The hub's API socket."""
        return self.runtime / "hub.sock"

    @property
    def hub_lock(self) -> Path:
        """Held (flock) by the one hub of this state folder."""
        return self.state / "hub.lock"

    @property
    def hub_log(self) -> Path:
        """The hub's own log, JSON lines."""
        return self.state / "hub.log"

    @property
    def config_file(self) -> Path:
        """The user's configuration."""
        return self.config / "config.toml"


def find_paths(env: Mapping[str, str] | None = None, uid: int | None = None) -> Paths:
    """Decide the folders from the environment; the rules are in docs/reference/files.md."""
    env = os.environ if env is None else env
    uid = os.getuid() if uid is None else uid
    home = Path(env.get("HOME") or os.path.expanduser("~"))

    def xdg(name: str, default: str) -> Path:
        value = env.get(name, "")
        return Path(value) if value.startswith("/") else home / default

    given = env.get("THOPTER_STATE_DIR", "")
    state = Path(given).absolute() if given else xdg("XDG_STATE_HOME", ".local/state") / "thopter"
    config = Path(env.get("THOPTER_CONFIG_DIR") or xdg("XDG_CONFIG_HOME", ".config") / "thopter")
    return Paths(state, _runtime(env, uid, state, bool(given)), config.absolute())


def _runtime(env: Mapping[str, str], uid: int, state: Path, state_given: bool) -> Path:
    if env.get("THOPTER_RUNTIME_DIR"):
        return Path(env["THOPTER_RUNTIME_DIR"]).absolute()
    if state_given:
        # One state folder, one hub, one set of sockets: two hubs must never share them.
        inside = state / "run"
        if len(os.fsencode(inside)) <= _SUN_PATH_ROOM:
            return inside
        import hashlib  # only here, and dear to import

        digest = hashlib.sha256(os.fsencode(state)).hexdigest()[:8]
        return Path(f"/tmp/thopter-{uid}-{digest}")
    if env.get("XDG_RUNTIME_DIR", "").startswith("/"):
        return Path(env["XDG_RUNTIME_DIR"]) / "thopter"
    return Path("/run/thopter") if uid == 0 else Path(f"/tmp/thopter-{uid}")


def private_dir(path: Path) -> Path:
    """Make ``path`` (parents too) mode 0700 and ours, or raise :class:`Refused`.

    A symlink, somebody else's folder, or one that others may enter is refused: whoever owns the
    folder of the hub's socket owns the hub.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        path.mkdir(mode=0o700)
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        raise Refused(f"{path} is not a folder of this user", hint="remove it or set THOPTER_RUNTIME_DIR")
    if found.st_mode & (stat.S_ISVTX | stat.S_IWGRP | stat.S_IWOTH):
        raise Refused(
            f"{path} is a folder that others write to", hint="name one of thopter's own, not a shared one"
        )
    if stat.S_IMODE(found.st_mode) & 0o077:
        path.chmod(0o700)
    return path
