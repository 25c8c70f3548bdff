"""Makes hostile text safe for a terminal: an allow-list of what may be shown, everything else removed.

What a box writes (transcripts, logs, names, messages) may hold sequences that move the cursor, set
the clipboard, ask the terminal to type back, or hide text. Nothing is passed because it looks
harmless: a character is shown when it is printable, a newline or a tab; a colour (SGR) passes only
when asked for, rebuilt from its parsed numbers. All the rest is dropped whole, so the terminal never
sees an introducer. :class:`Sanitizer` works on a stream cut anywhere and keeps bounded state.
"""

from __future__ import annotations

import re

# A terminal swallows text from OSC, DCS, APC, PM or SOS up to a terminator that may never come. The
# terminal has not seen our introducer, so what follows is harmless: give up early and show it.
STRING_MAX = 4096
_CSI_MAX = 128
_MARKS_MAX = 4  # combining marks on one base character; more is "zalgo", drawn over other lines

_PLAIN = re.compile(r"[\x20-\x7e\n\t]+")
_ONLY_PLAIN = re.compile(r"[\x20-\x7e\n\t]*")
_STRING_END = re.compile("[\x07\x18\x1a\x1b\x9c\n]")

# Printable by Unicode's word, yet invisible or able to change what is next to them: fillers, grapheme
# joiner, variation selectors (used to smuggle text), Braille blank.
_UNSEEN = frozenset(
    "\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0"
    + "".join(map(chr, range(0x180B, 0x1810)))
    + "".join(map(chr, range(0xFE00, 0xFE10)))
    + "".join(map(chr, range(0xE0100, 0xE01F0)))
)
_SPACES = frozenset("\u00a0\u1680\u202f\u205f\u3000" + "".join(map(chr, range(0x2000, 0x200B))))
_LINE_ENDS = frozenset("\u0085\u2028\u2029")
_STRINGS = frozenset("]PX^_k")  # ESC + these open a string: OSC, DCS, SOS, PM, APC, tmux/screen title
_C1_STRINGS = frozenset("\x90\x98\x9d\x9e\x9f")

# Text directions that let source read other than it runs ("Trojan Source") and what hides inside words.
_MARKED = re.compile("[\u00ad\u061c\u180e\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufeff\U000e0000-\U000e007f]")


