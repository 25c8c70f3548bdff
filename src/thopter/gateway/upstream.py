"""Brings a box's branch from the mirror to where the repository came from; runs in the hub, never in a box.

The push names one commit and one ref and holds only if the ref upstream is where we believe it is. The
password comes to git by a pipe: it is in no argument, environment, address, file or log.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from thopter.gateway.git import outbox
from thopter.gateway.gitrun import Done, Git, GitFailed
from thopter.gateway.login import LOGIN, LoginFor, LoginLater, OtherFor, bare, no_other, pipe
from thopter.gateway.mirror import box_ref
from thopter.gateway.source import SLUG, find_source
from thopter.gateway.usergit import user_git
from thopter.kit.paths import private_dir
from thopter.kit.sanitize import one_line
from thopter.model.errors import BadInput, NotAllowed, NotFound, ThopterError, TimedOut
from thopter.model.pushes import Note, Outcome

log = logging.getLogger(__name__)
_SECONDS = 900.0
_LOOK_SECONDS = 60.0
_ID = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_CONFIG = (
    ("http.followRedirects", "false"),
    ("http.lowSpeedLimit", "1000"),
    ("http.lowSpeedTime", "60"),
    ("push.gpgSign", "false"),
    ("push.followTags", "false"),
    ("push.recurseSubmodules", "no"),
    ("submodule.recurse", "false"),
)


class Upstreams:
    """``mirrors``, ``notes``: the folders of mirrors and of hooks' notes. ``env``: the user's environment.
    ``refused`` is told of a password that was not taken; with another one it is tried once more."""

    def __init__(
        self,
        mirrors: Path,
        notes: Path,
        login: LoginFor,
        env: Mapping[str, str] | None = None,
        refused: OtherFor = no_other,
    ) -> None:
        self._mirrors = mirrors
        self._notes = notes
        self._login = login
        self._refused = refused
        self._env = dict(os.environ if env is None else env)
        self._unread: set[tuple[str, str]] = set()

    # ------------------------------------------------------------------------------ notes

    def notes(self, now: float) -> list[Note]:
        """What hooks left, as far as it makes sense; what does not is taken away. One that can't be read now
        stays and holds up no other. Blocking."""
        found = []
        unread = set()
        for slug, name, what in outbox.notes(self._notes):
            if isinstance(what, OSError):
                unread.add((slug, name))
                if (slug, name) not in self._unread:
                    log.error("the note of a push of %s can't be read: %s", name, what.strerror)
                continue
            box, new = str(what.get("box", "")), str(what.get("new", ""))
            if not SLUG.fullmatch(slug) or not _ID.fullmatch(new) or not box:
                (self._notes / slug / name).unlink(missing_ok=True)
                continue
            with contextlib.suppress(FileNotFoundError):
                age = now - (self._notes / slug / name).stat().st_mtime
                found.append(Note(slug=slug, name=name, box=box, new=new, age_s=age))
        self._unread = unread
        return found

    def taken(self, note: Note) -> None:
        """The note is recorded: take it away. Blocking."""
        outbox.done(self._notes, note.slug, note.name, note.new)

    def tell(self, slug: str, name: str, new: str, text: str, final: bool) -> None:
        """What the box shall hear of its push. Blocking."""
        outbox.tell(self._notes, slug, name, new, one_line(text, 300), final)

    # ------------------------------------------------------------------------------ pushing

    async def push(self, slug: str, name: str, source: str, policy: str, wanted: str, has: str) -> Outcome:
        """Make ``thopter/<name>`` upstream be ``wanted``, if it is ``has`` there ("": if there is none).
        Again after success it is success. Never raises for what the other side does."""
        ref = box_ref(name)

        async def push(git: Git, where: str) -> Outcome:
            argv = ["push", "--porcelain", "--no-verify", f"--force-with-lease={ref}:{has}"]
            spec = f"{wanted}:{ref}"
            done = await git.run(*argv, "--end-of-options", where, spec, seconds=_SECONDS, ok=(0, 1, 128))
            return _read(done, ref)

        try:
            found = await self._with(slug, source, policy, push)
            return await self._look(slug, ref, source, policy, wanted) if found.kind == "moved" else found
        except (TimedOut, NotFound, GitFailed, LoginLater) as e:
            return Outcome(kind="later", text=e.message)
        except NotAllowed as e:
            return Outcome(kind="login", text=e.message)
        except ThopterError as e:
            return Outcome(kind="refused", text=e.message)

    async def where(self, slug: str, name: str, source: str, policy: str) -> str:
        """The commit of ``thopter/<name>`` upstream, "" for none. Raises what git's failure means."""
        return (await self._look(slug, box_ref(name), source, policy, "")).theirs

    async def _look(self, slug: str, ref: str, source: str, policy: str, wanted: str) -> Outcome:
        async def look(git: Git, where: str) -> Outcome:
            return await _theirs(git, where, ref, wanted)

        return await self._with(slug, source, policy, look)

    async def _with(
        self, slug: str, source: str, policy: str, work: Callable[[Git, str], Awaitable[Outcome]]
    ) -> Outcome:
        """Do it; once more when the password was not taken and there is another one by now."""
        failed: GitFailed | None = None
        found = Outcome(kind="later")
        for last in (False, True):
            async with self._git(slug, source, policy) as (git, where, password):
                try:
                    found, failed = await work(git, where), None
                except GitFailed as e:
                    failed = e
                no_login = LOGIN.search(failed.stderr) if failed is not None else found.kind == "login"
            if last or not no_login or password is None:
                break
            if not await asyncio.to_thread(self._refused, policy, source, password):
                break
        if failed is not None:
            raise failed
        return found

    @asynccontextmanager
    async def _git(self, slug: str, source: str, policy: str) -> AsyncIterator[tuple[Git, str, str | None]]:
        mirror = self._mirrors / f"{slug}.git"
        if not SLUG.fullmatch(slug) or not mirror.is_dir():
            raise BadInput(f"there is no mirror {slug[:80]}")
        private_dir(self._mirrors)
        async with user_git(self._env, self._mirrors) as user:
            found = await find_source(source, user)
            if found.git_dir is not None:
                yield user.git(mirror, {"GIT_ALLOW_PROTOCOL": "file"}, _CONFIG), str(found.git_dir), None
                return
            https = found.protocol == "https"
            password = await asyncio.to_thread(self._login, policy, source) if https else None
            if password is None:
                yield user.git(mirror, await user.for_remote(found.protocol), _CONFIG), found.source, None
                return
            with pipe(password) as fd:
                yield user.git(mirror, await user.for_login(fd), _CONFIG, (fd,)), bare(found), password


