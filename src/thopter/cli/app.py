"""What every command works with: folders, settings and hub found when first needed, and two channels.

Data goes to standard output by :meth:`App.out` and :meth:`App.json`, talk to standard error by
:meth:`App.say`. Text that may come from a box is sanitized before it gets here.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import click

from thopter.model.errors import BadInput, BadName

if TYPE_CHECKING:
    from pathlib import Path

    from thopter.kit.paths import Paths
    from thopter.kit.settings import Settings
    from thopter.mesh.client import HubClient

F = TypeVar("F", bound=Callable[..., Any])

_NAME_LETTERS = frozenset("abcdefghijklmnopqrstuvwxyz0123456789-")


class App:
    """One invocation of the command line."""

    def __init__(self, env: Mapping[str, str]) -> None:
        self.env = env
        self.start = env.get("THOPTER_NO_START", "") in ("", "0")
        self.profile = ""  # chosen by --profile
        self._hub: HubClient | None = None

    @cached_property
    def paths(self) -> Paths:
        """Folders of this user's hub."""
        from thopter.kit.paths import find_paths

        return find_paths(self.env)

    @cached_property
    def settings(self) -> Settings:
        """Settings as seen from the present folder (environment, profile, thopter.toml, config.toml)."""
        from thopter.kit.settings import load

        flags = {"profile": self.profile} if self.profile else {}
        return load(self.paths.config_file, self.env, project_file(), flags, self.say)

    @property
    def hub(self) -> HubClient:
        """The hub, started when there is none (unless --no-start)."""
        if self._hub is None:
            from thopter.mesh.client import ensure_hub

            self._hub = ensure_hub(self.paths, start=self.start, say=self.say)
        return self._hub

    def close(self) -> None:
        """Let the hub's connection go."""
        if self._hub is not None:
            self._hub.close()

    def name(self, text: str) -> str:
        """Return a usable name or beginning of one; '.' becomes the default thopter."""
        if text == ".":
            text = self.settings.get("default_thopter")
            if not text:
                raise BadInput("no default thopter is chosen", hint="choose one: thopter use NAME")
        if not text or len(text) > 61 or not set(text) <= _NAME_LETTERS:
            raise BadName(text)
        return text

    def agent_name(self, text: str) -> tuple[str, str]:
        """A thopter's name, and the name of what is meant in its box: itself, or ``NAME.2``."""
        stem, dot, number = text.rpartition(".")
        if not dot or not number.isdigit():
            stem, number = text, ""
        name = self.name(stem or ".")
        return name, f"{name}.{number}" if number else name

    def out(self, text: str = "") -> None:
        """Write a line of data."""
        sys.stdout.write(text + "\n")

    def flush(self) -> None:
        """Show what was written so far (streams)."""
        sys.stdout.flush()

    def say(self, text: str) -> None:
        """Write a line of talk to standard error."""
        try:
            sys.stderr.write(text + "\n")
            sys.stderr.flush()
        except OSError:
            return  # nobody listens to talk; data and exit code are what counts

    def json(self, value: Any, *, line: bool = False) -> None:
        """Write a value as JSON: indented, or on one ``line`` for streams."""
        import msgspec

        raw = msgspec.json.encode(value)
        text = (raw if line else msgspec.json.format(raw, indent=2)).decode()
        if self.stdout_tty:
            from thopter.kit.sanitize import clean

            text = clean(text, mark=True)
        self.out(text)

    def exit(self, code: int) -> NoReturn:
        """End the command with ``code``."""
        raise click.exceptions.Exit(code)

    @cached_property
    def stdout_tty(self) -> bool:
        """True when standard output is a terminal."""
        return sys.stdout.isatty()

    @cached_property
    def stderr_tty(self) -> bool:
        """True when standard error is a terminal that can redraw a line."""
        return sys.stderr.isatty() and self.env.get("TERM", "") != "dumb"

    @cached_property
    def colour(self) -> bool:
        """True when standard output may have colours (NO_COLOR and FORCE_COLOR decide)."""
        return wants_colour(self.env, self.stdout_tty)

    def asks(self) -> bool:
        """True when a person can be asked: both ends are a terminal."""
        return sys.stdin.isatty() and sys.stderr.isatty()

    def confirm(self, question: str) -> bool:
        """Ask a yes/no question on standard error; Enter means no."""
        return click.confirm(question, default=False, err=True)


def wants_colour(env: Mapping[str, str], tty: bool) -> bool:
    """Decide on colours: NO_COLOR wins, then FORCE_COLOR, then whether it is a terminal."""
    if env.get("NO_COLOR"):
        return False
    if env.get("FORCE_COLOR", "") not in ("", "0"):
        return True
    return tty and env.get("TERM", "") != "dumb"


def project_file() -> Path | None:
    """Find ``thopter.toml`` in the present folder or above, not beyond the repository or home."""
    from pathlib import Path

    try:
        here = Path.cwd()
    except OSError:  # the folder was removed under us
        return None
    home = Path(os.path.expanduser("~"))
    for folder in (here, *here.parents):
        if (folder / "thopter.toml").is_file():
            return folder / "thopter.toml"
        if folder == home or (folder / ".git").exists():
            return None
    return None


def complete_name(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Names for shell completion: asks a running hub for a second, never starts one."""
    from thopter.mesh.client import HubClient
    from thopter.model.errors import ThopterError

    app = ctx.find_object(App) or App(os.environ)
    try:
        with HubClient(app.paths.hub_socket, timeout=1.0) as client:
            return [v.name for v in client.thopters() if v.name.startswith(incomplete)]
    except ThopterError:
        return []


pass_app = click.make_pass_decorator(App)


def name_argument(**kw: Any) -> Callable[[F], F]:
    """The NAME argument, completed from the hub."""
    return click.argument("name", metavar=kw.pop("metavar", "NAME"), shell_complete=complete_name, **kw)


def json_option() -> Callable[[F], F]:
    """The --json flag."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")


class _Minutes(click.ParamType[float]):
    """Minutes and parts of them, up to ten years; 0 has a meaning of its own."""

    name = "minutes"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """The number; a usage error for what is none, or not a length of time."""
        try:
            minutes = float(value)
        except ValueError:
            self.fail(f"{value!r} is not a number of minutes", param, ctx)
        if not 0 <= minutes <= 5_256_000:  # not a number is not between either
            self.fail(f"{value!r} is not between 0 and 5256000 minutes", param, ctx)
        return minutes


MINUTES = _Minutes()
