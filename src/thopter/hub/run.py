"""From open sockets to a served hub and back: start-up in the background, signals, a bounded end."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import thopter
from thopter.hub import logs
from thopter.hub.app import build_app
from thopter.hub.auth import token_file
from thopter.hub.doors import (
    ANY_LISTEN,
    PAGE_LISTEN,
    Door,
    load_certificate,
    open_tcp,
    remember_listen,
)
from thopter.hub.life import Hub, default_compose
from thopter.hub.ports import Compose
from thopter.hub.serve import Server
from thopter.kit import settings as kit_settings
from thopter.kit.clock import SystemClock
from thopter.kit.paths import Paths
from thopter.kit.settings import Settings
from thopter.model.errors import Conflict, ThopterError

log = logging.getLogger("thopter.hub.run")

GRACE_SECONDS = 5.0  # for answers under way
STREAM_SECONDS = 1.0  # of those, for conversations (events, terminals) to say goodbye
INSIDE_STOP_SECONDS = 10.0


async def run_hub(
    paths: Paths,
    settings: Settings,
    flags: Mapping[str, str],
    doors: Sequence[Door],
    load: Callable[[], Compose] | None,
) -> ThopterError | None:
    """Serve until told to stop. Returns why the hub could not start, or None."""
    tokens = next((door.tokens for door in doors if door.tokens is not None), None)
    hub = Hub(paths, settings, SystemClock(), tokens)
    hub.listeners = [door.label for door in doors]
    server = Server([(door, build_app(hub, door)) for door in doors])
    hub.open_door = partial(_open_door, hub, server)
    reloads = asyncio.Event()
    _watch_signals(hub, reloads)
    await server.open()
    log.info("listening", extra={"data": {"pid": os.getpid(), "version": thopter.__version__}})
    async with asyncio.TaskGroup() as group:
        background = [
            group.create_task(hub.bring_up(load or default_compose)),
            group.create_task(_reload_on_hangup(hub, flags, reloads, [d for d in doors if d.tls])),
            group.create_task(hub.keep_sessions()),
        ]
        await hub.wait_end()
        log.info("stopping")
        await server.quiet(STREAM_SECONDS)
        await server.close(GRACE_SECONDS - STREAM_SECONDS)
        for task in background:
            task.cancel()
    await hub.take_down(INSIDE_STOP_SECONDS)
    log.info("stopped")
    return hub.failure


async def _open_door(hub: Hub, server: Server) -> str:
    """Listen on loopback from now on, and again when the hub starts anew: pages stay where they are."""
    async with hub.opening:
        for label in hub.listeners:
            if label.startswith("http"):
                return label
        await asyncio.to_thread(hub.tokens.own, token_file(hub.paths.state))
        url, tls = str(hub.settings.get("page.url")), load_certificate(hub.settings)
        try:
            door = open_tcp(PAGE_LISTEN, hub.tokens, url, tls)
        except Conflict:
            door = open_tcp(ANY_LISTEN, hub.tokens, url, tls)
        await server.add(door, build_app(hub, door))
        remember_listen(hub.paths.state, door)
        hub.listeners.append(door.label)
        log.info("listening for pages", extra={"data": {"at": door.label}})
        return door.label


def _watch_signals(hub: Hub, reloads: asyncio.Event) -> None:
    loop = asyncio.get_running_loop()

    def stop() -> None:
        if hub.ending:  # asked twice: do not wait any longer
            log.warning("told to stop a second time: leaving at once")
            os._exit(1)
        hub.end()

    loop.add_signal_handler(signal.SIGTERM, stop)
    loop.add_signal_handler(signal.SIGINT, stop)
    loop.add_signal_handler(signal.SIGHUP, reloads.set)


async def _reload_on_hangup(
    hub: Hub, flags: Mapping[str, str], reloads: asyncio.Event, secure: Sequence[Door]
) -> None:
    """On SIGHUP read the settings again, and the certificate. Bad ones are told in the log and change
    nothing."""
    while True:
        await reloads.wait()
        reloads.clear()
        try:
            settings = kit_settings.load(hub.paths.config_file, flags=flags)
            for key in ("hub.listen", "page.url", "hub.tls_cert", "hub.tls_key"):
                if settings.get(key) != hub.settings.get(key):
                    log.warning("%s has changed: it is used after 'thopter hub restart'", key)
            for door in secure:
                await asyncio.to_thread(load_certificate, hub.settings, door.tls)
            inside = hub.reload(settings)
            logs.set_level(str(settings.get("hub.log_level")))
            if inside is not None:
                await inside.reload(settings)
            log.info("settings were read again")
        except ThopterError as error:
            log.error("the settings can't be used, the old ones stay: %s", error.message)
