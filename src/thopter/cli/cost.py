"""``thopter cost``: the tokens and the money that runs used of their models."""

from __future__ import annotations

import click

from thopter.cli.app import App, json_option, pass_app
from thopter.cli.text import plural, table
from thopter.kit.sanitize import one_line
from thopter.mesh.usage import usage_report
from thopter.model.api.usage import ModelUse, Usage, UsageReport

_HEADER = ("NAME", "MODEL", "CALLS", "FAILED", "INPUT", "OUTPUT", "CACHE READ", "CACHE WRITE", "USD")


@click.command()
@click.argument("name", required=False)
@click.option("-a", "--all", "everything", is_flag=True, help="Also those that are gone.")
@json_option()
@pass_app
def cost(app: App, name: str | None, everything: bool, as_json: bool) -> None:
    """Show what runs used of their models: calls, tokens, and what they cost, of NAME or of all.

    Money is by list prices, before discounts and subscriptions. "?" means that the price of a model
    is not known; nothing is guessed.
    """
    report = usage_report(app.hub, app.name(name) if name else "", everything)
    if as_json:
        return app.json(report)
    if not report.runs:
        app.say("No model was called.")
        return None
    for line in table(_HEADER, _rows(report)):
        app.out(line.rstrip())
    if report.total.cost_usd is None:
        app.say(f"? : a price that is not known; the rest costs {money(report.total.known_usd)}")
    if report.lost:
        app.say(f"{plural(report.lost, 'call')} could not be counted: the hub was away for too long")
    app.say(f"list prices as of {report.prices}")
    return None


def _rows(report: UsageReport) -> list[tuple[str, ...]]:
    rows = []
    for run in report.runs:
        name = one_line(run.name, 61) + (" (gone)" if run.gone else "")
        models = run.usage.models or [ModelUse(model="-")]
        if len(models) == 1:  # failed calls name no model
            models[0].failed = run.usage.failed
        rows += [(name, one_line(m.model, 60), *_numbers(m)) for m in models]
    if len(rows) > 1:
        rows.append(("total", "", *_numbers(report.total)))
    return rows


def _numbers(use: ModelUse | Usage) -> tuple[str, ...]:
    counts = (
        use.requests, use.failed, use.input_tokens, use.output_tokens, use.cache_read_tokens,
        use.cache_write_tokens,
    )  # fmt: skip
    return (*(f"{n:,}" for n in counts), money(use.cost_usd))


def money(usd: float | None) -> str:
    """``1.23``, more places for little, ``?`` for what is not known."""
    if usd is None:
        return "?"
    return f"{usd:.2f}" if usd >= 0.1 or usd == 0 else f"{usd:.4f}"


def tokens(use: Usage) -> str:
    """``12 calls, 34,567 tokens in (30,000 of them cached), 890 out``."""
    cached = use.cache_read_tokens + use.cache_write_tokens
    said = f"{plural(use.requests, 'call')}, {use.input_tokens + cached:,} tokens in"
    said += f" ({use.cache_read_tokens:,} from cache)" if use.cache_read_tokens else ""
    return said + f", {use.output_tokens:,} out" + (f", {use.failed} failed" if use.failed else "")
