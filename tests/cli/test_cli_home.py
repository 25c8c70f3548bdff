"""Where a thopter works, what it is given, and a new credential: on real boxes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from cli_support import Terminal, wait_for
from e2e_lab import SECRET, Lab, lab
from test_cli_live import SCENARIO, Live

pytestmark = [pytest.mark.claude, pytest.mark.root, pytest.mark.xdist_group("home"), pytest.mark.timeout(600)]
FRESH = "sk-canary-second-91be77d0a2"


@pytest.fixture(scope="module")
def made() -> Iterator[Lab]:
    with lab(SCENARIO) as found:
        yield found


@pytest.fixture(scope="module")
def live(made: Lab) -> Live:
    return Live(made, made.repo("proj"))


@pytest.fixture(scope="module")
def waiting(live: Live) -> Live:
    """A thopter ``wait`` at its prompt."""
    live.ok("create", "wait", "--repo", "proj")
    return live


def test_without_a_repository_a_terminal_asks_home_one_of_yours_or_another(live: Live):
    live.ok("repos", "add", str(live.repo), "--name", "mine")
    with Terminal(live, "create", "asked") as terminal:
        terminal.see("Where shall it work?")
        terminal.see("2  mine")
        terminal.see("3  another repository")
        terminal.type("2\r")
        terminal.see("Thopter 'asked' ready.")
        assert terminal.end() == 0
    assert live.ok("exec", "-n", "asked", "--", "pwd").out == "/work/proj\n"
    with Terminal(live, "create", "homely") as terminal:
        terminal.see("Number [1]:")
        terminal.type("\r")
        terminal.see("Thopter 'homely' ready.")
    assert live.ok("exec", "-n", "homely", "--", "pwd").out == "/root\n"
    live.ok("destroy", "--yes", "homely", "asked")
    done = live.run("create", "x", "--repo", "nobody")  # a bare word that is neither a folder nor known
    assert done.code == 2 and "neither a folder" in done.err


def test_a_value_is_asked_for_hidden_listed_masked_and_warned_about(live: Live):
    with Terminal(live, "env", "set", "GH_TOKEN") as terminal:
        terminal.see("Value of GH_TOKEN (not shown):")
        terminal.type("canary-value-12345\r")
        terminal.see("looks like a credential")
        assert terminal.end() == 0 and b"canary-value" not in terminal.raw
    listed = live.ok("env", "list")
    assert "GH_TOKEN" in listed.out and "cana..." in listed.out and "canary-value" not in listed.out
    file = live.cwd / "more.env"
    file.write_text("GH_TOKEN=other\nPLAIN=1\n")
    done = live.ok("env", "import", str(file))
    assert done.out == "Set PLAIN.\n" and "GH_TOKEN stay" in done.err
    assert live.ok("env", "list", "--json").json()[0]["value"] == "cana..."
    file.write_text("GOOD=1\nHOME=/evil\n")
    assert live.run("env", "import", str(file)).code == 2
    assert [v["name"] for v in live.ok("env", "list", "--json").json()] == ["GH_TOKEN", "PLAIN"]
    live.ok("env", "delete", "GH_TOKEN")
    live.ok("env", "delete", "PLAIN")
    assert live.run("env", "delete", "PLAIN").code == 3


def test_a_new_credential_is_checked_and_used_by_running_thopters_from_their_next_call(waiting: Live):
    waiting.ok("tell", "wait", "script:hello", "--no-tail")
    waiting.until_at_rest("wait")
    used = {x.headers.get("authorization") for x in waiting.lab.model.exchanges}
    assert used == {f"Bearer {SECRET}"}
    done = waiting.run("reauth", "--credential-from", "stdin", "--kind", "bearer", input=FRESH)
    assert done.code == 0 and "takes the credential" in done.err and "by wait." in done.out, done
    assert FRESH not in done.out + done.err
    before = len(waiting.lab.model.exchanges)
    waiting.ok("tell", "wait", "script:hello", "--no-tail")
    waiting.until_at_rest("wait")
    wait_for(lambda: len(waiting.lab.model.exchanges) > before)
    after = {x.headers.get("authorization") for x in list(waiting.lab.model.exchanges)[before:]}
    assert after == {f"Bearer {FRESH}"}
    assert waiting.run("reauth").code == 2  # nobody to ask, and nothing given


def test_a_removed_secret_keeps_no_thopter_from_being_frozen_pulled_or_destroyed(waiting: Live):
    waiting.ok("secrets", "delete", "agents.claude.credential")
    waiting.ok("freeze", "wait")
    waiting.ok("thaw", "wait")
    waiting.ok("pull", "wait", "--repo", str(waiting.repo))
    waiting.ok("destroy", "--yes", "wait")
