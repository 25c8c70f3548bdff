"""Bare mirrors of repositories: made and refreshed by the hub, served to boxes by the git gateway.

In a mirror, ``refs/upstream/`` holds what the source has, exactly; ``refs/heads/`` and ``refs/tags/`` are
what boxes see of it; ``refs/heads/thopter/<name>`` belongs to the box of that name and is never touched
by a refresh. A mirror stands alone: it shares no object with its source. A hub that dies in the middle
leaves the old mirror or the new one, and a scratch folder that the next refresh removes.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import shutil
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

from thopter.gateway.fill import Filler
from thopter.gateway.gitrun import Git, GitFailed, both
from thopter.gateway.login import LoginFor, LoginRefused, NotThere, OtherFor, no_login, no_other
from thopter.gateway.mirror_config import ZERO, init_mirror, mirror_config
from thopter.gateway.source import SLUG, Source, check_branch, find_source
from thopter.gateway.usergit import UserGit, user_git
from thopter.kit.paths import private_dir
from thopter.model.errors import BadInput, Conflict, NotAllowed, NotFound, Refused, TimedOut
from thopter.model.ids import check_name
from thopter.model.nouns import RepoRef

_LOCK_SECONDS = 900.0
_STATUS_SECONDS = 5.0
_MANY_PACKS = 40


class Mirrors:
    """All mirrors below ``folder`` (``<state>/mirrors``). ``env`` is the user's environment, read for
    where git's own logins are; ``login`` and ``refused`` know those of policies (:mod:`.login`). Safe to use
    from several tasks and several processes at once."""

    def __init__(
        self,
        folder: Path,
        env: Mapping[str, str] | None = None,
        login: LoginFor = no_login,
        refused: OtherFor = no_other,
    ) -> None:
        self.folder = folder
        self._env = dict(os.environ if env is None else env)
        self._login = login
        self._refused = refused
        self._locks: dict[str, asyncio.Lock] = {}

    def path(self, slug: str) -> Path:
        """Where the mirror ``slug`` is (or would be)."""
        if not SLUG.fullmatch(slug):
            raise BadInput(f"{slug[:80]!r} can't name a mirror")
        return self.folder / f"{slug}.git"

    async def prepare(self, source: str, branch: str = "", policy: str = "") -> tuple[RepoRef, int]:
        """Make or refresh the mirror of ``source``. Returns where ``branch`` (default: the source's
        HEAD) stands in it, and how many files of the source differ from its last commit (they are not
        in the mirror; -1 when that could not be counted in time). By https the credential of ``policy``
        is used where it may be, else the user's own login.

        Raises NotFound (no repository, no such branch), Refused (no commit yet, not trusted, partial),
        BadInput, NotAllowed (login refused), LoginLater, GitFailed.
        """
        if branch:
            check_branch(branch)
        await asyncio.to_thread(private_dir, self.folder)
        async with user_git(self._env, self.folder) as user:
            found = await find_source(source, user)
            fresh = self._refresh(found, branch, user, policy)
            dirty, (name, base) = await both(count_dirty(found, user), fresh)
        return RepoRef(source=found.source, slug=found.slug, branch=name, base=base), dirty

    async def _refresh(self, found: Source, branch: str, user: UserGit, policy: str) -> tuple[str, str]:
        async with self._locked(found.slug):
            if found.protocol != "https" or not policy:
                return await self._fill(found, branch, user, None)
            source = found.source
            try:
                password = await asyncio.to_thread(self._login, policy, source)
            except NotThere as why:  # the credential is for others: as without it
                try:
                    return await self._fill(found, branch, user, None)
                except (NotAllowed, NotFound):
                    raise why from None
            try:
                return await self._fill(found, branch, user, password)
            except LoginRefused:
                if not await asyncio.to_thread(self._refused, policy, source, password or ""):
                    raise
            password = await asyncio.to_thread(self._login, policy, source)
            return await self._fill(found, branch, user, password)

    async def _fill(self, found: Source, branch: str, user: UserGit, password: str | None) -> tuple[str, str]:
        path = self.path(found.slug)
        filler = Filler(found, user, password)
        if not path.exists():
            fresh = self.folder / f".new-{found.slug}"
            await asyncio.to_thread(shutil.rmtree, fresh, ignore_errors=True)
            await init_mirror(fresh, found.object_format)
            try:
                head = await filler.fill(fresh)
                answer = await filler.resolve(Git(fresh), branch, head)
            except BaseException:
                await asyncio.to_thread(shutil.rmtree, fresh, ignore_errors=True)
                raise
            fresh.rename(path)
            return answer
        mirror_config(path)  # an older version's mirror gets today's rules
        head = await filler.refresh(path)
        answer = await filler.resolve(Git(path), branch, head)
        await _tidy(path)
        return answer

    @contextlib.asynccontextmanager
    async def _locked(self, slug: str) -> AsyncIterator[None]:
        """Hold the mirror against other refreshes, in this process and in others."""
        async with self._locks.setdefault(slug, asyncio.Lock()):
            fd = os.open(self.folder / f".{slug}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                loop = asyncio.get_running_loop()
                deadline = loop.time() + _LOCK_SECONDS
                while not _try_lock(fd):
                    if loop.time() > deadline:
                        raise TimedOut(f"mirror {slug} is being refreshed by another process")
                    await asyncio.sleep(0.05)
                yield
            finally:
                os.close(fd)

    def _git(self, slug: str) -> Git:
        path = self.path(slug)
        if not path.is_dir():
            raise NotFound(f"there is no mirror {slug}")
        return Git(path)

    async def branch_head(self, slug: str, name: str) -> str | None:
        """Commit of ``thopter/<name>`` in the mirror, None when nothing was pushed there."""
        ref = box_ref(name)
        done = await self._git(slug).run(
            "rev-parse", "--verify", "--quiet", "--end-of-options", ref, ok=(0, 1)
        )
        return done.text or None

    async def start_branch(self, slug: str, name: str, base: str) -> None:
        """Make ``thopter/<name>`` at ``base``, so that the box's clone finds its branch. Idempotent;
        Conflict when the branch stands elsewhere."""
        head = await self.branch_head(slug, name)
        if head is None:
            await self._git(slug).run(
                "update-ref", "--end-of-options", box_ref(name), base, ZERO[: len(base)]
            )
        elif head != base:
            raise Conflict(
                f"branch thopter/{name} exists already in the mirror, at {head[:12]}",
                hint="pull or destroy the thopter that made it, or take another name",
            )

    async def drop_branch(self, slug: str, name: str) -> str | None:
        """Take ``thopter/<name>`` away so that the name is free again; returns its last commit, which
        stays in the mirror as ``refs/dropped/<name>/<commit>``. None: there was no such branch."""
        head = await self.branch_head(slug, name)
        if head is None:
            return None
        kept = f"refs/dropped/{check_name(name)}/{head}"
        script = f"start\nupdate {kept} {head}\ndelete {box_ref(name)} {head}\ncommit\n"
        await self._git(slug).run("update-ref", "--stdin", stdin=script.encode())
        return head

    async def count_commits(self, slug: str, base: str, name: str) -> int:
        """How many commits ``thopter/<name>`` has beyond ``base``."""
        done = await self._git(slug).run(
            "rev-list", "--count", "--end-of-options", f"{base}..{box_ref(name)}"
        )
        return int(done.text)

    async def bundle(self, slug: str, base: str, name: str) -> AsyncIterator[bytes]:
        """Yield a git bundle of ``base..thopter/<name>``. NotFound without such a branch, Refused when
        it has no commit beyond ``base`` (git has no empty bundles)."""
        git = self._git(slug)
        if await self.branch_head(slug, name) is None:
            raise NotFound(f"nothing was pushed to thopter/{name}")
        if not await self.count_commits(slug, base, name):
            raise Refused(f"thopter/{name} has no commit beyond where it started")
        async with contextlib.aclosing(
            git.stream("bundle", "create", "--quiet", "-", f"^{base}", box_ref(name))
        ) as parts:
            async for part in parts:
                yield part


def box_ref(name: str) -> str:
    """The one ref a box may push."""
    return f"refs/heads/thopter/{check_name(name)}"


async def count_dirty(source: Source, user: UserGit) -> int:
    """How many files of a work tree differ from HEAD, new ones included; 0 for anything without a work
    tree, -1 when it takes too long. Runs no filter, hook or monitor that the repository names."""
    if source.work_tree is None:
        return 0
    git = user.git(source.work_tree)
    try:
        named = await git.run(
            "config", "--get-regexp", "--name-only", r"^filter\..*\.(clean|process|required)$", ok=(0, 1)
        )
        off = {key: "false" if key.endswith(".required") else "" for key in named.text.split("\n") if key}
        quiet = user.git(source.work_tree, config=[*off.items(), ("status.submoduleSummary", "false")])
        done = await quiet.run(
            "status",
            "--porcelain=v1",
            "-z",
            "--no-renames",
            "--ignore-submodules=all",
            seconds=_STATUS_SECONDS,
        )
    except (TimedOut, GitFailed):
        return -1
    return done.stdout.count(b"\0")


def _try_lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


async def _tidy(path: Path) -> None:
    """Join packs when there are many. Only joins: no object is ever dropped, so a push or a clone under
    way is not disturbed; failing does no harm and is tried again at the next refresh."""
    packs = sum(1 for name in os.listdir(path / "objects" / "pack") if name.endswith(".pack"))
    if packs > _MANY_PACKS:
        with contextlib.suppress(GitFailed, TimedOut):
            await Git(path).run("repack", "--geometric=2", "-d", "--quiet", seconds=300.0)
