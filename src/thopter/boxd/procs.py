"""The procs op: what runs in the box, as far as boxd can see it."""

from __future__ import annotations

from typing import Any, Dict, List

from thopter.boxd import fields, procfs
from thopter.boxd.box import Box
from thopter.boxd.conn import Channel, Handler
from thopter.boxd.fields import Request
from thopter.boxd.wire import to_text

_ROOM = 900 << 10  # of an answer's JSON form


def open_procs(_box: Box, channel: Channel, _request: Request) -> Handler:
    """Serve ``procs``; with very many processes the commands are cut, then the list
    (``truncated``)."""
    found = list(procfs.everything())
    most = max(16, min(4096, _ROOM // (12 * max(1, len(found)))))
    listed: List[Dict[str, Any]] = []
    size = 0
    for one in found:
        try:
            args = procfs.read_small(f"/proc/{one.pid}/cmdline", most)
        except OSError:
            continue
        text = fields.clip(to_text(args.rstrip(b"\0").replace(b"\0", b" ")), most * 6)[0]
        size += 200 + 6 * len(text)
        if size > _ROOM:
            channel.end({"procs": listed, "truncated": True})
            return Handler()
        listed.append(
            {
                "pid": one.pid, "ppid": one.ppid, "comm": to_text(one.comm), "args": text,
                "rss": one.rss, "cpu_ms": one.cpu_ms,
            }
        )  # fmt: skip
    channel.end({"procs": listed})
    return Handler()
