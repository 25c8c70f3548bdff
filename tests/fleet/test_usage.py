"""Tokens and money: prices by the table, what is not known, and lines that are counted once."""

from __future__ import annotations

from decimal import Decimal

import pytest
from msgspec import structs

from thopter.fleet import prices
from thopter.fleet.usage import _added, total
from thopter.store.usage import Used

DAY = "2026-11-30"


def used(model: str = "claude-opus-5-5", **more: int | str) -> Used:
    given: dict[str, int | str] = {"run": "run_1", "day": DAY, "band": 0, "box": "box_1", **more}
    return Used(model=model, **given)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("model", "more", "usd"),
    [
        ("claude-opus-5-5", {"input": 1_000_000}, "4"),
        ("claude-opus-5-5", {"output": 1_000_000}, "20"),
        ("claude-opus-5-5", {"cache_read": 1_000_000}, "0.2"),
        ("claude-opus-5-5", {"cache_write": 1_000_000}, "5"),
        ("claude-opus-5-5", {"cache_write": 1_000_000, "cache_write_1h": 1_000_000}, "8"),
        ("claude-opus-4-5-20251101", {"input": 3, "output": 1}, "0.00004"),
        ("claude-sonnet-5-5", {"cache_read": 1_000_000, "day": "2026-10-06"}, "0.2"),
        ("claude-sonnet-5-5", {"cache_read": 1_000_000, "day": "2026-10-07"}, "0.1"),
        ("claude-haiku-5-5", {"output": 1_000_000}, "0.5"),
        ("claude-haiku-5-5", {"output": 1_000_000, "band": 1}, "2.5"),
        ("claude-sonnet-4-5", {"input": 1_000_000, "band": 1}, "3"),
        ("claude-sonnet-4-5", {"input": 1_000_000, "band": 2}, "6"),
    ],
)
def test_a_call_costs_what_the_list_says_on_its_day_and_for_its_length(
    model: str, more: dict[str, int | str], usd: str
) -> None:
    assert prices.cost(used(model, **more), prices.table()) == Decimal(usd)


@pytest.mark.parametrize("model", ["scripted-model", "", "claude-opus-55", "claude-opus-5-5x"])
def test_an_unknown_model_has_tokens_and_no_cost(model: str) -> None:
    assert prices.cost(used(model, input=5), prices.table()) is None
    found = total([used(model, input=5), used(input=1_000_000)])
    assert (found.input_tokens, found.cost_usd, found.known_usd) == (1_000_005, None, 4.0)


def test_a_call_before_the_first_price_of_its_model_has_no_price() -> None:
    assert prices.cost(used("claude-haiku-5-5", input=1, day="2026-10-06"), prices.table()) is None


def test_a_call_that_failed_costs_nothing_whatever_its_model() -> None:
    assert total([used("", failed=3)]).cost_usd == 0.0


def test_every_price_has_its_day_and_the_table_says_where_it_is_from() -> None:
    table = prices.table()
    assert table.checked >= "2026-11-30" and "pricing" in table.source
    for price in table.price:
        assert price.since and price.input > 0 and price.output > price.input > price.cache_read
        assert price.cache_write < price.cache_write_1h


def test_the_length_of_a_prompt_decides_its_band() -> None:
    assert [prices.band(n) for n in (0, 100_000, 100_001, 200_000, 200_001)] == [0, 0, 1, 1, 2]


def test_a_line_of_the_gateway_is_read_as_it_was_written_and_nonsense_counts_nothing() -> None:
    tokens = {
        "input_tokens": 5, "output_tokens": 7, "cache_read_input_tokens": 100_000,
        "cache_creation_input_tokens": 4, "cache_1h_input_tokens": 9,
    }  # fmt: skip
    line = {"run": "run_1", "box": "box_1", "at_ms": 1_796_000_000_000, "status": 200, "model": "m",
            "endpoint": "api.anthropic.com"}  # fmt: skip
    (found,) = _added([{**line, "tokens": tokens}], prices.table())
    assert structs.asdict(found) == {
        "run": "run_1", "model": "m", "day": "2026-11-30", "band": 1, "box": "box_1", "requests": 1,
        "failed": 0, "input": 5, "output": 7, "cache_read": 100_000, "cache_write": 4,
        "cache_write_1h": 4, "first_ms": 1_796_000_000_000, "last_ms": 1_796_000_000_000,
    }  # fmt: skip
    assert _added([{}, {"run": 5}, {**line, "at_ms": "x"}, {**line, "run": ""}], prices.table()) == []
    (failed,) = _added(
        [{**line, "status": 529, "tokens": {"input_tokens": -1, "output_tokens": "9"}}], prices.table()
    )
    assert (failed.failed, failed.requests, failed.input, failed.output) == (1, 0, 0, 0)


@pytest.mark.parametrize(
    "endpoint", ["127.0.0.1:4000", "api.anthropic.com:8443", "api.anthropic.com.evil.test", ""]
)
def test_a_known_name_at_another_endpoint_has_no_price(endpoint: str) -> None:
    line = {"run": "r", "box": "b", "at_ms": 1_796_000_000_000, "status": 200, "model": "claude-opus-4-5",
            "endpoint": endpoint, "tokens": {"input_tokens": 5}}  # fmt: skip
    (found,) = _added([line], prices.table())
    assert found.model == f"claude-opus-4-5@{endpoint or '?'}"
    assert total([found]).cost_usd is None
    (paid,) = _added([{**line, "endpoint": "api.anthropic.com"}], prices.table())
    assert total([paid]).cost_usd == 0.000025


def test_an_endpoint_of_the_operators_may_ask_list_prices_too() -> None:
    line = {"run": "r", "box": "b", "at_ms": 1_796_000_000_000, "status": 200, "model": "claude-opus-4-5",
            "endpoint": "proxy.corp:8443", "tokens": {"input_tokens": 5}}  # fmt: skip
    (found,) = _added([line], prices.table("other.corp, proxy.corp:8443"))
    assert total([found]).cost_usd == 0.000025
