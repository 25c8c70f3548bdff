"""Budgets as pure decisions: may this call be made, must it wait, or is what it may spend used up.

A call is admitted when what was spent, what calls under way may still spend at worst, and what it may
itself spend at worst stay within every limit. Where that does not fit any more but something is left, calls
go one at a time: so all of a budget can be used, and it is exceeded by one call at most.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import msgspec
from msgspec import Struct

from thopter.gateway.model.policy import Refusal
from thopter.gateway.model.usage import Tokens
from thopter.kit.prices import Prices, Rates, band, cost_of, rates_of
from thopter.model.budget import PICO, Limit, Terms, What, day_of, of_day, words

_OUTPUT_UNSAID = 64_000  # tokens of an answer whose bound is not said (the endpoint will refuse the call)
_CONTEXT = 1_000_000
_POINTS = re.compile(rb'"type"\s*:\s*"(?:url|file|document|web_(?:search|fetch)_)')
_HOUR = re.compile(rb'"ttl"\s*:\s*"1h"')
_HIDES = re.compile(rb"\\u00(?:[4-7]|3[0-9])")  # a letter or digit spelled so that the others don't find it
_TOOL_MS = 600_000  # a longer pause before a call is a person who was asked, or a box that was frozen
_BYTES_A_TOKEN = 3  # of a prompt: few texts have more tokens than that


class Amount(Struct, frozen=True):
    """What a call spends, or may spend."""

    pico: int = 0
    tokens: int = 0
    turns: int = 0


class Tally(Struct, kw_only=True):
    """What an account has spent. ``ms``: time of work; ``cut``: answers that were cut off, whose end was
    estimated. ``mark``, ``tool``: up to when time was counted, and whether the agent was at work then."""

    pico: int = 0
    tokens: int = 0
    turns: int = 0
    ms: int = 0
    cut: int = 0
    mark: int = 0
    tool: bool = False

    def charge(self, amount: Amount, cut: bool) -> None:
        """Add a call."""
        self.pico += amount.pico
        self.tokens += amount.tokens
        self.turns += amount.turns
        self.cut += cut

    def work(self, began_ms: int, ended_ms: int, tool: bool) -> None:
        """Add the time of a call, and that since the one before when the agent then went to use a tool.
        Calls side by side count once."""
        gap = _TOOL_MS if self.tool else 0
        since = max(began_ms - gap, self.mark)
        self.ms += max(ended_ms - since, 0)
        if ended_ms >= self.mark:
            self.mark, self.tool = ended_ms, tool

    def of(self, what: What) -> int:
        """How much of one kind, in the unit of limits."""
        return {"usd": self.pico, "tokens": self.tokens, "turns": self.turns, "hours": self.ms}[what]


class Asked(Struct, frozen=True):
    """What the body of a call says that matters here."""

    model: str = ""
    max_tokens: int = 0
    stream: bool = False
    hour: bool = False  # it may have its prompt cached for an hour


class Over(Struct, frozen=True):
    """The call is not made: which limit is reached, and the answer to the agent. ``unpriced``: it is not
    reached, but could not be kept."""

    limit: Limit | None
    spent: int
    refusal: Refusal
    unpriced: bool = False


class Wait(Struct, frozen=True):
    """Another call must end first."""


class _Body(Struct):
    """The three fields that matter; all others are skipped, not kept."""

    model: str
    max_tokens: int | float | None = None
    stream: bool | None = None


def read_asked(body: bytes) -> Asked:
    """Look into a call's body. What can't be read (the endpoint may be less strict) has no model, and the
    longest answer."""
    hour = bool(_HOUR.search(body) or _HIDES.search(body))
    try:
        found = msgspec.json.decode(body, type=_Body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return Asked(max_tokens=_OUTPUT_UNSAID, hour=hour)
    said = found.max_tokens or 0
    most = int(said) if 0 < said < 1 << 24 else _OUTPUT_UNSAID
    return Asked(found.model[:100], most, found.stream is True, hour)


def price_of(model: str, endpoint: str, now_ms: int, prompt: int, prices: Prices) -> Rates | None:
    """List prices where they are asked."""
    return rates_of(model, day_of(now_ms), band(prompt), prices) if endpoint in prices.endpoints else None


def reach(body: bytes) -> int:
    """Bytes of prompt that a body may stand for: what it only points at may fill a model's whole context."""
    whole = _CONTEXT * _BYTES_A_TOKEN
    points = len(body) < whole and bool(_POINTS.search(body) or _HIDES.search(body))
    return whole if points else len(body)


def at_worst(asked: Asked, size: int, endpoint: str, now_ms: int, prices: Prices) -> Amount | None:
    """What a call may spend: its whole prompt written to the cache (the dearest it asks for), and the
    longest answer. None: its price is not known (then only its tokens are)."""
    prompt = size // _BYTES_A_TOKEN + 1
    rates = price_of(asked.model, endpoint, now_ms, prompt, prices)
    if rates is None:
        return None
    dearer = asked.hour and rates.cache_write_1h > rates.cache_write
    written = "cache_write_1h" if dearer else "cache_write"
    usd = cost_of(rates, {written: prompt, "output": asked.max_tokens})
    return Amount(int(usd * PICO), prompt + asked.max_tokens, 1)


def spent_by(tokens: Tokens, rates: Rates | None, answered: bool) -> Amount:
    """What a call spent, exactly."""
    written, hour = tokens.cache_creation_input_tokens, tokens.cache_1h_input_tokens
    hour = min(hour, written)
    kinds = {
        "input": tokens.input_tokens,
        "output": tokens.output_tokens,
        "cache_read": tokens.cache_read_input_tokens,
        "cache_write": written - hour,
        "cache_write_1h": hour,
    }
    pico = int(cost_of(rates, kinds) * PICO) if rates is not None else 0
    return Amount(pico, sum(kinds.values()), int(answered))


def decide(
    terms: Terms,
    worst: Amount,
    now_ms: int,
    tallies: Mapping[str, Tally],
    held: Mapping[str, Sequence[Amount]],
) -> Over | Wait | None:
    """None: the call may be made. See the module."""
    waits = False
    for limit in terms.limits:
        account = of_day(limit.account, now_ms) if limit.daily else limit.account
        spent = tallies.get(account, Tally()).of(limit.what)
        if spent >= limit.most:
            return Over(limit, spent, Refusal(402, "billing_error", words(limit, spent, terms.name)))
        under_way = held.get(account, ())
        more = sum(_kind(a, limit.what) for a in (*under_way, worst))
        waits = waits or (spent + more > limit.most and bool(under_way))
    return Wait() if waits else None


def unpriced(asked: Asked, endpoint: str, terms: Terms) -> Over | None:
    """A budget in money can't be kept for what has no price: such a call is not made."""
    limit = next((li for li in terms.limits if li.what == "usd"), None)
    if limit is None:
        return None
    text = (
        f"the budget of {limit.whose} is in dollars, and the price of {asked.model or 'that model'} at "
        f"{endpoint} is not known; a person can set the budget in tokens, or prices.endpoints"
    )
    return Over(limit, 0, Refusal(402, "billing_error", text), unpriced=True)


def _kind(amount: Amount, what: What) -> int:
    return {"usd": amount.pico, "tokens": amount.tokens, "turns": amount.turns, "hours": 0}[what]
