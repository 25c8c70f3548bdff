"""Repositories as people name them, and git on the user's own clone."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from thopter.model.errors import BadInput, NotFound, ThopterError

if TYPE_CHECKING:
    from thopter.cli.tables import Repo
    from thopter.kit.paths import Paths

_SHORT = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*/[A-Za-z0-9_][A-Za-z0-9._-]*")
_URL = re.compile(r"(https|ssh)://\S+|git@[^\s/:]+:\S+")


def resolve(given: str, say: Callable[[str], None]) -> str:
    """Return an absolute path or a URL for what the user wrote.

    An existing folder wins over ``owner/repo``. Uncommitted changes are not taken along; ``say`` is
    told when there are any.
    """
    if given.startswith("-") or "\0" in given:
        raise BadInput(f"{given!r} is no repository")
    if _URL.fullmatch(given):
        return given
    if "://" in given:
        raise BadInput(
            f"{given!r} is not a kind of address to clone from", hint="use https://, ssh:// or git@host:path"
        )
    path = Path(given).expanduser()
    if path.is_dir():
        top = _top(path)
        _warn_dirty(top, say)
        return str(top)
    if _SHORT.fullmatch(given) and ".." not in given:
        return f"https://github.com/{given.removesuffix('.git')}.git"
    if given.startswith(("/", "./", "../", "~")):
        raise NotFound(f"there is no repository at {path}", hint="'--repo .' is the present folder")
    raise BadInput(
        f"{given!r} is neither a folder nor owner/repo nor a URL", hint="'--repo .' is the present folder"
    )


def canonical(given: str) -> str:
    """A repository as it can be kept in a list: a folder by its absolute path, the rest as given."""
    resolve(given, lambda _text: None)
    path = Path(given).expanduser()
    return str(path.absolute()) if path.is_dir() else given


def known(paths: Paths, name: str) -> Repo | None:
    """The predefined repository called ``name``; a folder of that name here comes first."""
    from thopter.cli.tables import repos

    if "/" in name or Path(name).is_dir():
        return None
    return next((r for r in repos(paths) if r.name == name), None)


def split_branch(given: str) -> tuple[str, str]:
    """Take ``REPO[:BRANCH]`` apart; the colons of URLs and of ``git@host:path`` are no branch's."""
    if Path(given).expanduser().is_dir():
        return given, ""
    scheme, slashes, rest = given.rpartition("://")
    if not slashes and re.match(r"[A-Za-z0-9_.-]+@[^/:]+:", given):
        scheme, slashes, rest = given.partition(":")  # git@host, :, path
    head, colon, branch = rest.rpartition(":")
    if not colon or (slashes == "://" and "/" not in head):  # none, or a port: ssh://host:22/path
        return given, ""
    if not branch or not head:
        raise BadInput(f"{given!r} is not REPO:BRANCH")
    return scheme + slashes + head, branch


def _top(path: Path) -> Path:
    """The top of the working tree, or the bare repository."""
    bare, where = ask(path, "rev-parse", "--is-bare-repository", "--absolute-git-dir")[:2]
    if bare == "true":
        return Path(where)
    return Path(ask(path, "rev-parse", "--show-toplevel")[0])


def _warn_dirty(top: Path, say: Callable[[str], None]) -> None:
    done = git(top, "status", "--porcelain", "--untracked-files=normal", "-z", check=False)
    count = len([entry for entry in done.stdout.split(b"\0") if entry]) if done.returncode == 0 else 0
    if count:
        say(
            f"note: {count} uncommitted change{'s' * (count != 1)} in {top} stay here; "
            "the box gets what is committed"
        )


def here_is_one() -> bool:
    """True when the present folder lies in a git repository (looked up without running git)."""
    try:
        here = Path.cwd()
    except OSError:
        return False
    return any((folder / ".git").exists() for folder in (here, *here.parents))


def clone_of(given: str | None) -> Path:
    """The user's clone to bring work into: ``given`` or the present folder."""
    path = Path(given or ".").expanduser()
    if not path.is_dir():
        raise BadInput(f"{path} is no folder", hint="name your clone with --repo")
    try:
        return _top(path)
    except BadInput:
        raise BadInput(
            f"{path.absolute()} is no git repository", hint="run this in your clone, or name it with --repo"
        ) from None


def clean_env(env: Mapping[str, str]) -> dict[str, str]:
    """``env`` for git without what would point it at another repository, and speaking English."""
    return {
        k: v for k, v in env.items() if not k.startswith("GIT_") or k in ("GIT_SSH_COMMAND", "GIT_EXEC_PATH")
    } | {
        "LC_ALL": "C",
        "GIT_TERMINAL_PROMPT": "0",
    }


def git(
    where: Path, *args: str, check: bool = True, timeout: float = 600.0
) -> subprocess.CompletedProcess[bytes]:
    """Run git on the user's own repository; ThopterError with git's words when it fails."""
    try:
        done = subprocess.run(
            ["git", "-C", os.fspath(where), *args],
            stdin=subprocess.DEVNULL, capture_output=True, env=clean_env(os.environ), timeout=timeout,
        )  # fmt: skip
    except FileNotFoundError:
        raise ThopterError("git is not installed", hint="see 'thopter doctor'") from None
    except subprocess.TimeoutExpired:
        raise ThopterError(f"git {args[0]} took over {timeout:.0f} s and was ended") from None
    if check and done.returncode:
        raise ThopterError(f"git {args[0]} failed in {where}: {words(done.stderr)}")
    return done


def ask(where: Path, *args: str) -> Sequence[str]:
    """Run a git query; its lines. BadInput when ``where`` is no repository (or git refuses it)."""
    done = git(where, *args, check=False)
    if done.returncode:
        raise BadInput(f"{where.absolute()} is no git repository: {words(done.stderr)}")
    return done.stdout.decode("utf-8", "surrogateescape").splitlines()


def words(stderr: bytes) -> str:
    """Git's error in one line, without its prefix."""
    lines = [line for line in stderr.decode("utf-8", "replace").splitlines() if line.strip()]
    return (
        " ".join(line.removeprefix("fatal: ").removeprefix("error: ").strip() for line in lines[:4])
        or "no reason given"
    )
