"""Own instructions for agents: read and checked before a hub is asked for anything."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from cli_support import Cli, folders

from thopter.kit.instructions import TEXT_MAX, read_instructions
from thopter.model.errors import BadInput, NotFound

HUB_IS_ASKED = 4  # and there is none


@pytest.fixture
def cli() -> Iterator[Cli]:
    with folders() as root:
        yield Cli(root, THOPTER_NO_START="1")


def test_a_file_of_the_option_must_be_there(cli: Cli):
    missing = cli.run("run", "--instructions", "none.md", "x")
    assert missing.code == 3 and "none.md" in missing.err
    (cli.cwd / "own.md").write_text("Say please.\n")
    assert cli.run("run", "--instructions", "own.md", "x").code == HUB_IS_ASKED
    assert cli.run("create", "--instructions", "own.md").code == HUB_IS_ASKED


def test_a_projects_file_may_not_put_a_file_of_this_machine_into_a_box(cli: Cli):
    (cli.root / "secret.md").write_text("operator's own\n")
    (cli.cwd / "thopter.toml").write_text('[agents.claude]\ninstructions = "../secret.md"\n')
    assert "agents.claude.instructions, which a project may no" in cli.run("run", "x").err


def test_the_environment_counts_and_is_checked_as_well(cli: Cli):
    variable = {"THOPTER_AGENTS_CLAUDE_INSTRUCTIONS": "own.md"}
    assert cli.run("run", "x", env=variable).code == 3
    (cli.cwd / "own.md").write_text("Say please.\n")
    assert cli.run("run", "x", env=variable).code == HUB_IS_ASKED


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"", "empty"), (b" \n", "empty"), (b"\xff\xfe", "UTF-8"), (b"x" * (TEXT_MAX + 1), "over 256 KiB")],
)
def test_what_can_not_be_instructions_is_refused(tmp_path: Path, content: bytes, words: str):
    file = tmp_path / "own.md"
    file.write_bytes(content)
    with pytest.raises(BadInput, match=words):
        read_instructions(str(file), "a.setting")


def test_where_they_are_must_be_plain(tmp_path: Path):
    assert read_instructions("", "a.setting") == ""
    with pytest.raises(BadInput, match="absolute"):
        read_instructions("own.md", "a.setting")
    with pytest.raises(BadInput, match=r"a\.setting"):
        read_instructions(str(tmp_path), "a.setting")
    with pytest.raises(NotFound, match=r"a\.setting"):
        read_instructions(str(tmp_path / "none"), "a.setting")
