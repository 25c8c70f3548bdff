"""How exec and ssh split their arguments, and the way out of a box that does not answer."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from thopter.cli.bridge import Escape
from thopter.cli.terminal import CommandAfterName, exec_, split_command, with_env
from thopter.model.errors import BadInput

VALUES = CommandAfterName.with_value


@pytest.mark.parametrize(
    ("args", "mine", "argv"),
    [
        (["flag", "--", "pytest", "-q", "tests/test a.py"], ["flag"], ["pytest", "-q", "tests/test a.py"]),
        (["flag", "pytest", "-q"], ["flag"], ["pytest", "-q"]),
        (["flag", "-t", "--", "vim"], ["flag", "-t"], ["vim"]),
        (["-t", "flag", "vim", "-t"], ["-t", "flag"], ["vim", "-t"]),
        (["flag", "--cwd", "/tmp", "ls"], ["flag", "--cwd", "/tmp"], ["ls"]),
        (["flag", "-e", "A=1", "--env", "B=2", "env"], ["flag", "-e", "A=1", "--env", "B=2"], ["env"]),
        (["flag", "--cwd=/tmp", "ls"], ["flag", "--cwd=/tmp"], ["ls"]),
        (["flag", "--", "sh", "--", "-c"], ["flag"], ["sh", "--", "-c"]),
        (["flag", "--"], ["flag"], []),
        (["flag"], ["flag"], []),
        (["flag", "--", ""], ["flag"], [""]),
        (["flag", "-"], ["flag"], ["-"]),
    ],
)
def test_where_the_command_begins(args: list[str], mine: list[str], argv: list[str]):
    assert split_command(args, VALUES) == (mine, argv)


@given(st.lists(st.text(min_size=0, max_size=12).filter(lambda s: "\0" not in s), min_size=1, max_size=6))
def test_after_two_dashes_the_command_is_taken_exactly(argv: list[str]):
    params = exec_.make_context("exec", ["flag", "-n", "--", *argv]).params
    assert params["argv"] == tuple(argv) and params["name"] == "flag" and params["no_stdin"]


def test_environment_is_put_before_the_command():
    assert with_env(("ls", "-l"), ()) == ["ls", "-l"]
    assert with_env(("ls",), ("A=1", "B=x=y", "C=")) == ["env", "A=1", "B=x=y", "C=", "ls"]
    for pair in ("A", "=x", "1A=2", "A-B=1", "A B=1"):
        with pytest.raises(BadInput):
            with_env(("ls",), (pair,))
    with pytest.raises(BadInput):
        with_env(("a=b",), ("A=1",))


@pytest.mark.parametrize(
    ("typed", "passed", "leave"),
    [
        (b"~.", b"", True),
        (b"ls\r~.", b"ls\r", True),
        (b"ls\n~.x", b"ls\n", True),
        (b"ls ~.", b"ls ~.", False),
        (b"~~.", b"~.", False),
        (b"~x", b"~x", False),
        (b"~", b"", False),
        (b"\r~\r~.", b"\r~\r", True),
        (b"cd ~\r", b"cd ~\r", False),
    ],
)
def test_a_tilde_and_a_dot_at_the_beginning_of_a_line_leave(typed: bytes, passed: bytes, leave: bool):
    assert Escape().feed(typed) == (passed, leave)
    one = Escape()
    got, left = b"", False
    for byte in typed:
        piece, left = one.feed(bytes([byte]))
        got += piece
        if left:
            break
    assert (got, left) == (passed, leave)


@given(st.binary(max_size=60).filter(lambda b: b"~" not in b))
def test_without_a_tilde_everything_typed_passes(typed: bytes):
    assert Escape().feed(typed) == (typed, False)
