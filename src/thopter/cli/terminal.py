"""``thopter attach`` and ``exec``: the agent's screen, one command."""

from __future__ import annotations

import sys

import click

from thopter.cli.app import App, name_argument, pass_app
from thopter.kit.terminal import need_terminal, size
from thopter.model.api import ExecRequest, PtySize
from thopter.model.errors import BadInput, NotNow, Refused

TMUX_SOCKET = "/run/thopter/tmux.sock"
SESSION = "agent"


class CommandAfterName(click.Command):
    """``NAME [OPTIONS] [--] ARGV…``: ARGV begins after ``--``, else after NAME and our options, and
    nothing in it is ever read as an option of ours."""

    with_value = frozenset({"--cwd", "--env", "-e"})

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """See :class:`click.Command`."""
        mine, argv = split_command(args, self.with_value)
        return super().parse_args(ctx, [*mine, "--", *argv])


def split_command(args: list[str], with_value: frozenset[str]) -> tuple[list[str], list[str]]:
    """Return our own arguments (with NAME) and the command's."""
    named = False
    at = 0
    while at < len(args):
        arg = args[at]
        if arg == "--":
            return args[:at], args[at + 1 :]
        if arg.startswith("-") and len(arg) > 1:
            at += 1 if arg in with_value else 0
        elif named:
            return args[:at], args[at:]
        else:
            named = True
        at += 1
    return args, []


@click.command("exec", cls=CommandAfterName, options_metavar="[OPTIONS] --")
@name_argument()
@click.argument("argv", nargs=-1, type=click.UNPROCESSED, metavar="ARGV...")
@click.option("-t", "--tty", is_flag=True, help="Give the command a terminal.")
@click.option("--cwd", metavar="FOLDER", default="", help="Where to run it; default: the work folder.")
@click.option(
    "-e", "--env", "env", multiple=True, metavar="K=V", help="Add to its environment; may be repeated."
)
@click.option("-n", "--no-stdin", is_flag=True, help="Do not read our standard input.")
@pass_app
def exec_(
    app: App, name: str, argv: tuple[str, ...], tty: bool, cwd: str, env: tuple[str, ...], no_stdin: bool
) -> None:
    """Run one command in the box: ARGV exactly as given, no shell in between.

    Its output and errors stay apart, its input is ours, its exit code is ours (128 + signal when
    one ended it). Ctrl-C is passed on; a second one leaves.
    """
    if not argv:
        raise click.UsageError("what shall it run? thopter exec NAME -- COMMAND [ARGS]...")
    app.exit(start(app, app.name(name), with_env(argv, env), cwd=cwd, screen=tty, stdin=not no_stdin))


@click.command()
@name_argument()
@click.option("--cc", is_flag=True, help="In tmux's control mode: iTerm2 shows the panes as its own windows.")
@pass_app
def attach(app: App, name: str, cc: bool) -> None:
    """Show the agent's own screen, in tmux. Leave it with Ctrl-B D: the agent goes on.

    Enter, then '~.' leaves a box that does not answer.
    """
    need_terminal("attach")
    app.exit(attach_to(app, app.name(name), cc=cc))


def attach_to(app: App, name: str, *, cc: bool = False) -> int:
    """Attach to the agent's tmux session; NotNow when there is none. ``cc``: in control mode, where
    the terminal understands it."""
    need_terminal("attach")
    if not app.hub.check(name).tmux:
        raise NotNow(
            f"{name} has no screen to attach to: its agent was not started, or has ended",
            hint=f"see 'thopter status {name}'; a shell in the box: thopter ssh {name}",
        )
    if cc and app.env.get("LC_TERMINAL") != "iTerm2" and app.env.get("TERM_PROGRAM") != "iTerm.app":
        raise Refused(
            "this terminal does not say that it is iTerm2: tmux's control mode would only garble it",
            hint="without --cc every terminal works; if it is iTerm2, set LC_TERMINAL=iTerm2",
        )
    mode = ["-CC"] if cc else []
    words = ["tmux", "-u", *mode, "-S", TMUX_SOCKET, "attach-session", "-t", f"={SESSION}"]
    return start(app, name, words, cwd="", screen=True, stdin=True, as_it_is=cc)


def with_env(argv: tuple[str, ...], env: tuple[str, ...]) -> list[str]:
    """Put ``K=V`` pairs before the command, by the box's ``env``."""
    for pair in env:
        key, equals, _ = pair.partition("=")
        if not equals or not key or not key.replace("_", "a").isalnum() or key[0].isdigit():
            raise BadInput(f"{pair!r} is not K=V", hint="e.g. --env DEBUG=1")
    if env and "=" in argv[0]:
        raise BadInput("a command with '=' in its name can't be used with --env")
    return ["env", *env, *argv] if env else list(argv)


def start(
    app: App, name: str, argv: list[str], *, cwd: str, screen: bool, stdin: bool, as_it_is: bool = False
) -> int:
    """Run ``argv`` in the box with our standard streams; returns its exit status. ``as_it_is``: see
    :class:`thopter.cli.bridge.Bridge`."""
    from thopter.cli.bridge import Bridge

    rows, columns = size(1)
    request = ExecRequest(
        argv=argv, cwd=cwd, pty=PtySize(rows=rows, cols=columns) if screen else None, stdin=stdin
    )
    sys.stdout.flush()
    with app.hub.exec(name, request) as command:
        return Bridge(command, screen=screen, stdin=stdin, as_it_is=as_it_is).run()
