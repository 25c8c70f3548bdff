"""The generated page of the command line says what is there, all of it, now."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import click
import pytest

from thopter.cli import docs
from thopter.cli.commands import ALIASES, TABLE, load
from thopter.kit.settings import SETTINGS
from thopter.model import errors

PAGE = Path(__file__).parents[2] / docs.FILE


def commands() -> list[tuple[str, click.Command]]:
    found = []
    for name in TABLE:
        command = load(name)
        assert command is not None
        found.append((f"thopter {name}", command))
        if isinstance(command, click.Group):
            found += [(f"thopter {name} {sub}", one) for sub, one in command.commands.items()]
    return found


def test_the_page_is_up_to_date():
    assert PAGE.read_text("utf-8") == docs.render(), "run ./dev docs"


def test_every_command_setting_and_error_has_a_heading():
    headings = re.findall(r"^#+ (.+)$", docs.render(), re.M)
    for path, _ in commands():
        assert headings.count(path) == 1, path
    for spec in SETTINGS:
        assert headings.count(spec.key) == 1
    for cls in {errors.ThopterError, *_all(errors.ThopterError)}:
        assert headings.count(cls.code) == 1, cls


def _all(cls: type[errors.ThopterError]) -> list[type[errors.ThopterError]]:
    own = [c for c in cls.__subclasses__() if c.__module__ == errors.__name__]
    return own + [deep for c in own for deep in _all(c)]


@pytest.mark.parametrize(("path", "command"), commands(), ids=lambda x: x if isinstance(x, str) else "")
def test_every_option_is_described(path: str, command: click.Command):
    section = re.search(rf"^## {re.escape(path)}\n(.*?)(?=^## |\Z)", docs.render(), re.M | re.S)
    assert section and command.help
    for param in command.params:
        if isinstance(param, click.Option) and not param.hidden:
            assert param.help and param.help.endswith((".", ")")), (path, param.name)
            for name in param.opts:
                assert f"`{name}`" in section.group(1)


def test_aliases_are_listed_and_links_lead_somewhere():
    page = docs.render()
    for alias, name in ALIASES.items():
        assert f"`thopter {alias}` is [`thopter {name}`]" in page
    anchors = {h.lower().replace(" ", "-") for h in re.findall(r"^#+ (.+)$", page, re.M)}
    assert set(re.findall(r"\]\(#([^)]+)\)", page)) <= anchors


def test_check_notices_a_page_that_is_old(tmp_path: Path):
    page = tmp_path / "cli.md"
    for text, code in ((None, 1), ("old", 1)):
        if text:
            page.write_text(text)
        done = subprocess.run(
            [sys.executable, "-m", "thopter.cli.docs", "--check", str(page)], capture_output=True
        )
        assert done.returncode == code
    assert subprocess.run([sys.executable, "-m", "thopter.cli.docs", str(page)]).returncode == 0
    assert subprocess.run([sys.executable, "-m", "thopter.cli.docs", "--check", str(page)]).returncode == 0
