"""``thopter approvals``, ``approve`` and ``deny``: what agents ask, and your answer."""

from __future__ import annotations

from collections.abc import Sequence

import click

from thopter.cli.app import App, json_option, name_argument, pass_app
from thopter.cli.queue import short
from thopter.cli.text import ago, fit, now_ms, wrap
from thopter.kit.sanitize import clean, marked, one_line
from thopter.mesh.approvals import ApprovalsClient
from thopter.model.api.approvals import AnswerRequest, Approval
from thopter.model.errors import BadInput, NotFound

_LINES = 40  # of an input, before it is cut in a list; nothing is cut before approving
_WORDS = {"elsewhere": "answered elsewhere", "answering": "being answered"}


@click.command()
@click.argument("name", required=False)
@click.option("-a", "--all", "everything", is_flag=True, help="Also those that are over.")
@json_option()
@pass_app
def approvals(app: App, name: str | None, everything: bool, as_json: bool) -> None:
    """Show what agents ask you, over all thopters or of NAME, oldest first.

    Each is bound to exactly the tool and the input that are shown. "Answered elsewhere": at the
    agent's own terminal. "Expired": nobody can answer it here any more; DETAIL says why.
    """
    found = ApprovalsClient(app.hub).asked(app.name(name) if name else "", everything)
    if as_json:
        return app.json(found)
    if not found:
        app.say("Nobody asks for anything.")
    for n, approval in enumerate(found):
        if n:
            app.out("")
        for line in drawn(approval, now_ms()):
            app.out(line)
    return None


@click.command()
@name_argument()
@click.argument("key", required=False, metavar="[ID]")
@click.option("--for-run", is_flag=True, help="And what it offers not to ask again for, in this run.")
@click.option("--answer", "answers", multiple=True, metavar="TEXT",
              help="The answer to its question; once for each question.")  # fmt: skip
@json_option()
@pass_app
def approve(
    app: App, name: str, key: str | None, for_run: bool, answers: tuple[str, ...], as_json: bool
) -> None:
    """Allow what the agent of NAME asks for, or answer its question. ID only when it asks several.

    Shows exactly what is allowed. The agent gets it once; whoever answers first, here or at its own
    terminal, has answered.
    """
    client = ApprovalsClient(app.hub)
    found = pick(client.asked(app.name(name)), name, key)
    request = AnswerRequest(digest=found.digest, allow=True, for_run=for_run, answers=list(answers))
    _report(app, client.answer(found, request), as_json, "Answered" if answers else "Approved")


@click.command()
@name_argument()
@click.argument("rest", nargs=-1, metavar="[ID] [MESSAGE]")
@json_option()
@pass_app
def deny(app: App, name: str, rest: tuple[str, ...], as_json: bool) -> None:
    """Refuse what the agent of NAME asks for; it is told MESSAGE. ID only when it asks several."""
    client = ApprovalsClient(app.hub)
    asked = client.asked(app.name(name))
    key = rest[0] if rest and any(_is(a, rest[0]) for a in asked) else None
    found = pick(asked, name, key)
    words = " ".join(rest[1:] if key else rest)
    request = AnswerRequest(digest=found.digest, allow=False, message=words)
    _report(app, client.answer(found, request), as_json, "Denied")


def pick(asked: Sequence[Approval], name: str, key: str | None) -> Approval:
    """The one that is meant: the only one, or by (the end of) its id."""
    open_ones = [a for a in asked if a.state == "open"]
    found = [a for a in open_ones if _is(a, key)] if key else open_ones
    if not found and key:
        raise NotFound(
            f"{name} asks nothing with the id {key[:60]!r}", hint=f"see 'thopter approvals {name}'"
        )
    if not found:
        raise NotFound(f"{name} asks for nothing now", hint=f"see 'thopter status {name}'")
    if len(found) > 1:
        ids = ", ".join(f"{short(a.id)} ({one_line(a.summary, 60)})" for a in found[:5])
        raise BadInput(f"{name} asks {len(found)} things", hint=f"say which: {ids}")
    return found[0]


def _is(approval: Approval, key: str) -> bool:
    return len(key) >= 4 and (approval.id == key or approval.id.endswith(key))


def _report(app: App, done: Approval, as_json: bool, word: str) -> None:
    if as_json:
        return app.json(done)
    if done.state == "answering":
        app.say("Recorded; the agent gets it as soon as its box answers.")
    app.out(f"{word} {short(done.id)}: {one_line(done.summary, 200)}")
    if done.allowed_for_run:
        app.out(f"  for this run also: {one_line(done.for_run, 400)}")
    return None


def drawn(approval: Approval, now: int) -> list[str]:
    """An approval in lines: who asks what, then the whole input; safe for a terminal."""
    state = _WORDS.get(approval.state, one_line(approval.state, 20))
    by = f", {one_line(approval.detail, 300)}" if approval.detail else ""
    who = one_line(approval.agent or approval.name, 70)
    head = f"{short(approval.id)}  {who}  {one_line(approval.tool, 60)}"
    lines = [f"{head}  {state}{by}  {ago(approval.asked_ms, now)}"]
    if approval.kind == "question":
        return lines + _questions(approval)
    for name, value in approval.input.items():
        lines += _value(one_line(str(name), 60), value)
    if not approval.whole:
        lines.append("  ! its input is longer than could be recorded: look at it at the terminal")
    hidden = sum(marked(str(v)) for v in approval.input.values())
    if hidden:
        lines.append(f"  ! it holds {hidden} characters that do not show or change how others show")
    if approval.for_run and approval.state == "open":
        lines.append(f"  --for-run would also allow: {one_line(approval.for_run, 400)}")
    if approval.message:
        lines.append(f"  told: {one_line(approval.message, 400)}")
    return lines


def _value(name: str, value: object) -> list[str]:
    import json

    said = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    parts = [clean(p) for p in clean(said).split("\n")]
    lines = [f"  {name}: {parts[0]}", *(f"    {p}" for p in parts[1:])]
    if len(lines) > _LINES:
        left = len(lines) - _LINES
        lines = [*lines[:_LINES], f"    … ({left} more lines; all of it: thopter approvals --json)"]
    return lines


def _questions(approval: Approval) -> list[str]:
    lines = []
    for n, question in enumerate(approval.questions):
        lines += [f"  {line}" for line in wrap(one_line(question.text, 2000), 100)]
        options = " | ".join(one_line(o, 200) for o in question.options)
        if options:
            several = " (several, with commas)" if question.several else ""
            lines.append(fit(f"    {options}{several}", 300))
        if n < len(approval.answers):
            lines.append(f"    answered: {one_line(approval.answers[n], 400)}")
    if approval.message:
        lines.append(f"  told: {one_line(approval.message, 400)}")
    return lines
