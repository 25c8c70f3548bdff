"""``thopter diff`` and ``thopter pull``: an agent's work, as a diff and as a branch of your clone."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, TypeVar

import click

from thopter.cli.app import App, json_option, name_argument, pass_app, wants_colour
from thopter.cli.repo import ask, clone_of, git, words
from thopter.cli.text import paint, plural
from thopter.kit.sanitize import clean, marked, one_line
from thopter.model.api import PullInfo
from thopter.model.errors import BadInput, Conflict, Refused, ThopterError

F = TypeVar("F", bound=Callable[..., Any])
_BRANCH = re.compile(r"thopter/[a-z0-9](?:[a-z0-9-]{0,59}[a-z0-9])?")
_COMMIT = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?")


def checkout_option() -> Callable[[F], F]:
    """The --checkout option."""
    words = "Another repository of the box than its main one: its folder below /work."
    return click.option("--checkout", default="", metavar="FOLDER", help=words)


@click.command()
@name_argument()
@click.option("--stat", is_flag=True, help="Only how much changed in which file.")
@checkout_option()
@click.option("--color/--no-color", "colour", default=None, help="Colours; default: on a terminal.")
@json_option()
@pass_app
def diff(app: App, name: str, stat: bool, checkout: str, colour: bool | None, as_json: bool) -> None:
    """Show the work: from where it began to the files as they are now, new files included.

    Into a pipe or a file it goes unchanged, so that 'git apply' can take it. On a terminal hidden
    and direction-changing characters are shown as <U+202E>.
    """
    found = app.hub.diff(app.name(name), checkout)
    if as_json:
        return app.json(found)
    text = found.stat if stat else found.diff
    on = wants_colour(app.env, app.stdout_tty) if colour is None else colour
    if app.stdout_tty or on:
        hidden = marked(text)
        text = clean(text, mark=True)
    else:
        hidden = 0
    if on and not stat:
        text = "\n".join(_coloured(line) for line in text.split("\n"))
    if text:
        app.out(text.removesuffix("\n"))
    app.flush()
    if not found.diff:
        app.say("no changes")
    if found.truncated:
        app.say("note: the diff is longer than the hub gives out; 'thopter pull' brings all of it")
    if hidden:
        app.say(f"warning: {plural(hidden, 'character')} here would hide or change direction: shown as <U+…>")


def _coloured(line: str) -> str:
    if line.startswith(
        ("+++", "---", "diff ", "index ", "new file", "deleted", "rename", "similarity", "old mode")
    ):
        return paint(line, "bold")
    styles = {"+": "green", "-": "red", "@": "cyan"}
    return paint(line, styles[line[0]]) if line[:1] in styles else line


@click.command()
@name_argument()
@click.option("--wip", is_flag=True, help="Commit what is not committed first, and bring it along.")
@click.option("--branch", metavar="BRANCH", help="The branch to write here; default: thopter/NAME.")
@click.option("--repo", metavar="FOLDER", help="Your clone; default: the present folder.")
@click.option(
    "--force", is_flag=True, help="Also when the branch here has commits that the work does not have."
)
@checkout_option()
@json_option()
@pass_app
def pull(
    app: App, name: str, wip: bool, branch: str | None, repo: str | None, force: bool, checkout: str,
    as_json: bool,
) -> None:  # fmt: skip
    """Bring the work into your clone as a branch of its own; your working tree is not touched.

    Every object is checked by git before it enters your clone.
    """
    name = app.name(name)
    clone = clone_of(repo)
    info = app.hub.pull(name, wip=wip, checkout=checkout)
    if not _BRANCH.fullmatch(info.branch) or not _COMMIT.fullmatch(info.head):
        raise Refused("the hub names a branch or commit that can't be", hint="see 'thopter hub logs'")
    target = branch or info.branch
    if git(clone, "check-ref-format", "--branch", target, check=False).returncode:
        raise BadInput(f"{target!r} can't name a branch")
    if info.commits:
        _bring(name, lambda out: app.hub.bundle(name, out, checkout), clone, info, target, force)
    if as_json:
        return app.json({"branch": target, "head": info.head, "base": info.base, "commits": info.commits,
                         "dirty": info.dirty, "wip": info.wip, "repo": os.fspath(clone)})  # fmt: skip
    _report(app, name, clone, info, target)


def _report(app: App, name: str, clone: Path, info: PullInfo, target: str) -> None:
    if info.commits:
        app.out(f"Branch {target} has {plural(info.commits, 'commit')} of {name} (at {info.head[:12]}).")
        app.say(f"  git log {info.base[:12]}..{target}     git merge {target}")
    else:
        app.out(f"{name} has no commits yet; nothing was brought.")
    if info.dirty and not info.wip:
        app.say(f"note: {plural(info.dirty, 'changed file is', 'changed files are')} not committed there "
                "and not included; --wip brings them along")  # fmt: skip


def _bring(
    name: str, fetch: Callable[[IO[bytes]], int], clone: Path, info: PullInfo, target: str, force: bool
) -> None:
    """Bundle → a quarantine repository → git's own fetch with all checks → the branch."""
    if f"refs/heads/{target}" in _checked_out(clone):
        raise Refused(
            f"{target} is checked out in your clone, and the working tree must not be touched",
            hint=f"check out another one, or bring it elsewhere: thopter pull {name} --branch {target}-new",
        )
    folder = Path(tempfile.mkdtemp(prefix="thopter-pull-"))
    try:
        bundle = folder / "work.bundle"
        with bundle.open("wb") as out:
            fetch(out)
        quarantine = _quarantine(folder, bundle, clone, info)
        _fetch(clone, quarantine, info, target, force)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _checked_out(clone: Path) -> set[str]:
    lines = ask(clone, "worktree", "list", "--porcelain")
    return {line.removeprefix("branch ") for line in lines if line.startswith("branch ")}


