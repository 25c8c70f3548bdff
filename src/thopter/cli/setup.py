"""``thopter setup``: a short wizard for the model endpoint and its credential; every answer is a flag too."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

import click

from thopter.cli.app import App, pass_app
from thopter.cli.config import write_setting
from thopter.kit.sanitize import one_line
from thopter.kit.secrets import CLAUDE, Secret, SecretStore, claude_credential, secret
from thopter.model.errors import BadInput, NotAllowed, ThopterError

if TYPE_CHECKING:
    from http.client import HTTPConnection

SOURCES = ("env", "prompt", "stdin", "keep", "none")
_TIMEOUT = 20.0


@click.command()
@click.option("--base-url", metavar="URL", help="The model endpoint of Claude Code.")
@click.option(
    "--credential-from",
    type=click.Choice(SOURCES),
    metavar="SOURCE",
    help="env (ANTHROPIC_API_KEY and the like), prompt, stdin, keep (the stored one), or none.",
)
@click.option(
    "--kind",
    type=click.Choice(["x-api-key", "bearer"]),
    help="How it is sent; default: bearer for OAuth tokens, x-api-key for keys.",
)
@click.option("--model", metavar="MODEL", help="The model to use; '' is the agent's own default.")
@click.option("--permission-mode", metavar="MODE", help="The agent's permission mode inside a box.")
@click.option("--owner", metavar="NAME", help="Who owns new thopters.")
@click.option("--no-verify", is_flag=True, help="Do not try the endpoint.")
@click.option("--yes", "-y", is_flag=True, help="Ask nothing: what no flag says stays as it is.")
@pass_app
def setup(
    app: App, base_url: str | None, credential_from: str | None, kind: str | None, model: str | None,
    permission_mode: str | None, owner: str | None, no_verify: bool, yes: bool,
) -> None:  # fmt: skip
    """Say which model endpoint and credential agents use. The credential never gets into a box.

    It is kept in the desktop's keyring where there is one, else in a file only you can read.
    """
    ask = not yes and app.asks()
    nothing_given = not any((base_url, credential_from, model is not None, permission_mode, owner))
    if not ask and not yes and nothing_given:
        raise click.UsageError("there is no terminal to ask on: give the answers as flags, or --yes")
    now = str(app.settings.get("agents.claude.base_url"))
    url = base_url or (str(click.prompt("Model endpoint", default=now, err=True)) if ask else now)
    check_url(url, app.say)
    store = SecretStore(app.paths, app.env)
    credential = _credential(app, store, credential_from, kind, ask)
    answers = {
        "agents.claude.base_url": url if base_url or url != now else None,
        "agents.claude.model": model,
        "agents.claude.permission_mode": permission_mode,
        "owner": owner,
    }
    _check(answers)
    if not no_verify and credential is not None:
        app.say(f"trying {one_line(url)} ...")
        app.say("  " + verify(url, credential, model or app.settings.get("agents.claude.model")))
    for key, value in answers.items():
        if value is not None:
            write_setting(app.paths, key, value)
            app.out(f"{key} = {one_line(value) or '(default)'}")
    if credential is not None and credential != store.get(CLAUDE):
        where = store.set(CLAUDE, credential)
        kept = "the keyring" if where == "keyring" else app.paths.config / "secrets.json"
        app.out(f"The credential is kept in {kept}.")
    elif credential_from == "none" and store.delete(CLAUDE):
        app.out("The stored credential was removed.")
    app.say("A running hub takes it with 'thopter hub restart'. Then: thopter run --repo . \"what to do\"")


def _check(answers: dict[str, str | None]) -> None:
    from thopter.kit.settings import parse

    for key, value in answers.items():
        if value is not None:
            parse(key, value, "flag")


def _credential(
    app: App, store: SecretStore, source: str | None, kind: str | None, ask: bool
) -> Secret | None:
    """The credential from where the user says; asked for when that is possible and nothing is known."""
    stored = store.get(CLAUDE) if source in (None, "keep") else None
    if source is None:
        source = _ask_source(app, stored, ask)
    if source == "keep":
        if stored is None:
            raise BadInput(
                "no credential is stored that could be kept", hint="--credential-from env, prompt or stdin"
            )
        return stored
    if source == "none":
        return None
    if source == "env":
        found = claude_credential(app.env)
        if found is None:
            raise BadInput(
                "no credential is in the environment",
                hint="set ANTHROPIC_API_KEY, ANTHROPIC_AUTH_TOKEN or CLAUDE_CODE_OAUTH_TOKEN",
            )
        return secret(kind, found[0].secret) if kind else found[0]
    if source == "stdin":
        value = sys.stdin.read(1 << 17)
    else:
        value = str(click.prompt("Key or token (not shown)", hide_input=True, err=True))
    return secret(kind or guess_kind(value), value)


def _ask_source(app: App, stored: Secret | None, ask: bool) -> str:
    given = claude_credential(app.env)
    if not ask:
        return "keep" if stored else "env" if given else "none"
    if given and click.confirm(f"Use the credential in {given[1]}?", default=True, err=True):
        return "env"
    if stored and click.confirm("Keep the credential that is stored?", default=True, err=True):
        return "keep"
    return "prompt"


def guess_kind(value: str) -> str:
    """OAuth tokens go into Authorization, keys into x-api-key."""
    return "bearer" if value.strip().startswith("sk-ant-oat") else "x-api-key"


def check_url(url: str, say: Callable[[str], None]) -> None:
    """Refuse what can't be an endpoint: the credential will be sent there. ``say`` gets a warning when
    it would travel unprotected."""
    from urllib.parse import urlsplit

    try:
        parts = urlsplit(url)
        sound = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        sound = False
    if not sound or parts.username or parts.query or parts.fragment or any(c.isspace() for c in url):
        raise BadInput(f"{url!r} is no endpoint", hint="like https://api.anthropic.com")
    if parts.scheme == "http" and parts.hostname not in ("localhost", "127.0.0.1", "::1"):
        say("warning: http:// sends the credential unprotected through the network")


def verify(url: str, credential: Secret, model: str) -> str:
    """Ask the endpoint to count the tokens of one word (free) and say what came of it.

    NotAllowed when it refuses the credential, ThopterError when it can't be reached.
    """
    import http.client
    import json
    from urllib.parse import urlsplit

    parts = urlsplit(url)
    made = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection: HTTPConnection = made(str(parts.hostname), parts.port, timeout=_TIMEOUT)
    headers = {"content-type": "application/json", "anthropic-version": "2023-06-01"}
    if credential.kind == "bearer":
        headers |= {"authorization": f"Bearer {credential.secret}", "anthropic-beta": "oauth-2025-04-20"}
    else:
        headers["x-api-key"] = credential.secret
    body = json.dumps(
        {"model": model or "claude-sonnet-4-5", "messages": [{"role": "user", "content": "hi"}]}
    )
    try:
        connection.request("POST", parts.path.rstrip("/") + "/v1/messages/count_tokens", body, headers)
        answer = connection.getresponse()
        said = answer.read(1 << 16)
    except (OSError, http.client.HTTPException) as e:
        raise ThopterError(
            f"the endpoint can't be reached: {one_line(str(e) or type(e).__name__, 200)}",
            hint="check --base-url and your network, or store it untried with --no-verify",
        ) from None
    finally:
        connection.close()
    if answer.status in (401, 403):
        raise NotAllowed(
            f"the endpoint refuses this credential (HTTP {answer.status})",
            hint="nothing was stored; check the key, and --kind (x-api-key or bearer)",
        )
    if answer.status == 200:
        return "the endpoint takes the credential"
    unsure = "without saying whether the credential is right"
    return f"the endpoint answers (HTTP {answer.status}) {unsure}: {_reason(said)}"


def _reason(body: bytes) -> str:
    import json

    try:
        return one_line(str(json.loads(body)["error"]["message"]), 200)
    except (ValueError, KeyError, TypeError):
        return "no reason given"
