"""Labs for the tests of providers."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from local_lab import Lab
from local_ways import settings


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests marked ``root`` need a root hub; as an ordinary user they are skipped, and counted."""
    if os.geteuid() != 0:
        for item in items:
            if item.get_closest_marker("root"):
                item.add_marker(pytest.mark.skip(reason="needs root"))


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A lab shared by the tests of one file."""
    made = Lab(tmp_path_factory.mktemp("lab"), settings())
    try:
        yield made
    finally:
        made.end()


@pytest.fixture
def own_lab(tmp_path: Path) -> Iterator[Lab]:
    """A lab for one test alone."""
    made = Lab(tmp_path, settings())
    try:
        yield made
    finally:
        made.end()
