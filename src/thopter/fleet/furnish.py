"""Furnishing a box before its agent starts: repositories, variables, uploads, the post-create command.

Each method is the body of a step of ``fly``: idempotent, and what it did in the box goes with the box.
"""

from __future__ import annotations

import posixpath
import re
import shlex
import shutil
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec import Struct, structs

from thopter.fleet.boxnet import chosen as chosen_policy
from thopter.fleet.deps import Deps
from thopter.fleet.places import places_of
from thopter.fleet.ports import GIT_PORT, HOME
from thopter.flow.engine import FlowContext
from thopter.kit.channel import BoxLink
from thopter.kit.durable import write_private
from thopter.kit.paths import private_dir
from thopter.kit.sanitize import one_line
from thopter.model.api.furnish import Upload
from thopter.model.errors import BadInput, NotFound, ProviderError, Refused
from thopter.model.nouns import RepoRef, Run

if TYPE_CHECKING:
    from thopter.fleet.launch import FlyArgs
    from thopter.fleet.live import LiveBox

WORK = "/work"
_ITS_OWN = ("HOME", "PATH", "TERM", "LANG", "SHELL", "THOPTER_RUN")  # of the agent of a run alone
ENV_FILE = f"{HOME}/.thopter/env"
UPLOADS_MAX = 32 << 20
_CLONE_TIMEOUT_S = 900.0
_TAIL_LINES = 12
_SOURCE = '[ -r "$HOME/.thopter/env" ] && . "$HOME/.thopter/env"'


class Staged(Struct, frozen=True, kw_only=True):
    """An upload that lies in the state folder until its box is up: file ``number`` of its flow."""

    number: int
    path: str
    mode: int


class Stage:
    """Where uploads wait: one folder a flow, removed when the flow is over."""

    def __init__(self, state: Path) -> None:
        self._folder = state / "uploads"

    def put(self, flow: str, uploads: list[Upload]) -> tuple[Staged, ...]:
        """Keep the contents, durable when this returns; again with the same flow: the same."""
        if not uploads:
            return ()
        folder = private_dir(private_dir(self._folder) / flow)
        staged = []
        for number, upload in enumerate(uploads):
            write_private(folder / str(number), upload.content)
            staged.append(Staged(number=number, path=in_box(upload.path), mode=upload.mode))
        return tuple(staged)

    def content(self, flow: str, number: int) -> bytes:
        """What was kept."""
        return (self._folder / flow / str(number)).read_bytes()

    def drop(self, flow: str) -> None:
        """Remove what a flow had; nothing there = success."""
        shutil.rmtree(self._folder / flow, ignore_errors=True)

    def sweep(self, wanted: frozenset[str]) -> None:
        """Remove what no flow in ``wanted`` will ask for: left by a hub that died."""
        if self._folder.is_dir():
            for folder in self._folder.iterdir():
                if folder.name not in wanted:
                    shutil.rmtree(folder, ignore_errors=True)


def in_box(path: str) -> str:
    """An absolute path in the box, or BadInput."""
    full = HOME + path[1:] if path == "~" or path.startswith("~/") else path
    if not full.startswith("/") or "\0" in full or full.endswith("/") or ".." in full.split("/"):
        raise BadInput(
            f"{path[:200]!r} is no place for a file in a box", hint="e.g. ~/.npmrc or /work/notes.md"
        )
    return full


def check_uploads(uploads: list[Upload]) -> None:
    """BadInput for what can't be written, or is too much."""
    for upload in uploads:
        in_box(upload.path)
    if sum(len(u.content) for u in uploads) > UPLOADS_MAX:
        raise BadInput(f"the uploads are over {UPLOADS_MAX >> 20} MiB", hint="put big files into a snapshot")


