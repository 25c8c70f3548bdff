"""One hub for all tests of the page, and Debian's Chromium, which each file starts for itself."""

from __future__ import annotations

import shutil
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent.parent / "e2e"))

from e2e_lab import Lab, lab
from page_lab import BUILT, CHROMIUM, SCENARIO
from playwright.sync_api import Browser, sync_playwright


@pytest.fixture(scope="session")
def hub() -> Iterator[Lab]:
    """A hub with two thopters at rest: ``lark``, and ``asker``, which may do nothing by itself."""
    if not (BUILT / "index.html").is_file():
        pytest.fail("the page is not built: ./dev web")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with lab(SCENARIO) as made:
        folder = made.folder / "page"  # a copy: a test builds another
        shutil.copytree(BUILT, folder)
        made.env |= {"THOPTER_PAGE_DIR": str(folder), "THOPTER_HUB_LISTEN": f"127.0.0.1:{port}"}
        repo = made.repo("shop", {"README.md": "# shop\n"})
        lark = ("--name", "lark", "--repo", str(repo), "--policy", "ask")
        made.run("run", "-d", *lark, "say hello", timeout=300)
        made.run("run", "-d", "--name", "asker", "--permission-mode", "default", "say hello")
        made.rest("lark", "asker")
        yield made


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium; of a module, because Playwright's loop must not be there when others start theirs."""
    if not CHROMIUM.exists():
        pytest.skip("no chromium on this machine")
    with sync_playwright() as play:
        found = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()
