"""``thopter log``: the whole conversation of a thopter, to read, to keep, or as a page."""

from __future__ import annotations

import io
import os
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO

import click

from thopter.cli.app import App, name_argument, pass_app
from thopter.cli.follow import refreshes
from thopter.cli.transcript import Style, draw
from thopter.kit.sanitize import clean, one_line
from thopter.model.errors import BadInput, HubUnreachable, NotFound
from thopter.model.nouns import Entry, Role

_EVERY = 5  # seconds after which a browser reads a followed page again
_LOOK = 2.0
_FENCE = 3
_TITLES = {"user": "You", "assistant": "Agent", "system": "System"}


@click.command()
@name_argument()
@click.option("--html", "kind", flag_value="html", help="One page of HTML that fetches nothing.")
@click.option("--md", "kind", flag_value="md", help="Markdown.")
@click.option("--json", "kind", flag_value="json", help="One JSON object a line, an entry each.")
@click.option("--raw", "kind", flag_value="raw", help="The agent's own transcript lines.")
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE",
              help="Write it there, not to standard output.")  # fmt: skip
@click.option("--open", "open_", is_flag=True, help="Show the page in your browser (with --html).")
@click.option("-f", "--follow", is_flag=True, help="With --html: write it again as it goes on.")
@pass_app
def log(app: App, name: str, kind: str | None, output: Path | None, open_: bool, follow: bool) -> None:
    """Print the whole conversation, of a thopter that is there or one that is gone.

    The page is made by claude-code-log and then cleaned: it fetches nothing and runs nothing that a
    box wrote. On a terminal it goes into a file, whose name is printed.
    """
    name = app.name(name)
    if kind != "html" and (open_ or follow):
        raise click.UsageError(
            "--open and --follow are for pages: add --html ('thopter tail -f' follows text)"
        )
    if kind == "html":
        return _html(app, name, output, open_, follow)
    with _out(output) as out:
        if kind == "raw":
            if output is None and app.stdout_tty:
                raise BadInput("raw lines are not for a terminal", hint="-o FILE, or | less")
            from thopter.mesh.logs import raw

            raw(app.hub, name, out)
            return
        for line in _lines(app, name, kind, output is None):
            out.write(line.encode("utf-8", "replace") + b"\n")


def _lines(app: App, name: str, kind: str | None, shown: bool) -> Iterator[str]:
    from thopter.mesh.logs import entries

    found = entries(app.hub, name)
    if kind == "json":
        yield from _json(found, shown and app.stdout_tty)
    elif kind == "md":
        yield from markdown(name, found)
    else:
        style = Style.of(app, full=True) if shown else Style(full=True)
        for entry in found:
            yield from draw(entry, style)


def _json(entries: Iterable[Entry], tty: bool) -> Iterator[str]:
    import msgspec

    for entry in entries:
        text = msgspec.json.encode(entry).decode()
        yield clean(text, mark=True) if tty else text


def markdown(name: str, entries: Iterable[Entry]) -> Iterator[str]:
    """The conversation as Markdown. What tools took and gave is in fences that it can't end."""
    import time

    yield f"# {name}"
    for entry in entries:
        at = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(entry.at_ms / 1000)) if entry.at_ms else "?"
        text = clean(entry.text).strip("\n") or one_line(entry.summary)
        side = " (in a sub-agent)" if entry.sidechain else ""
        yield ""
        if entry.role in (Role.TOOL_USE, Role.TOOL_RESULT):
            what = "Tool" if entry.role is Role.TOOL_USE else "Error" if entry.is_error else "Result"
            yield f"**{what}** {one_line(entry.tool, 60)}{side}, {at}".replace("  ", " ").replace(" ,", ",")
            yield ""
            yield from _fenced(one_line(entry.summary) if entry.role is Role.TOOL_USE else text)
        else:
            yield f"## {_TITLES.get(str(entry.role), 'Entry')}{side}, {at}"
            yield ""
            yield text


def _fenced(text: str) -> Iterator[str]:
    longest = run = 0
    for ch in text:
        run = run + 1 if ch == "`" else 0
        longest = max(longest, run)
    fence = "`" * max(_FENCE, longest + 1)
    yield fence
    yield text
    yield fence


def _html(app: App, name: str, output: Path | None, open_: bool, follow: bool) -> None:
    if output is None and not (open_ or follow or app.stdout_tty):
        from thopter.mesh.logs import page

        page(app.hub, name, sys.stdout.buffer)
        return
    if output is None:
        from thopter.kit.paths import private_dir

        private_dir(app.paths.state)
        output = private_dir(app.paths.state / "shown") / f"{name}.html"
    refresh = _EVERY if follow else 0
    _write(app, name, output, refresh)
    app.out(str(output))
    app.flush()
    if open_:
        import webbrowser

        if not webbrowser.open(output.resolve().as_uri()):
            app.say("no browser could be started; open that file yourself")
    if follow:
        _follow(app, name, output)


def _write(app: App, name: str, output: Path, refresh: int) -> None:
    """Replace the file as a whole: a browser never reads half a page."""
    from thopter.mesh.logs import page

    made = io.BytesIO()
    page(app.hub, name, made, refresh)
    try:
        fd, new = tempfile.mkstemp(dir=output.parent, prefix=f".{output.name}.")
        with open(fd, "wb") as file:
            file.write(made.getbuffer())
        os.replace(new, output)
    except OSError as e:
        raise BadInput(f"{output} can't be written: {e.strerror}") from None


def _follow(app: App, name: str, output: Path) -> None:
    """Write it again whenever there is more, until Ctrl-C or until the thopter is gone."""
    box = app.hub.thopter(name).view.id
    app.say("written again as it goes on; Ctrl-C ends that")
    had = -1
    try:
        for trouble in refreshes(app, _LOOK, kinds="entry,box.destroyed", box=box):
            if trouble:
                continue
            try:
                total = app.hub.transcript(name, last=1).total
                if total != had:
                    _write(app, name, output, _EVERY)
                had = total
            except HubUnreachable:
                app.hub.close()
            except NotFound:
                app.say(f"{name} is gone; this was its last page")
                break
    except KeyboardInterrupt:
        app.say("")
    _write(app, name, output, 0)  # the last one does not ask to be read again


def show_steps(app: App, name: str, follow: bool, lines: int, as_json: bool) -> None:
    """Print what the hub did with a thopter (its making, states, notes) and, when asked, what comes."""
    from thopter.mesh.logs import steps

    seen = 0

    def show(count: int | None) -> str:
        nonlocal seen
        found = steps(app.hub, name)
        fresh = [line for line in found.lines if line.seq > seen]
        shown = fresh if count is None else fresh[len(fresh) - min(count, len(fresh)) :]
        if as_json and not follow:
            app.json(shown)
        for line in shown if follow or not as_json else ():
            if as_json:
                app.json(line, line=True)
            else:
                app.out(one_line(line.text, 400))
        app.flush()
        seen = max([seen, *(line.seq for line in fresh)])
        return found.box

    box = show(lines)
    if not follow:
        return
    try:
        for trouble in refreshes(app, _LOOK, box=box):
            if not trouble:
                try:
                    show(None)
                except HubUnreachable:
                    app.hub.close()
    except KeyboardInterrupt:
        return


def _out(output: Path | None) -> IO[bytes]:
    if output is None:
        return os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    try:
        return output.open("wb")
    except OSError as e:
        raise BadInput(f"{output} can't be written: {e.strerror}") from None
