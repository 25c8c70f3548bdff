"""``thopter ssh``, ``ssh-proxy`` and ``ssh-config``: a shell in the box, and everything that speaks ssh."""

from __future__ import annotations

import contextlib
import os
import select
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import click

from thopter.cli.app import App, name_argument, pass_app
from thopter.cli.terminal import CommandAfterName, start
from thopter.model.errors import ThopterError, TimedOut

_UP_SECONDS = 60.0


class SshCommand(CommandAfterName):
    """As ``exec``: what comes after NAME and our options is the box's."""

    with_value = frozenset({"-L", "-R", "-D"})


@click.command(cls=SshCommand, options_metavar="[OPTIONS] [--]")
@name_argument()
@click.argument("argv", nargs=-1, type=click.UNPROCESSED, metavar="[COMMAND]...")
@click.option("-L", "local", multiple=True, metavar="SPEC", help="Forward a port of this machine to the box.")
@click.option(
    "-R", "remote", multiple=True, metavar="SPEC", help="Forward a port of the box to this machine."
)
@click.option("-D", "dynamic", multiple=True, metavar="SPEC", help="Offer a SOCKS proxy into the box.")
@click.option("-N", "nothing", is_flag=True, help="Run no shell: only forward, until Ctrl-C.")
@click.option("--print-command", is_flag=True, help="Print OpenSSH's own command line, and do nothing.")
@click.option("--spawn-json", is_flag=True, help='Print it as {"command", "args"}, and do nothing.')
@pass_app
def ssh(
    app: App, name: str, argv: tuple[str, ...], local: tuple[str, ...], remote: tuple[str, ...],
    dynamic: tuple[str, ...], nothing: bool, print_command: bool, spawn_json: bool,
) -> None:  # fmt: skip
    """Open a shell in the box, in its work folder; with a COMMAND run that from a login shell.

    -L, -R and -D are OpenSSH's (and may be repeated); they need an ssh server in the box, the shell
    itself does not. Enter, then '~.' leaves a box that does not answer.
    """
    name = app.name(name)
    forwards = [
        word
        for flag, specs in (("-L", local), ("-R", remote), ("-D", dynamic))
        for s in specs
        for word in (flag, s)
    ]
    if nothing and not (forwards or print_command or spawn_json):
        raise click.UsageError("-N without -L, -R or -D has nothing to do")
    if nothing and argv:
        raise click.UsageError("-N runs nothing, so a COMMAND can't be given")
    if print_command or spawn_json:
        return _print_command(app, name, [*forwards, *(["-N"] if nothing else [])], argv, spawn_json)
    if nothing:
        with _forwarding(app, name, forwards) as process:
            app.say("Forwarding; Ctrl-C ends it.")
            _until_ctrl_c(process)
        return
    words = ["bash", "-l"] if not argv else ["bash", "-l", "-c", 'exec "$@"', "bash", *argv]
    screen = os.isatty(0) and os.isatty(1)
    with _forwarding(app, name, forwards) if forwards else contextlib.nullcontext():
        code = start(app, name, words, cwd="", screen=screen, stdin=True)
    app.exit(code)


def _print_command(app: App, name: str, options: list[str], argv: tuple[str, ...], as_json: bool) -> None:
    from thopter.cli.ssh_box import ssh_argv

    words = [*ssh_argv(app.paths, name, options), *([shlex.join(argv)] if argv else [])]
    if as_json:
        app.json({"command": words[0], "args": words[1:]})
    else:
        app.out(shlex.join(words))


@contextlib.contextmanager
def _forwarding(app: App, name: str, forwards: list[str]) -> Iterator[subprocess.Popen[bytes]]:
    """OpenSSH with these forwards and no shell, up when this begins and ended when it ends."""
    from thopter.cli.ssh_box import ssh_argv

    app.hub.thopter(name)  # what is wrong with it is better said by us than by ssh
    up = ["-o", "ExitOnForwardFailure=yes", "-o", "PermitLocalCommand=yes", "-o", "LocalCommand=echo up"]
    argv = ssh_argv(app.paths, name, ["-N", *up, *forwards])
    process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, start_new_session=True)
    try:
        _wait_up(process)
        yield process
    finally:
        process.terminate()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def _wait_up(process: subprocess.Popen[bytes]) -> None:
    """Return when the connection stands; ssh has said on standard error why it does not."""
    assert process.stdout is not None
    ready, _, _ = select.select([process.stdout], [], [], _UP_SECONDS)
    if not ready:
        raise TimedOut(f"ssh was not up within {_UP_SECONDS:.0f} s")
    if not os.read(process.stdout.fileno(), 64):
        raise ThopterError(
            f"ssh could not forward (exit {process.wait()}); it says why above", hint="see 'thopter doctor'"
        )


def _until_ctrl_c(process: subprocess.Popen[bytes]) -> None:
    try:
        code = process.wait()
    except KeyboardInterrupt:
        return
    raise ThopterError(f"ssh ended (exit {code}): the box or the hub went away")


@click.command("ssh-proxy")
@click.argument("name", metavar="NAME")
@pass_app
def ssh_proxy(app: App, name: str) -> None:
    """Carry one ssh connection to the box on standard input and output: OpenSSH's ProxyCommand.

    NAME may end in '.thopter'. 'thopter ssh-config' writes the configuration that uses this.
    """
    from thopter.cli.bridge import Bridge
    from thopter.cli.ssh_box import SUFFIX, key_pair, serve_argv
    from thopter.model.api import ExecRequest

    if os.isatty(0):
        raise click.UsageError("this is for OpenSSH's ProxyCommand; a shell is: thopter ssh NAME")
    _, public = key_pair(app.paths)
    server = str(app.settings.get("ssh.server"))
    request = ExecRequest(argv=serve_argv(public, server), cwd="/")
    with app.hub.exec(app.name(name.removesuffix(SUFFIX)), request) as command:
        app.exit(Bridge(command, screen=False, stdin=True).run())


@click.command("ssh-config")
@click.option("--install", is_flag=True, help="Include it in your ssh configuration.")
@click.option("--uninstall", is_flag=True, help="Take it out of there again.")
@click.option(
    "--file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="That configuration; default ~/.ssh/config.",
)
@pass_app
def ssh_config(app: App, install: bool, uninstall: bool, file: Path | None) -> None:
    """Make 'ssh NAME.thopter', scp, rsync and editors over ssh just work.

    Without options the configuration is written and shown; --install adds one Include line to your own.
    """
    from thopter.cli.ssh_box import exclude, include, write_config

    if install and uninstall:
        raise click.UsageError("give --install or --uninstall")
    config = write_config(app.paths)
    target = file or _own_file()
    if install:
        done = include(target, config)
        app.out(f"{target} {'now includes' if done else 'already includes'} {config}.")
        app.out("Now: ssh NAME.thopter")
    elif uninstall:
        done = exclude(target, config)
        app.out(f"{target} {'no longer includes' if done else 'did not include'} {config}.")
    else:
        app.out(config.read_text().rstrip())


def _own_file() -> Path:
    """Where OpenSSH itself looks: by the user's record, not by HOME."""
    import pwd

    return Path(pwd.getpwuid(os.getuid()).pw_dir) / ".ssh" / "config"
