"""A file is one idea (400 lines at most), a function fits a screen (60). The lists of exceptions
only shrink: an entry that is no longer needed fails too."""

from __future__ import annotations

from house_files import functions, name, python

FILE_LINES = 400
FUNCTION_LINES = 60

LONG_FILES: dict[str, str] = {}
LONG_FUNCTIONS: dict[str, str] = {}


def test_no_file_is_longer_than_one_idea() -> None:
    sizes = {name(p): len(p.read_text("utf-8").splitlines()) for p in python("src", "tests", "bench", "docs")}
    long = {n: lines for n, lines in sizes.items() if lines > FILE_LINES}
    assert {n: lines for n, lines in long.items() if n not in LONG_FILES} == {}
    assert set(LONG_FILES) - set(long) == set(), "no longer needed: remove from LONG_FILES"


def test_no_function_is_longer_than_a_screen() -> None:
    long = {
        f"{name(p)}:{function}": lines
        for p in python("src", "tests", "bench", "docs")
        for function, lines in functions(p)
        if lines > FUNCTION_LINES
    }
    assert {n: lines for n, lines in long.items() if n not in LONG_FUNCTIONS} == {}
    assert set(LONG_FUNCTIONS) - set(long) == set(), "no longer needed: remove from LONG_FUNCTIONS"
