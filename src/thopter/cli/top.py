"""``thopter top``: the command; the screen itself is imported only when it is shown."""

from __future__ import annotations

from collections.abc import Callable

import click

from thopter.cli.app import App, pass_app
from thopter.kit.terminal import need_terminal


@click.command()
@click.option("--filter", "wanted", default="", metavar="WORDS", help="Begin with only those that match.")
@pass_app
def top(app: App, wanted: str) -> None:
    """A screen to keep open: all thopters, live, who needs you first.

    Enter shows one in detail; t tells it something, y approves and n denies what it asks, i
    interrupts, a attaches to its terminal, s suspends it or lets it go on, d destroys it; / filters,
    o changes the order, q leaves.
    """
    need_terminal("top")
    app.hub.connect()
    app.hub.close()
    from thopter.cli.top_app import TopApp

    TopApp(app.paths.hub_socket, wanted=wanted, attach=_attach(app)).run()


def _attach(app: App) -> Callable[[str], str]:
    def go(name: str) -> str:
        """Attach, then say what went wrong or nothing."""
        from thopter.cli.terminal import attach_to
        from thopter.model.errors import ThopterError

        try:
            code = attach_to(app, name)
        except ThopterError as e:
            return e.message
        finally:
            app.close()
        return "" if code == 0 else f"its terminal ended with status {code}"

    return go
