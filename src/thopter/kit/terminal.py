"""A person's own terminal given to a box: raw mode that is always undone, and a filter on what comes.

In ``attach`` and ``ssh`` the box draws the screen, so cursor movement must pass. What may not pass is
what reaches past the screen: setting the clipboard or the title, making the terminal type an answer
whose text the box chose, resizing windows, printing, and repeats that hang it.
"""

from __future__ import annotations

import codecs
import contextlib
import os
import re
import signal
import sys
import termios
import tty
from collections.abc import Iterator
from types import FrameType

from thopter.kit.sanitize import STRING_MAX
from thopter.model.errors import BadInput

_CSI_MAX = 256
_REPEAT_MAX = 4096
_CALM = re.compile("[^\x1b\x80-\x9f]+")
_STRING_END = re.compile("[\x07\x18\x1a\x1b\x9c]")
_STRINGS = frozenset("]PX^_k")

# Back to what a shell expects when the far side could not do it itself: main screen, visible cursor,
# no mouse reports, no bracketed paste, ordinary keys, default colours.
RESET = (
    "\x1b[?1049l\x1b[?25h\x1b[?1000l\x1b[?1002l\x1b[?1003l\x1b[?1006l\x1b[?1004l\x1b[?2004l"
    "\x1b[?1l\x1b>\x1b[0m\r\n"
)


class TerminalFilter:
    """Passes a box's screen output, drops OSC, DCS, APC, PM, SOS, C1 and harmful CSI sequences.

    Takes bytes cut anywhere, keeps bounded state; bytes that are no UTF-8 come out as U+FFFD.
    """

    def __init__(self) -> None:
        self._decode = codecs.getincrementaldecoder("utf-8")("replace")
        self._state = "ground"
        self._held = ""
        self._eaten = 0

    def feed(self, data: bytes) -> bytes:
        """Return what the terminal may get of ``data``."""
        text = self._decode.decode(data)
        out: list[str] = []
        at = 0
        while at < len(text):
            if self._state == "ground":
                at = self._ground(text, at, out)
            elif self._state == "escape":
                at = self._escape(text, at, out)
            elif self._state == "csi":
                at = self._csi(text, at, out)
            else:
                at = self._string(text, at)
        return "".join(out).encode("utf-8", "replace")

    def _ground(self, text: str, at: int, out: list[str]) -> int:
        run = _CALM.match(text, at)
        if run:
            out.append(run.group())
            return run.end()
        if text[at] == "\x1b":
            self._state = "escape"
        elif text[at] == "\x9b":
            self._state = "csi"
        elif text[at] in "\x90\x98\x9d\x9e\x9f":
            self._state, self._eaten = "string", 0
        return at + 1

    def _escape(self, text: str, at: int, out: list[str]) -> int:
        ch = text[at]
        self._state = "ground"
        if ch == "[":
            self._state = "csi"
        elif ch in _STRINGS:
            self._state, self._eaten = "string", 0
        elif ch == "\\":
            pass  # the end of a string that was dropped
        elif "\x20" <= ch <= "\x7e":
            out.append("\x1b" + ch)  # charset, keypad, save cursor: two or three harmless bytes
        else:
            return at
        return at + 1

    def _csi(self, text: str, at: int, out: list[str]) -> int:
        ch = text[at]
        if "\x20" <= ch <= "\x3f" and len(self._held) < _CSI_MAX:
            self._held += ch
            return at + 1
        held, self._held, self._state = self._held, "", "ground"
        if not "\x40" <= ch <= "\x7e":
            return at
        if not _harmful(held, ch):
            out.append(f"\x1b[{held}{ch}")
        return at + 1

    def _string(self, text: str, at: int) -> int:
        end = _STRING_END.search(text, at, at + STRING_MAX - self._eaten)
        if end is None:
            room = STRING_MAX - self._eaten
            self._eaten += len(text) - at
            if self._eaten < STRING_MAX:
                return len(text)
            self._state = "ground"
            return at + room
        self._state = "escape" if end.group() == "\x1b" else "ground"
        return end.end()


def _harmful(held: str, final: str) -> bool:
    if final in "ti":  # window operations (also report the title back), media copy
        return True
    if final == "b":  # repeat the last character: 10^9 of them hang the terminal
        return not held.isdigit() or int(held[:9]) > _REPEAT_MAX
    return final == "p" and held.endswith("$")  # DECRQM is answered; the rest of "p" resets


def size(fd: int) -> tuple[int, int]:
    """Return ``(rows, cols)`` of the terminal ``fd``; 24 by 80 when it does not say."""
    try:
        found = os.get_terminal_size(fd)
    except OSError:
        return 24, 80
    return found.lines or 24, found.columns or 80


def need_terminal(what: str) -> int:
    """Return the descriptor of standard input when both it and standard output are a terminal."""
    if sys.stdin is None or sys.stdout is None or not (os.isatty(0) and os.isatty(1)):
        raise BadInput(f"{what} needs a terminal", hint="run it in one; for scripts there is 'thopter exec'")
    return 0


@contextlib.contextmanager
def raw_mode(fd: int) -> Iterator[None]:
    """Put the terminal into raw mode; on any way out, SIGTERM and SIGHUP included, it is put back."""
    before = termios.tcgetattr(fd)

    def leave(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    old = {s: signal.signal(s, leave) for s in (signal.SIGTERM, signal.SIGHUP)}
    try:
        tty.setraw(fd, termios.TCSANOW)
        yield
    finally:
        # TCSADRAIN can block for ever on a terminal that is stopped (XOFF): restore at once.
        with contextlib.suppress(termios.error):
            termios.tcsetattr(fd, termios.TCSANOW, before)
        for number, handler in old.items():
            signal.signal(number, handler)
