"""What passes when a box draws on a person's terminal, and that the terminal is always put back."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import termios

import pyte
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thopter.kit.sanitize import STRING_MAX
from thopter.kit.terminal import TerminalFilter, raw_mode, size

DROPPED = [
    b"\x1b]52;c;ZXZpbA==\x07",
    b"\x1b]0;title\x1b\\",
    b"\x1b]2;t\x07",
    b"\x1b]8;;http://x\x07",
    b"\x1b]1337;x\x07",
    b"\x1bP$qm\x1b\\",
    b"\x1bPtmux;\x1b\x1b]52;c;eA==\x07\x1b\\",
    b"\x1b_G\x1b\\",
    b"\x1b^x\x1b\\",
    b"\x1bXx\x1b\\",
    b"\x1bktitle\x1b\\",
    b"\x1b[21t",
    b"\x1b[8;1;1t",
    b"\x1b[5i",
    b"\x1b[1000000000b",
    b"\x1b[?2026$p",
    "\x9d52;c;eA==\x9c".encode(),
    "\x90q\x9c".encode(),
    "\x85\x84\x8e".encode(),
]

PASSED = [
    b"\x1b[2J\x1b[H",
    b"\x1b[?1049h\x1b[?25l",
    b"\x1b[1;31mred\x1b[0m",
    b"\x1b[10;20H",
    b"\x1b[K\x1b[J",
    b"\x1b(B\x1b)0",
    b"\x1b7\x1b8\x1bM",
    b"\x1b[6n",
    b"\x1b[3b",
    b"\x1b[?1000h\x1b[?2004h",
    b"\x1b[4:3m",
    b"\r\n\t\b",
    "näht → 中".encode(),
    b"\x1b[!p",
    b"\x1b=\x1b>",
]


@pytest.mark.parametrize("data", DROPPED, ids=lambda d: repr(d)[:24])
def test_what_reaches_past_the_screen_is_dropped(data: bytes):
    out = TerminalFilter().feed(b"a" + data + b"b")
    assert out.startswith(b"a") and out.endswith(b"b")
    assert not {0x1B, 0x07, 0x9B, 0x9D} & set(out.decode().encode("utf-16-le")[::2]), out


@pytest.mark.parametrize("data", PASSED, ids=lambda d: repr(d)[:24])
def test_what_draws_the_screen_passes_unchanged(data: bytes):
    assert TerminalFilter().feed(b"a" + data + b"b") == b"a" + data + b"b"


@pytest.mark.parametrize("data", DROPPED + PASSED, ids=lambda d: repr(d)[:24])
def test_one_byte_at_a_time_comes_out_the_same(data: bytes):
    one = TerminalFilter()
    assert b"".join(one.feed(bytes([b])) for b in data + b"end") == TerminalFilter().feed(data + b"end")


@pytest.mark.battery("X1")
@settings(max_examples=300, deadline=None)
@given(st.lists(st.one_of(st.sampled_from(DROPPED + PASSED), st.binary(max_size=20)), max_size=12))
def test_no_bytes_at_all_set_a_title_or_a_clipboard(pieces: list[bytes]):
    screen = pyte.Screen(80, 24)
    harm: list[str] = []
    screen.set_title = harm.append  # type: ignore[method-assign]
    screen.set_icon_name = harm.append  # type: ignore[method-assign]
    out = TerminalFilter().feed(b"".join(pieces))
    pyte.ByteStream(screen).feed(out)
    assert harm == []
    for introducer in (b"\x1b]", b"\x1bP", b"\x1b_", b"\x1b^", b"\x1bX"):
        assert introducer not in out


@pytest.mark.battery("X3")
def test_a_string_that_never_ends_is_given_up():
    one = TerminalFilter()
    one.feed(b"\x1bP")
    got = sum(len(one.feed(b"x" * 1000)) for _ in range(100))
    assert 100_000 - got <= STRING_MAX + 1000


def test_bytes_that_are_no_text_do_not_break_it():
    out = TerminalFilter().feed(bytes(range(256)) * 4)
    assert out.decode() and b"\x1b]" not in out


def test_the_size_of_no_terminal_is_a_usual_one(tmp_path):
    with open(tmp_path / "f", "wb") as file:
        assert size(file.fileno()) == (24, 80)


@pytest.mark.parametrize("how", ["return", "error", "SIGTERM", "SIGHUP", "exit"])
def test_the_terminal_is_put_back_on_every_way_out(how: str):
    master, slave = pty.openpty()
    before = termios.tcgetattr(slave)
    code = (
        "import os, signal, sys, time\n"
        "from thopter.kit.terminal import raw_mode\n"
        "with raw_mode(0):\n"
        "    os.write(1, b'raw')\n"
        f"    how = {how!r}\n"
        "    if how == 'error': raise RuntimeError\n"
        "    if how == 'exit': sys.exit(3)\n"
        "    if how.startswith('SIG'): time.sleep(60)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdin=slave, stdout=slave, stderr=subprocess.DEVNULL
    )
    assert os.read(master, 3) == b"raw"
    if how.startswith("SIG"):
        assert termios.tcgetattr(slave) != before, "it was really raw"
        process.send_signal(getattr(signal, how))
    process.wait(60)
    assert termios.tcgetattr(slave) == before
    expected = {"return": 0, "error": 1, "exit": 3, "SIGTERM": 143, "SIGHUP": 129}
    assert process.returncode == expected[how]
    os.close(master)
    os.close(slave)


def test_raw_mode_needs_a_terminal(tmp_path):
    with open(tmp_path / "f", "wb") as file, pytest.raises(termios.error), raw_mode(file.fileno()):
        raise AssertionError("not reached")
