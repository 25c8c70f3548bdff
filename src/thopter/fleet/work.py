"""What an agent has done in its repository: diff, and its branch in the mirror.

git runs *inside the box* here, never on the hub (the box owns that tree and its .git/config); what
comes back is bytes. The hub only reads the bare mirror, which real git's pre-receive has guarded.
"""

from __future__ import annotations

import re

from thopter.kit.channel import BoxLink
from thopter.kit.sanitize import one_line
from thopter.model.api import DiffResult
from thopter.model.errors import ProviderError, Refused
from thopter.model.nouns import Run

DIFF_CAP = 4 << 20  # bytes of diff that are worth showing a person
_COUNT = re.compile(r"[0-9]{1,12}")
_HASH = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?")
_OURS = "remote: thopter: "  # how the git gateway speaks to whoever pushes
# Never ask, and never disturb the agent's own git.
_QUIET = "export GIT_TERMINAL_PROMPT=0 GIT_OPTIONAL_LOCKS=0\n"

# A second index makes untracked files part of the picture without touching the agent's own.
WITH_ALL = """
set -e
export GIT_INDEX_FILE="$(mktemp)"
trap 'rm -f "$GIT_INDEX_FILE"' EXIT
index="$(GIT_INDEX_FILE= git rev-parse --git-path index)"
cp "$index" "$GIT_INDEX_FILE" 2>/dev/null || rm -f "$GIT_INDEX_FILE"
git add -A
"""
_SUMMARY = """
set -e
git rev-parse HEAD
git rev-list --count "$1..HEAD"
git status --porcelain=v1 --untracked-files=all | wc -l
"""
_DIFF = (
    WITH_ALL + 'git -c core.quotepath=off diff --cached --no-color --no-ext-diff --no-textconv "$2" "$1" --\n'
)
_WIP = (
    WITH_ALL
    + """
tree="$(git write-tree)"
git commit-tree "$tree" -p HEAD -m "thopter: work in progress"
"""
)


async def in_box(link: BoxLink, run: Run, script: str, *args: str, cap: int = 1 << 20) -> tuple[bytes, bool]:
    """Run a script in the work folder: its output, and whether that was cut at ``cap`` bytes."""
    argv = ["/bin/sh", "-c", _QUIET + script, "sh", *args]
    result = await link.exec(argv, cwd=run.cwd, timeout=120.0, output_cap=cap)
    if result.exit != 0 and not result.truncated:
        said = result.stderr.decode(errors="replace").strip().splitlines()
        ours = [
            line.removeprefix("remote: thopter: ") for line in said if line.startswith("remote: thopter: ")
        ]
        if ours and ours[0].startswith("refused: "):
            raise Refused(
                "its policy does not let that be pushed: " + one_line(ours[0].removeprefix("refused: "), 400),
                hint=one_line(ours[1], 300) if len(ours) > 1 else "see 'thopter policy explain'",
            )
        raise ProviderError(
            f"git in the box failed: {said[-1] if said else 'no message'}",
            hint="see the tree yourself with 'thopter ssh'",
        )
    return result.stdout, result.truncated


def need_repo(run: Run) -> str:
    """The commit that the work began at; Refused when there is no repository."""
    if run.repo is None:
        raise Refused("this thopter has no repository", hint="start it with --repo")
    return run.repo.base


async def summary(link: BoxLink, run: Run, base: str) -> tuple[str, int, int]:
    """HEAD, commits since ``base``, files that differ from HEAD."""
    out, _ = await in_box(link, run, _SUMMARY, base)
    head, *counts = out.decode(errors="replace").split()[:3] or [""]
    if not _HASH.fullmatch(head) or len(counts) != 2 or not all(_COUNT.fullmatch(c) for c in counts):
        raise ProviderError("the box's git gave no usable answer", hint="see it with 'thopter ssh'")
    return head, int(counts[0]), int(counts[1])


async def diff(link: BoxLink, run: Run) -> DiffResult:
    """The work so far: base commit to working tree, untracked files included."""
    base = need_repo(run)
    head, commits, dirty = await summary(link, run, base)
    text, cut = await in_box(link, run, _DIFF, base, "-p", cap=DIFF_CAP)
    stat, _ = await in_box(link, run, _DIFF, base, "--stat=100")
    return DiffResult(
        diff=text.decode(errors="replace"),
        stat=stat.decode(errors="replace"),
        commits=commits,
        dirty=dirty,
        truncated=cut,
        head=head,
    )


async def push_from_box(link: BoxLink, run: Run, name: str, git_url: str, wip: bool) -> tuple[int, int]:
    """Push the box's HEAD (or a commit of the whole tree) to its branch in the mirror.

    Returns ``(commits since base, files changed but not committed)``. The push goes through the
    git gateway like any other, so its policy holds here too.
    """
    base = need_repo(run)
    commit, commits, dirty = await summary(link, run, base)
    if wip and dirty:
        out, _ = await in_box(link, run, _WIP)
        commit = out.decode(errors="replace").strip()
        if not _HASH.fullmatch(commit):
            raise ProviderError(
                "the work in progress could not be committed", hint="see it with 'thopter ssh'"
            )
    await in_box(
        link, run, 'git push --quiet --force "$1" "$2:refs/heads/$3"\n', git_url, commit, f"thopter/{name}"
    )
    return commits + (1 if wip and dirty else 0), dirty
