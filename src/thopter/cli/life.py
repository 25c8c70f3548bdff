"""Commands on a thopter's life: ``wait``, ``check``, ``screen``, ``freeze``, ``thaw``, ``destroy``."""

from __future__ import annotations

import time
from pathlib import Path

import click

from thopter.cli.app import App, complete_name, json_option, name_argument, pass_app
from thopter.cli.follow import refreshes
from thopter.cli.status_view import as_json as view_as_json
from thopter.cli.status_view import state_of
from thopter.cli.text import plural
from thopter.kit.sanitize import clean, one_line
from thopter.model.api import ThopterView
from thopter.model.errors import (
    BadInput,
    HubUnreachable,
    NotFound,
    PartlyDone,
    ThopterError,
    TimedOut,
)
from thopter.model.nouns import BoxState, RunState, WaitReason

_LOOK = 3.0
_ENDED = ("done", "failed", "stopped")


@click.command()
@name_argument()
@click.option("--for", "wanted", default="done,waiting", show_default=True, metavar="STATES",
              help="States, with commas; 'waiting:question' is a state with its reason.")  # fmt: skip
@click.option(
    "--timeout", type=click.FloatRange(0), metavar="S", help="Give up after so many seconds (exit 7)."
)
@json_option()
@pass_app
def wait(app: App, name: str, wanted: str, timeout: float | None, as_json: bool) -> None:
    """Wait until NAME is in one of the wanted states, and print which.

    Exit 0 when it is, 7 when the time is over, 1 when it has ended otherwise and so never will be.
    """
    name = app.name(name)
    states = _states(wanted)
    until = None if timeout is None else time.monotonic() + timeout
    view = app.hub.thopter(name).view
    for trouble in refreshes(app, _LOOK if until is None else 0.5, kinds="run.state,box.state,box.destroyed"):
        if not trouble:
            try:
                view = app.hub.thopter(view.name).view
            except HubUnreachable:
                app.hub.close()
            else:
                if _reached(view, states):
                    break
                _give_up(view, wanted)
        if until is not None and time.monotonic() > until:
            raise TimedOut(
                f"{view.name} is {_said(view)}, not {wanted}, after {timeout:g} s",
                hint=f"see 'thopter status {view.name}'",
            )
    if as_json:
        app.json(view_as_json(view))
    else:
        app.out(_said(view))


def _states(text: str) -> set[str]:
    known = {str(s) for s in RunState} | {str(s) for s in BoxState} | {f"waiting:{r}" for r in WaitReason}
    found = {part.strip() for part in text.split(",") if part.strip()}
    if not found or not found <= known:
        wrong = ", ".join(sorted(found - known)) or "nothing"
        raise BadInput(f"can't wait for {wrong}", hint="states: " + ", ".join(sorted(known)))
    return found


def _reached(view: ThopterView, states: set[str]) -> bool:
    return bool(states & {view.state, view.box_state, f"{view.state}:{view.reason}"})


def _said(view: ThopterView) -> str:
    return state_of(view)


def _give_up(view: ThopterView, wanted: str) -> None:
    """Raise when the thopter has ended: no state will ever follow."""
    if view.box_state in ("gone", "lost") or view.state in _ENDED:
        why = f": {one_line(view.problem, 300)}" if view.problem else ""
        raise ThopterError(f"{view.name} is {_said(view)} and will not be {wanted}{why}")


@click.command()
@name_argument()
@json_option()
@pass_app
def check(app: App, name: str, as_json: bool) -> None:
    """Ask the box itself: does its tmux run, does its agent? Exit 1 when not."""
    name = app.name(name)
    found = app.hub.check(name)
    if as_json:
        app.json({"tmux": found.tmux, "claude": found.agent, "agent": found.agent, "box": found.box})
    else:
        for label, value in (("box", found.box), ("tmux", found.tmux), ("agent", found.agent)):
            app.out(f"{label:<6} {'yes' if value else 'no'}")
    if not (found.tmux and found.agent):
        app.exit(1)


