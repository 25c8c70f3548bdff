"""``thopter suspend``, ``resume``, ``restart``, ``stop`` and ``keepalive``."""

from __future__ import annotations

import time

import click

from thopter.cli.app import MINUTES, App, json_option, name_argument, pass_app
from thopter.cli.progress import Steps, follow
from thopter.cli.snapshot import size
from thopter.cli.text import plural
from thopter.kit.sanitize import one_line
from thopter.model.api import FlowView


@click.command()
@name_argument()
@click.option("--disk", is_flag=True, help="End its processes; files and conversation stay.")
@json_option()
@pass_app
def suspend(app: App, name: str, disk: bool, as_json: bool) -> None:
    """Put NAME to sleep: its processes stand still at once, and give their memory back where there is
    swap for it. 'thopter resume' lets it go on."""
    name = app.name(name)
    done = app.hub.saved.suspend(name, disk)
    if done.flow:
        follow(app.hub, done.flow, Steps(app))
        done.state = "stopped"
    if as_json:
        return app.json({"name": done.name, "state": done.state, "reclaimed": done.reclaimed})
    freed = f"; {size(done.reclaimed)} of memory given back" if done.reclaimed else ""
    app.out(f"{done.name} is {one_line(done.state, 20)}{freed}.")


@click.command()
@name_argument()
@click.option(
    "--no-go-on",
    "rest",
    is_flag=True,
    help="Do not tell an agent that died in the middle of its turn to go on.",
)
@json_option()
@pass_app
def resume(app: App, name: str, rest: bool, as_json: bool) -> None:
    """Let NAME go on, from sleep, from loss or with a dead agent: its files, its tmux, and its agent
    with the conversation.

    What it had acknowledged and its conversation lacks is said again, each message once. When it died in
    the middle of a turn it is told to go on (setting run.go_on).
    """
    accepted = app.hub.saved.resume(app.name(name), go_on=not rest)
    try:
        view = follow(app.hub, accepted.flow, Steps(app))
    except KeyboardInterrupt:
        app.say(f"\nDetached; {accepted.name} goes on being resumed.")
        app.exit(0)
    _report(app, view, accepted.name, as_json, "resumed")


@click.command()
@name_argument()
@click.option("--fresh-session", "fresh", is_flag=True, help="Without its conversation.")
@json_option()
@pass_app
def restart(app: App, name: str, fresh: bool, as_json: bool) -> None:
    """End the agent of NAME and start it again in its box, with its conversation."""
    accepted = app.hub.saved.restart(app.name(name), fresh)
    view = follow(app.hub, accepted.flow, Steps(app))
    _report(app, view, accepted.name, as_json, "restarted")


def _report(app: App, view: FlowView, name: str, as_json: bool, done: str) -> None:
    if as_json:
        return app.json(view.result)
    state = one_line(str(view.result.get("state") or ""), 20)
    app.out(f"Thopter '{name}' {done}" + (f", {state}." if state else "."))
    again = view.result.get("again")
    if isinstance(again, int) and again > 0:
        app.say(f"{plural(again, 'message')} that its conversation lacked: said again.")
    if view.result.get("go_on"):
        app.say("It died in the middle of its turn, and is told to go on.")
    problem = one_line(str(view.result.get("problem") or ""), 400)
    if problem:
        app.say(f"note: {problem}")


@click.command()
@name_argument()
@pass_app
def stop(app: App, name: str) -> None:
    """End the agent of NAME; its box and files stay. 'thopter resume' brings it back."""
    name = app.name(name)
    app.hub.saved.stop(name)
    app.out(f"The agent of {name} has ended; its box stays.")


@click.command()
@name_argument()
@click.argument("minutes", required=False, type=MINUTES, metavar="[MIN]")
@click.option("--idle-timeout", type=MINUTES, metavar="MIN", help="Minutes of idleness; 0: never.")
@click.option("--on-idle", type=click.Choice(["freeze", "suspend", "stop", "destroy", "none"]),
              help="What then happens to it.")  # fmt: skip
@click.option("--show", is_flag=True, help="Only show how long it may go on.")
@json_option()
@pass_app
def keepalive(
    app: App, name: str, minutes: float | None, idle_timeout: float | None, on_idle: str | None, show: bool,
    as_json: bool,
) -> None:  # fmt: skip
    """Begin the time of NAME anew: it is not put to sleep for MIN minutes (0: never) from now.

    MIN may be a fraction. An agent at work is never put to sleep, and neither is a box in which somebody
    has a terminal.
    """
    from thopter.model.api.sleep import KeepAliveRequest

    name = app.name(name)
    request = KeepAliveRequest(keep_alive=minutes, idle_timeout=idle_timeout, on_idle=on_idle or "")
    found = app.hub.saved.lease(name) if show else app.hub.saved.keepalive(name, request)
    if as_json:
        return app.json(found)
    until = time.strftime("until %Y-%m-%d %H:%M", time.localtime(found.expires_ms / 1000))
    app.out(f"{found.name} is kept {until if found.expires_ms else 'without end'}.")
    then = "nothing happens" if found.on_idle == "none" else found.on_idle
    idle = f"after {found.idle_timeout:g} idle minutes or " if found.idle_timeout else ""
    if found.idle_timeout or found.expires_ms:
        app.out(f"  {idle}when that is over and it is not at work: {then}")
