"""What binds the model calls of a box: the accounts they are charged to, their limits, and words for them."""

from __future__ import annotations

import re
import time
from typing import Any, Literal

from msgspec import Struct

from thopter.model.errors import BadInput

PICO = 10**12  # of a dollar: list prices are whole numbers of these for a token
HOUR_MS = 3_600_000
What = Literal["usd", "tokens", "turns", "hours"]
_PART = re.compile(r"(\d+(?:\.\d+)?)\s*(k|M|G)?\s*([a-z]+)")
_WORDS: dict[str, What] = {
    "usd": "usd", "dollars": "usd", "tok": "tokens", "token": "tokens", "tokens": "tokens",
    "turn": "turns", "turns": "turns", "h": "hours", "hour": "hours", "hours": "hours",
}  # fmt: skip
_SCALE = {"": 1, "k": 1_000, "M": 1_000_000, "G": 1_000_000_000}


class Limit(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """At most ``most`` (pico-dollars, tokens, turns or milliseconds) of ``account``; ``daily``: each day
    (UTC) anew. ``whose``: what people call that account."""

    account: str
    what: What
    most: int
    whose: str = "this thopter"
    daily: bool = False


class Terms(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What binds the calls of a box: accounts that they are charged to (``daily``: each day anew),
    limits, the thopter's ``name`` for what is said, and further ``endpoints`` that ask list prices."""

    accounts: tuple[str, ...] = ()
    daily: tuple[str, ...] = ()
    limits: tuple[Limit, ...] = ()
    name: str = ""
    endpoints: str = ""

    def charged(self, now_ms: int) -> tuple[str, ...]:
        """The accounts of a call made now."""
        return (*self.accounts, *(of_day(a, now_ms) for a in self.daily))


def of_day(account: str, now_ms: int) -> str:
    """The account of a day."""
    return f"{account}@{day_of(now_ms)}"


def day_of(now_ms: int) -> str:
    """The day (UTC) of a moment."""
    return time.strftime("%Y-%m-%d", time.gmtime(now_ms / 1000))


def words(limit: Limit, spent: int, name: str) -> str:
    """The sentence that agent and person are told when a limit is reached."""
    text = f"the budget of {limit.whose} is used up: {shown(limit.what, spent)} of "
    text += shown(limit.what, limit.most) + (" today" if limit.daily else "")
    if limit.daily:
        return text + "; a person can raise it where it is set, or tomorrow (UTC) it begins anew"
    return text + (f"; a person can raise it: thopter budget {name} --add AMOUNT" if name else "")


def shown(what: What, amount: int) -> str:
    """An amount for people."""
    if what == "usd":
        usd = amount / PICO
        return f"${usd:.2f}" if usd >= 1 or usd == 0 else f"${usd:.4f}"
    if what == "hours":
        return f"{amount / HOUR_MS:.2f} hours"
    return f"{amount:,} {what}"


def parse_amount(text: str) -> dict[str, Any]:
    """Read ``5usd,2h,200turns,3Mtokens`` (also ``$5``, ``90min``); BadInput."""
    found: dict[str, float] = {}
    for part in (p.strip() for p in text.split(",")):
        match = _PART.fullmatch(part.removeprefix("$") + "usd" if part.startswith("$") else part)
        word = match[3] if match else ""
        if match is None or (word not in _WORDS and word not in ("m", "min")):
            raise BadInput(
                f"{part[:40]!r} is no budget", hint="e.g. 5usd, 2h, 200turns or 3Mtokens, with commas between"
            )
        kind = _WORDS.get(word, "hours")
        amount = float(match[1]) * _SCALE[match[2] or ""] / (60 if word in ("m", "min") else 1)
        if kind in found:
            raise BadInput(f"{text[:60]!r} says {kind} twice")
        if amount < (1 if kind in ("tokens", "turns") else 1e-6):  # nothing would mean: no limit
            raise BadInput(f"{part[:40]!r}: a budget is more than nothing")
        most = 10**15 if kind in ("tokens", "turns") else 10**9
        if amount > most:  # also what is no number any more
            raise BadInput(f"{part[:40]!r} is more than a budget can be", hint=f"at most {most:,} {kind}")
        found[kind] = amount
    return {k: int(v) if k in ("tokens", "turns") else v for k, v in found.items()}
