"""What a run used of its models: tokens, calls, and money where the prices are known."""

from __future__ import annotations

from msgspec import Struct, field


class ModelUse(Struct, kw_only=True):
    """Of one model. ``cost_usd`` is null when its price is not known: nothing is guessed.
    ``cache_write_tokens`` includes ``cache_write_1h_tokens``."""

    model: str
    requests: int = 0
    failed: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    cache_write_1h_tokens: int = 0
    cost_usd: float | None = 0.0


class Usage(Struct, kw_only=True):
    """Of a run, all models together: list prices, before any discount or subscription. ``cost_usd`` is
    null when the price of some of it is not known; ``known_usd`` is what the rest costs."""

    requests: int = 0
    failed: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    cache_write_1h_tokens: int = 0
    cost_usd: float | None = 0.0
    known_usd: float = 0.0
    first_ms: int = 0
    last_ms: int = 0
    models: list[ModelUse] = field(default_factory=list)


class RunUsage(Struct, kw_only=True):
    """One run of ``GET /v1/usage``. ``gone``: its thopter was destroyed."""

    name: str
    box: str
    run: str
    usage: Usage
    gone: bool = False


class UsageReport(Struct, kw_only=True):
    """``GET /v1/usage?name=&all=``: by run, newest last. ``prices``: the day the price table was checked.
    ``lost``: calls that could not be counted because the hub was away for too long."""

    runs: list[RunUsage]
    total: Usage
    prices: str = ""
    lost: int = 0
