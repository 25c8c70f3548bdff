"""The local provider is a provider: the suite that every kind must pass."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from local_ways import settings

from thopter.testing.local import LocalPlace
from thopter.testing.provider_suite import ProviderSuite


class TestLocal(ProviderSuite):
    """As whoever runs the tests."""

    @pytest.fixture
    def place(self, tmp_path: Path) -> Iterator[LocalPlace]:
        """Folders of its own."""
        place = LocalPlace(tmp_path, settings())
        try:
            yield place
        finally:
            asyncio.run(place.end())
