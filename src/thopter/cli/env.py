"""``thopter env``: variables that every new box gets. The agent can read them: they are no secrets."""

from __future__ import annotations

import re
import sys
import time
from pathlib import Path

import click

from thopter.cli.app import App, json_option, pass_app
from thopter.cli.text import paint, table
from thopter.kit.sanitize import one_line
from thopter.model.api.variables import check_variable, looks_secret
from thopter.model.errors import BadInput, NotFound

_LINE = re.compile(r"(?:export\s+)?([A-Za-z_][A-Za-z0-9_]*)\s*=\s*(.*)")
_FILE_MAX = 1 << 20


@click.group()
def env() -> None:
    """Variables for new boxes: for the agent, login shells and 'thopter exec'.

    Everything in a box can read them, and an agent may print them. What must stay out of boxes goes
    into 'thopter setup' (the model credential) or 'thopter secrets'.
    """


@env.command("list")
@json_option()
@pass_app
def list_(app: App, as_json: bool) -> None:
    """Show them, masked."""
    found = app.hub.variables()
    if as_json:
        return app.json(
            [{"name": v.name, "value": v.masked, "size": v.size, "changed_ms": v.changed_ms} for v in found]
        )
    if not found:
        return app.say("no variables; set one: thopter env set NAME")
    lines = [
        (one_line(v.name), one_line(v.masked), time.strftime("%Y-%m-%d", time.localtime(v.changed_ms / 1000)))
        for v in found
    ]
    for i, line in enumerate(table(("NAME", "VALUE", "CHANGED"), lines)):
        app.out(paint(line, "bold", on=app.colour and i == 0))


@env.command("set")
@click.argument("name")
@click.argument("value", required=False)
@pass_app
def set_(app: App, name: str, value: str | None) -> None:
    """Set NAME for new boxes; without VALUE it is asked for (or read from a pipe), and not shown."""
    check_variable(name, value or "")
    if value is None:
        if app.asks():
            words = f"Value of {name} (not shown)"
            value = str(click.prompt(words, hide_input=True, err=True, default="", show_default=False))
        else:
            value = sys.stdin.read(_FILE_MAX).removesuffix("\n")
    _set(app, {name: value})
    app.out(f"Set {name}; new boxes get it.")


@env.command()
@click.argument("name")
@pass_app
def delete(app: App, name: str) -> None:
    """Forget NAME; boxes that exist keep it."""
    if not app.hub.delete_variable(name):
        raise NotFound(f"there is no variable {name[:80]!r}", hint="see 'thopter env list'")
    app.out(f"Deleted {name}.")


@env.command("import")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--replace", is_flag=True, help="Also replace variables that are set already.")
@pass_app
def import_(app: App, file: Path, replace: bool) -> None:
    """Set all KEY=VALUE lines of FILE (such as .env.local); variables that are set already stay."""
    try:
        raw = file.read_bytes()
    except OSError as e:
        raise BadInput(f"{file} can't be read: {e.strerror}") from None
    found = parse_env(raw, str(file))
    known = set() if replace else {v.name for v in app.hub.variables()}
    fresh = {k: v for k, v in found.items() if k not in known}
    if fresh:
        _set(app, fresh)
    app.out(f"Set {', '.join(fresh) or 'nothing'}.")
    kept = [k for k in found if k not in fresh]
    if kept:
        app.say(f"note: {', '.join(kept)} stay as they were; --replace replaces them")


def parse_env(raw: bytes, origin: str) -> dict[str, str]:
    """Read KEY=VALUE lines: comments, ``export``, quotes ('…' as it is, "…" with \\n \\" \\\\ \\$).

    BadInput names the line that is none of it; nothing is expanded and nothing is run.
    """
    if len(raw) > _FILE_MAX:
        raise BadInput(f"{origin} is over {_FILE_MAX >> 20} MiB")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise BadInput(f"{origin} is not UTF-8 text") from None
    found: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), 1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        match = _LINE.fullmatch(line)
        value = _value(match[2]) if match else None
        if match is None or value is None:
            raise BadInput(f"line {number} of {origin} is not KEY=VALUE", hint="nothing was set")
        found[match[1]] = value
    return found


def _value(text: str) -> str | None:
    if text[:1] == "'":
        match = re.fullmatch(r"'([^']*)'\s*(#.*)?", text)
        return match[1] if match else None
    if text[:1] == '"':
        match = re.fullmatch(r'"((?:[^"\\]|\\.)*)"\s*(#.*)?', text)
        return re.sub(r"\\(.)", lambda m: {"n": "\n", "t": "\t"}.get(m[1], m[1]), match[1]) if match else None
    return re.sub(r"\s+#.*$", "", text).strip()


def _set(app: App, values: dict[str, str]) -> None:
    for name, value in values.items():
        check_variable(name, value)
    app.hub.set_variables(values)
    risky = [name for name, value in values.items() if looks_secret(name, value)]
    if risky:
        app.say(f"warning: {', '.join(risky)} looks like a credential, and everything in a box can read it.")
        app.say("  Better outside boxes: 'thopter env delete' takes it back; see 'thopter help secrets'.")
