"""A subscription login with the real Claude Code: taken over, renewed when it is refused, never in a box."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from e2e_lab import lab
from msgspec import structs

sys.path.insert(0, str(Path(__file__).parents[1] / "hub"))

from oauth_emulator import Emulator, emulator

from thopter.testing.scripted_model import Scenario, Turn

pytestmark = [pytest.mark.claude, pytest.mark.root, pytest.mark.xdist_group("e2e"), pytest.mark.timeout(600)]


@contextlib.contextmanager
def in_thread() -> Iterator[Emulator]:
    """The emulator in a loop of its own."""
    ready, found = threading.Event(), []
    loop = asyncio.new_event_loop()
    over = asyncio.Event()

    async def serve() -> None:
        async with emulator() as em:
            found.append(em)
            ready.set()
            await over.wait()

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()))
    thread.start()
    try:
        assert ready.wait(30)
        yield found[0]
    finally:
        loop.call_soon_threadsafe(over.set)
        thread.join(30)
        loop.close()


def test_a_login_is_renewed_once_when_it_is_refused_and_no_box_sees_it() -> None:
    scenario = Scenario(default=(Turn(say="Hello."),), side=Turn(say="Title"))
    with in_thread() as em, lab(scenario) as made:
        made.env.pop("ANTHROPIC_AUTH_TOKEN")
        made.env["THOPTER_AGENTS_CLAUDE_TOKEN_URL"] = em.url
        made.env["THOPTER_AGENTS_CLAUDE_CLIENT_ID"] = "client-1"
        login = {"accessToken": em.access, "refreshToken": em.current, "expiresAt": 4_000_000_000_000}
        file = made.folder / "credentials.json"
        file.write_text(json.dumps({"claudeAiOauth": {**login, "scopes": ["user:inference"]}}))
        made.model.scenario = structs.replace(made.model.scenario, require_key=em.access)
        said = made.run("reauth", "--login-file", str(file))
        assert "takes the credential" in said.stderr and em.asks == 0
        made.run("run", "-d", "--name", "owl", "say hello", timeout=300)
        made.until("its first turn is over", lambda: made.view("owl").get("reason") == "turn_end")
        first = em.access
        em.next_access = "sk-ant-oat01-the-second-one"
        made.model.scenario = structs.replace(made.model.scenario, require_key=em.next_access)
        made.run("tell", "--no-tail", "owl", "and again")
        made.until("it was renewed", lambda: em.renewals == 1)
        made.rest("owl")
        if made.view("owl")["state"] == "failed":
            made.run("tell", "--no-tail", "--when-idle", "owl", "once more", check=False)
        found = made.run("exec", "owl", "--", "sh", "-c", "env; cat /root/.claude* 2>/dev/null; true").stdout
        assert first not in found and em.next_access not in found and em.current not in found
        assert not em.revoked and em.renewals == 1
        good = [
            e.seen for e in made.model.exchanges if e.seen.path == "/v1/messages" and e.seen.status == 200
        ]
        assert good
