"""How a source gets into its mirror: the first time, and at every refresh."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from thopter.gateway.gitrun import Git, GitFailed, both
from thopter.gateway.login import LOGIN, LoginRefused, bare, pipe
from thopter.gateway.mirror_config import ZERO
from thopter.gateway.source import Source
from thopter.gateway.usergit import UserGit
from thopter.kit.sanitize import one_line
from thopter.model.errors import NotAllowed, NotFound, Refused, ThopterError

_FETCH_SECONDS = 1800.0
_HEADS, _HEAD = "refs/upstream/heads/", "refs/upstream/HEAD"
_REFSPECS = ("+refs/heads/*:refs/upstream/heads/*", "+refs/tags/*:refs/tags/*")
_LISTED = 12

_SAID = (
    (
        "Host key verification failed",
        NotAllowed,
        "its ssh host key is not known; connect once by hand: ssh -T <host>",
    ),
    ("Permission denied", NotAllowed, "ssh found no key that it accepts; is the agent running (ssh-add -l)?"),
    ("could not read Username", NotAllowed, "git has no login for it; set up a credential helper"),
    ("could not read Password", NotAllowed, "git has no login for it; set up a credential helper"),
    ("Authentication failed", NotAllowed, "git's stored login was refused; renew it"),
    ("not found", NotFound, "look at the address; a private repository looks the same without a login"),
    ("does not appear to be a git repository", NotFound, "look at the address"),
    ("Could not resolve host", ThopterError, "look at the address and at the network"),
)


def _quoted(path: str) -> str:
    """``path`` as one entry of git's list of alternates, in which ``:`` parts entries."""
    escaped = path.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


