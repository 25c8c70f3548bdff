"""Docs can't lie: reference pages are generated and fresh, lists are whole, links lead somewhere."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import click
import pytest
from house_files import ROOT, name, python, tracked, tree

from thopter.cli.commands import ALIASES, SECTIONS, load
from thopter.kit.settings import SETTINGS
from thopter.model.errors import ThopterError

_LINK = re.compile(r"(?<!\!)\[[^\]]+\]\(([^)\s]+)\)")


def pages() -> list[Path]:
    """Return every page of documentation."""
    return [p for p in tracked() if p.suffix == ".md" and "golden" not in p.parts]


def headings(folder: str) -> set[str]:
    """Return the headings of all pages of a folder of docs."""
    found: set[str] = set()
    for page in (ROOT / "docs" / folder).glob("*.md"):
        found |= {m.strip() for m in re.findall(r"^#+ (.+)$", page.read_text("utf-8"), re.M)}
    return found


def codes(cls: type[ThopterError]) -> set[str]:
    """Return the codes of an error and of those below it in the error tree."""
    below = [c for c in cls.__subclasses__() if c.__module__ == cls.__module__]
    return {cls.code}.union(*(codes(c) for c in below))


def test_reference_pages_are_what_the_code_generates() -> None:
    run = subprocess.run(
        [sys.executable, "-m", "thopter.cli.docs", "--check"], cwd=ROOT, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr


def test_every_command_setting_and_error_has_a_heading() -> None:
    found = headings("reference")
    commands = {f"thopter {row[0]}" for _title, rows in SECTIONS for row in rows}
    assert commands - found == set()
    assert {s.key for s in SETTINGS} - found == set()
    assert codes(ThopterError) - found == set()
    assert len(commands) > 10
    assert len(ALIASES) > 1


def test_every_decision_is_listed() -> None:
    folder = ROOT / "docs/decisions"
    listed = set(_LINK.findall((folder / "README.md").read_text("utf-8")))
    written = {p.name for p in folder.glob("*.md")} - {"README.md"}
    assert written == listed
    numbers = [w[:4] for w in sorted(written)]
    assert all(re.fullmatch(r"\d{4}", n) for n in numbers)
    assert len(set(numbers)) == len(numbers), "a number stands for one decision (gaps are allowed)"


def test_every_page_of_docs_can_be_reached_from_the_index() -> None:
    seen: set[Path] = set()
    todo = [ROOT / "docs/README.md"]
    while todo:
        page = todo.pop()
        if page in seen:
            continue
        seen.add(page)
        links = [x.split("#")[0] for x in _LINK.findall(page.read_text("utf-8")) if "://" not in x]
        todo += [t for x in links if x.endswith(".md") and (t := (page.parent / x).resolve()).is_file()]
    here = {p for p in pages() if p.is_relative_to(ROOT / "docs") and not p.name.startswith("_")}
    assert {name(p) for p in here - seen} == set()


@pytest.mark.parametrize("page", pages(), ids=name)
def test_links_lead_somewhere(page: Path) -> None:
    for link in _LINK.findall(page.read_text("utf-8")):
        if "://" in link or link.startswith(("#", "mailto:")):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{name(page)}: {link}"
        if anchor and target.suffix == ".md":
            assert anchor in anchors(target), f"{name(page)}: {link}"


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as forges make them."""
    found = re.findall(r"^#+ (.+)$", page.read_text("utf-8"), re.M)
    return {re.sub(r"[^\w\- ]", "", h.lower()).strip().replace(" ", "-") for h in found}


def test_every_test_that_parity_or_the_battery_names_exists() -> None:
    text = (ROOT / "docs/parity.md").read_text("utf-8")
    rows = re.findall(r"^\| (T[123]-\d{3}|[LO]-\d{3}) \| ([^|]+) \| *([^|]*?) *\|$", text, re.M)
    assert len(rows) >= 40
    assert len({row[0] for row in rows}) == len(rows), "an id stands twice"
    battery = (ROOT / "docs/explanation/isolation.md").read_text("utf-8")
    lines = re.findall(r"^\| (S\d+(?:, S\d+)*) \| ([^|]+) \| *([^|]*?) *\|$", battery, re.M)
    assert len(lines) >= 20
    known: dict[str, set[str]] = {}
    for path in python("tests"):
        known[name(path)] = {
            node.name
            for node in ast.walk(tree(path))
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_")
        }
    missing = []
    for row, _feature, tests in [*rows, *lines]:
        for test in re.findall(r"`([^`]+)`", tests):
            file, _, function = test.partition("::")
            if function not in known.get(f"tests/{file}", set()):
                missing.append(f"{row}: {test}")
    assert missing == []


def test_what_stands_in_the_place_of_old_commands_exists() -> None:
    text = (ROOT / "docs/coming-from.md").read_text("utf-8")
    rows = [r.strip("|").split("|") for r in text.splitlines() if r.startswith("| ") and r.count("|") >= 4]
    named = {m for row in rows for m in re.findall(r"`thopter ([^`]+)`", row[1])}
    assert len(named) > 40
    for words in sorted(named):
        command = load(words.split()[0])
        assert command is not None, f"there is no command thopter {words}"
        for word in words.split()[1:]:
            if isinstance(command, click.Group) and word.isidentifier() and word.islower():
                command = command.commands.get(word)
                assert command is not None, f"there is no command thopter {words}"
            elif word.startswith("-") and word != "--":
                options = {o for p in command.params for o in (*p.opts, *p.secondary_opts)}
                assert word.partition("=")[0] in options, f"thopter {words}: no option {word}"
