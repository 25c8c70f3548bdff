"""The post-receive hook: a push that goes on upstream waits a little for what came of it there.

Runs alone, as :mod:`thopter.gateway.git.hook` does. The ref has moved and the note to the hub is written:
what happens here only decides what the box reads, and that the gateway's ledger has the push.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Mapping
from pathlib import Path

if __name__ == "__main__":
    sys.path.append(str(Path(__file__).resolve().parents[3]))

from thopter.gateway.git import outbox
from thopter.gateway.git.hook import report, say

_SECONDS = 8.0


def main(stdin: str, env: Mapping[str, str]) -> int:
    """Tell the pusher how it stands upstream."""
    folder = env.get("THOPTER_OUTBOX", "")
    parts = stdin.split("\n")[0].split(" ")
    if len(parts) == 3:
        report(env, {"ok": True, "ref": parts[2], "old": parts[0], "new": parts[1]})
    if folder and len(parts) == 3:
        told, seconds = "", float(env.get("THOPTER_OUTBOX_SECONDS", _SECONDS))
        with contextlib.suppress(OSError):  # the push is taken: what became of it is told by the next one
            told = outbox.answer(folder, parts[2], parts[1], seconds)
        say(told or "taken; the hub brings it upstream as soon as it can")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.stdin.buffer.read(1 << 20).decode("utf-8", "surrogateescape"), os.environ))
