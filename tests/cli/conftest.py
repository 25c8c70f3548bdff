"""Folders for each test of the command line, short enough for unix sockets."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from cli_support import Cli, folders

sys.path.insert(0, str(Path(__file__).parents[1] / "e2e"))  # for the lab that both use


@pytest.fixture
def cli() -> Iterator[Cli]:
    """A command line of its own; its folders are removed afterwards."""
    with folders() as root:
        yield Cli(root)
