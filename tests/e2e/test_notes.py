"""Notes to people, end to end: a real agent asks and the phone rings; the hub dies while it sends."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from e2e_lab import Lab, lab
from ntfy_server import NtfyServer, serving

from thopter.testing.scripted_model import Scenario, Script, Tool, Turn

pytestmark = [pytest.mark.claude, pytest.mark.root, pytest.mark.xdist_group("e2e"), pytest.mark.timeout(600)]

_ASK = Tool(name="Bash", input={"command": "curl https://example.org", "description": "Look at a page"})
SCENARIO = Scenario(script=(Script(name="ask", turns=(Turn(tools=(_ASK,)), Turn(say="Seen."))),))


@pytest.fixture(scope="module")
def rung() -> Iterator[tuple[Lab, NtfyServer]]:
    """A lab whose notes go to a server of its own."""
    with serving() as ntfy, lab(SCENARIO) as made:
        made.env |= {
            "THOPTER_NOTIFY_NTFY_SERVER": ntfy.url,
            "THOPTER_NOTIFY_NTFY_TOPIC": "phone",
            "THOPTER_NOTIFY_QUIET_SECONDS": "0",
            "THOPTER_AGENTS_CLAUDE_PERMISSION_MODE": "default",
        }
        yield made, ntfy


def test_a_real_question_rings_the_phone_with_what_is_asked(rung: tuple[Lab, NtfyServer]) -> None:
    made, ntfy = rung
    made.run("run", "-d", "--name", "heron", "script:ask", timeout=300)
    message = ntfy.wait(1, 120.0)[0]
    assert message["title"] == "heron asks for permission"
    assert "curl https://example.org" in message["message"]
    made.run("hub", "restart")
    (view,) = made.until(
        "it was sent", lambda: [v for v in made.json("notify", "list") if v["fate"] == "sent"]
    )
    assert view["note"]["name"] == "heron"
    made.run("notify", "off", "heron")
    made.run("interrupt", "heron")
    held = made.until("a held note", lambda: [v for v in made.json("notify", "list") if v["fate"] == "held"])
    assert (held[0]["note"]["kind"], held[0]["note"]["held"]) == ("turn_end", "muted")
    assert len(ntfy.messages) == 1
    assert "asks for permission" in made.run("logs", "heron").stdout


@pytest.mark.parametrize(("point", "count"), [("notes.claimed", 1), ("notes.posted", 2)])
def test_a_hub_killed_while_it_sends_sends_again(
    rung: tuple[Lab, NtfyServer], point: str, count: int
) -> None:
    """Killed before: once. Killed between the server's answer and its record: once more, for a lost
    ring is worse than a second one."""
    made, ntfy = rung
    made.run("hub", "stop", check=False)
    ntfy.messages.clear()
    made.run("hub", "start", env={"THOPTER_FAILPOINT": point})
    made.run("--no-start", "notify", "test", check=False)
    made.until("the hub is dead", lambda: made.hub_pid() == 0)
    assert len(ntfy.messages) == count - 1
    made.run("hub", "start")
    ntfy.wait(count)
    made.until("it is recorded", lambda: made.json("notify", "list")[0]["fate"] == "sent")
    made.run("hub", "restart")
    assert made.json("notify", "targets")["queued"] == 0
    assert len(ntfy.messages) == count


def test_the_command_says_what_became_of_a_test(rung: tuple[Lab, NtfyServer]) -> None:
    made, ntfy = rung
    ntfy.messages.clear()
    assert made.run("notify", "test").stdout == "ntfy: sent\n"
    made.run("notify", "add", "chat", "--from-stdin", stdin=f"{ntfy.url.replace('http', 'ntfy')}/chat\n")
    assert "chat: sent" in made.run("notify", "test", "chat").stdout
    shown = made.run("notify", "targets").stdout
    assert f"ntfy: {ntfy.url}/phone" in shown
    assert "/chat" not in shown
    ntfy.status = 403
    try:
        done = made.run("notify", "test", "chat", check=False)
        assert (done.returncode, "made to fail" in done.stdout) == (1, True)
        assert made.run("notify", "test", "nobody", check=False).returncode == 3
    finally:
        ntfy.status = 200
    made.run("notify", "remove", "chat")
    assert made.run("notify", "remove", "chat", check=False).returncode == 3
    assert [m["topic"] for m in ntfy.messages] == ["phone", "chat"]
