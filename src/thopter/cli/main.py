"""The door of ``thopter``: runs a command and turns every outcome into an exit code and two lines at most.

Imports only click and the error tree: everything else is loaded by the command that needs it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import click

from thopter import __version__
from thopter.cli.app import App
from thopter.cli.commands import LazyGroup
from thopter.model.errors import ThopterError

INTERRUPTED = 130
BROKEN_PIPE = 141


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    invoke_without_command=True,
    subcommand_metavar="COMMAND [ARGS]...",
)
@click.option("--no-start", is_flag=True, help="Fail instead of starting a hub (also THOPTER_NO_START=1).")
@click.option("--profile", metavar="NAME", help="The profile of settings that counts (also THOPTER_PROFILE).")
@click.option("--version", is_flag=True, help="Show the version and exit.")
@click.pass_context
def root(ctx: click.Context, no_start: bool, profile: str | None, version: bool) -> None:
    """Swarms of coding agents, each alone in a sandboxed box.

    A NAME may be shortened to any unique beginning; '.' means the thopter chosen by 'thopter use'.
    """
    if no_start:
        ctx.find_object(App).start = False  # type: ignore[union-attr]
    if profile:
        ctx.find_object(App).profile = profile  # type: ignore[union-attr]
    if version:
        click.echo(f"thopter {__version__}")
    elif ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code (DESIGN 11.10). Never raises, never shows a traceback
    unless THOPTER_DEBUG is set."""
    _open_descriptors()
    app = App(os.environ)
    try:
        code = _run(app, list(sys.argv[1:] if argv is None else argv))
    finally:
        app.close()
    return _flush(code)


def _run(app: App, args: list[str]) -> int:
    try:
        if "_THOPTER_COMPLETE" in os.environ:
            return _complete(app)
        with root.make_context("thopter", args, obj=app) as ctx:
            root.invoke(ctx)
        return 0
    except click.exceptions.Exit as e:
        return e.exit_code
    except click.ClickException as e:
        return _usage(e)
    except ThopterError as e:
        if os.environ.get("THOPTER_DEBUG"):
            _traceback()
        complain(e.message, e.hint)
        return e.exit_code
    except (KeyboardInterrupt, click.Abort, EOFError):
        complain("interrupted")
        return INTERRUPTED
    except BrokenPipeError:
        return BROKEN_PIPE
    except OSError as e:
        return _surprise(e, f"{e.filename}: {e.strerror}" if e.filename else e.strerror or str(e))
    except Exception as e:  # noqa: BLE001 - the boundary: a person gets one line, THOPTER_DEBUG the rest
        return _surprise(e, f"unexpected {type(e).__name__}: {e}")


def _complete(app: App) -> int:
    from click.shell_completion import shell_complete

    app.start = False
    return shell_complete(root, {"obj": app}, "thopter", "_THOPTER_COMPLETE", os.environ["_THOPTER_COMPLETE"])


def _usage(e: click.ClickException) -> int:
    hint = ""
    ctx = getattr(e, "ctx", None)
    if isinstance(ctx, click.Context):
        hint = f"{ctx.get_usage()}\n'{ctx.command_path} --help' shows more"
    complain(e.format_message(), hint)
    return e.exit_code


def _surprise(e: Exception, text: str) -> int:
    if os.environ.get("THOPTER_DEBUG"):
        _traceback()
    complain(text, "THOPTER_DEBUG=1 shows where it comes from")
    return 1


def _traceback() -> None:
    import traceback

    traceback.print_exc()


def complain(message: str, hint: str = "") -> None:
    """Write ``thopter: message`` and the indented hint to standard error."""
    from thopter.kit.sanitize import clean

    lines = clean(f"thopter: {message}").rstrip("\n") + "\n"
    lines += "".join(f"  {line}\n" for line in clean(hint).splitlines() if line)
    try:
        sys.stderr.write(lines)
        sys.stderr.flush()
    except OSError:
        return  # nobody listens; the exit code says it


def _open_descriptors() -> None:
    """Standard streams that were closed would come back as the next file or socket we open."""
    for fd in (0, 1, 2):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDONLY if fd == 0 else os.O_WRONLY)
    if sys.stdin is None:
        sys.stdin = open(0)  # noqa: SIM115 - lives as long as the process
    if sys.stdout is None:
        sys.stdout = open(1, "w")  # noqa: SIM115
    if sys.stderr is None:
        sys.stderr = open(2, "w")  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # a narrow locale is no reason to fail


def _flush(code: int) -> int:
    """Flush while an error can still become an exit code; at interpreter exit it would be noise."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        code = code or BROKEN_PIPE
        _deaden()
    except OSError as e:
        complain(f"standard output: {e.strerror}")
        code = code or 1
        _deaden()
    return code


def _deaden() -> None:
    devnull = os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, 1)
    os.close(devnull)


if __name__ == "__main__":
    sys.exit(main())
