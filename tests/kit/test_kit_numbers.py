"""Numbers that people write: what can't be reckoned with is refused where it is read, with a reason."""

from __future__ import annotations

import pytest

from thopter.kit.settings import SETTINGS, parse
from thopter.model.budget import parse_amount
from thopter.model.errors import BadInput

NO_NUMBERS = [
    float("inf"),
    float("-inf"),
    float("nan"),
    "inf",
    "-inf",
    "nan",
    "1e400",
    "9" * 400,
    10**400,
    -1,
]
NUMBERS = [s.key for s in SETTINGS if type(s.default) in (int, float)]


@pytest.mark.parametrize("raw", NO_NUMBERS, ids=[str(n)[:8] for n in NO_NUMBERS])
def test_no_setting_takes_a_number_that_is_none(raw: object) -> None:
    assert {type(parse(key, 1, "test").value) for key in NUMBERS} == {int, float}
    for key in NUMBERS:
        with pytest.raises(BadInput, match=key):
            parse(key, raw, "test")


@pytest.mark.parametrize(
    "text",
    [
        "9" * 400 + "tokens", "9" * 400 + "turns", "9" * 400 + "usd", "$" + "9" * 400, "9" * 400 + "h",
        "9" * 400 + "min", "9" * 16 + "Gtokens", "2000000000usd", "1" + "0" * 5000 + "tokens",
    ],
    ids=lambda text: text[:3] + text[-8:],
)  # fmt: skip
def test_a_budget_beyond_all_sense_is_refused_with_what_it_can_be(text: str) -> None:
    with pytest.raises(BadInput, match="more than a budget can be") as refused:
        parse_amount(text)
    assert "at most" in refused.value.hint


@pytest.mark.parametrize("text", ["0usd", "0tokens", "0.5tokens", "0.0001turns", "0.0000000000001usd", "0h"])
def test_a_budget_of_nothing_is_never_taken_for_none_at_all(text: str) -> None:
    with pytest.raises(BadInput, match="more than nothing"):
        parse_amount(text)


def test_ordinary_budgets_are_read() -> None:
    found = parse_amount("$5, 90min, 200turns, 1.5Mtokens")
    assert found == {"usd": 5.0, "hours": 1.5, "turns": 200, "tokens": 1_500_000}
    assert parse_amount("0.01usd") == {"usd": 0.01} and parse_amount("1token") == {"tokens": 1}
