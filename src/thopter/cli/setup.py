"""``thopter setup`` and ``thopter reauth``: wizards; every answer is a flag too."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from thopter.cli.app import App, pass_app
from thopter.cli.config import write_setting
from thopter.kit.sanitize import one_line
from thopter.kit.secrets import CLAUDE, Secret, SecretStore, claude_credential, secret
from thopter.model.errors import BadInput, HubUnreachable, NotAllowed, ThopterError

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
@click.option("--owner", metavar="NAME", help="Who owns new thopters, and commits in them.")
@click.option("--git-email", metavar="ADDRESS", help="The address of those commits; '' is git's own.")
@click.option("--repo", metavar="REPO", help="The repository when none is named; '' is none.")
@click.option("--ntfy-topic", metavar="TOPIC", help="The ntfy topic that notes go to; '' is none.")
@click.option("--no-verify", is_flag=True, help="Do not try the endpoint.")
@click.option("--yes", "-y", is_flag=True, help="Ask nothing: what no flag says stays as it is.")
@pass_app
def setup(
    app: App, base_url: str | None, credential_from: str | None, kind: str | None, model: str | None,
    permission_mode: str | None, owner: str | None, git_email: str | None, repo: str | None,
    ntfy_topic: str | None, no_verify: bool, yes: bool,
) -> None:  # fmt: skip
    """Say which model endpoint and credential agents use. The credential never gets into a box.

    It is kept in the desktop's keyring where there is one, else in a file only you can read.
    """
    ask = not yes and app.asks()
    answers = {
        "agents.claude.base_url": base_url,
        "agents.claude.model": model,
        "agents.claude.permission_mode": permission_mode,
        "owner": owner,
        "git.email": git_email,
        "run.repo": repo,
        "notify.ntfy_topic": ntfy_topic,
    }
    if not ask and not yes and credential_from is None and all(v is None for v in answers.values()):
        raise click.UsageError("there is no terminal to ask on: give the answers as flags, or --yes")
    if ask:
        _ask_endpoint(app, answers)
    url = str(answers["agents.claude.base_url"] or app.settings.get("agents.claude.base_url"))
    check_url(url, app.say)
    store = SecretStore(app.paths, app.env)
    credential = _credential(app, store, credential_from, kind, ask)
    if ask:
        _ask_rest(app, answers)
    _check(app, answers)
    if not no_verify and credential is not None:
        app.say(f"trying {one_line(url)} ...")
        app.say("  " + verify(url, credential, model or app.settings.get("agents.claude.model")))
    for key, value in answers.items():
        if value is not None:
            write_setting(app.paths, key, value)
            app.out(f"{key} = {one_line(value) or '(default)'}")
    if credential is not None and credential != store.get(CLAUDE):
        _store(app, store, credential)
    elif credential_from == "none" and store.delete(CLAUDE):
        app.out("The stored credential was removed.")
    app.say("A running hub takes it with 'thopter hub restart'. Then: thopter run --repo . \"what to do\"")


def _store(app: App, store: SecretStore, credential: Secret) -> None:
    where = store.set(CLAUDE, credential)
    kept = "the keyring" if where == "keyring" else app.paths.config / "secrets.json"
    app.out(f"The credential is kept in {kept}.")


def _ask_one(app: App, answers: dict[str, str | None], key: str, question: str) -> None:
    """Ask unless a flag has answered; Enter leaves it as it is."""
    if answers[key] is None:
        now = str(app.settings.get(key))
        said = str(click.prompt(question, default=now, show_default=bool(now), err=True))
        answers[key] = said if said != now else None


def _ask_endpoint(app: App, answers: dict[str, str | None]) -> None:
    _ask_one(app, answers, "agents.claude.base_url", "Model endpoint")


def _ask_rest(app: App, answers: dict[str, str | None]) -> None:
    for key, question in (
        ("owner", "Your name, for thopters and their commits (Enter: as git knows you)"),
        ("git.email", "Address of those commits (Enter: as git knows it)"),
        ("run.repo", "Repository when none is named (Enter: none)"),
        ("notify.ntfy_topic", "ntfy topic for notes to your phone (Enter: none)"),
    ):
        _ask_one(app, answers, key, question)


@click.command()
@click.option(
    "--credential-from", type=click.Choice(["env", "prompt", "stdin"]), metavar="SOURCE",
    help="env (ANTHROPIC_API_KEY and the like), prompt, or stdin; default: asked.",
)  # fmt: skip
@click.option("--kind", type=click.Choice(["x-api-key", "bearer"]), help="How it is sent.")
@click.option("--login-file", metavar="FILE", type=click.Path(path_type=Path),
              help="Take over the subscription login in FILE (~/.claude/.credentials.json).")  # fmt: skip
@click.option("--no-verify", is_flag=True, help="Do not try the endpoint.")
@pass_app
def reauth(
    app: App, credential_from: str | None, kind: str | None, login_file: Path | None, no_verify: bool
) -> None:
    """Replace the model credential: checked by a real call first, then used by every thopter.

    No box holds it, so nothing in a box changes: their next call to the model goes out with the new one.

    A subscription login is renewed by the hub, and by nobody else: with --login-file it is the hub's from
    then on, and the program that it was made with must log in anew.
    """
    if login_file is not None:
        if credential_from or kind:
            raise click.UsageError("--login-file excludes --credential-from and --kind")
        return _take_login(app, login_file, no_verify)
    if credential_from is None and not app.asks():
        raise click.UsageError("there is no terminal to ask on: give --credential-from")
    store = SecretStore(app.paths, app.env)
    fresh = _credential(app, store, credential_from or "prompt", kind, ask=app.asks())
    assert fresh is not None  # only the source "none" gives none
    url = str(app.settings.get("agents.claude.base_url"))
    if not no_verify:
        app.say(f"trying {one_line(url)} ...")
        app.say("  " + verify(url, fresh, app.settings.get("agents.claude.model")))
    _store(app, store, fresh)
    _pass_on(app)


def _take_login(app: App, file: Path, no_verify: bool) -> None:
    from thopter.kit import oauth

    try:
        text = file.read_bytes()[: 1 << 20]
    except OSError as e:
        raise BadInput(f"{file} can't be read: {e.strerror}") from None
    setting = app.settings.get
    login = oauth.read_login_file(
        text, setting("agents.claude.token_url"), setting("agents.claude.client_id")
    )
    url = str(setting("agents.claude.base_url"))
    if not no_verify:
        app.say(f"trying {one_line(url)} ...")
        app.say(
            "  " + verify(url, Secret(kind="bearer", secret=login.access), setting("agents.claude.model"))
        )
    _store(app, SecretStore(app.paths, app.env), oauth.to_secret(login))
    app.say(f"The login in {file} is the hub's from now on: do not use it elsewhere, log in anew there.")
    _pass_on(app)


def _pass_on(app: App) -> None:
    """Let the running hub give its gateways the new one, and say who uses it."""
    from thopter.mesh.client import HubClient

    try:
        with HubClient(app.paths.hub_socket, timeout=30.0) as client:
            users = client.renew_credentials()
    except HubUnreachable:
        app.out("No hub runs; the next one uses it.")
        return
    names = ", ".join(one_line(name) for name in users)
    app.out(f"Used from now on by {names}." if users else "No thopter uses it now; new ones will.")


def _check(app: App, answers: dict[str, str | None]) -> None:
    from thopter.cli.repo import canonical, known
    from thopter.kit.settings import parse

    if answers["run.repo"] and known(app.paths, answers["run.repo"]) is None:
        answers["run.repo"] = canonical(answers["run.repo"])

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
