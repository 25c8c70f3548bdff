"""The journal op: sends records after a cursor, and goes on with new ones when asked to follow."""

from __future__ import annotations

from typing import Optional, Set

from thopter.boxd import fields
from thopter.boxd.box import Box
from thopter.boxd.conn import Channel, Handler
from thopter.boxd.fields import OpError, Request, bad
from thopter.boxd.journal import Cursor
from thopter.boxd.wire import MESSAGES


class Follow(Handler):
    """One reader of the journal; holds no records, only a cursor. Costs nothing while idle."""

    def __init__(self, box: Box, channel: Channel, request: Request) -> None:
        self._box, self._channel = box, channel
        self._cursor = Cursor(fields.integer(request, "after", 0, 0, 1 << 62))
        self._follow = fields.flag(request, "follow", False)
        self._kinds = _kinds(request)
        self._scheduled = self._over = False
        box.journal.listeners.add(self._schedule)
        self._schedule()

    def on_room(self) -> None:
        """See :class:`Handler`."""
        self._schedule()

    def on_cancel(self) -> None:
        """See :class:`Handler`."""
        self.on_lost()
        self._channel.fail(OpError("cancelled", "cancelled"))

    def on_lost(self) -> None:
        """See :class:`Handler`."""
        self._over = True
        self._box.journal.listeners.discard(self._schedule)

    def _schedule(self) -> None:
        if not self._scheduled and not self._over:
            self._scheduled = True
            self._box.loop.soon(self._pump)

    def _pump(self) -> None:
        self._scheduled = False
        if self._over or not self._channel.room(MESSAGES):
            return
        journal = self._box.journal
        for record in journal.read(self._cursor, self._kinds):
            self._channel.send_counted({"rec": record})
            if not self._channel.room(MESSAGES):
                return  # on_room brings us back
        if self._cursor.after != journal.last:
            self._schedule()
        elif not self._follow:
            self.on_lost()
            self._channel.end({"next": self._cursor.after})


def _kinds(request: Request) -> Optional[Set[str]]:
    kinds = request.get("kinds")
    if kinds is None:
        return None
    if not isinstance(kinds, list) or not all(isinstance(k, str) for k in kinds):
        raise bad("kinds must be null or a list of texts")
    return set(kinds)
