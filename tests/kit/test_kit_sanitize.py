"""The terminal sanitizer against everything a box may write (battery X1 and X3), on a real emulator."""

from __future__ import annotations

import resource

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hostile_text import ATTACKS, INVISIBLE, shown
from thopter.kit.sanitize import STRING_MAX, Sanitizer, clean, marked, one_line, sgr_numbers


@pytest.mark.battery("X1")
@pytest.mark.parametrize("attack", ATTACKS, ids=lambda a: ascii(a)[:30])
@pytest.mark.parametrize("sgr", [False, True])
def test_nothing_reaches_the_terminal_but_text(attack: str, sgr: bool):
    safe = clean("before" + attack + "\nafter", sgr=sgr)
    lines, harm = shown(safe)
    assert harm == []
    assert safe.startswith("before") and "after" in safe
    assert all(ch in "\n\t" or ch.isprintable() for ch in (safe.replace("\x1b", "") if sgr else safe))
    whole = "".join(lines)
    assert len(safe) > 5000 or ("before" in whole and "after" in whole)


@pytest.mark.battery("X1")
def test_the_watched_emulator_sees_the_attacks_when_they_are_not_cleaned():
    hurt = [attack for attack in ATTACKS if shown(attack)[1]]
    assert len(hurt) > 20, "otherwise the test above would prove nothing"


