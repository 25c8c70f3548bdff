"""What the user names as a repository: a local folder or an address, checked and given a slug.

The slug names the mirror: the last part of the name, readable, and ten characters of a hash of all of it.
"""

from __future__ import annotations

import hashlib
import ipaddress
import re
from pathlib import Path
from urllib.parse import urlsplit

from msgspec import Struct

from thopter.gateway.gitrun import GitFailed
from thopter.gateway.usergit import UserGit
from thopter.model.errors import BadInput, NotFound, Refused

_SCP = re.compile(r"(?:[A-Za-z0-9._][A-Za-z0-9._-]*@)?[A-Za-z0-9][A-Za-z0-9.-]*:(?![/-]{0,1}$)(?!-)[^\s].*")
_BRANCH = re.compile(r"(?!-)(?!.*(?:\.\.|@\{|//|\.lock(?:/|$)|/\.|\.$|/$))[^\x00-\x20\x7f~^:?*\[\\]{1,200}")
_USER = re.compile(r"[A-Za-z0-9._][A-Za-z0-9._@+-]*")
SLUG = re.compile(r"[a-z0-9](?:[a-z0-9-]|\.(?!\.)){0,60}-[0-9a-f]{10}")


class Source(Struct, frozen=True, kw_only=True):
    """A repository that can be read. ``git_dir`` is set for local ones; ``protocol`` is git's name
    for how it is reached (``file``, ``https``, ``ssh``, ``http``)."""

    source: str
    slug: str
    protocol: str
    git_dir: Path | None = None
    work_tree: Path | None = None
    shallow: bool = False
    object_format: str = "sha1"


def check_branch(branch: str) -> str:
    """Return ``branch`` when it can be the name of a branch, else raise BadInput."""
    if not _BRANCH.fullmatch(branch) or branch.startswith(("/", ".")):
        raise BadInput(f"{branch[:80]!r} can't be the name of a branch")
    return branch


def slug_for(identity: str, name: str) -> str:
    """Make the slug of the repository that ``identity`` stands for; ``name`` makes it readable."""
    plain = re.sub(r"[^a-z0-9.]+", "-", name.lower().removesuffix(".git"))
    plain = re.sub(r"\.{2,}", ".", plain).strip("-.")[:40].strip("-.") or "repo"
    return f"{plain}-{hashlib.sha256(identity.encode()).hexdigest()[:10]}"


async def find_source(text: str, user: UserGit) -> Source:
    """Check what the user gave; for a local repository look at it (nothing is written there).

    Raises BadInput (can't be meant), NotFound (no repository there), Refused (there, but unusable).
    """
    if not text or len(text) > 4096 or any(ord(c) < 0x20 or ord(c) == 0x7F for c in text):
        raise BadInput("the repository is empty, too long, or has control characters")
    if text.startswith("file://"):
        text = text.removeprefix("file://")
    if text.startswith("/"):
        return await _local(Path(text), user)
    return _remote(text)


def _remote(text: str) -> Source:
    hint = "give an absolute path, https://host/path, ssh://user@host/path or user@host:path"
    if text.startswith("-") or ("://" not in text and not _SCP.fullmatch(text)):
        raise BadInput(
            f"{text[:120]!r} is neither an absolute path nor an address of a repository", hint=hint
        )
    if "://" not in text:
        host, _, path = text.partition(":")
        if path.startswith(":"):
            raise BadInput(f"{text[:120]!r}: '::' names a helper program, which is not served", hint=hint)
        return Source(source=text, slug=slug_for(_identity(text), _last(path)), protocol="ssh")
    try:
        parts = urlsplit(text)
        _ = parts.port
    except ValueError:
        raise BadInput("the address of the repository can't be read", hint=hint) from None
    if parts.password is not None:
        raise BadInput(
            "the address contains a password, which would end up in logs and in the mirror",
            hint="take it out of the address; git's credential helper supplies it",
        )
    host = parts.hostname or ""
    if parts.scheme == "http" and not _is_loopback(host):
        raise BadInput("http:// sends what it carries unprotected", hint="use https://")
    if parts.scheme not in ("https", "ssh", "http"):
        raise BadInput(f"{parts.scheme}:// is not served", hint=hint)
    bad_user = parts.username is not None and not _USER.fullmatch(parts.username)
    if not re.fullmatch(r"[A-Za-z0-9:][A-Za-z0-9.:_-]*", host) or bad_user or not parts.path.strip("/"):
        raise BadInput(f"{text[:120]!r} is not the address of a repository", hint=hint)
    if parts.query or parts.fragment:
        raise BadInput("the address of a repository has no '?' or '#'", hint=hint)
    return Source(source=text, slug=slug_for(_identity(text), _last(parts.path)), protocol=parts.scheme)


def _identity(text: str) -> str:
    """The same repository written with or without ``.git`` or a last slash is one mirror."""
    return text.rstrip("/").removesuffix(".git").rstrip("/")


def _last(path: str) -> str:
    return path.rstrip("/").removesuffix(".git").rstrip("/").rpartition("/")[2]


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


async def _local(path: Path, user: UserGit) -> Source:
    if not path.exists():
        raise NotFound(f"there is no {path}")
    if not path.is_dir():
        raise NotFound(f"{path} is not a folder")
    lines = await _look(path, user)
    git_dir, common, bare, shallow, object_format = (*lines, *[""] * 5)[:5]
    top = ""
    if bare != "true":
        try:
            top = (await user.git(path).run("rev-parse", "--show-toplevel")).text
        except GitFailed:
            top = ""  # inside a .git folder: a repository, but no work tree to count changes in
    await _refuse_partial(Path(git_dir), user)
    identity = str(Path(common).resolve())
    named = Path(top) if top else Path(git_dir)
    name = named.name if named.name != ".git" else named.parent.name
    return Source(
        source=str(named.resolve()),
        slug=slug_for(identity, Path(identity).parent.name if Path(identity).name == ".git" else name),
        protocol="file",
        git_dir=Path(git_dir),
        work_tree=Path(top) if top else None,
        shallow=shallow == "true",
        object_format=object_format or "sha1",
    )


async def _look(path: Path, user: UserGit) -> list[str]:
    argv = ["rev-parse", "--path-format=absolute", "--git-dir", "--git-common-dir", "--is-bare-repository"]
    argv += ["--is-shallow-repository", "--show-object-format"]
    try:
        return (await user.git(path).run(*argv)).text.split("\n")
    except GitFailed as e:
        if "dubious ownership" not in e.stderr:
            if "not a git repository" in e.stderr:
                raise NotFound(f"{path} is not a git repository", hint="make one: git init") from None
            raise Refused(f"{path} can't be read as a git repository: {e.message}") from None
    if not await user.trust(path):
        raise Refused(
            f"{path} belongs to another user, and git does not trust it",
            hint=f"if you do: git config --global --add safe.directory {path}",
        )
    try:
        return (await user.git(path).run(*argv)).text.split("\n")
    except GitFailed as e:
        raise Refused(f"{path} can't be read as a git repository: {e.message}") from None


async def _refuse_partial(git_dir: Path, user: UserGit) -> None:
    """A partial clone lacks objects that only its own remote has; a mirror of it would be broken."""
    found = await user.git(git_dir).run("config", "--get-regexp", r"^remote\..*\.promisor$", ok=(0, 1))
    if "true" in found.text.split():
        raise Refused(
            f"{git_dir.parent} is a partial clone: some of its files are not on this machine",
            hint="give its remote's address instead, or fetch all of it: git fetch --refetch --no-filter",
        )
