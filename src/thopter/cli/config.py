"""``thopter config`` and ``thopter use``: settings, where they come from, and changing them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from thopter.cli.app import App, complete_name, json_option, pass_app
from thopter.cli.text import paint, table
from thopter.kit.sanitize import one_line
from thopter.model.errors import BadInput, HubUnreachable

if TYPE_CHECKING:
    from thopter.kit.paths import Paths


def complete_key(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Keys of settings, for shell completion."""
    from thopter.kit.settings import SETTINGS

    return [s.key for s in SETTINGS if s.key.startswith(incomplete)]


@click.group()
def config() -> None:
    """Read and change settings: flag > THOPTER_* > profile > thopter.toml > config.toml > default."""


@config.command()
@click.argument("key", required=False, shell_complete=complete_key)
@json_option()
@pass_app
@click.pass_context
def get(ctx: click.Context, app: App, key: str | None, as_json: bool) -> None:
    """Print the value of one setting; without KEY, of all."""
    if key is None:
        ctx.invoke(show, origin=False, as_json=as_json)
        return
    value = app.settings.get(_present_name(app, key))
    if as_json:
        return app.json(value)
    app.out(_shown(value))


@config.command("set")
@click.argument("key", shell_complete=complete_key)
@click.argument("value")
@pass_app
def set_(app: App, key: str, value: str) -> None:
    """Write one setting to your config.toml; comments and order in it stay."""
    from thopter.kit.settings import parse

    key = _present_name(app, key)
    parsed = parse(key, value, "given").value
    if key == "profile" and parsed:
        from thopter.kit.settings import load

        load(app.paths.config_file, {}, _project(), {"profile": parsed})  # one that is not there is told now
    write_setting(app.paths, key, parsed)
    app.out(f"{key} = {_shown(parsed)}")
    _mention_winner(app, key)
    tell_hub(app, key)


@config.command()
@click.argument("key", shell_complete=complete_key)
@pass_app
def unset(app: App, key: str) -> None:
    """Remove one setting from your config.toml, so that its default counts again."""
    from thopter.kit.settings import setting

    key = _present_name(app, key)
    default = setting(key).default
    write_setting(app.paths, key, None)
    app.out(f"{key} = {_shown(default)} (default)")
    _mention_winner(app, key)
    tell_hub(app, key)


@config.command()
@click.option("--origin", is_flag=True, help="Also say where each value comes from.")
@json_option()
@pass_app
def show(app: App, origin: bool, as_json: bool) -> None:
    """Print all settings."""
    from thopter.kit.settings import SETTINGS

    found = {s.key: app.settings.explain(s.key) for s in SETTINGS}
    if as_json:
        return app.json(
            {k: {"value": v.value, "origin": v.origin} if origin else v.value for k, v in found.items()}
        )
    if not origin:
        for key, value in found.items():
            app.out(f"{key} = {_shown(value.value)}")
        return
    rows = [(key, _shown(value.value), one_line(value.origin)) for key, value in found.items()]
    for i, line in enumerate(table(("SETTING", "VALUE", "FROM"), rows)):
        app.out(paint(line, "bold", on=app.colour and i == 0))


@click.command()
@click.argument("name", required=False, shell_complete=complete_name)
@click.option("--clear", is_flag=True, help="Choose none.")
@pass_app
def use(app: App, name: str | None, clear: bool) -> None:
    """Choose the thopter that '.' means in every command; without NAME, print it."""
    if clear and name:
        raise click.UsageError("give a NAME or --clear")
    if clear:
        write_setting(app.paths, "default_thopter", None)
        app.out("No default thopter.")
    elif name:
        _ = app.settings  # a file that can't be read is told before anything else
        full = app.hub.thopter(app.name(name)).view.name
        write_setting(app.paths, "default_thopter", full)
        app.out(f"'.' now means {full}.")
    else:
        chosen = app.settings.get("default_thopter")
        app.out(chosen or "No default thopter.")


