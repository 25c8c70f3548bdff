"""``thopter refresh``: news of its repositories come into the mirrors its box fetches from."""

from __future__ import annotations

import click

from thopter.cli.app import App, complete_name, json_option, pass_app
from thopter.kit.sanitize import one_line


@click.command()
@click.argument("name", shell_complete=complete_name)
@json_option()
@pass_app
def refresh(app: App, name: str, as_json: bool) -> None:
    """Bring what is new upstream into the mirrors of NAME, so that 'git fetch' in its box finds it.

    The hub does this by itself every git.refresh_minutes while a box uses them.
    """
    from thopter.mesh.pushes import refresh as ask

    found = ask(app.hub, app.name(name)).pushes
    if as_json:
        return app.json(found)
    for one in found:
        app.out(f"{one_line(one.source, 200)}: its mirror is up to date")
    return None
