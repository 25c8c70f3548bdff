"""Bad input, as a person types it: one clear sentence, the right exit code, nothing made."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from e2e_lab import Lab

pytestmark = [pytest.mark.claude, pytest.mark.root, pytest.mark.xdist_group("e2e"), pytest.mark.timeout(300)]


def _refused(flight: Lab, code: int, *argv: str, word: str = "", stdin: str | bytes = "") -> str:
    done = flight.run(*argv, check=False, stdin=stdin)
    assert done.returncode == code, (done.returncode, done.stdout, done.stderr)
    assert "Traceback" not in done.stderr
    assert word in done.stderr, done.stderr
    assert flight.json("status") == [], "something was made"
    return done.stderr


@pytest.mark.parametrize("name", ["a/b", "two words", "..", "x" * 300, "Upper", "-dash", "é", "a\nb"])
def test_a_name_that_cannot_be_one_is_refused(flight: Lab, name: str) -> None:
    _refused(flight, 2, "run", "-d", f"--name={name}", "script:x")


@pytest.mark.parametrize("prompt", ["", "   ", "\n"])
def test_an_empty_prompt_is_refused(flight: Lab, prompt: str) -> None:
    _refused(flight, 2, "run", "-d", prompt)


def test_a_prompt_with_nul_or_over_a_megabyte_is_refused(flight: Lab) -> None:
    _refused(flight, 2, "run", "-d", "-", stdin=b"a\0b", word="NUL")
    _refused(flight, 2, "run", "-d", "-", stdin=b"x" * ((1 << 20) + 1))


def test_a_repository_that_is_none_is_refused(flight: Lab) -> None:
    _refused(flight, 3, "run", "-d", "--repo", "/does/not/exist", "go")
    plain = flight.folder / "plain"
    plain.mkdir(exist_ok=True)
    for code in ("run",):
        done = flight.run(code, "-d", "--repo", str(plain), "go", check=False)
        assert done.returncode in (2, 3) and "repository" in done.stderr


def test_an_empty_repository_is_refused_with_what_to_do(flight: Lab) -> None:
    empty = flight.folder / "empty"
    subprocess.run(["git", "init", "-q", str(empty)], check=True)
    done = flight.run("run", "-d", "--repo", str(empty), "go", check=False)
    assert done.returncode == 5 and "commit" in done.stderr
    assert flight.json("status") == []
    assert flight.leaks() == []


def test_a_branch_that_does_not_exist_is_refused_and_rolled_back(flight: Lab) -> None:
    repo = flight.folder / "branchy"
    if not repo.exists():
        flight.repo("branchy")
    done = flight.run("run", "-d", "--repo", str(repo), "--branch", "nope", "go", check=False)
    assert done.returncode == 3 and "nope" in done.stderr
    assert flight.json("status") == []


def test_unknown_and_ambiguous_names(flight: Lab) -> None:
    for verb in (("tail",), ("destroy", "--yes"), ("diff",), ("check",), ("wait",)):
        done = flight.run(*verb, "nobody", check=False)
        assert done.returncode == 3 and "nobody" in done.stderr, verb


def test_a_config_that_is_no_toml_is_told_with_its_line_and_never_overwritten(flight: Lab) -> None:
    config = Path(flight.env["THOPTER_CONFIG_DIR"]) / "config.toml"
    config.parent.mkdir(exist_ok=True)
    text = 'owner = "me"\nthis is not toml\n'
    config.write_text(text)
    try:
        for argv in (("config", "show"), ("config", "set", "owner", "you"), ("use", "x")):
            done = flight.run(*argv, check=False)
            assert done.returncode == 2 and "line 2" in done.stderr, (argv, done.stderr)
        assert config.read_text() == text
    finally:
        config.unlink()


@pytest.mark.parametrize(
    "prompt",
    ["/not-a-command please", "!ls is not for the shell", "-rf is no flag", "# heading", "@nofile look",
     "quotes \" ' ` $HOME $(id) \\ and\nnew\nlines\\", "ünïcödé 漢字 🚁"],
)  # fmt: skip
def test_odd_prompts_arrive_exactly(flight: Lab, prompt: str) -> None:
    try:
        flight.run("run", "-d", "--name", "odd", "--", prompt, timeout=300)
        flight.rest("odd")
        assert _said(flight, prompt), [x.prompt for x in flight.model.seen][-3:]
        told = prompt + " again"
        flight.run("tell", "--no-tail", "odd", "--", told)
        flight.until("it arrived", lambda: _said(flight, told))
    finally:
        flight.run("destroy", "--yes", "odd")


def _said(flight: Lab, words: str) -> bool:
    """The model was asked exactly this; a blank that keeps a '/' from being a command is no word."""
    return any(x.prompt.strip("\u2800 \n") == words.strip() for x in flight.model.seen)


def test_the_same_name_twice_is_refused_and_a_prefix_finds_it(flight: Lab) -> None:
    flight.run("create", "twin", timeout=300)
    done = flight.run("create", "twin", check=False)
    assert done.returncode == 5 and "twin" in done.stderr
    assert flight.json("status", "tw")["view"]["name"] == "twin"
    flight.run("create", "twine")
    assert flight.json("status", "twin")["view"]["name"] == "twin"  # exact beats prefix
    done = flight.run("status", "tw", check=False)
    assert done.returncode == 5 and "twin" in done.stderr and "twine" in done.stderr
    flight.run("destroy", "--yes", "twin", "twine")


def test_a_dirty_repository_is_used_as_committed_and_says_so(flight: Lab) -> None:
    repo = flight.repo("dirty")
    (repo / "README.md").write_text("changed\n")
    (repo / "new.txt").write_text("new\n")
    said = flight.run("run", "-d", "--repo", str(repo), "--name", "soap", "go")
    assert "2" in said.stdout + said.stderr and "commit" in said.stdout + said.stderr
    assert flight.run("exec", "soap", "--", "cat", "README.md").stdout == "# proj\n"
    flight.run("destroy", "--yes", "soap")
