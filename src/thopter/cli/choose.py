"""The question that ``run`` asks on a terminal when nothing says where to work."""

from __future__ import annotations

import click

from thopter.cli.app import App
from thopter.cli.tables import repos
from thopter.kit.sanitize import one_line


def choose(app: App) -> tuple[str, str]:
    """Ask; returns repository and branch as a person writes them, both empty for the home folder."""
    known = repos(app.paths)
    app.say("Where shall it work?")
    app.say("  1  in its home folder, without a repository")
    for number, entry in enumerate(known, 2):
        pinned = f" @ {entry.branch}" if entry.branch else ""
        app.say(f"  {number}  {one_line(entry.name)}  ({one_line(entry.repo + pinned)})")
    other = len(known) + 2
    app.say(f"  {other}  another repository")
    answer = int(click.prompt("Number", type=click.IntRange(1, other), default=1, err=True))
    if answer == 1:
        return "", ""
    if answer < other:
        return known[answer - 2].repo, known[answer - 2].branch
    repo = str(click.prompt("Repository (folder, URL or owner/repo)", err=True))
    return repo, str(
        click.prompt("Branch (Enter: its default one)", default="", show_default=False, err=True)
    )
