"""Feeds ``thopter top``: looks when the hub says that something happened, and says when it is away."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from thopter.mesh.client import HubClient
from thopter.mesh.http import connect
from thopter.model.api import ThopterView
from thopter.model.errors import HubUnreachable, ThopterError

AT_MOST = 0.2  # seconds between two looks, however many events come
PROBE = 1.0  # how often an idle hub is knocked at: a kernel's answer, no request
SETTLE = 6.0  # after a hub's return its event stream is taken up within this: what came before is missed


def feed(
    socket: Path,
    show: Callable[[list[ThopterView]], object],
    trouble: Callable[[str], object],
    over: Callable[[], bool],
) -> None:
    """Until ``over()``: call ``show`` with all thopters at once and soon after each event, ``trouble``
    with a sentence when the hub is away (and ``show`` again as soon as it is back)."""
    client = HubClient(socket, timeout=10.0)
    changed, away, looked, knocked, back = True, False, 0.0, 0.0, -SETTLE
    for event in HubClient(socket).events(tick=0.1):
        if over():
            break
        changed = changed or event is not None
        now = time.monotonic()
        try:
            if now - knocked >= PROBE:
                knocked = now
                connect(socket, 2.0).close()
                changed = changed or away
            if (changed and now - looked >= AT_MOST) or (now - back < SETTLE and now - looked >= PROBE):
                looked, changed = now, False
                show(client.thopters())
                back = now if away else back
                away = False
        except HubUnreachable as e:
            client.close()
            if not away:
                trouble(e.message)
            away = changed = True
            looked = now
        except ThopterError as e:
            trouble(e.message)
    client.close()
