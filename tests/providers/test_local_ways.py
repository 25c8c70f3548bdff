"""The weaker ways of keeping boxes apart: each passes the suite that every provider must pass."""

from __future__ import annotations

import pytest
from local_ways import HERE, as_user, need

USERS = {"bubblewrap": 54_331, "none": 54_332}


@pytest.mark.root
@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("way", USERS)
def test_boxes_of_an_ordinary_user_made_otherwise_pass_the_suite(way: str) -> None:
    need(way)
    as_user(USERS[way], str(HERE / "test_local_conformance.py"), way=way)