async def _theirs(git: Git, where: str, ref: str, wanted: str) -> Outcome:
    done = await git.run("ls-remote", "--end-of-options", where, ref, seconds=_LOOK_SECONDS)
    lines = (line.partition("\t") for line in done.text.split("\n"))
    theirs = next((oid for oid, _, name in lines if name == ref and _ID.fullmatch(oid)), "")
    behind = False
    if theirs and wanted:
        code = (await git.run("merge-base", "--is-ancestor", theirs, wanted, ok=(0, 1, 128))).code
        behind = code == 0
    at = f"at {theirs[:12]}" if theirs else "gone"
    return Outcome(kind="moved", text=f"its branch upstream is {at}, which is not of this thopter",
                   theirs=theirs, behind=behind)  # fmt: skip


def _read(done: Done, ref: str) -> Outcome:
    """Understand ``git push --porcelain``."""
    for line in done.text.split("\n"):
        flag, _, rest = line.partition("\t")
        names, _, summary = rest.partition("\t")
        if names.rpartition(":")[2] != ref or flag not in (" ", "+", "*", "=", "!"):
            continue
        if flag != "!":
            return Outcome(kind="done", text=one_line(summary, 100))
        if "stale info" in summary or "fetch first" in summary or "non-fast-forward" in summary:
            return Outcome(kind="moved")
        if "remote failure" in summary:
            break
        said = [x for x in done.stderr.splitlines() if x.startswith("remote:")]
        more = f" ({one_line(said[0].removeprefix('remote:').strip(), 160)})" if said else ""
        return Outcome(kind="refused", text=f"upstream refused it: {one_line(summary, 160)}{more}")
    if done.code == 0:
        return Outcome(kind="later", text="git did not say what became of the push")
    said = [x for x in done.stderr.splitlines() if x.startswith(("fatal:", "error:", "remote:"))]
    text = one_line(said[-1] if said else done.stderr.strip()[-300:], 300)
    login = next((x for x in done.stderr.splitlines() if LOGIN.search(x)), "")
    if login:
        return Outcome(kind="login", text=one_line(login, 300))
    return Outcome(kind="later", text=text or f"git ended with {done.code}")