# What Thopter Swarm called them: a setting now, or where it went.
LEGACY = {
    "defaultThopter": "default_thopter",
    "defaultRepo": "run.repo",
    "defaultBranch": "run.branch",
    "claudeMdPath": "agents.claude.instructions",
    "stopNotifications": "notify.stop",
    "stopNotificationQuietPeriod": "notify.quiet_seconds",
}
ELSEWHERE = {
    "defaultSnapshotName": "thopter snapshot default NAME",
    "defaultSnapshotId": "thopter snapshot default NAME",
    "runloopApiKey": "thopter secrets set NAME",
    "envVars": "thopter env set NAME",
    "repos": "thopter repos add REPO",
    "uploads": "[[uploads]] with local and remote in config.toml",
    "syncthing": "nothing: work comes back with 'thopter pull NAME'",
}


def _present_name(app: App, key: str) -> str:
    if key in ELSEWHERE:
        raise BadInput(f"{key} is no setting any more", hint=f"now: {ELSEWHERE[key]}")
    if key in LEGACY:
        app.say(f"note: {key} is now called {LEGACY[key]}")
    return LEGACY.get(key, key)


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return one_line(str(value)) if value != "" else '""'


def _mention_winner(app: App, key: str) -> None:
    """A value that does not take effect must not look as if it did."""
    from thopter.kit.settings import load

    flags = {"profile": app.profile} if app.profile else {}
    found = load(app.paths.config_file, app.env, _project(), flags).explain(key)
    if found.origin not in ("default", str(app.paths.config_file)):
        app.say(f"note: {found.origin} says {_shown(found.value)}, and that counts more")


def tell_hub(app: App, key: str) -> None:
    """Let a running hub read its settings again; none is started for that."""
    import os
    import signal

    from thopter.mesh.client import HubClient

    if key == "default_thopter":
        return  # only the command line reads it
    try:
        with HubClient(app.paths.hub_socket, timeout=5.0) as client:
            pid = client.hub().pid
            os.kill(pid, signal.SIGHUP)
    except (HubUnreachable, OSError):
        return
    app.say(f"the running hub (pid {pid}) was told; some settings need 'thopter hub restart'")


def _project() -> Any:
    from thopter.cli.app import project_file

    return project_file()


def write_setting(paths: Paths, key: str, value: Any) -> None:
    """Set (or, with None, remove) a key of config.toml; see :func:`edit_config`."""
    edit_config(paths, lambda document: _place(document, key.split("."), value))


def edit_config(paths: Paths, change: Callable[[Any], None]) -> None:
    """Change config.toml by ``change`` (which gets tomlkit's document): atomically, 0600, what it does
    not touch as it was; two at once follow one another.

    A file that can't be parsed is never written over: BadInput that says the line.
    """
    import fcntl
    import os

    import tomlkit
    from tomlkit.exceptions import TOMLKitError

    from thopter.kit.durable import write_private
    from thopter.kit.paths import private_dir
    from thopter.kit.settings import read_toml

    private_dir(paths.config)
    lock = os.open(paths.config / "config.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        target = paths.config_file.resolve()  # a symlink of a dotfile manager stays one
        read_toml(target)
        try:
            document = tomlkit.parse(target.read_text("utf-8") if target.exists() else "")
            change(document)
            text = tomlkit.dumps(document)
        except (TOMLKitError, TypeError, AttributeError) as e:
            raise BadInput(
                f"{target} can't be changed: {e}", hint="mend it by hand; nothing was changed"
            ) from None
        write_private(target, text.encode())
    finally:
        os.close(lock)


def _place(table: Any, path: list[str], value: Any) -> None:
    import tomlkit

    *folders, last = path
    for at, part in enumerate(folders):
        if part not in table:
            if value is None:
                return
            table[part] = tomlkit.table(is_super_table=at < len(folders) - 1)
        table = table[part]
    if value is None:
        table.pop(last, None)
    else:
        table[last] = value
