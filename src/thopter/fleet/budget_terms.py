"""What binds a box's model calls, put together from its policy, the settings and a person's word."""

from __future__ import annotations

from collections.abc import Mapping

from thopter.fleet.boxnet import chosen
from thopter.fleet.deps import Deps
from thopter.kit.settings import Settings
from thopter.model.api.budget import BudgetAmount
from thopter.model.budget import HOUR_MS, PICO, Limit, Terms, What, parse_amount
from thopter.model.nouns import Box, Run
from thopter.store.budgets import Budget

KINDS: tuple[What, ...] = ("usd", "tokens", "turns", "hours")
_UNITS = {"usd": PICO, "tokens": 1, "turns": 1, "hours": HOUR_MS}


def units(amount: BudgetAmount) -> dict[str, int]:
    """By kind, in the units of limits; what is 0 is left out."""
    found = {k: round(getattr(amount, k) * _UNITS[k]) for k in KINDS}
    return {k: v for k, v in found.items() if v}


def people(what: str, amount: int) -> float:
    """From the unit of limits to dollars, hours, …"""
    return amount / _UNITS[what]


def first_budget(settings: Settings, asked: BudgetAmount) -> dict[str, int]:
    """What a new thopter may spend: as asked, else as the setting says, kind by kind."""
    default = str(settings.get("run.budget"))
    return (units(BudgetAmount(**parse_amount(default))) if default.strip() else {}) | units(asked)


def account_of(box: str) -> str:
    """The account of a thopter."""
    return f"box:{box}"


async def terms_of(deps: Deps, box: Box, run: Run) -> Terms:
    """As things are now."""
    policy = policy_name(deps, box, run)
    said = await deps.store.budgets.get(box.id)
    return terms(box, run, policy, budgets_of(deps, policy), said, deps.settings, deps.owner)


def budgets_of(deps: Deps, policy: str) -> Mapping[str, float]:
    """What a policy says of budgets."""
    return deps.policies.info(policy).policy.get("budgets") or {}


def policy_name(deps: Deps, box: Box, run: Run | None) -> str:
    """The policy chosen for a box."""
    name = str(chosen(box).get("name") or "")
    source = run.repo.source if run is not None and run.repo is not None else ""
    return name or str(deps.policies.choose("", source)["name"])


def terms(
    box: Box, run: Run, policy: str, given: Mapping[str, float], said: Budget, settings: Settings, owner: str
) -> Terms:
    """The lower of what policy and person say binds, and what was added comes on top; pure."""
    limits: list[Limit] = []
    for what in KINDS:
        bounds = [b for b in (round(given.get(what, 0) * _UNITS[what]), said.own.get(what, 0)) if b]
        if bounds:
            most = min(bounds) + said.added.get(what, 0)
            limits.append(
                Limit(account=account_of(box.id), what=what, most=most, whose=f"thopter {box.name}")
            )
    daily = {
        f"policy:{policy}": (f"policy {policy}", given.get("usd_per_day", 0), given.get("tokens_per_day", 0)),
        f"user:{owner}": (
            "all thopters", settings.get("budget.usd_per_day"), settings.get("budget.tokens_per_day"),
        ),
    }  # fmt: skip
    for account, (whose, usd, tokens) in daily.items():
        for what, amount in (("usd", usd), ("tokens", tokens)):
            if amount:
                most = round(amount * _UNITS[what])
                limits.append(Limit(account=account, what=what, most=most, whose=whose, daily=True))
    return Terms(
        accounts=(f"run:{run.id}", account_of(box.id)), daily=tuple(daily), limits=tuple(limits),
        name=box.name, endpoints=str(settings.get("prices.endpoints")),
    )  # fmt: skip
