"""``thopter policy``: what boxes may reach: every policy, a file's faults, and single questions."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from thopter.cli.app import App, complete_name, json_option, pass_app
from thopter.cli.text import paint, plural
from thopter.kit.sanitize import one_line
from thopter.model.errors import BadInput, NotFound, Refused

if TYPE_CHECKING:
    from thopter.model.api.egress import Finding, PolicyInfo


@click.group()
def policy() -> None:
    """What boxes may reach, and by whose word. The file is policy.toml in the config folder."""


@policy.command()
@click.argument("name", required=False)
@json_option()
@pass_app
def show(app: App, name: str | None, as_json: bool) -> None:
    """Show every policy, or all that NAME allows."""
    from thopter.mesh.egress import policies

    book = policies(app.hub)
    if name is None:
        if as_json:
            return app.json(book)
        for info in book.policies:
            mark = "*" if info.name == book.default else " "
            app.out(f"{mark} {info.name:<14} {info.origin:<8} {one_line(info.doc, 120)}")
        for repo, chosen in book.repos.items():
            app.out(f"  {one_line(repo, 80)} -> {chosen}")
        if book.problem:
            app.say(f"policy.toml can't be used ({book.source} in force): {one_line(book.problem, 300)}")
        return None
    found = next((p for p in book.policies if p.name == name), None)
    if found is None:
        known = ", ".join(p.name for p in book.policies)
        raise NotFound(f"there is no policy {name!r}", hint=f"known: {known}")
    return app.json(found) if as_json else _print(app, found)


@policy.command()
@click.argument("file", required=False, type=click.Path(path_type=Path))
@json_option()
@pass_app
def check(app: App, file: Path | None, as_json: bool) -> None:
    """Look FILE (by default the policy file in force) over, line by line. Exit 1 when it can't be used."""
    from thopter.mesh.egress import check as ask

    file = file or app.paths.config / "policy.toml"
    try:
        text = file.read_text("utf-8")
    except FileNotFoundError:
        raise NotFound(f"there is no {file}", hint="without it the shipped policies are in force") from None
    except (OSError, UnicodeDecodeError) as e:
        raise BadInput(f"{file} can't be read: {e}") from None
    found = ask(app.hub, text)
    if as_json:
        app.json(found)
    else:
        _findings(app, file, found.problems, "red")
        _findings(app, file, found.warnings, "yellow")
        if not found.problems:
            app.out(
                "it can be used" + (f"; {plural(len(found.warnings), 'warning')}" if found.warnings else "")
            )
    if found.problems:
        app.exit(1)


def _findings(app: App, file: Path, found: list[Finding], colour: str) -> None:
    word = "problem" if colour == "red" else "warning"
    for f in found:
        app.out(f"{file}:{f.line}: {paint(word, colour, on=app.colour)}: {one_line(f.text, 400)}")


@policy.command()
@click.argument("url")
@click.option("--policy", "by", metavar="POLICY", help="By this policy; default: the default one.")
@click.option("--thopter", metavar="NAME", help="As that thopter, with what it was allowed besides.",
              shell_complete=complete_name)  # fmt: skip
@click.option("--method", metavar="METHOD", default="GET", show_default=True, help="The HTTP method.")
@json_option()
@pass_app
def test(app: App, url: str, by: str | None, thopter: str | None, method: str, as_json: bool) -> None:
    """Would a request to URL (or a tunnel to HOST:PORT) go out? Sends nothing. Exit 6 when not."""
    from thopter.mesh.egress import test as ask

    found = ask(app.hub, url, method.upper(), by or "", app.name(thopter) if thopter else "")
    if as_json:
        app.json(found)
    elif found.verdict == "allow":
        how = "TLS is opened" if found.inspect else one_line(found.note, 200)
        more = f", credential {found.credential} is added" if found.credential else ""
        app.out(f"allowed by policy {found.policy}, rule {one_line(found.rule, 80)}: {how}{more}")
    else:
        word = "asks a person" if found.verdict == "ask" else f"denied ({found.code})"
        app.out(f"{word}: {one_line(found.reason, 300)}")
    if found.verdict != "allow":
        app.exit(6)


@policy.command()
@click.argument("name", shell_complete=complete_name)
@json_option()
@pass_app
def explain(app: App, name: str, as_json: bool) -> None:
    """Say which policy thopter NAME has, why, and all that it allows."""
    from thopter.mesh.egress import view

    found = view(app.hub, app.name(name), 1)
    if as_json:
        return app.json(found)
    app.out(f"{found.name} has policy {found.policy}: {one_line(found.why, 200)}")
    if found.isolation:
        least = f" (at least {found.least} was asked for)" if found.least else ""
        app.out(f"  its box: isolation {found.isolation}{least}")
    for grant in found.grants:
        app.out(f"  a person allowed it {one_line(grant.host, 260)} port {grant.port}")
    if found.info is None:
        raise Refused("the hub did not say what that policy allows", hint="thopter hub restart")
    return _print(app, found.info)


def _print(app: App, info: PolicyInfo) -> None:
    """A policy in words."""
    fields = info.policy
    app.out(f"policy {info.name} ({info.origin}): {one_line(info.doc, 200)}")
    for registry in fields.get("registries", []):
        app.out(f"  registry {registry}: GET and HEAD only")
    for rule in fields.get("rules", []):
        if not str(rule["name"]).startswith("registry "):
            app.out("  " + one_line(_rule(rule), 400))
    for pattern in fields.get("deny", []):
        app.out(f"  never {one_line(str(pattern), 260)}")
    for credential in fields.get("credentials", []):
        hosts = ", ".join(credential["hosts"])
        named = f"credential {credential['name']} (secret {credential['secret']})"
        app.out(f"  {named}: only to {one_line(hosts, 260)}")
    unknown = fields.get("unknown", "deny")
    app.out(f"  everything else: {'a person is asked' if unknown == 'ask' else 'denied'}")
    limits: dict[str, Any] = fields.get("limits", {})
    app.out("  limits: " + ", ".join(f"{k} {v:g}" for k, v in limits.items() if v))
    _walls(app, fields)


def _walls(app: App, fields: dict[str, Any]) -> None:
    """How strong its boxes are, and what may be run in them by hand."""
    isolation = fields.get("isolation", "any")
    if isolation != "any":
        app.out(f"  isolation: {isolation} or stronger")
    most: dict[str, Any] = fields.get("box", {})
    if any(most.values()):
        app.out("  a box has at most: " + ", ".join(f"{k} {v:g}" for k, v in most.items() if v))
    commands: dict[str, Any] = fields.get("commands", {})
    mode = commands.get("mode", "any")
    if mode == "any":
        return
    whom = "everybody" if commands.get("admins", True) else "who has not the scope admin"
    files = "files may be carried" if commands.get("files") else "no files may be carried"
    app.out(f"  commands by hand: {mode}, for {whom}; {files}")
    for words in commands.get("allow", []):
        app.out("    " + one_line(" ".join(repr(w) if " " in w or not w else w for w in words), 300))


def _rule(rule: dict[str, Any]) -> str:
    ports = ",".join(str(p) for p in rule.get("ports", [443]))
    words = [f"{rule['name']}: {', '.join(rule['hosts'])} port {ports}:"]
    words.append(", ".join(rule.get("methods") or ["any method"]))
    words.append(", ".join(rule.get("paths") or []))
    words.append("TLS is opened" if rule.get("inspect") else "as it comes")
    if rule.get("credential"):
        words.append(f"with credential {rule['credential']}")
    return " ".join(w for w in words if w)
