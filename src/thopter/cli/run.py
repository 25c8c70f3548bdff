"""``thopter run`` and ``thopter create``: start a thopter and show how it comes up."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import click

from thopter.cli.app import MINUTES, App, json_option, pass_app
from thopter.cli.furnish import furnish_options, furnishing, set_option
from thopter.cli.furnish import option as given_option
from thopter.cli.progress import Steps, follow, took
from thopter.kit.sanitize import one_line
from thopter.model.api import Accepted, CreateRequest, FlowView, RunRequest
from thopter.model.errors import BadInput, ThopterError
from thopter.model.tiers import TIERS

TEXT_MAX = 1 << 20
_FIRST_LINES = 4
_FIRST_SECONDS = 5.0


def start_options(command: Any) -> Any:
    """Options that ``run`` and ``create`` share."""
    for option in reversed((
        click.option("--repo", metavar="REPO",
                     help="A git repository: folder ('.'), URL, owner/repo, or a name of 'thopter repos'."),
        click.option("--branch", metavar="BRANCH", help="The branch to start from; default: HEAD."),
        click.option("--agent", metavar="AGENT", help="The agent to use."),
        click.option("--policy", metavar="POLICY", help="What it may reach; see 'thopter policy show'."),
        click.option("--isolation", type=click.Choice(TIERS), default="any",
                     help="The least tier of its box; never less than its policy asks for."),
        click.option("--budget", metavar="AMOUNT", help="What it may spend: 5usd,2h,200turns,3Mtokens."),
        click.option("--detach", "-d", is_flag=True, help="Return when it is up; show no conversation."),
        click.option("--snapshot", metavar="SNAP", help="Start from this saved box; default: box.snapshot."),
        click.option("--fresh", is_flag=True, help="Start from no saved box."),
        click.option("--keep-alive", type=MINUTES, metavar="MIN",
                     help="Minutes until it is put to sleep when it is not at work; 0: never."),
        click.option("--idle-timeout", type=MINUTES, metavar="MIN",
                     help="Minutes of idleness until then; 0: idleness is no reason."),
        click.option("--no-wait", is_flag=True, help="Do not even wait until it is up."),
    )):  # fmt: skip
        command = option(command)
    return command


@click.command()
@click.argument("prompt", nargs=-1)
@click.option("--name", metavar="NAME", help="What to call it; default: a friendly name.")
@click.option(
    "--prompt-file", metavar="FILE", type=click.Path(path_type=Path), help="Read the prompt from FILE."
)
@click.option("--model", metavar="MODEL", help="The model the agent shall use.")
@click.option("--permission-mode", metavar="MODE", help="The agent's permission mode in its box.")
@click.option(
    "--trust",
    type=click.Choice(["operator", "writer", "outsider"]),
    default="operator",
    help="Who wrote the task's text: you, a person who may write to the repository, others.",
)
@start_options
@furnish_options
@json_option()
@pass_app
def run(
    app: App, /, prompt: tuple[str, ...], name: str | None, prompt_file: Path | None, model: str | None,
    permission_mode: str | None, repo: str | None, branch: str | None, agent: str | None, detach: bool,
    no_wait: bool, as_json: bool, **start: Any,
) -> None:  # fmt: skip
    """Start an agent on PROMPT, in a box of its own. A PROMPT of '-' is read from standard input.

    Shows each step as it comes up and returns when the agent is at work. Ctrl-C only stops
    showing: the thopter goes on. Without --name it takes a warm box when there is one that is
    like what is asked for ('thopter pool'); one with a name of yours is always made.
    """
    agent = agent or app.settings.get("agents.default")
    text = _prompt(prompt, prompt_file)
    new_name = _new_name(name)
    source, origin = _place(app, repo, branch, ask=not as_json and not _saved(app, start))
    request = RunRequest(
        prompt=text,
        name=new_name,
        repo=source,
        branch=origin,
        furnishing=furnishing(app, partial(_local_setting, app)),
        agent=agent,
        model=model or _local_setting(app, f"agents.{agent}.model"),
        permission_mode=permission_mode or _local_setting(app, f"agents.{agent}.permission_mode"),
        trust=start["trust"],
        **_start(app, start),
    )
    accepted = _ask(app, lambda: app.hub.run(request))
    view = None if no_wait else _follow(app, accepted, peek=not (as_json or detach))
    if as_json:
        return _print_json(app, accepted, view)
    _goodbye(app, accepted.name, "running" if view is not None else "starting")


@click.command()
@click.argument("name", required=False)
@click.option("--attach", "-a", is_flag=True, help="Attach to its screen as soon as it is up.")
@start_options
@furnish_options
@json_option()
@pass_app
def create(
    app: App, /, name: str | None, attach: bool, repo: str | None, branch: str | None, agent: str | None,
    detach: bool, no_wait: bool, as_json: bool, **start: Any,
) -> None:  # fmt: skip
    """Make a box whose agent waits at its prompt; 'thopter tell NAME' gives it its first message."""
    if attach:
        from thopter.kit.terminal import need_terminal

        need_terminal("create --attach")
        if detach or no_wait or as_json:
            raise click.UsageError("--attach excludes --detach, --no-wait and --json")
    new_name = _new_name(name)
    source, origin = _place(app, repo, branch, ask=not as_json and not _saved(app, start))
    request = CreateRequest(
        name=new_name,
        repo=source,
        branch=origin,
        furnishing=furnishing(app, partial(_local_setting, app)),
        agent=agent or app.settings.get("agents.default"),
        **_start(app, start),
    )
    accepted = _ask(app, lambda: app.hub.create(request))
    view = None if no_wait else _follow(app, accepted, peek=False)
    if as_json:
        return _print_json(app, accepted, view)
    if attach and view is not None:
        from thopter.cli.terminal import attach_to

        app.exit(attach_to(app, accepted.name))
    _goodbye(app, accepted.name, "ready" if view is not None else "starting")


def read_text(words: tuple[str, ...], file: Path | None, what: str) -> str:
    """The text given as words, as '-' (standard input) or in a file; exactly one of them."""
    if words and file is not None:
        raise click.UsageError(f"give the {what} either as words or in a file")
    if file is not None:
        try:
            with file.open("rb") as stream:
                raw = stream.read(TEXT_MAX + 1)
        except OSError as e:
            raise BadInput(f"{file} can't be read: {e.strerror}") from None
    elif words == ("-",):
        if sys.stdin.isatty():
            print(f"Type the {what}; Ctrl-D ends it.", file=sys.stderr)
        raw = sys.stdin.buffer.read(TEXT_MAX + 1)
    else:
        raw = " ".join(words).encode("utf-8", "surrogateescape")
    if len(raw) > TEXT_MAX:
        raise BadInput(
            f"the {what} is over {TEXT_MAX >> 20} MiB", hint="put it into a file of the repository"
        )
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        raise BadInput(f"the {what} is not UTF-8 text") from None
    if "\0" in text:
        raise BadInput(f"the {what} holds a NUL byte")
    if not text.strip():
        raise BadInput(
            f"the {what} is empty", hint=f"give the {what} as words, or '-' to read it from standard input"
        )
    return text


def _prompt(words: tuple[str, ...], file: Path | None) -> str:
    return read_text(words, file, "prompt")


def _new_name(name: str | None) -> str:
    if not name:
        return ""
    from thopter.model.ids import check_name

    return check_name(name)


def _saved(app: App, start: dict[str, Any]) -> bool:
    """True when the box starts from a saved one, which may bring its repository along."""
    return bool(start.get("snapshot") or (app.settings.get("box.snapshot") and not start.get("fresh")))


def _place(app: App, given: str | None, branch: str | None, *, ask: bool) -> tuple[str, str]:
    """Repository (a path or URL, empty for none) and branch: from the options, the predefined ones, the
    setting run.repo, or asked for on a terminal."""
    from thopter.cli.repo import here_is_one, known, resolve

    free = given_option("home") or given_option("checkout")
    if not given and not free:
        given = str(app.settings.get("run.repo"))
        branch = branch or (str(app.settings.get("run.branch")) if given else "")
    if not given and not free and here_is_one():
        app.say("note: no --repo given, so the box gets no code; '--repo .' gives it this repository")
    elif not given and not free and ask and app.asks():
        from thopter.cli.choose import choose

        given, branch = choose(app)
        if not given:
            set_option("home", True)
    if not given:
        return "", branch or ""
    predefined = known(app.paths, given)
    if predefined is not None:
        given, branch = predefined.repo, branch or predefined.branch
    return resolve(given, app.say), branch or ""


def _local_setting(app: App, key: str) -> str:
    """A setting that only this process sees: from its environment or the project's thopter.toml.

    What config.toml says the hub knows itself.
    """
    from thopter.kit.settings import SETTINGS

    if key not in {s.key for s in SETTINGS}:
        return ""
    found = app.settings.explain(key)
    return str(found.value) if found.origin not in ("default", str(app.paths.config_file)) else ""


def _start(app: App, given: dict[str, Any]) -> dict[str, Any]:
    """What a new thopter starts from and how long it may go on; null is for the hub's settings."""
    if given["snapshot"] and given["fresh"]:
        raise click.UsageError("--snapshot and --fresh exclude each other")
    named = given["snapshot"] or ("" if given["fresh"] else _local_setting(app, "box.snapshot"))
    minutes = {}
    for name in ("keep_alive", "idle_timeout"):
        local = _local_setting(app, f"box.{name}")
        minutes[name] = given[name] if given[name] is not None else int(local) if local else None
    budget = _budget(given["budget"] or _local_setting(app, "run.budget"))
    chosen = {"snapshot": named, "fresh": given["fresh"], "policy": given["policy"] or ""}
    chosen["isolation"] = given["isolation"]
    return {**chosen, "budget": budget, **minutes}


