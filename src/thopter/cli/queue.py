"""``thopter queue``: the messages that the hub keeps for an agent."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from thopter.cli.app import App, json_option, name_argument, pass_app
from thopter.cli.run import read_text
from thopter.cli.text import ago, fit, now_ms, table
from thopter.kit.sanitize import one_line
from thopter.mesh.talk import TalkClient
from thopter.model.api.talk import Message
from thopter.model.errors import BadInput, NotFound

_SHOWN = ("queued", "sending", "working", "asking", "unclear")
_SHORT = 6


@click.command()
@name_argument()
@click.argument("text", nargs=-1)
@click.option("--drop", "drops", multiple=True, metavar="ID", help="Take one back; may be repeated.")
@click.option("--edit", metavar="ID", help="Give a queued one other words: TEXT, '-' or --file.")
@click.option(
    "--file", "text_file", metavar="FILE", type=click.Path(path_type=Path), help="Read TEXT from FILE."
)
@click.option("-a", "--all", "everything", is_flag=True, help="Also those that are over.")
@json_option()
@pass_app
def queue(
    app: App, name: str, text: tuple[str, ...], drops: tuple[str, ...], edit: str | None,
    text_file: Path | None, everything: bool, as_json: bool,
) -> None:  # fmt: skip
    """Show the messages kept for NAME's agent ('tell --when-idle', 'ask'), oldest first.

    They are delivered in this order, each once, when the agent is at its prompt; they survive restarts
    of hub, agent and box, and never expire. An "unclear" one may or may not have arrived: look, then
    drop it.
    """
    name = app.name(name)
    if (text or text_file) and edit is None:
        raise click.UsageError(f"to send something: thopter tell --when-idle {name} TEXT")
    client = TalkClient(app.hub)
    kept = client.messages(name)
    changed = [client.drop(find(kept, key).id) for key in drops]
    if edit is not None:
        changed.append(client.edit(find(kept, edit).id, read_text(text, text_file, "text")))
    if changed and as_json:
        return app.json(changed)
    for message in changed:
        word = "Dropped" if message.state == "dropped" else "Changed"
        app.out(f"{word} {short(message.id)}: {one_line(message.text, 60)}")
    if not changed:
        _show(app, name, [m for m in kept if everything or m.state in _SHOWN or m.held], as_json)
    return None


def _show(app: App, name: str, kept: list[Message], as_json: bool) -> None:
    if as_json:
        return app.json(kept)
    if not kept:
        app.say(f"No messages wait for {name}.")
        return None
    now = now_ms()
    rows = [
        (short(m.id), m.kind, one_line(m.state, 12), ago(m.created_ms, now), one_line(_said(m), 300))
        for m in kept
    ]
    for line in table(("ID", "KIND", "STATE", "SINCE", "TEXT"), rows):
        app.out(fit(line, 200).rstrip())
    for held in dict.fromkeys(m.held for m in kept if m.held):
        app.say(f"held: {one_line(held, 300)}")
    return None


def _said(message: Message) -> str:
    return f"{message.text}  ({message.problem})" if message.problem else message.text


def short(key: str) -> str:
    """What a person needs to type of a message's id: its end, which is random."""
    return one_line(key, 60)[-_SHORT:]


def find(kept: Sequence[Message], key: str) -> Message:
    """The message whose id is, begins or ends with ``key``; NotFound, BadInput for several."""
    found = [m for m in kept if m.id == key] or [
        m for m in kept if len(key) >= 4 and (m.id.startswith(key) or m.id.endswith(key))
    ]
    if len(found) > 1:
        raise BadInput(f"{key!r} is the id of several messages", hint="give more of it")
    if not found:
        raise NotFound(f"there is no message {key[:60]!r}", hint="see 'thopter queue NAME --all'")
    return found[0]
