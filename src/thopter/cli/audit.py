"""``thopter audit``: who decided and did what; whether the record of it is whole."""

from __future__ import annotations

import os
import re
import tempfile
import time
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from thopter.cli.app import App, complete_name, json_option, pass_app
from thopter.cli.text import paint, plural
from thopter.kit.sanitize import one_line
from thopter.model.errors import BadInput, HubUnreachable

if TYPE_CHECKING:
    from thopter.model.api.audit import AuditLine, AuditVerdict

_AGO = re.compile(r"([0-9]{1,6})([smhdw])")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_WAIT_MS = 4000
_QUIET = ("name", "text")


def parse_since(text: str, now: float) -> int:
    """Milliseconds of ``2h``, ``3d`` (that long ago) or of a date, ``2026-11-30[T10:00]`` in local time."""
    match = _AGO.fullmatch(text)
    if match:
        return max(0, round((now - int(match[1]) * _SECONDS[match[2]]) * 1000))
    try:
        return max(0, round(datetime.fromisoformat(text).timestamp() * 1000))
    except (ValueError, OverflowError, OSError):
        raise BadInput(f"--since {text[:40]!r} is no time", hint="e.g. 2h, 3d, 2026-11-30") from None


@click.command()
@click.option("-f", "--follow", is_flag=True, help="Go on showing what comes, until Ctrl-C.")
@click.option("--verify", is_flag=True, help="Look over the whole chain. Exit 1 when it is not whole.")
@click.option("--expect", metavar="HEAD", default="", help="With --verify: a head that you wrote down.")
@click.option("--since", metavar="WHEN", default="", help="From then on: 2h, 3d, 2026-11-30.")
@click.option("--box", metavar="NAME", default="", shell_complete=complete_name,
              help="Of this thopter, by name or id, also one that is gone.")  # fmt: skip
@click.option("--kind", metavar="KIND", default="", help="Of this kind, or family such as 'egress.'.")
@click.option("-n", "--lines", type=click.IntRange(1, 2000), default=50, show_default=True, metavar="N",
              help="How many of the newest (without --since).")  # fmt: skip
@click.option("--export", metavar="FILE", type=click.Path(dir_okay=False, path_type=Path),
              help="Write all of it there, a JSON object a line, for anybody to verify.")  # fmt: skip
@json_option()
@pass_app
def audit(
    app: App, follow: bool, verify: bool, expect: str, since: str, box: str, kind: str, lines: int,
    export: Path | None, as_json: bool,
) -> None:  # fmt: skip
    """Show who decided and did what: denials, approvals, pushes, uses of secrets, commands of people.

    Each record is chained to the one before; --verify finds what was changed, removed or cut off.
    """
    if expect and not verify:
        raise click.UsageError("--expect goes with --verify")
    if (verify or export) and (follow or since or box or kind):
        raise click.UsageError("--verify and --export are about the whole of it")
    if verify:
        _verify(app, expect, as_json)
    if export is not None:
        _export(app, export)
    if not (verify or export):
        _show(app, {"box": box, "kind": kind}, since, lines, follow, as_json)


def _verify(app: App, expect: str, as_json: bool) -> None:
    from thopter.mesh.audit import verify

    found = verify(app.hub, expect)
    if as_json:
        app.json(found)
    else:
        _verdict(app, found)
    if not found.ok:
        app.exit(1)


def _verdict(app: App, found: AuditVerdict) -> None:
    for fault in found.faults:
        where = f"record {fault.seq}: " if fault.seq else ""
        app.out(paint(one_line(f"{where}{fault.text}", 400), "red", on=app.colour))
    if found.ok:
        app.out(f"whole: {plural(found.records, 'record')}, {plural(found.anchors, 'anchor')} agree")
    else:
        app.out("not whole" + ("; there may be more than is listed" if len(found.faults) >= 100 else ""))
    app.out(f"head {found.head}")


def _export(app: App, file: Path) -> None:
    """Write to a new file beside it, which takes its place when it is complete."""
    from thopter.mesh.audit import export

    try:
        fd, new = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")
    except OSError as e:
        raise BadInput(f"{file} can't be written: {e.strerror}") from None
    try:
        with open(fd, "wb") as out:
            size = export(app.hub, out)
            out.flush()
            os.fsync(fd)
        os.replace(new, file)
    except BaseException:
        os.unlink(new)
        raise
    app.say(f"{file}: {size} bytes")


def _show(app: App, want: dict[str, Any], since: str, lines: int, follow: bool, as_json: bool) -> None:
    from thopter.mesh.audit import page

    if since:
        want["since_ms"] = parse_since(since, time.time())
        found = page(app.hub, **want)
        shown = list(found.lines)
        while found.next < found.head:
            found = page(app.hub, after=found.next, **want)
            shown += found.lines
    else:
        found = page(app.hub, last=lines, **want)
        shown = found.lines
    if as_json and not follow:
        return app.json(shown)
    _print(app, shown, as_json)
    return _follow(app, want, found.next, as_json) if follow else None


def _follow(app: App, want: dict[str, Any], after: int, as_json: bool) -> None:
    from thopter.mesh.audit import page

    try:
        while True:
            try:
                found = page(app.hub, after=after, wait_ms=_WAIT_MS, **want)
            except HubUnreachable:
                app.hub.close()
                time.sleep(1.0)
                continue
            _print(app, found.lines, as_json)
            after = found.next
    except KeyboardInterrupt:
        return


def _print(app: App, lines: list[AuditLine], as_json: bool) -> None:
    for line in lines:
        if as_json:
            app.json(line, line=True)
        else:
            app.out(_text(app, line))
    app.flush()


def _text(app: App, line: AuditLine) -> str:
    at = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(line.at_ms / 1000))
    kind = paint(one_line(line.kind, 40), "bold", on=app.colour)
    about = f"{one_line(line.name, 60)} " if line.name else ""
    told = " ".join(
        f"{k}={_value(v)}" for k, v in line.data.items() if k not in _QUIET and v not in ("", None)
    )
    text = line.data.get("text")
    told = f"{told} {_value(text)}" if text else told
    return f"{line.seq:>6} {at} {kind} {about}by {one_line(line.by, 60)}: {one_line(told, 300)}"


def _value(value: object) -> str:
    if isinstance(value, list):
        return "[" + ", ".join(_value(v) for v in value) + "]"
    return repr(value) if isinstance(value, str) and (" " in value or not value) else str(value)
