"""``thopter ask``: say something, wait for the end of the turn that takes it, print the answer."""

from __future__ import annotations

import time
from pathlib import Path

import click

from thopter.cli.app import App, json_option, name_argument, pass_app
from thopter.cli.follow import refreshes
from thopter.cli.run import read_text
from thopter.cli.tell import unescape
from thopter.kit.sanitize import one_line
from thopter.mesh.talk import TalkClient
from thopter.model.api.talk import Message, SendRequest
from thopter.model.errors import (
    Ambiguous,
    BadInput,
    Cancelled,
    HubUnreachable,
    Refused,
    ThopterError,
    TimedOut,
)

_LOOK = 1.0
_GRACE = 5.0  # seconds until the answer to a dialog, just given, has come through
_UNDER_WAY = ("queued", "sending", "working")


@click.command()
@name_argument()
@click.argument("text", nargs=-1)
@click.option("-e", "--escapes", is_flag=True, help=r"Read \n in TEXT as a line break, \t as a tab, \\ as \.")
@click.option(
    "--file", "text_file", metavar="FILE", type=click.Path(path_type=Path), help="Read the text from FILE."
)
@click.option("--id", "key", metavar="ID", help="Ask nothing new: wait for the answer to an earlier one.")
@click.option(
    "--timeout", type=click.FloatRange(0), metavar="S", help="Wait so many seconds at most (exit 7)."
)
@json_option()
@pass_app
def ask(
    app: App, name: str, text: tuple[str, ...], escapes: bool, text_file: Path | None, key: str | None,
    timeout: float | None, as_json: bool,
) -> None:  # fmt: skip
    """Say TEXT to the agent ('-' reads it from standard input) and print what it says last in the turn
    that takes it. A busy agent takes it when it can; two questions at once are asked one after the
    other.

    Exit 5 when the turn waits for a permission or a question instead, with what it asks; 7 when the time
    is over; 1 when the turn failed. Ctrl-C leaves the agent at work; the hub keeps the answer: --id ID.
    """
    name = app.name(name)
    client = TalkClient(app.hub)
    if key is not None:
        if text or text_file:
            raise click.UsageError("--id excludes a TEXT")
        from thopter.cli.queue import find

        message = client.message(find(client.messages(name), key).id)
        if message.kind != "ask":
            raise BadInput(f"{key} was told, not asked: it has no answer")
    else:
        words = read_text(text, text_file, "text")
        request = SendRequest(text=unescape(words) if escapes else words, kind="ask")
        message = client.send(name, request)
    try:
        message = _await(app, client, message, timeout, grace=0.0 if key is None else _GRACE)
    except KeyboardInterrupt:
        app.say(f"Left {message.name} at work. Its answer: thopter ask {message.name} --id {message.id[-6:]}")
        app.exit(130)
    _show(app, message, as_json, timeout)


def _await(app: App, client: TalkClient, message: Message, timeout: float | None, grace: float) -> Message:
    """The message as soon as it is over or waits for a person (``grace``: for longer than that), or as
    it is when the time is over."""
    begun = time.monotonic()
    until = None if timeout is None else begun + timeout
    step = _LOOK if until is None else 0.3
    told = away = False
    for trouble in refreshes(app, step, kinds="message,run.state,box.destroyed", box=message.box):
        if not trouble:
            try:
                message = client.message(message.id)
                away = False
            except HubUnreachable as error:
                app.hub.close()
                trouble = one_line(error.message)
        if trouble and not away:
            app.say(f"{trouble}; still trying")
            away = True
        blocked = message.state == "asking" or (message.state == "queued" and bool(message.reason))
        over = message.state not in (*_UNDER_WAY, "asking")
        if over or (blocked and time.monotonic() - begun >= grace):
            break
        if message.receipt and not told and app.stderr_tty:
            app.say(f"{message.name} has it ({one_line(message.receipt, 20)}); Ctrl-C leaves it at work")
            told = True
        if until is not None and time.monotonic() > until:
            break
    return message


def _show(app: App, message: Message, as_json: bool, timeout: float | None) -> None:
    if as_json:
        app.json(message)
    elif message.answer:
        from thopter.cli.transcript import Style, prose

        for line in prose(message.answer, Style.of(app)):
            app.out(line)
    app.flush()
    error = _error(message, timeout)
    if error is not None:
        raise error


def _error(message: Message, timeout: float | None) -> ThopterError | None:
    name, problem = message.name, one_line(message.problem, 1000)
    later = f"'thopter ask {name} --id {message.id[-6:]}' waits for its answer"
    if message.state == "answered":
        return None
    if message.state == "queued" and message.reason:
        asks = f": {one_line(message.asks, 1000)}" if message.asks else ""
        return Refused(
            f"{name} waits for a {message.reason} and was not asked yet{asks}",
            hint=f"answer it with 'thopter attach {name}'; then {later}; or 'thopter queue {name} --drop …'",
        )
    if message.state in _UNDER_WAY:
        return TimedOut(f"{name} has not answered after {timeout:g} s; it goes on", hint=later)
    if message.state == "asking":
        asks = f": {one_line(message.asks, 1000)}" if message.asks else ""
        return Refused(
            f"{name} waits for a {message.reason}{asks}",
            hint=f"answer it with 'thopter attach {name}'; then {later}",
        )
    if message.state == "unclear":
        return Ambiguous(f"{name}: {problem}", hint=f"look with 'thopter tail {name}'")
    if message.state == "dropped":
        return Cancelled(f"the question was taken back{': ' + problem if problem else ''}")
    return ThopterError(f"{name} gave no whole answer: {problem}", hint=f"see 'thopter tail {name}'")
