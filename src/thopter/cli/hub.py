"""``thopter hub`` (start, stop, restart, status, logs) and ``thopter logs``."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from thopter.cli.app import App, complete_name, json_option, pass_app
from thopter.cli.text import ago, now_ms, paint, plural
from thopter.kit.sanitize import clean, one_line
from thopter.model.api import HubInfo
from thopter.model.errors import HubUnreachable, NotFound, TimedOut

STOP_SECONDS = 30.0
READY_SECONDS = 60.0
_TAIL_BYTES = 4 << 20
_LEVELS = {"error": "red", "critical": "red", "warning": "yellow", "debug": "dim"}


@click.group()
def hub() -> None:
    """The hub: the daemon that runs thopters. Commands start it when needed; boxes survive its end."""


@hub.command()
@pass_app
def start(app: App) -> None:
    """Start the hub, unless it runs already."""
    running = _info(app)
    if running is not None and running.ready:
        app.out(f"The hub runs already (pid {running.pid}).")
        return
    app.out(f"The hub runs (pid {_start(app).pid}).")


@hub.command()
@pass_app
def stop(app: App) -> None:
    """End the hub. Boxes and their agents go on; the next hub takes them over."""
    info = _info(app)
    if info is None:
        app.out("No hub is running.")
        return
    _stop(app, info)
    app.out(f"The hub (pid {info.pid}) has ended; boxes go on.")


@hub.command()
@pass_app
def restart(app: App) -> None:
    """End the hub and start it again, with the present environment and settings."""
    info = _info(app)
    if info is not None:
        _stop(app, info)
    app.out(f"The hub runs (pid {_start(app).pid}).")


@hub.command("status")
@json_option()
@pass_app
def hub_status(app: App, as_json: bool) -> None:
    """Show whether a hub runs, and which. Never starts one; exit 4 when none runs."""
    info = _info(app)
    if info is None:
        raise HubUnreachable(
            f"no hub is running for {app.paths.state}", hint="any command starts one: thopter status"
        )
    if as_json:
        return app.json(info)
    app.out(f"pid        {info.pid}")
    app.out(f"version    {one_line(info.version)}")
    app.out(f"started    {ago(info.started_ms, now_ms())}")
    app.out(f"ready      {'yes' if info.ready else 'no, still recovering'}")
    app.out(f"boxes      {info.boxes}" + (f" ({info.warm} of them warm)" if info.warm else ""))
    app.out(f"state      {clean(info.state_dir)}")
    more = [one_line(where) for where in info.listeners if str(app.paths.hub_socket) not in where]
    app.out("listens    " + ", ".join([str(app.paths.hub_socket), *more]))
    if info.problem:
        app.out(f"problem    {paint(one_line(info.problem), 'red', on=app.colour)}")


def _info(app: App) -> HubInfo | None:
    """Who answers, or None when nobody does. A hub that is silent is an error."""
    from thopter.mesh.client import HubClient

    client = HubClient(app.paths.hub_socket, timeout=10.0)
    try:
        client.connect()
    except HubUnreachable:
        return None
    with client:
        return client.hub()


def _start(app: App) -> HubInfo:
    """Start a hub and wait until it has recovered what its last end left; what it says when it dies."""
    from thopter.mesh.start import LastWords

    words = LastWords(app.paths)
    app.start = True
    info = app.hub.hub()
    until = time.monotonic() + READY_SECONDS
    while not info.ready:
        if time.monotonic() > until:
            raise TimedOut(
                f"the hub (pid {info.pid}) is not ready after {READY_SECONDS:.0f} s"
                + (f": {one_line(info.problem)}" if info.problem else ""),
                hint="see 'thopter hub logs'",
            )
        time.sleep(0.05)
        try:
            info = app.hub.hub()
        except HubUnreachable:
            raise HubUnreachable(f"the hub did not start{words.read()}") from None
    return info


def _stop(app: App, info: HubInfo) -> None:
    """Ask the hub to end and wait until its process is gone and its socket answers no more."""
    from thopter.mesh.client import HubClient

    with HubClient(app.paths.hub_socket, timeout=10.0) as client:
        client.stop()
    until = time.monotonic() + STOP_SECONDS
    while _lives(info.pid):
        if time.monotonic() > until:
            raise TimedOut(
                f"the hub (pid {info.pid}) has not ended after {STOP_SECONDS:.0f} s",
                hint="see 'thopter hub logs'",
            )
        time.sleep(0.05)


def _lives(pid: int) -> bool:
    """True while that process of ours runs; one that has ended and only waits to be reaped does not."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, PermissionError):
        return False
    try:
        state = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return not Path("/proc/self").exists()  # no /proc on this system: the signal's word counts
    return state[:1] not in (["Z"], ["X"])


