"""``thopter version``, ``help`` and ``completion``."""

from __future__ import annotations

import click

from thopter import __version__
from thopter.cli.app import App, json_option, pass_app
from thopter.model.errors import HubUnreachable


@click.command()
@json_option()
@pass_app
def version(app: App, as_json: bool) -> None:
    """Show the version of this command line and of the hub, when one runs."""
    from thopter.kit.sanitize import one_line
    from thopter.mesh.client import HubClient

    try:
        with HubClient(app.paths.hub_socket, timeout=5.0) as client:
            hub = one_line(client.hub().version, 60)
    except HubUnreachable:
        hub = ""
    if as_json:
        return app.json({"thopter": __version__, "hub": hub or None})
    app.out(f"thopter {__version__}")
    if hub and hub != __version__:
        app.out(f"hub     {hub}  (another version: 'thopter hub restart')")


@click.command("help")
@click.argument("words", nargs=-1, metavar="[COMMAND]...")
@click.pass_context
def help_(ctx: click.Context, words: tuple[str, ...]) -> None:
    """Show help on a command, as COMMAND --help does."""
    assert ctx.parent is not None
    found: click.Context = ctx.parent
    for word in words:
        if not isinstance(found.command, click.Group):
            raise click.UsageError(f"{found.command_path} has no command {word!r}")
        name, command, _ = found.command.resolve_command(found, [word])
        assert command is not None
        found = click.Context(command, info_name=name, parent=found)
    click.echo(found.get_help())


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@pass_app
def completion(app: App, shell: str) -> None:
    """Print the completion script of a shell; it completes commands, options and thopters' names.

    \b
    bash: thopter completion bash > ~/.local/share/bash-completion/completions/thopter
    zsh:  thopter completion zsh > a folder of $fpath, as _thopter
    fish: thopter completion fish > ~/.config/fish/completions/thopter.fish
    """
    from click.shell_completion import get_completion_class

    from thopter.cli.main import root

    found = get_completion_class(shell)
    assert found is not None
    complete = found(root, {}, "thopter", "_THOPTER_COMPLETE")
    # Only the text: click's own way to it runs the shell to look up its version.
    app.out(complete.source_template % complete.source_vars())
