"""``thopter port``: a port of a box on this machine's loopback, until Ctrl-C."""

from __future__ import annotations

import click

from thopter.cli.app import App, name_argument, pass_app
from thopter.model.errors import Conflict


@click.command()
@name_argument()
@click.argument("port", type=click.IntRange(1, 65535))
@click.option(
    "--local", type=click.IntRange(1, 65535), metavar="PORT",
    help="The port here; default: the same number, or a free one.",
)  # fmt: skip
@click.option("--open", "browse", is_flag=True, help="Open it in the browser.")
@pass_app
def port(app: App, name: str, port: int, local: int | None, browse: bool) -> None:
    """Show what listens on PORT inside the box, at a loopback URL here, until Ctrl-C.

    Every program of this machine can open that URL while it is there; nobody else can.
    """
    from thopter.cli.forward import Forwarder, listen

    name = app.name(name)
    view = app.hub.thopter(name).view
    with app.hub.dial(view.name, port) as probe:  # what is wrong is said before anything listens here
        probe.wait_open()
    try:
        listener = listen(local, port)
    except OSError as e:
        raise Conflict(
            f"port {local} of this machine can't be used: {e.strerror}", hint="choose another --local"
        ) from None
    with listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
        app.out(url)
        app.flush()
        app.say(f"Port {port} of {view.name}; Ctrl-C ends it.")
        if browse:
            import webbrowser

            webbrowser.open(url)
        try:
            Forwarder(listener, lambda: app.hub.dial(view.name, port), app.say).run()
        except KeyboardInterrupt:
            return
