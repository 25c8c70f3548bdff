"""Everything again as an ordinary user: root starts the same tests under a user id of nobody's."""

from __future__ import annotations

import pytest
from local_ways import HERE, as_user

from thopter.model.errors import Refused
from thopter.model.nouns import Isolation
from thopter.providers.local import modes

FILES = (
    "test_local_conformance.py",
    "test_local_walls.py",
    "test_local_daily_work.py",
    "test_local_limits.py",
    "test_local_saving.py",
    "test_local_carrying.py",
)


@pytest.mark.battery("S2", "S4", "S5", "S6", "S7", "S8")
@pytest.mark.root
@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("file", FILES)
def test_as_an_ordinary_user(file: str) -> None:
    user = 54_321 + FILES.index(file)  # one each: they may run at the same time
    as_user(user, str(HERE / file))


@pytest.mark.battery("S1")
def test_root_never_falls_back_to_anything_weaker() -> None:
    assert [m.isolation for m in modes.choices(0, 0, "auto")] == [Isolation.NAMESPACES_IDMAPPED]
    for asked in ("namespaces-user", "bubblewrap", "none"):
        with pytest.raises(Refused, match="can't be had by root"):
            modes.choices(0, 0, asked)


def test_what_cannot_be_had_is_refused_with_the_reason() -> None:
    with pytest.raises(Refused, match="takes root") as caught:
        modes.choices(1000, 1000, "namespaces-idmapped")
    assert "bubblewrap" in caught.value.hint
    with pytest.raises(Refused, match="host's root") as caught:
        modes.choices(0, 0, "none")
    assert "ordinary user" in caught.value.hint


def test_an_ordinary_user_falls_back_in_order_and_root_may_ask_for_a_container() -> None:
    weaker = [Isolation.NAMESPACES_USER, Isolation.BUBBLEWRAP, Isolation.CONTAINER]
    assert [m.isolation for m in modes.choices(1000, 1000, "auto")] == weaker
    assert [m.isolation for m in modes.choices(0, 0, "container")] == [Isolation.CONTAINER]
    assert [m.isolation for m in modes.choices(1000, 1000, "none")] == [Isolation.NONE]


def test_no_isolation_is_never_chosen_by_itself() -> None:
    for uid in (0, 1000):
        assert Isolation.NONE not in [m.isolation for m in modes.choices(uid, uid, "auto")]