class Furnisher:
    """The steps; ``at`` gives the box, its link and its run. See the module docstring."""

    def __init__(self, deps: Deps, at: Callable[[FlyArgs], Awaitable[tuple[LiveBox, BoxLink, Run]]]) -> None:
        self.deps = deps
        self.stage = Stage(deps.paths.state)
        self._at = at

    async def mirror(self, args: FlyArgs) -> dict[str, Any]:
        """Make or refresh the mirrors of all repositories; record where each will stand."""
        wanted = [(args.repo, args.branch)] if args.repo else []
        wanted += [(c.repo, c.branch) for c in args.checkouts]
        refs: list[RepoRef] = []
        dirty = 0
        policy = str(chosen_policy(await self.deps.store.boxes.get(args.box)).get("name") or "")
        for source, branch in wanted:
            ref, changed = await self.deps.mirrors.prepare(source, branch, policy)
            if any(ref.slug == other.slug for other in refs):
                raise Refused(
                    f"{ref.source} is wanted twice in one box",
                    hint="a box has one branch of its own in a repository; start two thopters",
                )
            await self.deps.mirrors.drop_branch(ref.slug, args.name)  # of an earlier thopter of that name
            refs.append(structs.replace(ref, folder=folder_for(ref, refs)))
            dirty += max(changed, 0)
        first = structs.replace(refs[0], beside=tuple(refs[1:]))
        run = await self.deps.store.runs.get(args.run)
        cwd = HOME if args.home else first.folder if args.repo else WORK
        await self.deps.store.runs.update(structs.replace(run, repo=first, cwd=cwd))
        return {"base": first.base, "branch": first.branch, "slug": first.slug, "dirty": dirty}

    async def clone(self, args: FlyArgs) -> dict[str, Any]:
        """Clone each into its folder, on the branch that the box may push."""
        live, link, run = await self._at(args)
        name, email = self.deps.identity
        branch = f"thopter/{live.box.name}"
        for ref in repos_of(run):
            url = f"http://127.0.0.1:{places_of(live.box).port(GIT_PORT)}/r/{ref.slug}.git"
            script = _CLONE.format(dir=shlex.quote(ref.folder or run.cwd))
            result = await link.exec(
                ["/bin/sh", "-c", script, "sh", url, ref.base, branch, name, email, live.box.id],
                cwd="/",
                timeout=_CLONE_TIMEOUT_S,
            )
            if result.exit != 0:
                said = result.stderr.decode(errors="replace").strip().splitlines()
                raise ProviderError(f"the clone in the box failed: {said[-1] if said else 'no message'}")
        return {"cwd": run.cwd}

    async def environment(self, args: FlyArgs, agent: Mapping[str, str]) -> None:
        """Write the box's variables and who it is, for every login shell and whoever sources the file;
        and what of its ``agent``'s environment another agent needs that a person starts there."""
        live, link, _run = await self._at(args)
        who = {"THOPTER_NAME": live.box.name, "THOPTER_ID": live.box.id, "THOPTER_OWNER": self.deps.owner}
        text = "# Written by thopter when this box was made.\n"
        text += "".join(f"export {k}={shlex.quote(v)}\n" for k, v in args.settings.get("env", {}).items())
        # What a process knows already counts more: a fork has this file too, and another name.
        text += "".join(f"export {k}=${{{k}:-{shlex.quote(v)}}}\n" for k, v in who.items())
        known = {*_ITS_OWN, *who, *args.settings.get("env", {})}
        for name, value in agent.items():
            if value == args.token:  # not in the file: it would go into every saved box
                text += f'{name}=$(cut -d " " -f 2 {places_of(live.box).run}/status 2>/dev/null) && '
                text += f"export {name}\n"
            elif name not in known:
                text += f"export {name}=${{{name}:-{shlex.quote(value)}}}\n"
        await link.put(places_of(live.box).at(ENV_FILE), text.encode("utf-8", "surrogateescape"), mode=0o600)
        done = await link.exec(["/bin/sh", "-c", _SOURCED, "sh", _SOURCE], timeout=60.0)
        if done.exit != 0:
            raise ProviderError("the box's shell profile could not be written")

    async def upload(self, args: FlyArgs, flow: str) -> dict[str, Any]:
        """Write the uploads, in order, over whatever is there."""
        live, link, _run = await self._at(args)
        for staged in args.uploads:
            try:
                content = self.stage.content(flow, staged.number)
            except FileNotFoundError:
                raise NotFound(f"the upload for {staged.path} is gone from the hub's state folder") from None
            await link.put(places_of(live.box).at(staged.path), content, mode=staged.mode)
        return {"files": len(args.uploads)}

    async def post_create(self, ctx: FlowContext, args: FlyArgs) -> dict[str, Any]:
        """Run the command from a login shell in the work folder; its output is the step's progress, and
        its end, when it fails, the error. A hub that dies meanwhile runs it again."""
        _live, link, run = await self._at(args)
        limit = float(self.deps.settings.get("box.post_create_seconds"))
        tail: list[str] = []
        argv = ["/bin/bash", "-lc", args.post_create]
        async with link.open_exec(argv, cwd=run.cwd, stdin=False, merge=True, timeout=limit) as command:
            rest = b""
            async for _number, data in command:
                *lines, rest = (rest + data).split(b"\n")
                rest = rest[-65536:]
                for line in lines:
                    _say(ctx, tail, line)
            if rest:
                _say(ctx, tail, rest)
            how, code = await command.wait()
            late = command.timed_out
        if (how, code) != ("exit", 0):
            why = f"took over {limit:g} s" if late else f"ended with {how} {code}"
            raise ProviderError(
                f"the post-create command {why}: " + (" / ".join(tail) or "it printed nothing"),
                hint="mend it (setting box.post_create, or --post-create), then start the thopter again",
            )
        return {"lines": len(tail)}