class Sanitizer:
    """Cleans a stream of text. ``sgr`` lets colours and weights pass; :meth:`close` ends them.

    ``feed`` may be called with pieces cut anywhere; the outcome does not depend on the cuts. State
    is bounded by :data:`STRING_MAX` characters whatever comes in, and an unterminated control string
    loses at most that much text (or the rest of its line).
    """

    def __init__(self, *, sgr: bool = False) -> None:
        self._sgr = sgr
        self._styled = False
        self._state = "ground"
        self._held = ""  # parameters of a CSI
        self._eaten = 0  # characters swallowed of a control string
        self._marks = 0
        self._cr = False

    def feed(self, text: str) -> str:
        """Return what may be shown of ``text``."""
        if self._state == "ground" and not self._cr and _ONLY_PLAIN.fullmatch(text):
            if text:
                self._marks = 0
            return text
        out: list[str] = []
        at = 0
        while at < len(text):
            at = getattr(self, "_in_" + self._state)(text, at, out)
        return "".join(out)

    def close(self) -> str:
        """End the stream: returns the reset of colours that are still on, or an empty string."""
        self._state, self._held, self._eaten = "ground", "", 0
        out = "\n" if self._cr else ""
        self._cr = False
        if self._styled:
            self._styled = False
            return out + "\x1b[0m"
        return out

    def _in_ground(self, text: str, at: int, out: list[str]) -> int:
        if self._cr:  # a carriage return would let a line be written over: it ends the line instead
            self._cr = False
            out.append("\n")
            if text[at] == "\n":
                return at + 1
        run = _PLAIN.match(text, at)
        if run:
            self._marks = 0
            out.append(run.group())
            return run.end()
        ch = text[at]
        if ch == "\x1b":
            self._state = "escape"
        elif ch == "\x9b":
            self._state = "csi"
        elif ch in _C1_STRINGS:
            self._state = "string"
        elif ch == "\r":
            self._cr = True
        else:
            out.append(self._printable(ch))
        return at + 1

    def _printable(self, ch: str) -> str:
        if ch in _SPACES:
            return " "
        if ch in _LINE_ENDS:
            return "\n"
        if not ch.isprintable() or ch in _UNSEEN:
            return ""
        import unicodedata

        if unicodedata.category(ch)[0] == "M":
            self._marks += 1
            return ch if self._marks <= _MARKS_MAX else ""
        self._marks = 0
        return ch

    def _in_escape(self, text: str, at: int, out: list[str]) -> int:
        ch = text[at]
        if ch == "[":
            self._state = "csi"
        elif ch in _STRINGS:
            self._state = "string"
        elif "\x20" <= ch <= "\x2f":
            self._state = "intermediate"
        elif "\x30" <= ch <= "\x7e":
            self._state = "ground"
        else:  # not a sequence (a control, or text): it is judged on its own
            self._state = "ground"
            return at
        return at + 1

    def _in_intermediate(self, text: str, at: int, out: list[str]) -> int:
        self._eaten += 1
        if "\x20" <= text[at] <= "\x2f" and self._eaten < _CSI_MAX:
            return at + 1
        self._state, self._eaten = "ground", 0
        return at + 1 if "\x30" <= text[at] <= "\x7e" else at

    def _in_csi(self, text: str, at: int, out: list[str]) -> int:
        ch = text[at]
        if "\x20" <= ch <= "\x3f" and len(self._held) < _CSI_MAX:
            self._held += ch
            return at + 1
        held, self._held, self._state = self._held, "", "ground"
        if not "\x40" <= ch <= "\x7e":
            return at  # broken off: what broke it is judged on its own
        if ch == "m" and self._sgr:
            out.append(self._style(held))
        return at + 1

    def _style(self, held: str) -> str:
        numbers = sgr_numbers(held)
        if numbers is None:
            return ""
        self._styled = numbers != [0]
        return f"\x1b[{';'.join(map(str, numbers))}m"

    def _in_string(self, text: str, at: int, out: list[str]) -> int:
        end = _STRING_END.search(text, at, at + STRING_MAX - self._eaten)
        if end is None:
            self._eaten += len(text) - at
            if self._eaten < STRING_MAX:
                return len(text)
            at = len(text) - (self._eaten - STRING_MAX)
            self._state, self._eaten = "ground", 0
            return at
        self._state, self._eaten = "ground", 0
        if end.group() == "\x1b":
            self._state = "escape"  # ESC \ is an escape sequence of its own: it vanishes there
        return end.start() if end.group() == "\n" else end.end()


def sgr_numbers(held: str) -> list[int] | None:
    """Return the numbers of a Select Graphic Rendition that may pass, or None to drop it whole.

    Concealing (8) and blinking (5, 6) are taken out; extended colours keep their arguments.
    """
    if len(held) > 64 or not re.fullmatch(r"[0-9;]*", held):
        return None
    numbers = [min(int(part or 0), 999) for part in held.split(";")]
    kept: list[int] = []
    at = 0
    while at < len(numbers):
        n = numbers[at]
        if n in (38, 48, 58):
            length = {5: 3, 2: 5}.get(numbers[at + 1] if at + 1 < len(numbers) else -1)
            chunk = numbers[at : at + length] if length else []
            if len(chunk) != length or any(c > 255 for c in chunk[2:]):
                return None
            kept += chunk
            at += len(chunk)
            continue
        if n not in (5, 6, 8) and n <= 107:
            kept.append(n)
        at += 1
    return kept or None


def clean(text: str, *, sgr: bool = False, mark: bool = False) -> str:
    """Return ``text`` made safe for a terminal; newlines and tabs stay.

    ``mark`` shows invisible and direction-changing characters as ``<U+202E>`` instead of dropping
    them (for diffs, where it matters that they are there).
    """
    if _ONLY_PLAIN.fullmatch(text):
        return text
    if mark:
        text = _MARKED.sub(lambda m: f"<U+{ord(m.group()):04X}>", text)
    sanitizer = Sanitizer(sgr=sgr)
    return sanitizer.feed(text) + sanitizer.close()


def one_line(text: str, limit: int = 0) -> str:
    """Return ``text`` made safe and put on one line; longer than ``limit`` (if not 0) ends in "…".

    A line of ours can't be forged by what a box says: no newline survives.
    """
    if limit and len(text) > limit * 8 + 4096:
        text = text[: limit * 8 + 4096]  # nothing beyond can be seen; a 10 MB line costs nothing
    line = " ".join(clean(text).split())
    return line if not limit or len(line) <= limit else line[: max(limit - 1, 0)].rstrip() + "…"


def marked(text: str) -> int:
    """Count the characters of ``text`` that :func:`clean` would mark."""
    return len(_MARKED.findall(text))
