"""``thopter snapshot …``: saved boxes that others start from."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING

import click

from thopter.cli.app import App, complete_name, json_option, name_argument, pass_app
from thopter.cli.progress import Steps, follow
from thopter.cli.text import ago, now_ms, paint, plural, table
from thopter.kit.sanitize import one_line
from thopter.model.errors import BadInput, PartlyDone, ThopterError

if TYPE_CHECKING:
    from thopter.model.api.snapshots import SnapshotAccepted, SnapshotView

_PIECE = 1 << 20
_HOURS = {"h": 1, "d": 24, "w": 168}


def complete_snapshot(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Names of snapshots for shell completion: asks a running hub for a second, never starts one."""
    from thopter.mesh.client import HubClient

    app = ctx.find_object(App) or App(os.environ)
    try:
        with HubClient(app.paths.hub_socket, timeout=1.0) as client:
            found = client.saved.overview().snapshots
            return [s.name for s in found if s.name.startswith(incomplete)]
    except ThopterError:
        return []


@click.group()
def snapshot() -> None:
    """Saved boxes that new thopters start from (--snapshot), with all their files."""


@snapshot.command("list")
@json_option()
@pass_app
def list_(app: App, as_json: bool) -> None:
    """List the snapshots; '*' marks the default one."""
    found = app.hub.saved.overview()
    if as_json:
        return app.json(found)
    if not found.snapshots:
        app.out("No snapshots. Make one: thopter snapshot create NAME")
    else:
        for line in draw(app, found.snapshots):
            app.out(line)
    if found.default and not any(s.default for s in found.snapshots):
        app.say(f"warning: the default snapshot {one_line(found.default, 61)} is not there; "
                "'thopter snapshot default --clear' chooses none")  # fmt: skip
    elif found.default:
        app.say(f"Default snapshot: {one_line(found.default, 61)}")


def draw(app: App, found: list[SnapshotView]) -> list[str]:
    """Lines of a table of saved boxes."""
    rows = [
        (
            ("* " if s.default else "  ") + (one_line(s.name, 61) or one_line(s.label, 61) or "-"),
            one_line(s.id, 60), one_line(s.source, 61) or one_line(s.label, 40) or "-",
            ago(s.created_ms, now_ms()), size(s.size), one_line(s.state, 12) if s.state != "ready" else "",
        )
        for s in found
    ]  # fmt: skip
    lines = table(("  NAME", "ID", "SOURCE", "CREATED", "SIZE", ""), rows)
    return [paint(line.rstrip(), "bold", on=app.colour and i == 0) for i, line in enumerate(lines)]


def size(count: int) -> str:
    """``1.5 GiB``; ``?`` when it is not known."""
    if count < 0:
        return "?"
    amount, unit = float(count), "B"
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if amount < 1024 or unit == "TiB":
            break
        amount /= 1024
    return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"


@snapshot.command()
@click.argument("snap", shell_complete=complete_snapshot)
@json_option()
@pass_app
def show(app: App, snap: str, as_json: bool) -> None:
    """Show one snapshot, by name or id."""
    found = app.hub.saved.show(snap)
    if as_json:
        return app.json(found)
    facts = (
        ("Name", found.name), ("Id", found.id), ("State", found.state), ("Source", found.source),
        ("Created", ago(found.created_ms, now_ms())), ("Size", size(found.size)), ("Depth", str(found.depth)),
        ("Default", "yes" if found.default else "no"), ("Agent", found.agent), ("Repository", found.repo),
        ("Folder", found.cwd), ("Session", found.session), ("From", found.parent or found.label),
        ("Provider", found.provider),
        ("Missing", "; ".join(f"{name} ({why})" for name, why in found.missing.items())),
    )  # fmt: skip
    for label, text in facts:
        if text:
            app.out(f"{label:<12} {one_line(text, 1000)}")


