"""Tests of notes to people: an ntfy server of one's own for each test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from ntfy_server import NtfyServer, serving


@pytest.fixture
def ntfy() -> Iterator[NtfyServer]:
    """A running server without messages."""
    with serving() as server:
        yield server
