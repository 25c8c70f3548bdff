"""The page's source keeps the house's rules: pinned, small, text is never markup, types are the hub's."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from house_files import ROOT, name, tracked

WEB = ROOT / "web"
FIRST_LOAD = 60 << 10
LINES = 400
GENERATED = {"web/src/lib/api/types.ts"}
# What could make markup or code out of text, or what the page's CSP would refuse.
_MARKUP = re.compile(
    r"\{@html|innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|srcdoc"
    r"|setHTMLUnsafe|\bstyle=\""
)
_ADDRESS = re.compile(r"[\"'`(]https?://(?!\s|[\"'`])[^\"'`)]+")


def sources() -> list[Path]:
    """Every hand-written file of the page's source."""
    found = [p for p in tracked() if p.is_relative_to(WEB / "src") and p.suffix in (".ts", ".svelte", ".css")]
    return [p for p in found if name(p) not in GENERATED]


def test_the_page_never_makes_markup_of_text() -> None:
    assert len(sources()) > 40
    assert [name(p) for p in sources() if _MARKUP.search(p.read_text("utf-8"))] == []


def test_the_page_names_no_other_origin() -> None:
    assert [(name(p), m) for p in sources() for m in _ADDRESS.findall(p.read_text("utf-8"))] == []


def test_a_file_of_the_page_is_one_idea_too() -> None:
    sizes = {name(p): len(p.read_text("utf-8").splitlines()) for p in sources()}
    assert {n: lines for n, lines in sizes.items() if lines > LINES} == {}


def test_the_pages_packages_are_pinned_with_hashes_and_no_address() -> None:
    text = (WEB / "package-lock.json").read_text("utf-8")
    assert "resolved" not in text, "web/.npmrc leaves the addresses out: npm install --prefix web"
    packages = json.loads(text)["packages"]
    assert len(packages) > 20
    assert [n for n, p in packages.items() if n and not p.get("integrity", "").startswith("sha512-")] == []


def test_the_pages_types_are_what_the_hubs_api_is() -> None:
    """When this fails: ./dev docs."""
    argv = [sys.executable, str(WEB / "api_types.py"), "--check"]
    run = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr


def test_the_first_load_fits_its_budget() -> None:
    report = ROOT / "src/thopter/hub/web/first-load.json"
    if not report.is_file():
        pytest.skip("the page is not built: ./dev web")
    sizes = json.loads(report.read_text("utf-8"))
    assert any(n.endswith(".js") for n in sizes)
    assert sum(sizes.values()) <= FIRST_LOAD, sizes
