"""Writes the folder of hooks that git runs on pushes: the policy, and a second wall of one line."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path

from thopter.gateway.git import hook, posthook

#: Runs once for each ref just before it moves. Knows nothing but the one allowed name, so that a mistake in
#: the policy still can't move another ref.
_WALL = '#!/bin/sh\n[ "$1" = "$THOPTER_REF" ] && [ -n "$THOPTER_REF" ] && exit 0\nexit 1\n'


def write_hooks(folder: Path) -> Path:
    """Write the hooks into ``folder``; idempotent, each file whole or not at all."""
    folder.mkdir(mode=0o700, exist_ok=True)
    texts = {
        "update": _WALL,
        "pre-receive": _script(hook.__file__),
        "post-receive": _script(posthook.__file__),
    }
    for name, text in texts.items():
        fresh = folder / f".{name}.{os.getpid()}"
        fresh.write_text(text)
        fresh.chmod(0o700)
        fresh.rename(folder / name)
    return folder


def _script(program: str) -> str:
    python, path = shlex.quote(sys.executable), shlex.quote(str(Path(program).resolve()))
    return f"#!/bin/sh\nexec {python} -I -S -B {path}\n"
