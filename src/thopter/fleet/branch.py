"""A repository that a saved box brought along gets a branch of its own in the new box."""

from __future__ import annotations

from thopter.fleet.deps import Deps
from thopter.fleet.furnish import repos_of
from thopter.fleet.ports import GIT_PORT as GIT_PORT
from thopter.kit.channel import BoxLink
from thopter.model.errors import ProviderError
from thopter.model.nouns import Run

_TIMEOUT_S = 120.0

# Run in the box. Positional: folder, branch, user name, mail, url, box, whether locks are old. The
# files and git's index stay as they are, also in the middle of a merge.
_SWITCH = """
set -e
cd "$1"
[ -z "$7" ] || rm -f .git/*.lock
git config --global user.name "$3"
git config --global user.email "$4"
git config --global --replace-all safe.directory '*'
old="$(git symbolic-ref --quiet HEAD || true)"
new="refs/heads/$2"
if [ "$old" != "$new" ]; then
  git update-ref "$new" HEAD
  git symbolic-ref HEAD "$new"
  case "$old" in refs/heads/thopter/*) git update-ref -d "$old" ;; esac
fi
git remote set-url origin "$5" 2>/dev/null || git remote add origin "$5"
git for-each-ref --format='delete %(refname)' refs/remotes/origin/thopter/ | git update-ref --stdin
printf %s "$6" > .git/thopter-ready
"""


async def own_branch(deps: Deps, link: BoxLink, run: Run, box: str, name: str, locks: bool = True) -> None:
    """Point the clone in the box at ``thopter/<name>``, at the commit where it stands; safe to repeat.
    ``locks``: no process of before can hold a lock any more, so those there are go.

    ProviderError when its git does not do it. Without a repository there is nothing to do."""
    user, email = deps.identity
    for ref in repos_of(run):
        await deps.mirrors.drop_branch(ref.slug, name)  # of an earlier thopter of that name
        url = f"http://127.0.0.1:{GIT_PORT}/r/{ref.slug}.git"
        result = await link.exec(
            [
                "/bin/sh",
                "-c",
                _SWITCH,
                "sh",
                ref.folder or run.cwd,
                f"thopter/{name}",
                user,
                email,
                url,
                box,
                "old" if locks else "",
            ],
            cwd="/",
            timeout=_TIMEOUT_S,
        )
        if result.exit != 0:
            said = result.stderr.decode(errors="replace").strip().splitlines()
            raise ProviderError(
                "the repository in the box could not get its own branch: "
                + (said[-1] if said else "no message")
            )