@snapshot.command()
@name_argument()
@click.argument("snap", required=False, default="")
@json_option()
@pass_app
def create(app: App, name: str, snap: str, as_json: bool) -> None:
    """Save thopter NAME as snapshot SNAP (a friendly name when you give none).

    Its processes stand still for the instant that it takes, and go on.
    """
    from thopter.model.api.snapshots import SnapshotRequest

    made = app.hub.saved.create(SnapshotRequest(thopter=app.name(name), name=snap))
    _follow(app, made, as_json, "Snapshot", "made")


@snapshot.command()
@name_argument()
@click.argument("snap", shell_complete=complete_snapshot)
@json_option()
@pass_app
def replace(app: App, name: str, snap: str, as_json: bool) -> None:
    """Save thopter NAME in place of snapshot SNAP: the new one is made first, then the old one goes."""
    from thopter.model.api.snapshots import SnapshotRequest

    made = app.hub.saved.create(SnapshotRequest(thopter=app.name(name), name=snap, replace=True))
    _follow(app, made, as_json, "Snapshot", "replaced")


@snapshot.command()
@click.argument("source")
@click.option("--package", "-p", "packages", multiple=True, metavar="PACKAGE", help="Put it in; repeatable.")
@click.option("--name", metavar="SNAP", default="", help="What to call it; default: a friendly name.")
@json_option()
@pass_app
def build(app: App, source: str, packages: tuple[str, ...], name: str, as_json: bool) -> None:
    """Make a snapshot from SOURCE: debian:SUITE, or an OCI image (folder or tar)."""
    from thopter.model.api.snapshots import BuildRequest

    path = Path(source)
    if "/" in source or path.exists():
        source = os.fspath(path.resolve())
    made = app.hub.saved.build(BuildRequest(source=source, name=name, packages=list(packages)))
    _follow(app, made, as_json, "Snapshot", "built")


def _follow(app: App, made: SnapshotAccepted, as_json: bool, what: str, done: str) -> None:
    """Follow its flow to the end; Ctrl-C only stops showing."""
    try:
        view = follow(app.hub, made.flow, Steps(app))
    except KeyboardInterrupt:
        app.say("\nDetached; it goes on. See: thopter snapshot list")
        app.exit(0)
    if as_json:
        return app.json({"id": made.id, "name": made.name, "size": view.result.get("size", -1)})
    app.out(f"{what} '{one_line(made.name, 61)}' {done} ({made.id}).")


@snapshot.command()
@click.argument("snaps", nargs=-1, required=True, metavar="SNAP...", shell_complete=complete_snapshot)
@pass_app
def destroy(app: App, snaps: tuple[str, ...]) -> None:
    """Remove snapshots for good, by name or id. Thopters that were started from them live on."""
    failures: list[tuple[str, ThopterError]] = []
    for word in dict.fromkeys(snaps):
        try:
            gone = app.hub.saved.destroy(word)
        except ThopterError as error:
            failures.append((word, error))
            if len(snaps) > 1:
                app.say(f"{one_line(word, 61)}: {one_line(error.message, 500)}")
            continue
        app.out(f"Removed {one_line(gone.name or gone.id, 61)}.")
        if gone.default:
            app.say("note: it was the default one; 'thopter snapshot default --clear' chooses none")
    if failures and len(failures) == len(snaps):
        raise failures[0][1]
    if failures:
        raise PartlyDone(f"{len(failures)} of {len(snaps)} could not be removed")


