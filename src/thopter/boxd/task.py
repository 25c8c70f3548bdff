"""Coroutines without asyncio: promises, and tasks that await them, driven by whoever fulfils them."""

from __future__ import annotations

from typing import Any, Callable, Coroutine, Generator, Generic, Optional, TypeVar

from thopter.boxd.loop import Loop

T = TypeVar("T")


class Promise(Generic[T]):
    """A value to come, awaited by at most one task."""

    __slots__ = ("_done", "_error", "_value", "_wake")

    def __init__(self) -> None:
        self._done = False
        self._value: Optional[T] = None
        self._error: Optional[BaseException] = None
        self._wake: Optional[Callable[[], None]] = None

    @property
    def done(self) -> bool:
        """True when it has its value or its error."""
        return self._done

    def keep(self, value: T) -> None:
        """Give it its value; only the first of keep and fail counts."""
        self._settle(value, None)

    def fail(self, error: BaseException) -> None:
        """Make the awaiting task raise ``error``."""
        self._settle(None, error)

    def _settle(self, value: Optional[T], error: Optional[BaseException]) -> None:
        if self._done:
            return
        self._done, self._value, self._error = True, value, error
        wake, self._wake = self._wake, None
        if wake is not None:
            wake()

    def __await__(self) -> Generator[Promise[Any], None, T]:
        if not self._done:
            yield self
        if self._error is not None:
            raise self._error
        return self._value  # type: ignore[return-value]

    def when_done(self, wake: Callable[[], None]) -> None:
        """Call ``wake`` once it is settled (used by :class:`Task`)."""
        self._wake = wake


class Task:
    """Runs a coroutine at once up to its first wait, then on as its promises are kept."""

    __slots__ = ("_coro", "_finish", "_running")

    def __init__(
        self,
        coro: Coroutine[Promise[Any], None, T],
        finish: Callable[[Optional[T], Optional[Exception]], None],
    ) -> None:
        """``finish(value, error)`` is called exactly once, unless the task is cancelled."""
        self._coro: Optional[Coroutine[Promise[Any], None, Any]] = coro
        self._finish = finish
        self._running = False
        self._step()

    def cancel(self) -> None:
        """End it where it waits (its ``finally`` blocks run; they must not await)."""
        coro, self._coro = self._coro, None
        if coro is not None and not self._running:
            coro.close()

    def _step(self) -> None:
        coro = self._coro
        if coro is None:
            return
        self._running = True
        try:
            waiting = coro.send(None)
        except StopIteration as e:
            self._coro, self._running = None, False
            self._finish(e.value, None)
            return
        except Exception as e:  # noqa: BLE001 - handed to the finish callback, which must judge it
            self._coro, self._running = None, False
            self._finish(None, e)
            return
        self._running = False
        if self._coro is None:  # cancelled from within
            coro.close()
            return
        waiting.when_done(self._step)


def sleep(loop: Loop, seconds: float) -> Promise[None]:
    """A promise kept after ``seconds``."""
    promise: Promise[None] = Promise()
    loop.later(seconds, lambda: promise.keep(None))
    return promise


class Lock:
    """Lets one task at a time through, in order of arrival."""

    __slots__ = ("_held", "_queue")

    def __init__(self) -> None:
        self._held = False
        self._queue: list[Promise[None]] = []

    async def acquire(self) -> None:
        """Wait for the turn. A task cancelled while waiting gives it up."""
        if not self._held:
            self._held = True
            return
        turn: Promise[None] = Promise()
        self._queue.append(turn)
        try:
            await turn
        except GeneratorExit:
            if turn in self._queue:
                self._queue.remove(turn)
            else:  # it was our turn already
                self.release()
            raise

    def release(self) -> None:
        """Let the next one through."""
        if self._queue:
            self._queue.pop(0).keep(None)
        else:
            self._held = False
