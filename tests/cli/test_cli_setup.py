"""The wizard: answers as flags or typed, the credential tried on a real endpoint, kept private."""

from __future__ import annotations

import json
import socket
import stat
from collections.abc import Iterator

import pytest
from bad_server import answer, read_request
from cli_support import Cli, Terminal

from thopter.cli.setup import guess_kind
from thopter.testing.scripted_model import ScriptedModel, load_scenario, running

KEY = "sk-ant-api03-canary-0123456789"


@pytest.fixture(scope="module")
def model() -> Iterator[ScriptedModel]:
    with running(load_scenario("demo")) as found:
        yield found


def stored(cli: Cli) -> dict[str, str]:
    return json.loads((cli.config / "secrets.json").read_text())["secrets"]["agents.claude.credential"]


def test_every_answer_is_a_flag(cli: Cli, model: ScriptedModel):
    done = cli.run(
        "setup",
        "--base-url",
        model.url,
        "--credential-from",
        "stdin",
        "--kind",
        "bearer",
        "--model",
        "opus",
        "--permission-mode",
        "plan",
        "--owner",
        "ada",
        input=KEY + "\n",
    )
    assert done.code == 0, done
    assert "takes the credential" in done.err
    assert stored(cli) == {"kind": "bearer", "where": "file", "secret": KEY}
    assert stat.S_IMODE((cli.config / "secrets.json").stat().st_mode) == 0o600
    shown = cli.run("config", "show", "--json").json()
    assert (shown["agents.claude.base_url"], shown["agents.claude.model"], shown["owner"]) == (
        model.url,
        "opus",
        "ada",
    )
    assert KEY not in done.out + done.err + (cli.config / "config.toml").read_text()


def test_the_endpoint_sees_the_credential_in_the_right_header(cli: Cli, model: ScriptedModel):
    for kind, header, value in (
        ("bearer", "authorization", f"Bearer {KEY}"),
        ("x-api-key", "x-api-key", KEY),
    ):
        args = ("--base-url", model.url, "--credential-from", "env", "--kind", kind)
        assert cli.run("setup", *args, env={"ANTHROPIC_API_KEY": KEY}).code == 0
        sent = model.exchanges[-1].headers
        assert sent[header] == value
        assert sum(KEY in v for v in sent.values()) == 1


def test_asked_on_a_terminal_the_key_is_not_shown(cli: Cli, model: ScriptedModel):
    with Terminal(cli, "setup") as terminal:
        terminal.see("Model endpoint [https://api.anthropic.com]:")
        terminal.type(model.url + "\r")
        terminal.see("Key or token (not shown):")
        terminal.type(KEY + "\r")
        terminal.see("Your name, for thopters")
        terminal.type("Tess\r")
        terminal.see("Address of those commits")
        terminal.type("\r")
        terminal.see("Repository when none is named")
        terminal.type("\r")
        terminal.see("ntfy topic")
        terminal.type("\r")
        terminal.see("The credential is kept in")
        assert terminal.end() == 0
        assert KEY.encode() not in terminal.raw
    assert stored(cli)["secret"] == KEY and stored(cli)["kind"] == "x-api-key"
    with Terminal(cli, "setup", env={"ANTHROPIC_AUTH_TOKEN": "other-token"}) as terminal:
        terminal.see(f"Model endpoint [{model.url}]:")
        terminal.type("\r")
        terminal.see("Use the credential in ANTHROPIC_AUTH_TOKEN?")
        terminal.type("n\r")
        terminal.see("Keep the credential that is stored?")
        terminal.type("\r")
        terminal.see("Your name, for thopters and their commits (Enter: as git knows you) [Tess]:")
        terminal.type("\r\r\r\r")
        assert terminal.end() == 0
    assert stored(cli)["secret"] == KEY


def test_a_credential_that_is_refused_is_not_stored(cli: Cli):
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen()
    import threading

    def refuse() -> None:
        connection, _ = listener.accept()
        read_request(connection)
        connection.sendall(answer(b'{"error":{"message":"invalid x-api-key"}}', b"401 Unauthorized"))
        connection.close()

    thread = threading.Thread(target=refuse)
    thread.start()
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    done = cli.run("setup", "--base-url", url, "--credential-from", "env", env={"ANTHROPIC_API_KEY": KEY})
    thread.join(60)
    listener.close()
    assert done.code == 6 and "refuses this credential" in done.err and KEY not in done.err
    assert not (cli.config / "secrets.json").exists() and not (cli.config / "config.toml").exists()


def test_an_endpoint_that_can_not_be_reached_is_an_error_and_can_be_stored_untried(cli: Cli):
    args = ("setup", "--base-url", "http://127.0.0.1:9", "--credential-from", "env")
    env = {"ANTHROPIC_API_KEY": KEY}
    done = cli.run(*args, env=env)
    assert done.code == 1 and "can't be reached" in done.err and not (cli.config / "secrets.json").exists()
    assert cli.run(*args, "--no-verify", env=env).code == 0 and stored(cli)["secret"] == KEY


@pytest.mark.parametrize(
    "url",
    [
        "",
        "ftp://x",
        "https://",
        "https://user:pw@host",
        "https://host?x=1",
        "host",
        "http://a b",
        "https://host:99999",
        "http://[::1",
    ],
)
def test_what_is_no_endpoint_is_refused(cli: Cli, url: str):
    done = (
        cli.run("setup", "--yes", f"--base-url={url}", "--no-verify")
        if url
        else cli.run("setup", "--base-url", " ")
    )
    assert done.code == 2 and not (cli.config / "config.toml").exists()


def test_a_credential_that_would_travel_in_the_clear_is_warned_about(cli: Cli):
    done = cli.run("setup", "--base-url", "http://model.example", "--no-verify")
    assert done.code == 0 and "unprotected" in done.err


@pytest.mark.parametrize(
    ("args", "word"),
    [
        ((), "--yes"),
        (("--credential-from", "env"), "ANTHROPIC_API_KEY"),
        (("--credential-from", "keep"), "no credential"),
        (("--credential-from", "stdin"), "can't be a secret"),
        (("--permission-mode", "yolo"), "permission_mode"),
        (("--credential-from", "paper"), "paper"),
    ],
)
def test_answers_that_can_not_be_meant_are_exit_2(cli: Cli, args: tuple[str, ...], word: str):
    done = cli.run("setup", "--no-verify", *args)
    assert done.code == 2 and word in done.err and "Traceback" not in done.err


def test_yes_keeps_what_is_there_and_none_removes_the_credential(cli: Cli):
    env = {"ANTHROPIC_API_KEY": KEY}
    assert cli.run("setup", "--yes", "--no-verify", env=env).code == 0
    assert stored(cli)["secret"] == KEY
    assert cli.run("setup", "--yes", "--no-verify", env={"ANTHROPIC_API_KEY": "another-key"}).code == 0
    assert stored(cli)["secret"] == KEY
    done = cli.run("setup", "--credential-from", "none")
    assert "removed" in done.out and KEY not in (cli.config / "secrets.json").read_text()


def test_kinds_are_guessed_from_the_shape():
    assert (
        guess_kind("sk-ant-oat01-x") == "bearer"
        and guess_kind("sk-ant-api03-x") == guess_kind("abc") == "x-api-key"
    )
