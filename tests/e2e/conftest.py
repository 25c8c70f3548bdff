"""End to end: the real command line, hub, boxes and Claude Code; only the model is scripted."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from e2e_lab import Lab, lab

sys.path.append(str(Path(__file__).parent.parent / "notes"))  # the ntfy server


@pytest.fixture(scope="module")
def flight() -> Iterator[Lab]:
    """A lab shared by the tests of one file."""
    with lab() as made:
        yield made