@pytest.mark.battery("X1")
@pytest.mark.parametrize("attack", ATTACKS, ids=lambda a: ascii(a)[:30])
def test_the_outcome_does_not_depend_on_where_the_stream_is_cut(attack: str):
    text = "ä" + attack + "\x1b[31mred\x1b[0m\r\nnext\r"
    whole = clean(text, sgr=True)
    for cut in range(0, len(text) + 1, max(1, len(text) // 200)):
        sanitizer = Sanitizer(sgr=True)
        assert sanitizer.feed(text[:cut]) + sanitizer.feed(text[cut:]) + sanitizer.close() == whole


@pytest.mark.battery("X1")
@pytest.mark.parametrize("attack", ATTACKS, ids=lambda a: ascii(a)[:30])
def test_one_character_at_a_time_comes_out_the_same(attack: str):
    sanitizer = Sanitizer()
    assert "".join(map(sanitizer.feed, attack)) + sanitizer.close() == clean(attack)


@pytest.mark.battery("X1", "X8")
@pytest.mark.parametrize("name", INVISIBLE)
def test_what_hides_or_turns_text_is_taken_out(name: str):
    cleaned = clean(INVISIBLE[name])
    assert cleaned.isascii() and cleaned == "".join(c for c in INVISIBLE[name] if c.isascii())


@pytest.mark.battery("X8")
def test_hidden_characters_can_be_marked_instead_and_are_counted():
    source = "if (level != '\u202eadmin\u2066')\u200b { // \U000e0041"
    assert clean(source, mark=True) == "if (level != '<U+202E>admin<U+2066>')<U+200B> { // <U+E0041>"
    assert marked(source) == 4 and marked("plain ä 中") == 0


def test_ordinary_text_in_any_script_is_left_alone():
    for text in ("plain", "näht", "中文 한국어 עברית العربية हिन्दी", "→ ✓ … “q”", "👩💻 🎉", "a\tb\nc", ""):
        assert clean(text) == text


def test_odd_spaces_and_line_ends_become_plain_ones():
    assert clean("a\u00a0b\u3000c\u2028d\u2029e\u0085f") == "a b c\nd\ne\nf"


def test_a_carriage_return_can_not_write_over_a_line():
    assert clean("rm -rf /\rls       ") == "rm -rf /\nls       "
    assert clean("a\r\nb\r\r\nc\r") == "a\nb\n\nc\n"


@pytest.mark.battery("X1")
def test_a_pile_of_combining_marks_is_cut_off():
    assert clean("e" + "\u0301" * 10_000 + "x") == "e" + "\u0301" * 4 + "x"


def test_colours_pass_only_when_asked_for_and_are_ended():
    assert clean("\x1b[1;31mred", sgr=True) == "\x1b[1;31mred\x1b[0m"
    assert clean("\x1b[1;31mred") == "red"
    assert clean("\x1b[31mred\x1b[m", sgr=True) == "\x1b[31mred\x1b[0m"
    assert clean("\x1b[38;5;208;48;2;1;2;3mx\x1b[0m", sgr=True) == "\x1b[38;5;208;48;2;1;2;3mx\x1b[0m"


@pytest.mark.parametrize(
    ("held", "numbers"),
    [
        ("8", None),
        ("5;6;8", None),
        ("1;8;31", [1, 31]),
        ("38;5;8", [38, 5, 8]),
        ("38;5", None),
        ("38;2;1;2", None),
        ("38;5;999", None),
        ("", [0]),
        ("?25", None),
        ("1:2", None),
        (">4;2", None),
        ("1" * 65, None),
        ("700", None),
    ],
)
def test_concealing_blinking_and_malformed_colours_do_not_pass(held: str, numbers: list[int] | None):
    assert sgr_numbers(held) == numbers


def test_one_line_stays_one_line_and_short():
    assert one_line("a\nb\r\n\tc\u2028d\x1b]0;x\x07e") == "a b c de"
    assert one_line("abcdef", 4) == "abc…"
    assert one_line("x" * 10_000_000, 10) == "x" * 9 + "…"
    assert one_line("\x1b]0;" + "x" * 100 + "\n2026-01-01 error forged", 80) == "2026-01-01 error forged"


@pytest.mark.battery("X3")
@pytest.mark.parametrize(
    "opener", ["\x1b]0;", "\x1bP", "\x1b_", "\x1b^", "\x1bX", "\x9d", "\x1b[", "\x1b[>", "\x1b"]
)
def test_a_sequence_that_never_ends_hides_one_screen_at_most(opener: str):
    sanitizer = Sanitizer()
    got = len(sanitizer.feed(opener))
    piece = "x" * 65_536
    for _ in range(16):
        got += len(sanitizer.feed(piece))
    assert 16 * 65_536 - got <= STRING_MAX
    assert len(str(vars(sanitizer))) < 10_000
    assert "seen\n" in Sanitizer().feed(opener + "lost\nseen\n")


@pytest.mark.battery("X3")
def test_a_hundred_megabytes_of_unterminated_sequences_take_no_memory():
    sanitizer = Sanitizer()
    piece = "\x1b]52;c;" + "A" * 1_000_000
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(100):
        sanitizer.feed(piece)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # KiB


@settings(max_examples=400, deadline=None)
@given(
    st.text(
        alphabet=st.one_of(
            st.sampled_from("\x1b[]P_^X;mHJ0123456789?\x07\x9b\x9c\x9d\r\n\tab"), st.characters()
        )
    )
)
def test_any_text_comes_out_safe_and_cleaning_twice_changes_nothing(text: str):
    safe = clean(text)
    assert all(ch in "\n\t" or ch.isprintable() for ch in safe)
    assert clean(safe) == safe
    _, harm = shown(safe)
    assert harm == []


@settings(max_examples=300, deadline=None)
@given(
    st.text(alphabet=st.one_of(st.sampled_from("\x1b[]PX;m0123456789\x07\x9b\x9c\x9d\r\n"), st.characters())),
    st.data(),
)
def test_any_text_cut_anywhere_comes_out_the_same(text: str, data: st.DataObject):
    sanitizer, got, rest = Sanitizer(sgr=True), "", text
    while rest:
        cut = data.draw(st.integers(1, len(rest)))
        got += sanitizer.feed(rest[:cut])
        rest = rest[cut:]
    assert got + sanitizer.close() == clean(text, sgr=True)
