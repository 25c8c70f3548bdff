"""One call on the account: asked for before it goes out, noted while its answer comes, settled at its end."""

from __future__ import annotations

from typing import Protocol

from msgspec import structs

from thopter.gateway.model.budget import (
    Amount,
    Asked,
    Over,
    at_worst,
    price_of,
    reach,
    read_asked,
    spent_by,
    unpriced,
)
from thopter.gateway.model.spending import Hold, Spending
from thopter.gateway.model.usage import Reader, Tokens
from thopter.kit.prices import Prices, Rates
from thopter.model.budget import Terms


class Told(Protocol):
    """What is known of a call's answer. ``answered``: it was a success."""

    asked: bool
    answered: bool
    reader: Reader | None


class Meter:
    """For one call of ``box`` to ``endpoint``. Settling twice is settling once."""

    def __init__(
        self, spending: Spending, prices: Prices, box: str, run: str, endpoint: str, at_ms: int
    ) -> None:
        self._spending = spending
        self._prices = prices
        self._box = box
        self._who = {"box": box, "run": run, "endpoint": endpoint}
        self._endpoint = endpoint
        self._at_ms = at_ms
        self._asked: Asked | None = None
        self._hold: Hold | None = None
        self._size = 0

    @property
    def needs_body(self) -> bool:
        """Whether the whole body must be seen before the call may be made."""
        return bool(self._spending.terms.get(self._box, Terms()).limits)

    async def admit(self, body: bytes | None) -> Over | None:
        """Ask for the call (``body`` None: no limit binds it); None when it may go out."""
        worst = Amount(turns=1)
        if body is not None:
            self._asked, self._size = read_asked(body), len(body)
            size = reach(body)
            found = at_worst(self._asked, size, self._endpoint, self._at_ms, self._prices)
            if found is None:
                terms = self._spending.terms.get(self._box, Terms())
                over = unpriced(self._asked, self._endpoint, terms)
                if over is not None:
                    return over
            worst = found or Amount(0, size // 3 + 1 + self._asked.max_tokens, 1)
        word = await self._spending.admit(self._box, worst, self._at_ms, self._who)
        if isinstance(word, Over):
            return word
        self._hold = word
        return None

    def note(self, reader: Reader) -> None:
        """The answer goes on."""
        if self._hold is not None and reader.tokens:
            told = reader.tokens if reader.complete else _guessed(reader)
            self._spending.note(
                self._hold, told, lambda: spent_by(told, self._rates(reader), True), reader.model,
                whole=reader.complete,
            )  # fmt: skip

    def settle(self, told: Told) -> None:
        """The call has ended, however it did."""
        hold, self._hold = self._hold, None
        if hold is None:
            return
        reader = told.reader
        amount, cut = Amount(), False
        if told.answered and reader is not None and reader.tokens:
            cut = not reader.complete
            tokens = _guessed(reader) if cut else reader.tokens
            amount = spent_by(tokens, self._rates(reader), True)
        elif told.answered or told.asked:
            amount, cut = self._unseen(hold, told.answered), True
        tool = reader is not None and reader.stop == "tool_use"
        self._spending.settle(hold, amount, cut=cut, tool=tool)

    def _unseen(self, hold: Hold, answered: bool) -> Amount:
        """Of a call whose use nobody told: the agent went away first, or the answer could not be read. A
        stream ends with its reader, so that only its prompt is charged; anything else is the worst."""
        if self._asked is None or answered or not self._asked.stream:
            return hold.call.worst if self._asked is not None else Amount(turns=1)
        prompt = self._size // 3 + 1
        rates = price_of(self._asked.model, self._endpoint, self._at_ms, prompt, self._prices)
        return spent_by(Tokens(input_tokens=prompt), rates, True)

    def _rates(self, reader: Reader) -> Rates | None:
        """By the model that answered; when it has no price, by the one that was asked for."""
        t = reader.tokens
        prompt = t.input_tokens + t.cache_read_input_tokens + t.cache_creation_input_tokens
        found = price_of(reader.model, self._endpoint, self._at_ms, prompt, self._prices)
        if found is None and self._asked is not None:
            found = price_of(self._asked.model, self._endpoint, self._at_ms, prompt, self._prices)
        return found


def _guessed(reader: Reader) -> Tokens:
    """What an answer used that has not ended: its last report comes only with its end."""
    return structs.replace(reader.tokens, output_tokens=max(reader.tokens.output_tokens, reader.guess))
