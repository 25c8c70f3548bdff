"""Random kills of everything there is: what was acknowledged is there afterwards, once, and nothing leaks.

``THOPTER_SURVIVE_ROUNDS`` makes it longer; the bench case ``survive`` runs the long one.
"""

from __future__ import annotations

import os

import pytest
from e2e_lab import lab

from thopter.testing.survive import SCENARIO, Survival, repository

pytestmark = [pytest.mark.claude, pytest.mark.root, pytest.mark.xdist_group("e2e"), pytest.mark.timeout(900)]

_ROUNDS = int(os.environ.get("THOPTER_SURVIVE_ROUNDS", "2"))
_NAMES = ("ada", "ben", "cy")


def test_random_kills_lose_double_and_leak_nothing() -> None:
    with lab(SCENARIO) as made:
        repo = repository(made.folder / "notes", made.env)
        for name in _NAMES:
            made.run("run", "-d", "--repo", str(repo), "--name", name, "Wait for my notes.", timeout=300)
        made.rest(*_NAMES)
        survival = Survival(made.env, _NAMES, seed=20261130)
        for _ in range(_ROUNDS):
            survival.round()
        report = survival.report
        assert report.trials == _ROUNDS * len(_NAMES) and report.acknowledged > 0
        assert sum(report.kills.values()) > 0, "somebody really died"
        assert report.clean, report