def _budget(text: str) -> Any:
    from thopter.model.api.budget import BudgetAmount
    from thopter.model.budget import parse_amount

    return BudgetAmount(**parse_amount(text)) if text.strip() else BudgetAmount()


def _ask(app: App, call: Callable[[], Accepted]) -> Accepted:
    hub = app.hub
    try:
        return call()
    except KeyboardInterrupt:
        hub.close()
        app.say("interrupted before the hub had answered; 'thopter status' shows whether it began")
        app.exit(130)


def _follow(app: App, accepted: Accepted, *, peek: bool) -> FlowView:
    """Follow the flow to its end, then ``peek`` at the conversation. Ctrl-C leaves it alone, exit 0."""
    try:
        steps = Steps(app)
        warm = " takes a warm box, its agent runs already" if accepted.warm else ""
        app.say(f"{one_line(accepted.name)}{warm}:")
        view = follow(app.hub, accepted.flow, steps)
        app.say(f"  up in {took(steps.seconds * 1000)}")
        if peek:
            _first_lines(app, accepted.name)
    except KeyboardInterrupt:
        app.say(f"\nDetached; {accepted.name} goes on. See: thopter status {accepted.name}")
        app.exit(0)
    return view


def _first_lines(app: App, name: str) -> None:
    """Show how the conversation begins. Evidence of work comes sooner than a line of it: wait a little."""
    from thopter.cli.transcript import Style, draw

    until = time.monotonic() + _FIRST_SECONDS
    try:
        page = app.hub.transcript(name, limit=_FIRST_LINES)
        while not page.entries and time.monotonic() < until:
            time.sleep(0.2)
            page = app.hub.transcript(name, limit=_FIRST_LINES)
    except ThopterError as e:  # it works; only the peek at it failed
        app.say(f"note: the conversation can't be read yet: {one_line(e.message)}")
        return
    style = Style.of(app, short=True)
    for entry in page.entries:
        for line in draw(entry, style):
            app.say("  " + line)


def _goodbye(app: App, name: str, state: str) -> None:
    app.out(f"Thopter '{name}' {state}.")
    app.out(f"  thopter tail {name} -f    the conversation as it happens")
    app.out(f"  thopter attach {name}     its screen")
    app.out(f"  thopter pull {name}       its work, as branch thopter/{name}")


def _print_json(app: App, accepted: Accepted, view: FlowView | None) -> None:
    import msgspec

    app.json(msgspec.to_builtins(accepted) | {"status": view.status if view else "running"})


place, setting_here = _place, _local_setting  # other commands mean the same by them