def _quarantine(folder: Path, bundle: Path, clone: Path, info: PullInfo) -> Path:
    """Unpack the bundle into a repository of its own that borrows the clone's objects."""
    quarantine = folder / "quarantine.git"
    objects = ask(clone, "rev-parse", "--git-path", "objects")[0]
    git(
        folder,
        "init",
        "-q",
        "--bare",
        "--template=",
        "--object-format",
        _format(clone),
        os.fspath(quarantine),
    )
    borrowed = os.path.join(os.fspath(clone), objects)
    (quarantine / "objects/info").mkdir(parents=True, exist_ok=True)
    (quarantine / "objects/info/alternates").write_text(borrowed + "\n", "utf-8", "surrogateescape")
    ref = f"refs/heads/{info.branch}"
    done = git(
        quarantine, "fetch", "-q", "--no-tags", "--no-write-fetch-head", os.fspath(bundle), f"{ref}:{ref}",
        check=False,
    )  # fmt: skip
    if done.returncode:
        if b"prerequisite" in done.stderr:
            raise Refused(
                f"{clone} does not have the commit {info.base[:12]} that the work began from",
                hint="run this in a clone of the same repository (git fetch first), or name it with --repo",
            )
        raise Refused(f"the work can't be unpacked: {words(done.stderr)}")
    head = ask(quarantine, "rev-parse", "--verify", ref)[0]
    if head != info.head:
        raise Conflict("the work changed while it was brought", hint="run it again")
    return quarantine


def _format(clone: Path) -> str:
    return (ask(clone, "rev-parse", "--show-object-format") or ["sha1"])[0]


def _fetch(clone: Path, quarantine: Path, info: PullInfo, target: str, force: bool) -> None:
    """Fetch with fsck on. A branch that has diverged is refused unless ``force``."""
    ref = f"refs/heads/{target}"
    known = git(clone, "rev-parse", "--verify", "--quiet", ref, check=False).stdout.decode().strip()
    done = git(
        clone, "-c", "fetch.fsckObjects=true", "-c", "transfer.fsckObjects=true", "-c", "gc.auto=0",
        "-c", "maintenance.auto=false", "fetch", "-q", "--no-tags", "--no-write-fetch-head",
        "--no-recurse-submodules", "--no-auto-maintenance", os.fspath(quarantine),
        f"{'+' if force else ''}refs/heads/{info.branch}:{ref}", check=False,
    )  # fmt: skip
    if done.returncode == 0:
        return
    ahead = git(quarantine, "merge-base", "--is-ancestor", known, info.head, check=False) if known else None
    if ahead is not None and ahead.returncode != 0 and not force:
        raise Conflict(
            f"your {target} has commits that the work does not have",
            hint="--force replaces it (git reflog keeps the old one), --branch brings it under another name",
        )
    raise ThopterError(f"git refused the work: {one_line(words(done.stderr), 600)}")
