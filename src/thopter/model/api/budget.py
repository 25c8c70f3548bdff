"""What thopters may spend of their models, and have spent."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct, field

_Money = Annotated[float, Meta(ge=0, le=1e9)]
_Count = Annotated[int, Meta(ge=0, le=1 << 50)]


class BudgetAmount(Struct, kw_only=True):
    """Dollars by list prices, tokens of every kind, answers of the model, hours of work; 0 says nothing."""

    usd: _Money = 0.0
    tokens: _Count = 0
    turns: _Count = 0
    hours: _Money = 0.0


class BudgetRequest(Struct, kw_only=True):
    """``POST /v1/thopters/{name}/budget``: ``set`` anew what is not 0, then ``add``. ``go_on``: tell an
    agent that was stopped by its budget to go on."""

    add: BudgetAmount = field(default_factory=BudgetAmount)
    set: BudgetAmount = field(default_factory=BudgetAmount)
    go_on: bool = True


class BudgetLine(Struct, kw_only=True):
    """One limit. Amounts in dollars, tokens, turns or hours by ``what``; ``whose``: what it binds."""

    what: str
    whose: str
    most: float
    spent: float
    daily: bool = False
    text: str = ""


class BudgetView(Struct, kw_only=True):
    """``GET /v1/thopters/{name}/budget``. ``spent`` is the thopter's own, by all that is counted;
    ``cut_off``: answers that were cut off, whose end is estimated in it; ``under_way``: calls now.
    ``told_to_go_on``: its agent hears that it can go on. ``problem``: why calls can't be counted now."""

    name: str
    box: str
    limits: list[BudgetLine]
    spent: BudgetAmount
    cut_off: int = 0
    under_way: int = 0
    told_to_go_on: bool = False
    problem: str = ""
