"""``thopter repos``: repositories you often start thopters on, by a short name."""

from __future__ import annotations

import click

from thopter.cli.app import App, json_option, pass_app
from thopter.cli.repo import canonical
from thopter.cli.tables import Repo, add_repo, check_name, default_name, replace_repo
from thopter.cli.tables import repos as read_repos
from thopter.cli.text import paint, table
from thopter.kit.sanitize import one_line
from thopter.model.errors import BadInput, NotFound


@click.group()
def repos() -> None:
    """Repositories by a short name, for --repo and for the question that 'run' asks."""


@repos.command("list")
@json_option()
@pass_app
def list_(app: App, as_json: bool) -> None:
    """Show them."""
    found = read_repos(app.paths)
    if as_json:
        return app.json([{"name": r.name, "repo": r.repo, "branch": r.branch or None} for r in found])
    if not found:
        return app.say("no repositories yet; add one: thopter repos add owner/repo")
    lines = [(one_line(r.name), one_line(r.repo), one_line(r.branch) or "(default)") for r in found]
    for i, line in enumerate(table(("NAME", "REPOSITORY", "BRANCH"), lines)):
        app.out(paint(line, "bold", on=app.colour and i == 0))


@repos.command()
@click.argument("repo")
@click.option("--name", metavar="NAME", help="What to call it; default: its last part.")
@click.option("--branch", metavar="BRANCH", help="Always start from this branch.")
@pass_app
def add(app: App, repo: str, name: str | None, branch: str | None) -> None:
    """Add REPO (folder, URL or owner/repo). The same one may be there twice, under two names."""
    entry = Repo(check_name(name or default_name(repo)), canonical(repo), check_branch(branch or ""))
    add_repo(app.paths, entry)
    app.out(f"Added {entry.name}: {entry.repo}{' @ ' + entry.branch if entry.branch else ''}.")


@repos.command()
@click.argument("name")
@click.option("--repo", metavar="REPO", help="Another repository.")
@click.option("--branch", metavar="BRANCH", help="Another branch; '' is the default one.")
@click.option("--rename", metavar="NAME", help="Another name.")
@pass_app
def edit(app: App, name: str, repo: str | None, branch: str | None, rename: str | None) -> None:
    """Change one; what no option says stays."""
    if repo is None and branch is None and rename is None:
        raise click.UsageError("say what to change: --repo, --branch or --rename")
    old = find(app, name)
    entry = Repo(
        check_name(rename or old.name),
        canonical(repo) if repo else old.repo,
        old.branch if branch is None else check_branch(branch),
    )
    replace_repo(app.paths, name, entry)
    app.out(f"{entry.name}: {entry.repo}{' @ ' + entry.branch if entry.branch else ''}.")


@repos.command()
@click.argument("name")
@pass_app
def remove(app: App, name: str) -> None:
    """Forget one; the repository itself and its thopters stay."""
    replace_repo(app.paths, name, None)
    app.out(f"Removed {name}.")


def find(app: App, name: str) -> Repo:
    """The predefined repository of that name; NotFound."""
    found = next((r for r in read_repos(app.paths) if r.name == name), None)
    if found is None:
        raise NotFound(f"there is no repository {name[:80]!r}", hint="see 'thopter repos list'")
    return found


def check_branch(branch: str) -> str:
    """A branch's name, or BadInput."""
    import re

    if branch and (not re.fullmatch(r"(?!-)[A-Za-z0-9/_.+-]{1,200}", branch) or ".." in branch):
        raise BadInput(f"{branch[:80]!r} is not a branch name")
    return branch
