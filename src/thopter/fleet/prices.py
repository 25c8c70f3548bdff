"""What counted model calls cost by the price table; pure."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal

from thopter.kit.prices import Prices, at_endpoint, band, cost_of, rates_of, table
from thopter.store.usage import Used

__all__ = ["Prices", "at_endpoint", "band", "cost", "cost_of", "rates_of", "table"]


def cost(used: Used, prices: Prices) -> Decimal | None:
    """USD, exact; None when the price is not known. What used no tokens costs nothing."""
    tokens: Mapping[str, int] = {
        "input": used.input,
        "output": used.output,
        "cache_read": used.cache_read,
        "cache_write": max(used.cache_write - used.cache_write_1h, 0),
        "cache_write_1h": used.cache_write_1h,
    }
    if not any(tokens.values()):
        return Decimal(0)
    rates = rates_of(used.model, used.day, used.band, prices)
    return None if rates is None else cost_of(rates, tokens)
