"""``thopter pool``: boxes kept ready, with their agent started and waiting, for runs to take."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from thopter.cli.app import App, json_option, pass_app
from thopter.cli.furnish import furnish_options
from thopter.cli.text import ago, now_ms, paint, plural, table
from thopter.kit.sanitize import one_line

if TYPE_CHECKING:
    from thopter.model.api.pool import PoolView


@click.group()
def pool() -> None:
    """Boxes kept ready: 'thopter run' without --name takes one that is like what it asks for.

    A warm box is like any other, only its agent has started already; it counts in 'thopter hub
    status' and shows in 'thopter status --all'. What is taken is replaced in the background, and
    so is what has become old: settings, snapshot or the agent's version have changed.
    """


@pool.command("set")
@click.argument("snapshot", metavar="SNAP")
@click.argument("count", metavar="N", type=click.IntRange(0, 50))
@click.option(
    "--repo", metavar="REPO", help="Have this repository cloned in it: folder ('.'), URL, owner/repo."
)
@click.option("--agent", metavar="AGENT", help="The agent that waits in it.")
@click.option("--model", metavar="MODEL", help="The model the agent shall use.")
@click.option("--permission-mode", metavar="MODE", help="The agent's permission mode in its box.")
@furnish_options
@json_option()
@pass_app
def set_(
    app: App, snapshot: str, count: int, repo: str | None, agent: str | None, model: str | None,
    permission_mode: str | None, as_json: bool,
) -> None:  # fmt: skip
    """Keep N boxes ready that start from the snapshot SNAP; the word 'golden' means a fresh box.

    N counts for SNAP together with repository and agent; 0 keeps none any more.
    """
    from functools import partial

    from thopter.cli.furnish import furnishing
    from thopter.cli.run import place, setting_here
    from thopter.mesh.pool import set_pool
    from thopter.model.api.pool import PoolRequest

    agent = agent or app.settings.get("agents.default")
    request = PoolRequest(
        snapshot=snapshot,
        want=count,
        repo=place(app, repo, "", ask=False)[0],
        agent=agent,
        furnishing=furnishing(app, partial(setting_here, app)),
        model=model or setting_here(app, f"agents.{agent}.model"),
        permission_mode=permission_mode or setting_here(app, f"agents.{agent}.permission_mode"),
    )
    view = set_pool(app.hub, request)
    if as_json:
        return app.json(view)
    if not count:
        return app.out(f"No warm boxes of {one_line(snapshot)} any more.")
    app.out(f"{plural(count, 'warm box', 'warm boxes')} of {one_line(snapshot)} will be kept ready.")
    app.out("  thopter pool list    how many are ready now")


@pool.command("list")
@json_option()
@pass_app
def list_(app: App, as_json: bool) -> None:
    """Show the pools: what is wanted, what is ready now, and what keeps them from being filled."""
    from thopter.mesh.pool import pools

    found = pools(app.hub)
    if as_json:
        return app.json(found)
    if not found:
        return app.say("no pools; keep two boxes ready: thopter pool set golden 2 --repo .")
    rows = []
    for p in found:
        counts = map(str, (p.want, p.ready, p.filling, p.taken))
        rows.append((one_line(p.snapshot), p.agent, one_line(p.repo) or "-", *counts))
    lines = table(("SNAPSHOT", "AGENT", "REPO", "WANT", "READY", "FILLING", "TAKEN"), rows)
    app.out(paint(lines[0], "bold", on=app.colour))
    for line, view in zip(lines[1:], found, strict=True):
        app.out(line)
        _more(app, view)


def _more(app: App, view: PoolView) -> None:
    """The boxes of one pool, and its problem."""
    for box in view.boxes:
        app.out(f"  {box.name}  {box.state}  {ago(box.since_ms, now_ms())}")
    if view.problem:
        app.out(f"  {paint(one_line(view.problem, 300), 'red', on=app.colour)}{_again(view)}")


def _again(view: PoolView) -> str:
    left = (view.retry_ms - now_ms()) // 1000
    return f" (tried again in {left} s)" if view.retry_ms and left > 0 else ""


@pool.command()
@click.argument("snapshot", metavar="SNAP", required=False)
@json_option()
@pass_app
def clear(app: App, snapshot: str | None, as_json: bool) -> None:
    """Keep no boxes of SNAP ready any more (of none at all without it), and destroy those that wait."""
    from thopter.mesh.pool import clear as clear_pools

    gone = clear_pools(app.hub, snapshot or "")
    if as_json:
        return app.json(gone)
    count = sum(len(p.boxes) for p in gone)
    app.out(f"{plural(len(gone), 'pool')} cleared; {plural(count, 'box', 'boxes')} being destroyed.")
