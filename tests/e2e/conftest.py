"""End to end: the real command line, hub, boxes and Claude Code; only the model is scripted."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import pytest_rerunfailures
from e2e_lab import Lab, lab

sys.path.append(str(Path(__file__).parent.parent / "notes"))  # the ntfy server


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """A second try begins in a lab of its own: thopters, words and files of the first would be in its way."""
    if getattr(item, "execution_count", 1) > 1:
        # The plug-in holds what shared fixtures have to do at their end until the last try is over.
        pytest_rerunfailures._restore_suspended_finalizers(item)
        item.session._setupstate.teardown_exact(None)


@pytest.fixture(scope="module")
def flight() -> Iterator[Lab]:
    """A lab shared by the tests of one file."""
    with lab() as made:
        yield made
