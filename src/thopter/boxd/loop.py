"""One event loop on epoll: descriptors, timers, nothing periodic; asleep when nothing happens."""

from __future__ import annotations

import heapq
import select
import sys
import time
from typing import Callable, Dict, List, Optional, Tuple

READ = select.EPOLLIN
WRITE = select.EPOLLOUT
HANGUP = select.EPOLLRDHUP
GONE = select.EPOLLHUP | select.EPOLLERR  # always reported, asked for or not

Callback = Callable[[int], None]


class Timer:
    """A call that is to come; :meth:`cancel` makes it never come."""

    __slots__ = ("call", "due")

    def __init__(self, due: float, call: Callable[[], None]) -> None:
        self.due = due
        self.call: Optional[Callable[[], None]] = call

    def cancel(self) -> None:
        """Forget the call. Harmless when it has happened."""
        self.call = None


def log(text: str) -> None:
    """Say one line on standard error (the provider keeps it); never raises."""
    try:
        sys.stderr.write("boxd: " + text.encode("ascii", "backslashreplace").decode("ascii") + "\n")
        sys.stderr.flush()
    except (OSError, ValueError, AttributeError):
        return  # nobody listens; there is no better place to complain to


def describe(error: BaseException) -> str:
    """One line for an unexpected error with the place it came from (imports nothing)."""
    place, tb = "", error.__traceback__
    while tb is not None:
        code = tb.tb_frame.f_code
        place = f"{code.co_filename.rsplit('/', 1)[-1]}:{tb.tb_lineno} in {code.co_name}"
        tb = tb.tb_next
    return f"{type(error).__name__}: {error} ({place})"


class Loop:
    """Watches descriptors and timers and calls back; one thread.

    An exception in a callback is logged and never ends the loop: one request's defect must not
    take the box's supervisor away.
    """

    def __init__(self) -> None:
        self._poll = select.epoll()
        self._calls: Dict[int, Callback] = {}
        self._timers: List[Tuple[float, int, Timer]] = []
        self._count = 0
        self._soon: List[Callable[[], None]] = []
        self._running = False

    def watch(self, fd: int, events: int, call: Callback) -> None:
        """Call ``call(events)`` whenever ``fd`` is ready. Raises OSError for what can't be polled."""
        self._poll.register(fd, events)
        self._calls[fd] = call

    def change(self, fd: int, events: int) -> None:
        """Wait for other events of a watched ``fd`` (0: only hang-up and error)."""
        self._poll.modify(fd, events)

    def forget(self, fd: int) -> None:
        """Stop watching. To be called before closing ``fd``; harmless when not watched."""
        if self._calls.pop(fd, None) is not None:
            self._poll.unregister(fd)

    def later(self, seconds: float, call: Callable[[], None]) -> Timer:
        """Call once after ``seconds``."""
        timer = Timer(time.monotonic() + seconds, call)
        self._count += 1
        heapq.heappush(self._timers, (timer.due, self._count, timer))
        return timer

    def soon(self, call: Callable[[], None]) -> None:
        """Call once, after the events at hand."""
        self._soon.append(call)

    def stop(self) -> None:
        """Make :meth:`run` return."""
        self._running = False

    def run(self) -> None:
        """Serve until :meth:`stop`."""
        self._running = True
        while self._running:
            for fd, events in self._poll.poll(self._timeout()):
                call = self._calls.get(fd)
                if call is not None:
                    self._guard(call, events)
            self._run_timers()
            soon, self._soon = self._soon, []
            for now in soon:
                self._guard_plain(now)

    def close(self) -> None:
        """Free the poller."""
        self._poll.close()

    def _timeout(self) -> float:
        if self._soon:
            return 0
        timers = self._timers
        while timers and timers[0][2].call is None:
            heapq.heappop(timers)
        return max(0.0, timers[0][0] - time.monotonic()) if timers else -1

    def _run_timers(self) -> None:
        if not self._timers:
            return
        now = time.monotonic()
        while self._timers and self._timers[0][0] <= now:
            timer = heapq.heappop(self._timers)[2]
            call, timer.call = timer.call, None
            if call is not None:
                self._guard_plain(call)

    def _guard(self, call: Callback, events: int) -> None:
        try:
            call(events)
        except Exception as e:  # noqa: BLE001 - see the class
            log("defect: " + describe(e))

    def _guard_plain(self, call: Callable[[], None]) -> None:
        try:
            call()
        except Exception as e:  # noqa: BLE001 - see the class
            log("defect: " + describe(e))