class Filler:
    """Brings one source's commits into one mirror; only what its branches and tags reach. ``password``: the
    policy's for an https source; None: the user's own login counts."""

    def __init__(self, source: Source, user: UserGit, password: str | None = None) -> None:
        self._source = source
        self._user = user
        self._password = password
        self._where = source.source if password is None else bare(source)

    async def fill(self, mirror: Path) -> str:
        """First time. Returns the name of the source's default branch ("" when HEAD is detached).

        A local repository is packed straight into the mirror, three times faster than a fetch; what no
        branch or tag reaches (stashes, amended commits) never gets there, as a copied folder would.
        """
        source = self._source
        if source.git_dir is None or source.shallow:
            return await self.refresh(mirror)
        git = self._user.git(source.git_dir)
        head, detached = await self._local_head()
        listed = await git.run("for-each-ref", "--format=%(objectname) %(refname)", "refs/heads", "refs/tags")
        refs = [
            (oid, ref) for oid, _, ref in (line.partition(" ") for line in listed.text.split("\n") if line)
        ]
        pairs = [(oid, ref.replace("refs/heads/", _HEADS, 1)) for oid, ref in refs]
        pairs += [(detached, _HEAD)] if detached else []
        if not pairs:
            return head
        tips = "".join(f"{oid}\n" for oid, _ in pairs).encode()
        objects = (await git.run("rev-parse", "--path-format=absolute", "--git-path", "objects")).text
        # The mirror's own folder of objects, or git would write in the source's and then rename from there,
        # which fails where that is another filesystem.
        env = {
            "GIT_OBJECT_DIRECTORY": str(mirror / "objects"),
            "GIT_ALTERNATE_OBJECT_DIRECTORIES": _quoted(objects),
        }
        target = mirror / "objects" / "pack" / "pack"
        await self._user.git(source.git_dir, env).run(
            "pack-objects", "--revs", "--delta-base-offset", "--quiet", str(target),
            stdin=tips, seconds=_FETCH_SECONDS,
        )  # fmt: skip
        script = "".join(f"create {ref} {oid}\n" for oid, ref in pairs)
        await Git(mirror).run("update-ref", "--stdin", stdin=script.encode())
        await self._show(mirror, head)
        return head

    async def refresh(self, mirror: Path) -> str:
        """Fetch what is new and forget what is gone. Returns as ``fill``."""
        source = self._source
        if source.git_dir is not None:
            head, detached = await self._local_head()
            env = {"GIT_ALLOW_PROTOCOL": "file"}
            await self._fetch(self._user.git(mirror, env), str(source.git_dir), detached=bool(detached))
        elif self._password is None:
            env = await self._user.for_remote(source.protocol)
            head, _ = await both(
                self._remote_head(self._user.git(None, env)),
                self._fetch(self._user.git(mirror, env), source.source, detached=False),
            )
        else:  # one after the other: a password can be read once
            async with self._logged_in(None) as git:
                head = await self._remote_head(git)
            async with self._logged_in(mirror) as git:
                await self._fetch(git, self._where, detached=False)
        await self._show(mirror, head)
        return head

    @asynccontextmanager
    async def _logged_in(self, directory: Path | None) -> AsyncIterator[Git]:
        assert self._password is not None
        with pipe(self._password) as fd:
            env, config = await self._user.for_login(fd), (("http.followRedirects", "false"),)
            yield self._user.git(directory, env, config, (fd,))

    async def _fetch(self, git: Git, where: str, *, detached: bool) -> None:
        argv = [
            "fetch",
            "--quiet",
            "--force",
            "--prune",
            "--no-tags",
            "--no-write-fetch-head",
            "--update-shallow",
        ]
        specs = [*_REFSPECS, f"+HEAD:{_HEAD}"] if detached else list(_REFSPECS)
        try:
            await git.run(
                *argv, "--no-recurse-submodules", "--end-of-options", where, *specs, seconds=_FETCH_SECONDS
            )
        except GitFailed as e:
            raise self._explain(e) from None

    async def _local_head(self) -> tuple[str, str]:
        """``(branch, "")``, or ``("", commit)`` when HEAD is detached."""
        assert self._source.git_dir is not None
        git = self._user.git(self._source.git_dir)
        named = await git.run("symbolic-ref", "--quiet", "HEAD", ok=(0, 1))
        if named.text.startswith("refs/heads/"):
            return named.text.removeprefix("refs/heads/"), ""
        done = await git.run("rev-parse", "--verify", "--quiet", "HEAD^{commit}", ok=(0, 1))
        return "", done.text

    async def _remote_head(self, git: Git) -> str:
        try:
            done = await git.run(
                "ls-remote", "--symref", "--end-of-options", self._where, "HEAD", seconds=120.0
            )
        except GitFailed as e:
            raise self._explain(e) from None
        for line in done.text.split("\n"):
            target, _, name = line.partition("\t")
            if name == "HEAD" and target.startswith("ref: refs/heads/"):
                return target.removeprefix("ref: refs/heads/")
        return ""

    def _explain(self, error: GitFailed) -> ThopterError:
        where = self._source.source
        if self._password is not None and LOGIN.search(error.stderr):
            why = f"{where} can't be read: the login of the policy was refused"
            return LoginRefused(why, hint="renew the secret that its git.credential names")
        for text, kind, hint in _SAID:
            if text.lower() in error.stderr.lower():
                return kind(f"{where} can't be read: {one_line(text, 100)}", hint=hint)
        return Refused(f"{where} can't be read: {error.message}", hint="try: git ls-remote " + where)

    async def _show(self, mirror: Path, head: str) -> None:
        """Let ``refs/heads/`` follow ``refs/upstream/heads/``, leaving the boxes' branches alone."""
        git = Git(mirror)
        listed = await git.run("for-each-ref", "--format=%(refname) %(objectname)", _HEADS, "refs/heads/")
        has: dict[str, str] = {}
        wanted: dict[str, str] = {}
        for ref, _, oid in (line.partition(" ") for line in listed.text.split("\n") if line):
            into, name = (
                (wanted, ref[len(_HEADS) :]) if ref.startswith(_HEADS) else (has, ref[len("refs/heads/") :])
            )
            if not _is_boxes(name):
                into[name] = oid
        gone = "".join(f"delete refs/heads/{name} {oid}\n" for name, oid in has.items() if name not in wanted)
        new = "".join(
            f"update refs/heads/{name} {oid} {has.get(name, ZERO[: len(oid)])}\n"
            for name, oid in wanted.items()
            if has.get(name) != oid
        )
        for script in (gone, new):  # two: a branch "a" may have become "a/b"
            if script:
                await git.run("update-ref", "--stdin", stdin=script.encode())
        if head and not _is_boxes(head):
            await git.run("symbolic-ref", "HEAD", f"refs/heads/{head}")

    async def resolve(self, git: Git, branch: str, head: str) -> tuple[str, str]:
        """Return ``(branch, commit)`` of ``branch`` or of the source's HEAD, as the mirror has it."""
        wanted = branch or head
        places = [_HEADS + wanted] if wanted else [_HEAD]
        if branch.startswith("thopter/"):
            places.append("refs/heads/" + branch)  # what another thopter pushed and nobody pulled yet
        for place in places:
            argv = ("rev-parse", "--verify", "--quiet", "--end-of-options", place + "^{commit}")
            found = (await git.run(*argv, ok=(0, 1, 128))).text
            if found:
                if not wanted or _is_boxes(wanted):
                    # No branch that boxes see leads there: give it one, or a clone would lack it.
                    await git.run("update-ref", f"refs/heads/thopter-base/{found[:16]}", found)
                return wanted or "HEAD", found
        return await self._nothing_there(git, branch, head)

    async def _nothing_there(self, git: Git, branch: str, head: str) -> tuple[str, str]:
        listed = await git.run("for-each-ref", "--sort=-committerdate", "--format=%(refname)", _HEADS)
        names = [ref.removeprefix(_HEADS) for ref in listed.text.split("\n") if ref]
        where = self._source.source
        if not names:
            raise Refused(
                f"{where} has no commit yet, so there is nothing to start from",
                hint="make a first one: git commit --allow-empty -m start",
            )
        shown = ", ".join(one_line(name, 60) for name in names[:_LISTED]) + (
            " …" if len(names) > _LISTED else ""
        )
        if branch:
            raise NotFound(f"{where} has no branch {branch!r}", hint=f"it has: {shown}", branches=names[:100])
        raise NotFound(
            f"HEAD of {where} is at {head or 'no branch'!r}, which has no commit",
            hint=f"name a branch: {shown}",
            branches=names[:100],
        )


def _is_boxes(name: str) -> bool:
    """Whether a branch name is in the boxes' own part of ``refs/heads/``."""
    return name in ("thopter", "thopter-base") or name.startswith(("thopter/", "thopter-base/"))
