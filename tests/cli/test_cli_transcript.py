"""How a conversation is drawn (rows T3-017 to T3-022)."""

from __future__ import annotations

import time

import pytest

from thopter.cli.transcript import INDENT, RESULT_LINES, Style, draw
from thopter.kit.sanitize import clean
from thopter.model.nouns import Entry, Role

AT = 1_800_000_000_000
CLOCK = time.strftime("%H:%M:%S", time.localtime(AT / 1000))


def entry(role: Role, text: str = "", summary: str = "", **kw: object) -> Entry:
    return Entry(session="s", key="k", at_ms=AT, role=role, summary=summary or text[:200], text=text, **kw)  # type: ignore[arg-type]


def test_a_line_is_time_role_and_text():
    assert draw(entry(Role.USER, "add a flag"), Style()) == [f"{CLOCK}  user         add a flag"]
    assert draw(entry(Role.TOOL_USE, "{…}", "Bash: ls -l"), Style()) == [f"{CLOCK}  tool_use     Bash: ls -l"]


def test_lines_after_the_first_stand_under_it():
    lines = draw(entry(Role.ASSISTANT, "one\ntwo"), Style())
    assert lines == [f"{CLOCK}  assistant    one", " " * INDENT + "two"]
    assert lines[0].index("one") == INDENT


def test_the_time_is_the_events_own_and_an_unknown_one_is_not_invented():
    assert draw(entry(Role.USER, "x"), Style())[0].startswith(CLOCK)
    nothing = Entry(session="s", key="k", at_ms=0, role=Role.USER, summary="x", text="x")
    assert draw(nothing, Style())[0].startswith("--:--:--")


def test_short_is_one_line_whatever_the_text():
    for role in Role:
        assert len(draw(entry(role, "a\nb\nc", "a b c"), Style(short=True))) == 1


def test_results_of_tools_are_shown_and_long_ones_cut_with_a_count():
    lines = draw(entry(Role.TOOL_RESULT, "\n".join(f"row {n}" for n in range(50))), Style())
    assert len(lines) == RESULT_LINES + 1 and f"… {50 - RESULT_LINES} more lines" in lines[-1]
    assert (
        len(draw(entry(Role.TOOL_RESULT, "\n".join(f"row {n}" for n in range(50))), Style(full=True))) == 50
    )


def test_each_role_has_its_colour_and_none_without():
    for role, code in (("user", 32), ("assistant", 36), ("tool_use", 33), ("tool_result", 2), ("system", 35)):
        assert f"\x1b[{code}m{role}" in draw(entry(Role(role), "x"), Style(colour=True))[0]
        assert "\x1b" not in draw(entry(Role(role), "x"), Style())[0]
    assert "\x1b[31mtool_result" in draw(entry(Role.TOOL_RESULT, "x", is_error=True), Style(colour=True))[0]


def test_markdown_is_rendered_on_a_terminal_only():
    said = "# Title\n\nSome **bold** words and `code`:\n\n- one\n- two\n\n[link](https://example.org)"
    drawn = draw(entry(Role.ASSISTANT, said), Style(colour=True, columns=100))
    plain = clean("\n".join(drawn))
    assert "**" not in plain and "• one" in plain and "Title" in plain
    assert "\x1b]8" not in "\n".join(drawn)
    assert "**bold**" in "\n".join(draw(entry(Role.ASSISTANT, said), Style()))


def test_a_subagents_entry_is_marked():
    assert "↳ looks" in draw(entry(Role.ASSISTANT, "looks", sidechain=True), Style())[0]


@pytest.mark.battery("X2")
@pytest.mark.parametrize(
    "style", [Style(), Style(short=True), Style(colour=True, columns=100), Style(full=True, columns=40)]
)
@pytest.mark.parametrize("role", list(Role))
def test_hostile_text_stays_text(style: Style, role: Role):
    evil = (
        "ok\n\x1b]52;c;ZXZpbA==\x07\x1b[2J\x1b[6n\u202e\x9b1;1H<b>\n"
        + "[x](javascript:1)\n" * 3
        + "`" * 50
        + "\r12:00:00  user  forged"
    )
    for line in draw(entry(role, evil, evil), style):
        assert clean(line, sgr=True) == line
        assert line.startswith(CLOCK) or line.startswith(" " * INDENT) or line == ""


def test_markdown_that_would_be_slow_is_shown_plain_in_time():
    begun = time.monotonic()
    for evil in ("> " * 30_000, "[" * 200_000, "*a " * 100_000, "\n".join("- " * n for n in range(300))):
        draw(entry(Role.ASSISTANT, evil + "\nx"), Style(colour=True, columns=100))
    assert time.monotonic() - begun < 60
