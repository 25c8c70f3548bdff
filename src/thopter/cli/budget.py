"""``thopter budget``: what a thopter may spend of models and has spent, and raising it."""

from __future__ import annotations

import click

from thopter.cli.app import App, json_option, name_argument, pass_app
from thopter.cli.text import plural, table
from thopter.kit.sanitize import one_line
from thopter.mesh import budget as calls
from thopter.model.api.budget import BudgetAmount, BudgetRequest, BudgetView
from thopter.model.budget import parse_amount


@click.command()
@name_argument()
@click.option("--add", "more", metavar="AMOUNT", help="Raise it by that much, e.g. 5usd or 100turns.")
@click.option("--set", "new", metavar="AMOUNT", help="Set it anew; a lower one of its policy still binds.")
@click.option("--no-go-on", "rest", is_flag=True, help="Do not tell an agent that it stopped to go on.")
@json_option()
@pass_app
def budget(app: App, name: str, more: str | None, new: str | None, rest: bool, as_json: bool) -> None:
    """Show what NAME may spend of its models and has spent; --add raises it.

    AMOUNT is dollars by list prices (5usd), tokens of every kind (3Mtokens), answers of the model
    (200turns) or hours of work (2h, 90min), with commas between. When it is used up the model gateway makes
    no further call, whatever the agent does; a raised budget is in force at once, and an agent that was
    stopped is told to go on.
    """
    name = app.name(name)
    if more or new:
        request = BudgetRequest(add=_amount(more), set=_amount(new), go_on=not rest)
        found = calls.change(app.hub, name, request)
    else:
        found = calls.view(app.hub, name)
    if as_json:
        return app.json(found)
    _show(app, found)


def _amount(text: str | None) -> BudgetAmount:
    return BudgetAmount(**parse_amount(text)) if text else BudgetAmount()


def _show(app: App, found: BudgetView) -> None:
    if not found.limits:
        s = found.spent
        app.out(f"{one_line(found.name, 61)} has no budget; spent: ${s.usd:.4f}, {s.tokens:,} tokens, "
                f"{s.turns:,} turns, {s.hours:.2f} hours.")  # fmt: skip
    rows = [
        (
            one_line(line.whose, 80), line.what + (" a day" if line.daily else ""), one_line(line.text, 80),
            f"{100 * line.spent / line.most:.0f}%" if line.most else "-",
        )
        for line in found.limits
    ]  # fmt: skip
    for text in table(("WHOSE", "OF", "SPENT", ""), rows) if rows else []:
        app.out(text.rstrip())
    if found.cut_off:
        app.say(f"{plural(found.cut_off, 'answer')} cut off before the end: what those cost is estimated")
    if found.problem:
        app.say(f"no call is made on a budget now: the account can't be written ({one_line(found.problem)})")
    if found.told_to_go_on:
        app.say("Its agent is told to go on.")