def _say(ctx: FlowContext, tail: list[str], line: bytes) -> None:
    text = one_line(line.decode("utf-8", "replace"), 300)
    if text:
        ctx.say(text)
        tail.append(text)
        del tail[:-_TAIL_LINES]


def repos_of(run: Run) -> tuple[RepoRef, ...]:
    """Every repository in the run's box, the main one first."""
    return () if run.repo is None else (run.repo, *run.repo.beside)


def chosen(run: Run, checkout: str) -> Run:
    """The run as if ``checkout`` (a folder below /work; empty: the main one) were its repository."""
    found = repos_of(run)
    if not checkout:
        return structs.replace(run, cwd=run.repo.folder or run.cwd) if run.repo else run
    for ref in found:
        if checkout in (posixpath.basename(ref.folder), ref.folder, ref.source):
            return structs.replace(run, repo=ref, cwd=ref.folder)
    names = ", ".join(posixpath.basename(r.folder) for r in found) or "none"
    raise NotFound(f"there is no checkout {checkout[:80]!r}", hint=f"its repositories: {names}")


def folder_for(ref: RepoRef, others: list[RepoRef]) -> str:
    """Where the repository stands in the box: below /work, by its own name, each in its own folder."""
    last = ref.source.rstrip("/").removesuffix(".git").removesuffix("/").rsplit("/", 1)[-1]
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", last).strip(".-") or "repo"
    taken = {other.folder for other in others}
    names = [plain, *(f"{plain}-{n}" for n in range(2, 100))]
    return next(path for n in names if (path := posixpath.join(WORK, n)) not in taken)


# Run in the box. Positional: url, base, branch, user name, mail, box. A half-made clone of an earlier
# attempt is thrown away; this box's finished one is kept, with the agent's work in it; one that a saved
# box brought along is refreshed, and made anew when that does not work.
_CLONE = """
set -e
dir={dir}
ready="$dir/.git/thopter-ready"
if [ -e "$ready" ] && [ "$(cat "$ready")" = "$6" ]; then exit 0; fi
refresh() {{
  [ -e "$ready" ] && cd "$dir" && rm -f .git/*.lock &&
  git remote set-url origin "$1" && git fetch --quiet --prune origin &&
  git symbolic-ref HEAD "refs/heads/$3" && git reset --quiet --hard "$2"
}}
git config --global user.name "$4"
git config --global user.email "$5"
git config --global push.default current
git config --global push.autoSetupRemote true
git config --global advice.detachedHead false
git config --global init.defaultBranch main
git config --global --replace-all safe.directory '*'
if ! (refresh "$@") 2>/dev/null; then
  rm -rf -- "$dir"
  git clone --quiet --no-checkout -- "$1" "$dir"
  cd "$dir"
  git checkout --quiet -B "$3" "$2"
fi
printf %s "$6" > "$ready"
"""

# Run in the box. Positional: the line that reads the variables. First in each file, as .bashrc ends early.
_SOURCED = """
set -e
for file in "$HOME/.profile" "$HOME/.bashrc"; do
  grep -qxF "$1" "$file" 2>/dev/null && continue
  { printf '%s\\n' "$1"; cat "$file" 2>/dev/null || :; } >"$file.thopter"
  mv "$file.thopter" "$file"
done
"""
