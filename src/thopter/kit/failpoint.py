"""Places where a test can have this very process die, as if by kill -9 (kept cheap: one dict look-up)."""

from __future__ import annotations

import os
import signal

ENV = "THOPTER_FAILPOINT"


def hit(name: str) -> None:
    """Die here when ``THOPTER_FAILPOINT`` is ``name`` (or ``name:N``: at the Nth time)."""
    wanted = os.environ.get(ENV)
    if not wanted:
        return
    target, _, count = wanted.partition(":")
    if target != name:
        return
    left = int(count or "1") - 1
    if left > 0:
        os.environ[ENV] = f"{name}:{left}"
        return
    os.kill(os.getpid(), signal.SIGKILL)
