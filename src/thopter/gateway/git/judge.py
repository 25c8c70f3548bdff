"""The rules on what a push brings. For the hook: standard library only, each rule a function of one push."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Callable
from itertools import dropwhile
from typing import Any

from thopter.gateway.git import content, shapes
from thopter.gateway.policy.globs import above, fits

#: What runs somewhere else than in the box, with rights that the box does not have.
PROTECTED = (
    ".github/workflows/**",
    ".github/actions/**",
    ".github/CODEOWNERS",
    ".gitlab-ci.yml",
    ".gitlab-ci/**",
    ".gitlab/CODEOWNERS",
    ".circleci/**",
    ".buildkite/**",
    ".woodpecker.yml",
    ".woodpecker/**",
    ".drone.yml",
    ".travis.yml",
    ".forgejo/workflows/**",
    ".gitea/workflows/**",
    "Jenkinsfile",
    "azure-pipelines.yml",
    "bitbucket-pipelines.yml",
    "CODEOWNERS",
    ".husky/**",
    ".devcontainer/**",
)
COMMITS_MAX = 20_000
OBJECTS_MAX = 1_000_000
_POINTER = b"version https://git-lfs.github.com/spec/v1\n"
_LFS_MAX = 1024


class Refusal(Exception):
    """The push is refused: ``code`` for programs, ``text`` and ``hint`` (what to do) for the pusher."""

    def __init__(self, code: str, text: str, hint: str = "") -> None:
        super().__init__(text)
        self.code = code
        self.text = text
        self.hint = hint


def shown(path: str) -> str:
    """A path for people; anything that is not plain is not repeated."""
    plain = "".join(c if " " <= c <= "~" else "?" for c in path)
    return plain if len(plain) <= 120 else "…" + plain[-119:]


def sizes(push: Any) -> None:
    """How many commits and objects, how big each file. The size of the whole is git's own affair."""
    if len(push.commits) > COMMITS_MAX:
        raise Refusal("too_many", f"more than {COMMITS_MAX} new commits in one push")
    most = float(push.rights.get("blob_mb", 50.0))
    found = push.objects
    if len(found) > OBJECTS_MAX:
        raise Refusal("too_many", f"more than {OBJECTS_MAX} new objects in one push")
    for one in found:
        if most and one.kind == "blob" and one.size > most * (1 << 20):
            raise Refusal(
                "big_file",
                f"{shown(one.path)} has {one.size / (1 << 20):.1f} MiB; {most:g} is the most",
                "take it out of all the commits you push (git rebase -i), or ask for a higher blob_mb",
            )


def nothing_hidden(push: Any) -> None:
    """No objects that no commit refers to: they would lie in the mirror unseen."""
    reached = {one.oid for one in push.objects}
    if content.hidden(reached, dict(os.environ)):
        raise Refusal("hidden", "the push brings objects that none of its commits refers to")


def protected_paths(push: Any) -> None:
    """Nothing that runs elsewhere with more rights than the box has; in no commit, and not in the end."""
    patterns = (() if push.rights.get("workflows") else PROTECTED) + tuple(push.rights.get("protected", ()))
    if not patterns:
        return
    for change in [*push.changes, *push.moved]:
        folder = change.link or change.gitlink
        if any(fits(p, change.path) or (folder and above(p, change.path)) for p in patterns):
            raise Refusal(
                "protected_path",
                f"{shown(change.path)} is protected: this box may not change it",
                "take that change out of every commit you push, and say in your answer what you would change",
            )


def submodules(push: Any) -> None:
    """No other repositories come in, unless the policy says so."""
    if push.rights.get("submodules"):
        return
    for change in [*push.changes, *push.moved]:
        named = change.path.rsplit("/", 1)[-1].lower() == ".gitmodules"
        if change.gitlink or (named and not change.gone):
            raise Refusal(
                "submodule",
                f"{shown(change.path)}: this box may not add, move or redirect submodules",
                "take that change out of every commit you push",
            )


def links(push: Any) -> None:
    """Symbolic links stay inside the repository."""
    if push.rights.get("links"):
        return
    for change in push.changes:
        if not change.link:
            continue
        target = content.blob(change.oid).decode("utf-8", "surrogateescape")
        place = posixpath.normpath(posixpath.join(posixpath.dirname(change.path), target))
        down = posixpath.join("", *dropwhile(lambda part: part in ("", ".", ".."), target.split("/")))
        back = ".." in down.split("/")  # after a name, which may be a link itself, ".." leads anywhere
        if target.startswith("/") or place == ".." or place.startswith("../") or back:
            raise Refusal(
                "link", f"{shown(change.path)} is a link that leads out of the repository", "make it a file"
            )


def attributes(push: Any) -> None:
    """No new filter programs by ``.gitattributes``, and no pointers of LFS, unless the policy says so."""
    lfs, others = bool(push.rights.get("lfs")), bool(push.rights.get("filters"))
    for change in push.changes:
        if change.gone or change.path.rsplit("/", 1)[-1].lower() != ".gitattributes":
            continue
        before = content.filters(content.blob(f"{push.base}:{change.path}")) if push.base else set()
        for name in sorted(content.filters(content.blob(change.oid)) - before):
            if not (lfs if name == "lfs" else others):
                raise Refusal(
                    "filter",
                    f"{shown(change.path)} names the filter {shown(name)}, which this box may not add",
                    "take that line out of every commit you push",
                )
    if not lfs:
        _no_pointers(push)


def _no_pointers(push: Any) -> None:
    small = [o for o in push.objects if o.kind == "blob" and o.size <= _LFS_MAX]
    paths = {o.oid: o.path for o in small}
    for oid, data in content.contents(list(paths)):
        if data.startswith(_POINTER):
            raise Refusal(
                "lfs",
                f"{shown(paths[oid])} is a pointer of git LFS, whose contents can't travel this way",
                "commit the file itself (git lfs untrack), or leave it out",
            )


def secrets(push: Any) -> None:
    """Nothing that looks like a secret, and none that the hub knows; in files, messages and names."""
    if push.rights.get("secrets", "refuse") == "allow":
        return
    spared = tuple(push.rights.get("secrets_in", ()))
    places: dict[str, set[str]] = {}
    for change in push.changes:
        places.setdefault(change.oid, set()).add(change.path)
    wanted = {o.oid: o for o in push.objects if o.kind in ("blob", "commit")}
    for oid, data in content.contents(list(wanted)):
        one = wanted[oid]
        paths = places.get(oid, set()) | ({one.path} if one.path else set())
        if one.kind == "blob" and paths and all(any(fits(p, path) for p in spared) for path in paths):
            continue
        _judge_text(push, data, shown(one.path) if one.kind == "blob" else f"commit {oid[:12]}")
    for change in push.changes:
        _judge_text(push, change.path.encode("utf-8", "surrogateescape"), "the name of a file")


def _judge_text(push: Any, data: bytes, where: str) -> None:
    name = shapes.find(data)
    if not name and shapes.known(data, push.known):
        name = "secret of the operator"
    if name:
        raise Refusal(
            "secret",
            f"{where} holds what looks like a secret ({name})",
            "take it out of every commit you push (git rebase -i) and treat it as known to others",
        )


CONTENT_RULES: tuple[Callable[[Any], None], ...] = (
    sizes, nothing_hidden, protected_paths, submodules, links, attributes, secrets,
)  # fmt: skip
