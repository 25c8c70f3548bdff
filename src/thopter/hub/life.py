"""The life of a hub: it serves at once, gets its inside in the background, and ends in good order."""

from __future__ import annotations

import asyncio
import importlib
import logging
import os
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, cast

import thopter
from thopter.hub.auth import Throttle, Tokens
from thopter.hub.feed import Feed
from thopter.hub.page import Page
from thopter.hub.ports import Compose, Composition
from thopter.kit.clock import Clock
from thopter.kit.paths import Paths
from thopter.kit.settings import Settings
from thopter.model.api import HubInfo
from thopter.model.errors import HubUnreachable, NotNow, StorageFull, ThopterError
from thopter.model.events import Event

if TYPE_CHECKING:
    from thopter.store.page_sessions import SessionRow

log = logging.getLogger("thopter.hub.life")

INSIDE_SECONDS = 20.0  # how long a read waits for the inside of a hub that has just started
SEEN_SECONDS = 60.0  # how often the last use of pages is written down
READY_SECONDS = 30.0  # how long a mutation waits for recovery
_LOOK = 0.02


class Hub:
    """What routes know of the hub they run in."""

    def __init__(self, paths: Paths, settings: Settings, clock: Clock, tokens: Tokens | None = None) -> None:
        self.tokens = tokens or Tokens({}, Throttle(clock))  # without a TCP door nobody shows one
        self.page = Page()
        self.paths = paths
        self.settings = settings
        self.clock = clock
        self.started_ms = clock.now_ms()
        self.listeners: list[str] = []
        self.failure: ThopterError | None = None
        self.opening = asyncio.Lock()
        self.open_door: Callable[[], Awaitable[str]] | None = None  # set by who serves
        self._inside: Composition | None = None
        self._made: Composition | None = None
        self._feed: Feed | None = None
        self._arrived = asyncio.Event()
        self._ending = asyncio.Event()

    async def info(self) -> HubInfo:
        """``GET /v1/hub``: answered at any time."""
        inside = self._inside
        found = HubInfo(
            version=thopter.__version__,
            pid=os.getpid(),
            state_dir=str(self.paths.state),
            started_ms=self.started_ms,
            ready=inside is not None and inside.fleet.ready and not self.ending,
            listeners=self.listeners,
        )
        if inside is not None:
            fleet = await inside.fleet.info()
            found.boxes, found.warm, found.problem = fleet.boxes, fleet.warm, fleet.problem
        elif self.failure is not None:
            found.problem = self.failure.message
        return found

    async def parts(self, mutating: bool) -> Composition:
        """The inside, waiting (bounded) until it is there and, for a mutation, has recovered."""
        inside = self._inside
        if inside is None or self.ending:
            inside = await self._wait_for_inside()
        if mutating and not inside.fleet.ready:
            await self._wait_until_ready(inside)
        return inside

    async def feed(self) -> Feed:
        """The live events."""
        await self.parts(mutating=False)
        if self._feed is None:
            raise _not_yet("the hub is starting")
        return self._feed

    async def _wait_for_inside(self) -> Composition:
        try:
            async with asyncio.timeout(INSIDE_SECONDS):
                await self._arrived.wait()
        except TimeoutError:
            raise _not_yet("the hub is still starting") from None
        if self.failure is not None:
            raise HubUnreachable(
                f"the hub could not start: {self.failure.message}", hint=self.failure.hint or None
            )
        if self._inside is None or self.ending:
            raise _not_yet("the hub is stopping")
        return self._inside

    async def _wait_until_ready(self, inside: Composition) -> None:
        for _ in range(round(READY_SECONDS / _LOOK)):
            await asyncio.sleep(_LOOK)
            if self.ending:
                raise _not_yet("the hub is stopping")
            if inside.fleet.ready:
                return
            problem = (await inside.fleet.info()).problem
            if problem:
                raise HubUnreachable(f"the hub can't do this: {problem}")
        raise _not_yet("the hub is still recovering from its last end")

    async def page_address(self, origin: str) -> str:
        """Where the page is reached: ``page.url`` when set, else as whoever asks sees it (``origin``), else
        at the address that is listened on. When there is none, one on loopback is opened."""
        found = next((label for label in self.listeners if label.startswith("http")), "")
        if not found and self.open_door is not None:
            found = await self.open_door()
        if not found:
            raise NotNow("this hub listens on no address for pages", hint="set hub.listen, and restart it")
        return str(self.settings.get("page.url")).rstrip("/") or origin or found

    async def keep_sessions(self) -> None:
        """Write down when pages were last used, and end the sessions whose time is over (their devices get
        no notes any more), until cancelled."""
        await self._arrived.wait()
        while True:
            await self.tell_seen()
            await self.clock.sleep(SEEN_SECONDS)

    async def tell_seen(self) -> None:
        """Write it down now."""
        untold = self.tokens.pages.take_untold()
        if self._inside is not None:
            try:
                if untold:
                    await self._inside.fleet.page_sessions.seen(untold)
                await self.sessions(self._inside)
            except ThopterError as error:
                log.warning("the pages' last use could not be written down: %s", error.message)

    async def sessions(self, inside: Composition) -> list[SessionRow]:
        """The sessions of pages that are not over; what is, is ended."""
        now, pages = self.clock.now_ms(), self.tokens.pages
        rows = await inside.fleet.page_sessions.all()
        over = [r.id for r in rows if pages.over(r, now)]
        for id_ in await inside.fleet.page_sessions.end(over, "its time was over") if over else []:
            pages.remove(id_)
        return [r for r in rows if r.id not in over]

    @property
    def ending(self) -> bool:
        """True from the moment at which the hub was told to stop."""
        return self._ending.is_set()

    def end(self) -> None:
        """Stop soon: conversations end, nothing new begins."""
        self._ending.set()
        self._arrived.set()
        if self._feed is not None:
            self._feed.close()

    async def wait_end(self) -> None:
        """Return when :meth:`end` has been called."""
        await self._ending.wait()

    def reload(self, settings: Settings) -> Composition | None:
        """Keep new settings; returns the inside, which wants to hear of them."""
        self.settings = settings
        return self._inside

    async def bring_up(self, load: Callable[[], Compose]) -> None:
        """Put the inside together and follow its events until cancelled. A failure ends the hub;
        who waits for the inside is told why."""
        try:
            compose = await asyncio.to_thread(load)  # heavy imports: requests are served meanwhile
            inside = compose(self.paths, self.settings)
            self._made = inside
            await inside.start()
            for row in await inside.fleet.tokens.all():
                self.tokens.add(row.name, row.digest, row.scopes, row.expires_ms)
            for session in await inside.fleet.page_sessions.all():
                self.tokens.pages.add(session)
            self.tokens.loaded.set()
            self._feed = Feed(inside.events)
            await self._record_start(inside)
        except ThopterError as error:
            self._fail(error)
            return
        except Exception as error:  # the boundary: the hub says why and ends
            log.error("the hub could not start", exc_info=error)
            self._fail(ThopterError(f"{type(error).__name__} while starting", hint="see 'thopter hub logs'"))
            return
        self._inside = inside
        self._arrived.set()
        log.info("inside is up after %d ms", self.clock.now_ms() - self.started_ms)
        await self._feed.run()

    async def _record_start(self, inside: Composition) -> None:
        data = {"version": thopter.__version__, "pid": os.getpid(), "listeners": self.listeners}
        event = Event(kind="hub.started", at_ms=self.clock.now_ms(), data=data)
        try:
            await inside.events.append([event])
        except StorageFull as error:  # the hub is needed just then, to make room
            log.error("the start could not be recorded: %s", error.message)

    def _fail(self, error: ThopterError) -> None:
        log.error("the hub could not start: %s", error.message)
        self.failure = error
        self._ending.set()
        self._arrived.set()

    async def take_down(self, seconds: float) -> None:
        """Stop the inside, for ``seconds`` at most."""
        inside = self._made
        if inside is None:
            return
        await self.tell_seen()
        try:
            async with asyncio.timeout(seconds):
                await inside.stop()
        except TimeoutError:
            log.error("the inside of the hub did not stop within %g s", seconds)
        except Exception as error:  # the boundary: the hub ends anyway, and says what was wrong
            log.error("the inside of the hub did not stop well", exc_info=error)


def default_compose() -> Compose:
    """The real inside; imported late because it is heavy."""
    return cast(Compose, importlib.import_module("thopter.hub.compose").compose)


def _not_yet(message: str) -> HubUnreachable:
    return HubUnreachable(message, hint="try again in a moment", retry_after=1)
