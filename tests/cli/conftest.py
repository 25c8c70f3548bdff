"""Folders for each test of the command line, short enough for unix sockets."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from cli_support import Cli, folders


@pytest.fixture
def cli() -> Iterator[Cli]:
    """A command line of its own; its folders are removed afterwards."""
    with folders() as root:
        yield Cli(root)
