"""``thopter egress``: what a box reached and was refused, and a person's word about it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import click
import msgspec

from thopter.cli.app import App, complete_name, json_option, pass_app
from thopter.cli.text import paint
from thopter.kit.sanitize import one_line
from thopter.mesh.client import HubClient
from thopter.model.errors import BadInput

if TYPE_CHECKING:
    from thopter.model.api.egress import EgressLine, EgressView
    from thopter.model.events import Event

_PLACE = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^:\[\]/]+)(?::([0-9]{1,5}))?")
_KINDS = "egress.denied,egress.asked,egress.allowed,git.refused"
_COLOURS = {"deny": "red", "ask": "yellow", "allow": "green"}


class _Names(click.Group):
    """``egress NAME`` shows; ``egress allow NAME HOST`` changes."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """A first word that is no command is the name of a thopter."""
        if args and args[0] not in self.commands and not args[0].startswith("-"):
            args = ["show", *args]
        return super().resolve_command(ctx, args)


@click.group(cls=_Names)
def egress() -> None:
    """What a box reached and was refused. 'thopter egress NAME' is short for 'egress show NAME'."""


@egress.command()
@click.argument("name", shell_complete=complete_name)
@click.option("--follow", "-f", is_flag=True, help="Go on showing refusals as they happen.")
@click.option("--all", "-a", "everything", is_flag=True, help="Also what went out lately.")
@click.option("-n", "--lines", type=click.IntRange(1, 2000), default=50, show_default=True, metavar="N",
              help="How many of the newest.")  # fmt: skip
@json_option()
@pass_app
def show(app: App, name: str, follow: bool, everything: bool, lines: int, as_json: bool) -> None:
    """Show NAME's policy and what it was refused."""
    from thopter.mesh.egress import view

    found = view(app.hub, app.name(name), lines, everything)
    if as_json and not follow:
        return app.json(found)
    if not as_json:
        _head(app, found)
    for line in found.lines:
        app.out(msgspec.json.encode(line).decode() if as_json else _line(app, line))
    if follow:
        box = app.hub.thopter(app.name(name)).view.id
        _follow(app, box, as_json)
    return None


def _head(app: App, found: EgressView) -> None:
    state = "" if found.up else "; no gateway serves it: it reaches nothing"
    app.say(f"{found.name}: policy {found.policy} ({one_line(found.why, 100)}){state}")
    app.say(f"sent {_size(found.sent)}, received {_size(found.received)}; refused {found.refused} times")
    for grant in found.grants:
        app.say(f"allowed besides: {one_line(grant.host, 260)} port {grant.port}")
    if not found.lines:
        app.say("nothing was refused")


def _follow(app: App, box: str, as_json: bool) -> None:
    stream = HubClient(app.paths.hub_socket).events(box=box, kinds=_KINDS)
    for event in stream:
        if event is not None:
            app.out(msgspec.json.encode(event).decode() if as_json else _event(app, event))


def _event(app: App, event: Event) -> str:
    from thopter.model.api.egress import EgressLine

    data: dict[str, Any] = event.data
    if event.kind == "egress.allowed":
        place, scope = f"{data.get('host')}:{data.get('port')}", data.get("scope")
        return one_line(f"{_clock(event.at_ms)} a person allows {place} ({scope})", 400)
    known = {k: v for k, v in data.items() if k in EgressLine.__struct_fields__}
    return _line(app, msgspec.convert({"at_ms": event.at_ms, "verdict": "deny"} | known, EgressLine))


def _line(app: App, line: EgressLine) -> str:
    word = {"deny": "denied", "ask": "asked", "allow": "went"}.get(line.verdict, line.verdict)
    place = f"{line.host}:{line.port}" if line.host else ""
    detail = (
        f"{line.code}: {line.reason}"
        if line.code
        else f"{line.status} {_size(line.sent)}/{_size(line.received)}"
    )
    times = f" x{line.count}" if line.count > 1 else ""
    text = one_line(f"{line.method} {place}{line.path}{times}  {detail}", 400)
    mark = paint(f"{word:<6}", _COLOURS.get(line.verdict, "bold"), on=app.colour)
    return f"{_clock(line.at_ms)} {mark} {text}"


def _clock(at_ms: int) -> str:
    import time

    return time.strftime("%H:%M:%S", time.localtime(at_ms / 1000))


def _size(count: int) -> str:
    if count < 10_000:
        return f"{count} B"
    return f"{count / 1024:.0f} KiB" if count < 10_000_000 else f"{count / (1 << 20):.0f} MiB"


@egress.command()
@click.argument("name", shell_complete=complete_name)
@click.argument("host")
@click.option("--once", "scope", flag_value="once", help="The next connection, within ten minutes.")
@click.option(
    "--run", "scope", flag_value="run", default=True, help="As long as the box lives (the default)."
)
@click.option(
    "--always", "scope", flag_value="always", help="Write it into the policy, for all that have it."
)
@json_option()
@pass_app
def allow(app: App, name: str, host: str, scope: Any, as_json: bool) -> None:
    """Allow NAME to reach HOST (or HOST:PORT; by default port 443)."""
    from thopter.mesh.egress import allow as ask
    from thopter.model.api.egress import AllowRequest

    found = _PLACE.fullmatch(host)
    port = int(found[2]) if found and found[2] else 443
    if not found or not 0 < port < 65536:
        raise BadInput(f"{host[:100]!r} is neither HOST nor HOST:PORT", hint="e.g. api.example.com:443")
    given = ask(app.hub, app.name(name), AllowRequest(host=found[1], port=port, scope=scope))
    if as_json:
        return app.json(given)
    how = {
        "once": "for its next connection, within ten minutes",
        "run": "as long as it lives",
        "always": f"always: it is in policy {given.policy} now, for all that have it",
    }[given.scope]
    app.out(f"{name} may reach {given.host} port {given.port} {how}")
    return None
