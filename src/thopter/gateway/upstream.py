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
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from thopter.gateway.git import outbox
from thopter.gateway.gitrun import Done, Git, GitFailed
from thopter.gateway.mirror import box_ref
from thopter.gateway.source import SLUG, Source, find_source
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
#: What a server says when a login is missing or not enough: no attempt will go better until a person acts.
_LOGIN = re.compile(
    r"Authentication failed|could not read (?:Username|Password)|Permission denied|Host key verification"
    r"|error: 40[13]|terminal prompts disabled|Invalid username or (?:password|token)",
    re.IGNORECASE,
)

#: (policy, source) → a password for the source's host, None for the user's own login. Raises NotAllowed.
LoginFor = Callable[[str, str], str | None]


class Upstreams:
    """``mirrors``, ``notes``: the folders of mirrors and of hooks' notes. ``env``: the user's environment."""

    def __init__(
        self, mirrors: Path, notes: Path, login: LoginFor, env: Mapping[str, str] | None = None
    ) -> None:
        self._mirrors = mirrors
        self._notes = notes
        self._login = login
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
        try:
            async with self._git(slug, source, policy) as (git, where):
                argv = ["push", "--porcelain", "--no-verify", f"--force-with-lease={ref}:{has}"]
                spec = f"{wanted}:{ref}"
                done = await git.run(*argv, "--end-of-options", where, spec, seconds=_SECONDS, ok=(0, 1, 128))
                found = _read(done, ref)
                if found.kind == "moved":
                    found = await self._theirs(git, where, ref, wanted)
                return found
        except TimedOut as e:
            return Outcome(kind="later", text=e.message)
        except NotFound as e:
            return Outcome(kind="later", text=e.message)
        except GitFailed as e:
            return Outcome(kind="later", text=e.message)
        except NotAllowed as e:
            return Outcome(kind="login", text=e.message)
        except ThopterError as e:
            return Outcome(kind="refused", text=e.message)

    async def where(self, slug: str, name: str, source: str, policy: str) -> str:
        """The commit of ``thopter/<name>`` upstream, "" for none. Raises what git's failure means."""
        async with self._git(slug, source, policy) as (git, address):
            return (await self._theirs(git, address, box_ref(name), "")).theirs

    async def _theirs(self, git: Git, where: str, ref: str, wanted: str) -> Outcome:
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

    @asynccontextmanager
    async def _git(self, slug: str, source: str, policy: str) -> AsyncIterator[tuple[Git, str]]:
        mirror = self._mirrors / f"{slug}.git"
        if not SLUG.fullmatch(slug) or not mirror.is_dir():
            raise BadInput(f"there is no mirror {slug[:80]}")
        private_dir(self._mirrors)
        async with user_git(self._env, self._mirrors) as user:
            found = await find_source(source, user)
            if found.git_dir is not None:
                yield user.git(mirror, {"GIT_ALLOW_PROTOCOL": "file"}, _CONFIG), str(found.git_dir)
                return
            https = found.protocol == "https"
            password = await asyncio.to_thread(self._login, policy, source) if https else None
            if password is None:
                yield user.git(mirror, await user.for_remote(found.protocol), _CONFIG), found.source
                return
            with _pipe(password) as fd:
                yield user.git(mirror, await user.for_login(fd), _CONFIG, (fd,)), _bare(found)


@contextlib.contextmanager
def _pipe(password: str) -> Iterator[int]:
    """A descriptor from which the password can be read once; afterwards there is nothing."""
    reader, writer = os.pipe()
    try:
        os.write(writer, password.encode() + b"\n")  # at most 64 KiB, which a pipe holds
        os.close(writer)
        yield reader
    finally:
        os.close(reader)


def _bare(source: Source) -> str:
    """The address without a user: the password is that of another one."""
    return re.sub(r"^https://[^/@]*@", "https://", source.source)


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
    login = next((x for x in done.stderr.splitlines() if _LOGIN.search(x)), "")
    if login:
        return Outcome(kind="login", text=one_line(login, 300))
    return Outcome(kind="later", text=text or f"git ended with {done.code}")
