"""``thopter tell`` and ``thopter interrupt``: speaking to an agent, with a receipt."""

from __future__ import annotations

from pathlib import Path

import click

from thopter.cli.app import App, json_option, name_argument, pass_app
from thopter.cli.progress import took
from thopter.cli.run import read_text
from thopter.kit.sanitize import one_line
from thopter.model.api import TellRequest, TellResult
from thopter.model.errors import PartlyDone, ThopterError

_WORDS = {"taken": "taken", "queued": "queued while it works"}


@click.command()
@name_argument()
@click.argument("text", nargs=-1)
@click.option("-i", "--interrupt", is_flag=True, help="Stop what it is doing first.")
@click.option("-e", "--escapes", is_flag=True, help=r"Read \n in TEXT as a line break, \t as a tab, \\ as \.")
@click.option(
    "--file", "text_file", metavar="FILE", type=click.Path(path_type=Path), help="Read the text from FILE."
)
@click.option("--when-idle", is_flag=True,
              help="Let the hub keep it until the agent is at its prompt; it is said once.")  # fmt: skip
@click.option(
    "--tail/--no-tail", "follow", default=None, help="Show the conversation after it; default on a terminal."
)
@click.option("--timeout", type=click.FloatRange(0.1, 600), default=15.0, show_default=True, metavar="S",
              help="Seconds to wait for the receipt.")  # fmt: skip
@json_option()
@pass_app
def tell(
    app: App, name: str, text: tuple[str, ...], interrupt: bool, escapes: bool, text_file: Path | None,
    when_idle: bool, follow: bool | None, timeout: float, as_json: bool,
) -> None:  # fmt: skip
    """Say TEXT to the agent; '-' reads it from standard input. Line breaks in it stay line breaks.

    The receipt says that the agent has it as its prompt, or that it is in the agent's own queue.
    No receipt is an error: it may or may not have arrived. With --when-idle the hub keeps the message,
    whatever happens meanwhile: see 'thopter queue'. NAME may be several, with commas; exit 8 when only
    some of them have it.
    """
    if when_idle and interrupt:
        raise click.UsageError("--when-idle and --interrupt exclude each other")
    names = list(dict.fromkeys(app.name(part) for part in name.split(",")))
    words = read_text(text, text_file, "text")
    words = unescape(words) if escapes else words
    request = TellRequest(text=words, interrupt=interrupt, receipt_timeout_ms=round(timeout * 1000))
    if len(names) > 1:
        return _tell_all(app, names, request, when_idle, as_json)
    _tell(app, names[0], request, when_idle, as_json)
    if not as_json and not when_idle and (follow or (follow is None and app.stdout_tty)):
        from thopter.cli.tail import show
        from thopter.cli.transcript import Style

        show(app, names[0], follow=True, lines=5, style=Style.of(app))
    return None


def _tell_all(app: App, names: list[str], request: TellRequest, when_idle: bool, as_json: bool) -> None:
    """One after the other; those that did not get it are named at the end."""
    failed: dict[str, ThopterError] = {}
    for name in names:
        try:
            _tell(app, name, request, when_idle, as_json, line=True)
        except ThopterError as error:
            failed[name] = error
            app.say(f"{name}: {one_line(error.message, 500)}")
    if len(failed) == len(names):
        raise next(iter(failed.values()))
    if failed:
        raise PartlyDone(f"{len(failed)} of {len(names)} were not told: {', '.join(failed)}")


def _tell(
    app: App, name: str, request: TellRequest, when_idle: bool, as_json: bool, line: bool = False
) -> None:
    if when_idle:
        return _keep(app, name, request.text, as_json, line)
    told = app.hub.tell(name, request)
    if as_json:
        return app.json({"name": name, **_plain(told)} if line else told, line=line)
    receipt = _WORDS.get(told.receipt, one_line(told.receipt, 60))
    how = f"; {one_line(told.evidence, 120)}" if told.evidence else ""
    app.out(f"Told {name}: {receipt} ({took(told.ms)}{how}).")
    app.flush()
    return None


def _plain(told: TellResult) -> dict[str, object]:
    return {"receipt": told.receipt, "evidence": told.evidence, "ms": told.ms}


def _keep(app: App, name: str, words: str, as_json: bool, line: bool) -> None:
    from thopter.cli.queue import short
    from thopter.mesh.talk import TalkClient
    from thopter.model.api.talk import SendRequest

    kept = TalkClient(app.hub).send(name, SendRequest(text=words))
    if as_json:
        return app.json(kept, line=line)
    why = one_line(kept.held, 200) or "the agent is at its prompt; it is said now"
    app.out(f"Kept for {kept.name} as {short(kept.id)}: {why}.")
    return None


def unescape(text: str) -> str:
    r"""Read ``\n`` as a line break, ``\t`` as a tab and ``\\`` as a backslash."""
    parts = text.split("\\\\")
    return "\\".join(part.replace("\\n", "\n").replace("\\t", "\t") for part in parts)


@click.command()
@name_argument()
@pass_app
def interrupt(app: App, name: str) -> None:
    """Stop the agent's present turn; it stays at its prompt."""
    name = app.name(name)
    app.hub.interrupt(name)
    app.out(f"Interrupted {name}.")