@click.command()
@name_argument()
@json_option()
@pass_app
def screen(app: App, name: str, as_json: bool) -> None:
    """Print what the agent's screen shows now, as plain text."""
    name = app.name(name)
    text = app.hub.screen(name)
    if as_json:
        app.json({"name": name, "screen": text})
    else:
        app.out(clean(text).rstrip())


@click.command()
@name_argument()
@pass_app
def freeze(app: App, name: str) -> None:
    """Stop every process of the box where it is; 'thopter thaw' lets it go on."""
    name = app.name(name)
    app.hub.freeze(name)
    app.out(f"Froze {name}.")


@click.command()
@name_argument()
@pass_app
def thaw(app: App, name: str) -> None:
    """Let a frozen box go on."""
    name = app.name(name)
    app.hub.thaw(name)
    app.out(f"Thawed {name}.")


@click.command()
@click.argument("names", nargs=-1, required=True, metavar="NAME...", shell_complete=complete_name)
@click.option("--yes", "-y", is_flag=True, help="Do not ask, even when there is work that was not pulled.")
@pass_app
def destroy(app: App, names: tuple[str, ...], yes: bool) -> None:
    """Remove thopters for good: agent, box and files.

    Asks, on a terminal only, when there is work that was not pulled. Exit 8 when some could not be
    destroyed.
    """
    wanted = list(dict.fromkeys(app.name(name) for name in names))
    failures: list[tuple[str, ThopterError]] = []
    for name in wanted:
        try:
            _destroy(app, name, ask=not yes and app.asks())
        except ThopterError as error:
            failures.append((name, error))
            if len(wanted) > 1:
                app.say(f"{name}: {one_line(error.message, 500)}")
    if not failures:
        return
    if len(wanted) == 1:
        raise failures[0][1]
    if len(failures) < len(wanted):
        raise PartlyDone(f"{len(failures)} of {len(wanted)} could not be destroyed: {_names(failures)}")
    first = failures[0][1]
    same = all(error.code == first.code for _, error in failures)
    raise (type(first) if same and isinstance(first, NotFound | HubUnreachable) else ThopterError)(
        f"none of {_names(failures)} could be destroyed"
    )


def _names(failures: list[tuple[str, ThopterError]]) -> str:
    return ", ".join(name for name, _ in failures)


def _destroy(app: App, name: str, *, ask: bool) -> None:
    from thopter.cli.progress import Steps, follow

    if ask:
        work = _unpulled(app, name)
        if work and not app.confirm(f"{name} {work}. Destroy it?"):
            raise ThopterError(f"{name} was left alone")
    accepted = app.hub.destroy(name)
    try:
        follow(app.hub, accepted.flow, Steps(app))
    except KeyboardInterrupt:
        app.say(f"Detached; {accepted.name} goes on being destroyed.")
        app.exit(0)
    app.out(f"Destroyed {accepted.name}.")


def _unpulled(app: App, name: str) -> str:
    """Say what would be lost, or nothing."""
    found = app.hub.thopter(name)
    if not found.view.repo:
        return ""
    parts: list[str] = []
    for folder, source in {"": found.view.repo, **found.checkouts}.items():
        try:
            work = app.hub.diff(name, folder)
        except NotFound:
            raise
        except ThopterError as error:
            return f"may have work that was not pulled ({one_line(error.message, 200)})"
        where = f" in {one_line(folder)}" if folder else ""
        if work.commits and not _has(source, found.view.name, work.head):
            parts.append(f"{plural(work.commits, 'commit')}{where} that you have not pulled")
        if work.dirty:
            parts.append(plural(work.dirty, "changed file") + where)
    return "has " + " and ".join(parts) if parts else ""


def _has(repo: str, name: str, head: str) -> bool:
    """True when the branch ``thopter/NAME`` of the clone it was started from holds ``head``."""
    from thopter.cli.repo import git

    if not head or not repo.startswith("/") or not Path(repo).is_dir():
        return False
    branch = f"refs/heads/thopter/{name}"
    return git(Path(repo), "merge-base", "--is-ancestor", head, branch, check=False).returncode == 0
