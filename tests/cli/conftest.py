"""Folders for each test of the command line, short enough for unix sockets."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from cli_support import Cli


@pytest.fixture
def cli() -> Iterator[Cli]:
    """A command line of its own; its folders are removed afterwards."""
    root = Path(tempfile.mkdtemp(prefix="thc-"))
    try:
        yield Cli(root)
    finally:
        shutil.rmtree(root, ignore_errors=True)
