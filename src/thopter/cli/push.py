"""``thopter push``: bring a thopter's branch to where its repository came from."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import click

from thopter.cli.app import App, complete_name, json_option, pass_app
from thopter.kit.sanitize import one_line
from thopter.model.errors import NotNow, Refused, TimedOut

if TYPE_CHECKING:
    from thopter.model.api.pushes import PushView

_STEP_S = 0.2


@click.command()
@click.argument("name", shell_complete=complete_name)
@click.option("--checkout", metavar="FOLDER", default="", help="Another repository than the main one.")
@click.option("--wip", is_flag=True, help="Also what is not committed, as one more commit.")
@click.option("--force", is_flag=True, help="Replace its branch upstream, whatever is there.")
@click.option("--show", is_flag=True, help="Push nothing; say how its branches stand.")
@click.option("--wait", "wait_s", type=click.FloatRange(0, 3600), default=60.0, show_default=True,
              metavar="SECONDS", help="How long to wait; the hub goes on trying.")  # fmt: skip
@json_option()
@pass_app
def push(
    app: App, name: str, checkout: str, wip: bool, force: bool, show: bool, wait_s: float, as_json: bool
) -> None:
    """Bring NAME's commits to its branch thopter/NAME in the repository they came from.

    The push goes through the policy of the box like its own, and then by the hub with your login. Boxes whose
    policy says push = "upstream" do this by themselves. Exit 5 when upstream refuses, 7 when it can't be
    reached in time (the hub goes on trying).
    """
    from thopter.mesh.pushes import order, view
    from thopter.model.api.pushes import PushRequest

    name = app.name(name)
    if show:
        found = view(app.hub, name).pushes
        if as_json:
            return app.json(found)
        for one in found:
            app.out(f"{one_line(one.source, 200)}: {_stands(one)}")
        return None
    try:
        app.hub.pull(name, wip, checkout)
    except NotNow as e:
        app.say(f"note: {one_line(e.message, 200)}; what it pushed before goes upstream")
    found = order(app.hub, name, PushRequest(checkout=checkout, force=force)).pushes
    deadline = time.monotonic() + wait_s
    mine = _of(found, checkout)
    while mine.state == "queued" and time.monotonic() < deadline:
        time.sleep(_STEP_S)
        mine = _of(view(app.hub, name).pushes, checkout)
    if as_json:
        app.json(mine)
    if mine.state == "blocked":
        raise Refused(one_line(mine.problem, 400), hint=f"thopter push {name} --force replaces what is there")
    if mine.state != "sent":
        why = one_line(mine.problem, 300) or "upstream has not answered yet"
        raise TimedOut(f"{why}; the hub goes on trying", hint=f"see 'thopter push {name} --show'")
    if not as_json:
        app.out(f"{one_line(mine.source, 200)} has {mine.branch} at {mine.wanted[:12]}")
    return None


def _of(found: list[PushView], checkout: str) -> PushView:
    """The one that was meant; the hub has checked that there is one."""
    for one in found:
        if checkout and checkout in (one.folder, one.folder.rpartition("/")[2], one.source):
            return one
    return found[0]


def _stands(one: PushView) -> str:
    from thopter.cli.status_view import push_words

    if one.state == "none":
        own = "its pushes go there by themselves" if one.allowed else f"policy {one.policy} keeps them here"
        return f"nothing was brought there; {own}"
    return push_words(one, int(time.time() * 1000))
