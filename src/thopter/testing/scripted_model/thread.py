"""A scripted model on a thread of its own, for tests that are not asynchronous."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path

from thopter.testing.scripted_model.scenario import Scenario
from thopter.testing.scripted_model.server import ScriptedModel


@contextlib.contextmanager
def running(scenario: Scenario, *, port: int = 0, log: Path | None = None) -> Iterator[ScriptedModel]:
    """Serve while the block runs; what goes wrong on the thread is raised here."""
    model = ScriptedModel(scenario, port=port, log=log)
    ready = threading.Event()
    stops: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []
    failures: list[BaseException] = []

    async def serve() -> None:
        stop = asyncio.Event()
        async with model:
            stops.append((asyncio.get_running_loop(), stop))
            ready.set()
            await stop.wait()

    def work() -> None:
        try:
            asyncio.run(serve())
        except BaseException as e:  # noqa: BLE001 - handed over to the caller's thread
            failures.append(e)
        finally:
            ready.set()

    thread = threading.Thread(target=work, name="scripted-model", daemon=True)
    thread.start()
    ready.wait()
    try:
        if stops:
            yield model
    finally:
        for loop, stop in stops:
            with contextlib.suppress(RuntimeError):  # the loop is closed: the server has failed
                loop.call_soon_threadsafe(stop.set)
        thread.join(30)
        if failures:
            raise failures[0]
