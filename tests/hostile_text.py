"""What a box may write to hurt a terminal (batteries X1 and X2), and an emulator that tells."""

from __future__ import annotations

import pyte

ST = ("\x1b\\", "\x07", "\x9c")
OSC_NUMBERS = (0, 1, 2, 4, 7, 8, 9, 10, 11, 52, 112, 133, 777, 1337)

ATTACKS = [
    *(f"\x1b]{n};payload{end}" for n in OSC_NUMBERS for end in ST),
    *(f"\x9d{n};payload{end}" for n in OSC_NUMBERS for end in ST),
    "\x1b]52;c;ZXZpbA==\x07",
    "\x1b]8;;https://evil.example\x07link\x1b]8;;\x07",
    "\x1bP$qm\x1b\\",  # DECRQSS
    "\x1bP+q544e\x1b\\",  # XTGETTCAP
    "\x1bPtmux;\x1b\x1b]52;c;ZXZpbA==\x07\x1b\\",  # tmux passthrough
    "\x1bPq#0;2;0;0;0~~\x1b\\",  # sixel
    "\x90q~~\x9c",
    "\x1b_Gi=1,a=q;AAAA\x1b\\",  # kitty graphics (APC)
    "\x1b^private\x1b\\",
    "\x1bXstart of string\x1b\\",
    "\x1bktitle\x1b\\",  # screen and tmux title
    "\x1b[2J\x1b[H\x1b[3J",
    "\x1b[6n\x1b[5n\x1b[c\x1b[>c\x1b[=c\x1b[>q\x1b[18t\x1b[21t\x1b[20t",  # everything that is answered
    "\x1b[?1h\x1b=\x1b>\x1b[?2004h\x1b[?1000h\x1b[?1049h\x1b[?25l\x1b[4h",
    "\x1b[201~",  # end of a bracketed paste
    "x\x1b[1000000000b",  # REP
    "\x1b[5i\x1b[4i",  # media copy
    "\x1b[!p\x1bc\x1b#8",  # resets, alignment test
    "\x1b(0\x1b)0\x0e\x0f\x1bN\x1bO\x1bn\x1bo",  # character sets
    "\x1b[1;1H\x1b[A\x1b[999B\x1b[S\x1b[T\x1b[L\x1b[M\x1bM\x1bD\x1bE\x1b7\x1b8\x1b[s\x1b[u",
    "\x9b2J\x9b6n\x9b1;1H",
    "\x1b%G\x1b%@\x1b F\x1b G",
    "abc\b\b\bxyz\x7f\x0b\x0c\x00\x05",  # backspace, ENQ (answered)
    "\x85\x84\x8d\x8e\x8f\x9a",
    "".join(map(chr, range(0x20))) + "".join(map(chr, range(0x7F, 0xA0))),
    "\x1b[38;5;\x1b[31",
    "\x1b\x1b\x1b[[[[",
    "\x1b[" + "1;" * 5000 + "m",
]

INVISIBLE = {
    "bidi": "a\u202eb\u2066c\u2069\u202cd\u200f\u061c",
    "zero width": "a\u200bb\u200cc\u200dd\ufeffe\u2060",
    "tags": "a" + "".join(chr(0xE0000 + ord(c)) for c in "hidden") + "b",
    "variation selectors": "a\ufe0fb\U000e0100c",
    "fillers": "a\u3164b\u115fc\u034fd\u00ade",
    "unassigned and private": "a\U000f0000b\ue000c\u0378d",
    "surrogates": "a\ud800b\udfffc",
}


class Watched(pyte.Screen):
    """An emulator that notes whatever a safe text must never cause."""

    def __init__(self, columns: int = 80, lines: int = 24) -> None:
        self.harm: list[str] = []
        super().__init__(columns, lines)

    def write_process_input(self, data: str) -> None:
        self.harm.append(f"typed back {data!r}")

    def set_title(self, param: str) -> None:
        self.harm.append(f"title {param!r}")

    def set_icon_name(self, param: str) -> None:
        self.harm.append(f"icon {param!r}")

    def erase_in_display(self, how: int = 0, *args: object, **kw: object) -> None:
        self.harm.append("erased")

    def cursor_position(self, line: int | None = None, column: int | None = None) -> None:
        if (line, column) != (None, None):
            self.harm.append("moved the cursor")
        super().cursor_position(line, column)

    def set_mode(self, *modes: int, **kw: object) -> None:
        self.harm.append(f"mode {modes}")

    def reset_mode(self, *modes: int, **kw: object) -> None:
        self.harm.append(f"mode {modes}")


def harm_of(text: str) -> list[str]:
    """Feed an emulator; what harm was done."""
    return _fed(text).harm


def shown(text: str) -> tuple[list[str], list[str]]:
    """Feed an emulator; its lines, and what harm was done."""
    screen = _fed(text)
    return [line.rstrip() for line in screen.display], screen.harm


def _fed(text: str) -> Watched:
    screen = Watched(200, 50)
    screen.harm.clear()
    pyte.Stream(screen).feed(text.replace("\n", "\r\n"))
    return screen
