"""Fixtures of the gateway tests."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from gateway_support import Home, home


@pytest.fixture
def place() -> Iterator[Home]:
    """Folders for one test; gateways started in it are ended with it."""
    with home() as found:
        yield found
