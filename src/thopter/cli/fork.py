"""``thopter fork``, ``checkpoint``, ``checkpoints`` and ``rewind``: many futures, and the way back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from thopter.cli.app import App, json_option, name_argument, pass_app
from thopter.cli.progress import Steps, follow
from thopter.cli.text import plural
from thopter.kit.sanitize import one_line
from thopter.model.errors import PartlyDone


@click.command()
@name_argument()
@click.option("-n", "count", type=click.IntRange(1, 50), default=1, show_default=True, help="How many.")
@click.option("--prompt", metavar="TEXT", help="Say this to each of them; '-' reads standard input.")
@click.option("--prompt-file", metavar="FILE", type=click.Path(path_type=Path), help="Read that from FILE.")
@click.option("--name", "new_name", metavar="NAME", help="What to call them; with -n it is numbered.")
@click.option("--as-is", is_flag=True, help="Leave the repository in them on the branch it is on.")
@click.option("--live", is_flag=True, help="Fork the running processes too, where that is possible.")
@json_option()
@pass_app
def fork(
    app: App, name: str, count: int, prompt: str | None, prompt_file: Path | None, new_name: str | None,
    as_is: bool, live: bool, as_json: bool,
) -> None:  # fmt: skip
    """Make new thopters with the files and the conversation of NAME, which goes on undisturbed.

    Each gets a branch of its own, thopter/FORK. Works on a thopter that sleeps or is lost too.
    Exit 8 when only some of them could be made.
    """
    from thopter.cli.run import read_text
    from thopter.model.api.snapshots import ForkRequest

    words = read_text((prompt,) if prompt else (), prompt_file, "prompt") if prompt or prompt_file else ""
    request = ForkRequest(
        count=count, prompt=words, name=new_name or "", as_is=as_is, live=live
    )  # fmt: skip
    accepted = app.hub.saved.fork(app.name(name), request)
    try:
        view = follow(app.hub, accepted.flow, Steps(app))
    except KeyboardInterrupt:
        app.say(f"\nDetached; {', '.join(accepted.names)} go on being made. See: thopter status")
        app.exit(0)
    _report(app, view.result, as_json)


def _report(app: App, result: dict[str, Any], as_json: bool) -> None:
    forks = [f for f in result.get("forks", ()) if isinstance(f, dict)]
    if as_json:
        app.json(forks)
    bad = [f for f in forks if not f.get("ok")]
    for one in [] if as_json else forks:
        name, problem = one_line(str(one.get("name")), 61), one_line(str(one.get("problem") or ""), 400)
        if one.get("ok"):
            app.out(
                f"Thopter '{name}' {one_line(str(one.get('state')), 20)}."
                + (f" {problem}" if problem else "")
            )
        else:
            app.say(f"{name} could not be made: {problem}")
    if bad:
        raise PartlyDone(
            f"{plural(len(bad), 'fork')} of {len(forks)} could not be made",
            hint="the others are up: 'thopter status'",
        )


@click.command()
@name_argument()
@click.argument("label", required=False, default="")
@json_option()
@pass_app
def checkpoint(app: App, name: str, label: str, as_json: bool) -> None:
    """Save this moment of NAME, files and conversation, to go back to with 'thopter rewind'."""
    name = app.name(name)
    made = app.hub.saved.checkpoint(name, label)
    view = follow(app.hub, made.flow, Steps(app))
    if as_json:
        return app.json({"id": made.id, "label": label, "size": view.result.get("size", -1)})
    app.out(f"Checkpoint {made.id} of {name} made.")


@click.command()
@name_argument()
@json_option()
@pass_app
def checkpoints(app: App, name: str, as_json: bool) -> None:
    """List the moments that NAME can go back to, oldest first."""
    from thopter.cli.snapshot import draw

    name = app.name(name)
    found = app.hub.saved.checkpoints(name)
    if as_json:
        return app.json(found.snapshots)
    if not found.snapshots:
        app.out(f"{name} has no checkpoints. Make one: thopter checkpoint {name}")
    for line in draw(app, found.snapshots) if found.snapshots else []:
        app.out(line)


@click.command()
@name_argument()
@click.argument("checkpoint", required=False, default="")
@json_option()
@pass_app
def rewind(app: App, name: str, checkpoint: str, as_json: bool) -> None:
    """Take NAME back to a checkpoint (its id, the beginning of it, or its label; default: the newest).

    Files and conversation are as they were then. What is there now is saved first, as a checkpoint.
    """
    name = app.name(name)
    accepted = app.hub.saved.rewind(name, checkpoint)
    try:
        view = follow(app.hub, accepted.flow, Steps(app))
    except KeyboardInterrupt:
        app.say(f"\nDetached; {accepted.name} goes on being taken back.")
        app.exit(0)
    if as_json:
        return app.json({"checkpoint": accepted.checkpoint, "before": accepted.before, **view.result})
    app.out(f"{accepted.name} is back at {accepted.checkpoint}.")
    app.say(f"  thopter rewind {accepted.name} {accepted.before}    undoes this")
    problem = one_line(str(view.result.get("problem") or ""), 400)
    if problem:
        app.say(f"note: {problem}")
