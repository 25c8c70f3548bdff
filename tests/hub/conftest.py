"""Fixtures: a hub for each test file (shared by its tests), and folders of one's own."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hub_support import HubProcess, hub_process, short_folder

sys.path.append(str(Path(__file__).parent.parent / "cli"))  # the command line in a terminal


@pytest.fixture(scope="module")
def hub() -> Iterator[HubProcess]:
    """A ready hub with both doors, for the tests of one file."""
    with short_folder() as root, hub_process(root, "--listen", "127.0.0.1:0") as found:
        yield found


@pytest.fixture
def root() -> Iterator[Path]:
    """A folder of this test, with a path short enough for sockets."""
    with short_folder() as found:
        yield found


@pytest.fixture
def own(root: Path) -> Iterator[HubProcess]:
    """A hub of this test alone, not started yet."""
    found = HubProcess(root)
    yield found
    found.end()


@pytest.fixture(scope="module")
def box(hub: HubProcess) -> str:
    """The name of a thopter of that hub."""
    assert hub.post("/v1/thopters", {"name": "box"}).status_code == 202
    return "box"
