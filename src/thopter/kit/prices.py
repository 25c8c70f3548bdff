"""The price table of model calls in the package, and looking up what one costs by it; pure but for reading
that file once. Both the hub (to tell money) and the model gateway (to stop at budgets) need it."""

from __future__ import annotations

import functools
import re
import tomllib
from collections.abc import Mapping
from decimal import Decimal
from importlib import resources

import msgspec
from msgspec import Struct

BANDS = (100_000, 200_000)  # tokens of a prompt: where some price begins to be another one
_MILLION = Decimal(1_000_000)
_DATE = re.compile(r"-20\d{6}$")


class Rates(Struct, frozen=True, kw_only=True):
    """USD for a million tokens of each kind."""

    input: float
    output: float
    cache_write: float
    cache_write_1h: float
    cache_read: float


class Price(Rates, frozen=True, kw_only=True):
    """Rates of some models from a day on; ``long`` for calls with a prompt of more than ``over`` tokens."""

    models: list[str]
    since: str
    over: int = 0
    long: Rates | None = None

    def __post_init__(self) -> None:
        if (self.long is None) != (self.over == 0) or (self.over and self.over not in BANDS):
            raise ValueError(f"over must be one of {BANDS}, and stand with long")


class Prices(Struct, frozen=True, kw_only=True):
    """The table. ``checked``: the day somebody compared it with its source; ``endpoints`` are those that
    ask these prices."""

    endpoints: list[str]
    checked: str
    source: str
    price: list[Price]


def table(endpoints: str = "") -> Prices:
    """The package's price table; ``endpoints``: further ones (``host[:port]``, commas between) that ask
    the same prices."""
    found = _table()
    more = [e.strip() for e in endpoints.split(",") if e.strip()]
    return msgspec.structs.replace(found, endpoints=[*found.endpoints, *more]) if more else found


@functools.cache
def _table() -> Prices:
    raw = resources.files(__package__).joinpath("prices.toml").read_text("utf-8")
    return msgspec.convert(tomllib.loads(raw), Prices)


def band(prompt_tokens: int) -> int:
    """Which range of prompt lengths a call is in."""
    return sum(prompt_tokens > limit for limit in BANDS)


def at_endpoint(model: str, endpoint: str, prices: Prices) -> str:
    """The name under which calls of ``model`` are counted: its own where these prices are asked, else
    with the endpoint behind it, which has no price. Another server may give any model any name."""
    return model if not model or endpoint in prices.endpoints else f"{model}@{endpoint or '?'}"


def rates_of(model: str, day: str, in_band: int, prices: Prices) -> Rates | None:
    """What such a call cost on that day; None when that is not known."""
    names = (model, _DATE.sub("", model))
    rows = [p for p in prices.price if any(n in p.models for n in names) and p.since <= day]
    if not rows:
        return None
    row = max(rows, key=lambda p: p.since)
    is_long = row.over > 0 and in_band > BANDS.index(row.over)
    return row.long if is_long else row


def cost_of(rates: Rates, tokens: Mapping[str, int]) -> Decimal:
    """USD, exact, for tokens by the names of :class:`Rates`."""
    return sum((Decimal(str(getattr(rates, k))) * n / _MILLION for k, n in tokens.items()), Decimal(0))
