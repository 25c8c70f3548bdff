"""The shell scripts that tmux starts: words are quoted into the file, so nothing interprets them.

A command does not travel in tmux's own arguments (they are cut at 16 KiB) nor through any
expansion: every word stands in single quotes, which no shell looks into.
"""

from __future__ import annotations

import os
from typing import Dict, List

from thopter.boxd import spawn
from thopter.boxd.fields import OpError, bad
from thopter.boxd.wire import to_bytes, to_text

# What a killed full-screen program leaves switched on: alternate screen, mouse, paste, no cursor.
_SANE = rb"\033[?1049l\033[?1000l\033[?1002l\033[?1003l\033[?1006l\033[?2004l\033[?25h\033[0m\r\n"


def quote(word: bytes) -> bytes:
    """One word of a POSIX shell, exactly as it is."""
    return b"'" + word.replace(b"'", b"'\\''") + b"'"


def _words(argv: List[bytes], env: Dict[bytes, bytes], cwd: bytes) -> bytes:
    """The arguments of ``env -i --``: exactly ``env`` (TERM of the pane when it has none), and
    the program by its path, so that no '=' or '-' in its name is taken for something else."""
    program = resolve(argv, env, cwd)
    words = [quote(k + b"=" + v) for k, v in env.items()]
    if b"TERM" not in env:
        words.append(b'"TERM=$TERM"')
    words += [quote(w) for w in (program, *argv[1:])]
    return b" \\\n  ".join(words)


def resolve(argv: List[bytes], env: Dict[bytes, bytes], cwd: bytes) -> bytes:
    """The path of the program; raises OpError ``not_found`` (``what``: argv) when there is none."""
    for path in spawn.find_program(argv, env):
        path = os.path.join(cwd, path)
        if os.path.isfile(path) and os.access(path, os.X_OK):
            if b"=" in path:
                raise bad("a program whose path holds '=' can't be started here")
            return path
    raise OpError("not_found", f"no program {to_text(argv[0][:200])}", what="argv")


def plain_script(argv: List[bytes], env: Dict[bytes, bytes], cwd: bytes) -> bytes:
    """Become the command."""
    return b"cd " + quote(cwd) + b" || exit 126\nexec env -i -- \\\n  " + _words(argv, env, cwd) + b"\n"


def run_script(folder: str, argv: List[bytes], env: Dict[bytes, bytes], cwd: bytes) -> bytes:
    """Run the agent once as a child in the foreground of this terminal, note its pid (``pid``,
    ``stat``) and its end (``exit``) in ``folder``, then leave a shell in its place.

    The agent is not made a job of its own: in an orphaned process group Ctrl-Z is ignored, so a
    stray key can't stop it for good. The traps keep this script alive (to note the end) when
    Ctrl-C is pressed; the agent itself gets the default handlers. A hang-up is not trapped: the
    kernel passes it on to the agent only when this script, the session's leader, dies of it.
    """
    inner = (
        b'read -r s </proc/$$/stat && printf "%s\\n" "$s" >"$0/stat" && '
        b'printf "%s\\n" $$ >"$0/pid" && exec env -i -- "$@"'
    )
    lines = [
        b"dir=" + quote(to_bytes(folder)),
        b"shell() { command -v bash >/dev/null 2>&1 && exec bash -l; exec sh -l; }",
        b'mkdir "$dir/once" 2>/dev/null || shell',
        b"cd " + quote(cwd),
        b"trap : INT QUIT TERM",
        b"/bin/sh -c " + quote(inner) + b' "$dir" \\\n  ' + _words(argv, env, cwd),
        b"code=$?",
        b'printf "%s\\n" "$code" >"$dir/exit"',
        b"stty sane 2>/dev/null",
        b"printf '" + _SANE + b'[the agent has ended (%s); this is a shell in its box]\\r\\n\' "$code"',
        b"shell",
    ]
    return b"\n".join(lines) + b"\n"


def write_script(path: str, content: bytes) -> None:
    """Write a script whole or not at all."""
    temp = path + ".new"
    fd = os.open(temp, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o700)
    try:
        rest = memoryview(b"#!/bin/sh\n" + content)
        while rest:
            rest = rest[os.write(fd, rest) :]
    finally:
        os.close(fd)
    os.rename(temp, path)