@snapshot.command()
@click.argument("snap", required=False, shell_complete=complete_snapshot)
@click.option("--clear", is_flag=True, help="Start from no snapshot again.")
@pass_app
def default(app: App, snap: str | None, clear: bool) -> None:
    """Choose the snapshot that new thopters start from; without SNAP, print it."""
    from thopter.cli.config import tell_hub, write_setting

    if clear and snap:
        raise click.UsageError("give a SNAP or --clear")
    if clear:
        write_setting(app.paths, "box.snapshot", None)
        tell_hub(app, "box.snapshot")
        app.out("No default snapshot.")
    elif snap:
        found = app.hub.saved.show(snap)
        if found.kind != "snapshot":
            raise BadInput(f"{snap} is a {found.kind}", hint="'thopter snapshot create' makes a snapshot")
        write_setting(app.paths, "box.snapshot", found.name or found.id)
        tell_hub(app, "box.snapshot")
        app.out(f"New thopters start from {one_line(found.name or found.id, 61)}.")
    else:
        chosen = str(app.settings.get("box.snapshot"))
        app.out(one_line(chosen, 61) or "No default snapshot.")


@snapshot.command()
@click.argument("snap", shell_complete=complete_snapshot)
@click.argument("file", metavar="FILE|-")
@pass_app
def export(app: App, snap: str, file: str) -> None:
    """Write a snapshot as one checksummed file; '-' is standard output."""
    if file == "-":
        if app.stdout_tty:
            raise BadInput("that is no text for a terminal", hint="redirect it: > FILE")
        app.hub.saved.export(snap, sys.stdout.buffer)
        return
    target = Path(file)
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        with part.open("xb") as out:
            count = app.hub.saved.export(snap, out)
            out.flush()
            os.fsync(out.fileno())
        part.replace(target)
    except OSError as e:
        raise ThopterError(f"{file} can't be written: {e.strerror}") from None
    finally:
        part.unlink(missing_ok=True)
    app.out(f"Wrote {size(count)} to {file}.")


@snapshot.command("import")
@click.argument("file", metavar="FILE|-")
@click.argument("snap", required=False, default="")
@json_option()
@pass_app
def import_(app: App, file: str, snap: str, as_json: bool) -> None:
    """Make a snapshot of an exported file; '-' is standard input. A damaged file makes nothing."""
    try:
        with _source(file) as source:
            made = app.hub.saved.take_in(_pieces(source), snap)
    except OSError as e:
        raise BadInput(f"{file} can't be read: {e.strerror}") from None
    if as_json:
        return app.json(made)
    app.out(f"Snapshot '{one_line(made.name, 61)}' imported ({made.id}).")


def _source(file: str) -> IO[bytes]:
    return os.fdopen(os.dup(sys.stdin.fileno()), "rb") if file == "-" else Path(file).open("rb")


def _pieces(source: IO[bytes]) -> Iterator[bytes]:
    while piece := source.read(_PIECE):
        yield piece


@snapshot.command()
@click.option("--older-than", metavar="TIME", help="Also checkpoints older than this: 12h, 7d, 2w.")
@click.option("--named", is_flag=True, help="With --older-than: snapshots too, except the default one.")
@click.option("--dry-run", is_flag=True, help="Only say what would go.")
@json_option()
@pass_app
def prune(app: App, older_than: str | None, named: bool, dry_run: bool, as_json: bool) -> None:
    """Remove checkpoints of thopters that are gone, and old ones."""
    from thopter.model.api.snapshots import PruneRequest

    if named and not older_than:
        raise click.UsageError("--named needs --older-than")
    before = now_ms() - _span_ms(older_than) if older_than else 0
    found = app.hub.saved.prune(PruneRequest(older_ms=before, named=named, dry_run=dry_run))
    if as_json:
        return app.json(found)
    for one in found.snapshots:
        app.out(f"{one_line(one.id, 60)}  {one_line(one.name or one.label or one.source, 61)}")
    app.say(
        f"{plural(len(found.snapshots), 'saved box', 'saved boxes')} {'would go' if dry_run else 'removed'}"
    )


def _span_ms(text: str) -> int:
    number, unit = text[:-1], text[-1:]
    if not number.isdigit() or unit not in _HOURS or len(number) > 6:
        raise BadInput(f"{text!r} is no length of time", hint="such as 12h, 7d or 2w")
    return int(number) * _HOURS[unit] * 3_600_000


__all__ = ["complete_name", "draw", "size", "snapshot"]