def log_options(command: Any) -> Any:
    """Options that all log commands share."""
    for option in reversed((
        click.option("-f", "--follow", is_flag=True, help="Go on as it is written; Ctrl-C ends."),
        click.option("-n", "--lines", type=click.IntRange(0), default=50, show_default=True, metavar="N",
                     help="How many lines to begin with."),
        json_option(),
    )):  # fmt: skip
        command = option(command)
    return command


@hub.command("logs")
@log_options
@pass_app
def hub_logs(app: App, follow: bool, lines: int, as_json: bool) -> None:
    """Show the hub's log."""
    show_log(app, follow, lines, as_json)


@click.command()
@click.argument("what", default="hub", metavar="[hub|NAME]", shell_complete=complete_name)
@log_options
@pass_app
def logs(app: App, what: str, follow: bool, lines: int, as_json: bool) -> None:
    """Show the hub's log (default), or what the hub did with a thopter: its making, states, notes."""
    if what == "hub":
        return show_log(app, follow, lines, as_json)
    from thopter.cli.log import show_steps

    show_steps(app, app.name(what), follow, lines, as_json)


def show_log(app: App, follow: bool, lines: int, as_json: bool) -> None:
    """Print the end of ``hub.log`` and, when asked, what is added, across rotations."""
    path = app.paths.hub_log
    if not path.exists() and not follow:
        raise NotFound(f"there is no log yet ({path})", hint="no hub has run for this state folder")
    try:
        for line in _lines(path, lines, follow):
            app.out(_pretty(line, app, as_json))
            if follow:
                app.flush()
    except KeyboardInterrupt:
        return
    if not follow and not as_json:
        app.say(f"({plural(lines, 'line')} at most; whole log: {path})")


def _lines(path: Path, count: int, follow: bool) -> Iterator[bytes]:
    offset, inode = 0, -1
    if path.exists():
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            inode = os.fstat(file.fileno()).st_ino
            file.seek(max(0, size - _TAIL_BYTES))
            raw = file.read(size - file.tell())
        whole, _, rest = raw.rpartition(b"\n")
        offset = size - len(rest)
        yield from whole.split(b"\n")[-count:] if count and whole else []
        if rest and not follow and count:
            yield rest
    while follow:
        time.sleep(0.2)
        if not path.exists():
            continue
        with path.open("rb") as file:
            found = os.fstat(file.fileno())
            if found.st_ino != inode or found.st_size < offset:
                inode, offset = found.st_ino, 0
            file.seek(offset)
            whole, newline, _ = file.read(_TAIL_BYTES).rpartition(b"\n")
        offset += len(whole) + len(newline)
        yield from whole.split(b"\n") if newline else []


def _pretty(raw: bytes, app: App, as_json: bool) -> str:
    """One record for a person; what is no record of ours is shown as it is."""
    text = raw.decode("utf-8", "replace")
    if as_json:
        return clean(text)
    import msgspec

    try:
        line = msgspec.json.decode(raw, type=dict[str, Any])
        at, level, part = str(line["at"]), str(line["level"]), str(line["part"])
        said = one_line(str(line["text"]))
    except (msgspec.MsgspecError, KeyError, UnicodeDecodeError):
        return one_line(text)
    if line.get("data"):
        said += " " + one_line(msgspec.json.encode(line["data"]).decode())
    out = f"{one_line(at, 30)} {one_line(level, 8):<7} {one_line(part, 40)}: {said}"
    out = paint(out, *([_LEVELS[level]] if level in _LEVELS else []), on=app.colour)
    if line.get("error"):
        out += "\n" + "\n".join("    " + row for row in clean(str(line["error"])).rstrip().split("\n"))
    return out
