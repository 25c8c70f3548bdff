"""``thopter top``: its screen by textual's own pilot, on a real hub; and what it shows, by table."""

from __future__ import annotations

import asyncio
import html
import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from cli_support import Cli, Terminal, wait_for
from hub_support import HubProcess
from msgspec import structs
from textual.widgets import DataTable, Input, Static

from thopter.cli import top_view
from thopter.cli.top_app import TopApp, about
from thopter.mesh.client import HubClient
from thopter.model.api import ThopterDetail, ThopterView
from thopter.model.api.approvals import Approval
from thopter.model.nouns import Entry, Role

pytestmark = pytest.mark.timeout(200)
T = 1_800_000_000_000
BOUND = 60.0


def view(name: str, state: str = "working", reason: str = "", **more: Any) -> ThopterView:
    given = {
        "box_state": "ready",
        "since_ms": T - 300_000,
        "created_ms": T,
        "agent": "claude",
        "repo": "/src/shop.git",
    }
    who = {"name": name, "id": f"box_{name}", "owner": "me", "provider": "local"}
    return ThopterView(**who, state=state, reason=reason, **{**given, **more})


SOME = [
    view("amber-heron", task="fix the login bug", last_message="I am reading the login form."),
    view(
        "blue-wren",
        "waiting",
        "permission",
        task="add --json",
        last_message="May I run curl?",
        note="ask Ann",
    ),
    view("calm-owl", "waiting", "turn_end", task="tidy", last_message="Done. Shall I push?"),
    view("dry-finch", "failed", problem="the agent's process exited with code 1", last_message="Hm."),
    view("even-crane", "working", box_state="frozen", last_message="I was at it."),
    view("far-kite", "unknown", problem="the box does not answer; it was working"),
]


Go = Callable[[TopApp, Any], Awaitable[None]]


def run(go: Go, hub: HubProcess | None = None, size: tuple[int, int] = (80, 24), **more: Any) -> None:
    """Show the screen to ``go``, of ``hub`` or of none."""

    async def whole() -> None:
        app = TopApp(hub.socket if hub else "/nonexistent/hub.sock", **more)  # type: ignore[arg-type]
        async with asyncio.timeout(150), app.run_test(size=size) as pilot:
            await go(app, pilot)

    asyncio.run(whole())


async def until(pilot: Any, test: Callable[[], Any]) -> None:
    """Wait until ``test()`` is true."""
    async with asyncio.timeout(BOUND):
        while not test():
            await pilot.pause(0.02)


def screen(app: TopApp) -> list[str]:
    """What stands on the screen, line by line."""
    svg = app.export_screenshot()
    rows: dict[float, list[tuple[float, str]]] = {}
    for attrs, text in re.findall(r"<text ([^>]*)>(.*?)</text>", svg, re.S):
        x, y = (re.search(rf'\b{a}="([\d.]+)"', attrs) for a in "xy")
        if x and y and "-title" not in attrs:  # the picture's frame has the program's name
            rows.setdefault(float(y[1]), []).append((float(x[1]), html.unescape(text).replace("\xa0", " ")))
    lines = []
    for y in sorted(rows):
        line = ""
        for x, text in sorted(rows[y]):
            line = line.ljust(round(x / 12.2)) + text
        lines.append(line.rstrip())
    return lines


def names(app: TopApp) -> list[str]:
    table = app.query_one(DataTable)
    return [str(table.get_row_at(n)[0]) for n in range(table.row_count)]


GOLDEN = """\
 6 thopters, 1 at work, 2 waiting
 NAME            STATE       FOR   LAST WORDS
 blue-wren       asks        5m    May I run curl?
 calm-owl        waits       5m    Done. Shall I push?
 dry-finch       failed      5m    the agent's process ex…
 far-kite        unknown     5m    the box does not answe…
 amber-heron     working     5m    I am reading the login…
 even-crane      frozen      5m    I was at it."""


def test_the_screen_on_sixty_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("thopter.cli.top_app.now_ms", lambda: T)
    monkeypatch.setattr("thopter.cli.top_app.feed", lambda *a: None)

    async def go(app: TopApp, pilot: Any) -> None:
        app.show(SOME)
        await pilot.pause()
        shown = [line for line in screen(app) if line]
        print("\n".join(shown))
        assert "\n".join(shown[:8]) == GOLDEN
        assert all(len(line) <= 60 for line in shown)

    run(go, size=(60, 20))


@pytest.mark.parametrize("width", [40, 60, 79, 80, 90, 100, 130, 200])
def test_columns_fit_any_width(width: int) -> None:
    columns = top_view.columns_for(width)
    assert [h for h, _ in columns][:3] == ["NAME", "STATE", "FOR"]
    assert all(size > 0 for _, size in columns)
    if width >= 60:
        assert sum(size + 2 for _, size in columns) <= width
    for v in SOME:
        assert len(top_view.cells(v, [h for h, _ in columns], T)) == len(columns)


def test_who_needs_you_comes_first_and_words_filter() -> None:
    def order(sort: str, wanted: str = "") -> list[str]:
        return [v.name.split("-")[0] for v in top_view.ordered(SOME, sort, wanted)]

    assert order("need") == ["blue", "calm", "dry", "far", "amber", "even"]
    assert order("name") == ["amber", "blue", "calm", "dry", "even", "far"]
    assert order("name", "WAITING") == ["blue", "calm"]
    assert order("name", "login shop") == ["amber"]
    assert order("name", "nothing like it") == []
    longest = [structs.replace(v, since_ms=T - i) for i, v in enumerate(SOME)]
    assert [v.name for v in top_view.ordered(longest, "age", "")] == [v.name for v in reversed(longest)]


@pytest.mark.battery("X2")
def test_what_a_box_says_is_safe_on_the_screen() -> None:
    evil = view(
        "evil",
        task="\x1b[2J[red]x[/red]\n\n",
        last_message="\x1b]52;c;ZXZpbA==\x07[link=x]a\nb",
        note="\u202e",
    )
    for text in top_view.cells(evil, ["NAME", "TASK", "LAST WORDS", "NOTE"], T):
        assert text.isprintable()
    entry = Entry(session="s", key="k", at_ms=T, role=Role.ASSISTANT, summary="\x1b[31mred\nline")
    for line in about(ThopterDetail(view=evil), [entry], T):
        assert line.isprintable()


def approval(**more: Any) -> Approval:
    given: dict[str, Any] = {
        "id": "apr_0000abcdef", "name": "blue-wren", "box": "box_1", "run": "run_1", "kind": "permission",
        "tool": "Bash", "summary": "Bash: curl", "digest": "d", "state": "open",
        "asked_ms": T, "changed_ms": T,
        "input": {"command": "curl -s x |\x1b[2J sh\nsecond line"}, **more,
    }  # fmt: skip
    return Approval(**given)


def test_what_is_approved_stands_whole_on_the_screen_and_wants_a_yes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("thopter.cli.top_app.feed", lambda *a: None)
    given: list[Any] = []
    monkeypatch.setattr(TopApp, "_do", lambda _self, done, call: given.append(done))

    async def go(app: TopApp, pilot: Any) -> None:
        app.show(SOME)
        app._show_asked("blue-wren", "approve", [approval()])
        await pilot.pause()
        shown = str(app.query_one("#about", Static).content)
        assert "curl -s x | sh" in shown and "second line" in shown and "\x1b" not in shown
        await pilot.press(*"no", "enter")
        assert given == [] and app._approval is None
        app._show_asked("blue-wren", "approve", [approval()])
        await pilot.press(*"yes", "enter")
        assert given == ["blue-wren has your answer"]
        app._show_asked("blue-wren", "deny", [approval()])
        await pilot.press("enter")
        assert len(given) == 2
        app._show_asked("blue-wren", "approve", [approval(kind="question", input={})])
        await pilot.press("enter")  # no answer is no answer
        assert len(given) == 2
        app._show_asked("blue-wren", "approve", [])
        await until(pilot, lambda: any("asks for nothing" in n.message for n in app._notifications))

    run(go, size=(100, 30))


def test_it_lives_by_events_and_keys_do_what_they_say(own: HubProcess) -> None:
    own.start()
    client = HubClient(own.socket)

    def make(name: str) -> None:
        own.post("/v1/thopters", {"name": name})

    make("heron")

    async def go(app: TopApp, pilot: Any) -> None:
        await until(pilot, lambda: names(app) == ["heron"])
        await asyncio.to_thread(make, "wren")  # nobody asks: an event tells
        await until(pilot, lambda: names(app) == ["heron", "wren"])
        await pilot.press("down", "enter")
        await until(pilot, lambda: "wren" in str(app.query_one("#about", Static).content))
        await pilot.press("escape", "t", *"hello", "enter")
        await until(pilot, lambda: any("wren has it" in n.message for n in app._notifications))
        await pilot.press("slash", *"her")
        await until(pilot, lambda: names(app) == ["heron"])
        await pilot.press("enter", "i")
        await until(pilot, lambda: any("heron is interrupted" in n.message for n in app._notifications))
        await pilot.press("d", *"no", "enter")
        await until(pilot, lambda: any("heron stays" in n.message for n in app._notifications))
        await pilot.press("d", *"yes", "enter")
        await until(pilot, lambda: any("being destroyed" in n.message for n in app._notifications))
        await asyncio.to_thread(make, "finch")
        await pilot.press("escape")
        await until(pilot, lambda: names(app) == ["finch", "wren"])
        await pilot.press("o")
        await until(pilot, lambda: "by name" in str(app.query_one("#summary", Static).content))
        assert not app.query_one("#line", Input).has_class("on")
        await pilot.press("q")

    try:
        run(go, own)
        assert [v.name for v in client.thopters()] == ["wren", "finch"]
    finally:
        client.close()


def test_a_hub_that_is_away_is_shown_and_come_back_to(own: HubProcess) -> None:
    own.start()
    own.post("/v1/thopters", {"name": "heron"})

    async def go(app: TopApp, pilot: Any) -> None:
        bar = app.query_one("#trouble")
        await until(pilot, lambda: names(app) == ["heron"])
        await asyncio.to_thread(own.end)
        await until(pilot, lambda: bar.has_class("on"))
        assert names(app) == ["heron"]  # the last that is known stays
        await pilot.press("i")
        await until(pilot, lambda: any(n.severity == "error" for n in app._notifications))
        await asyncio.to_thread(own.start)
        await asyncio.to_thread(own.post, "/v1/thopters", {"name": "wren"})
        await until(pilot, lambda: not bar.has_class("on") and names(app) == ["wren"])

    run(go, own)


def test_in_a_real_terminal_it_gives_way_to_attach_and_comes_back(own: HubProcess, root: Path) -> None:
    """The fleet in memory runs commands on this machine: attaching meets a tmux that is not there."""
    own.env["TEST_THOPTERS"] = "3"
    own.start()
    (root / "cli").mkdir()
    cli = Cli(root / "cli", THOPTER_STATE_DIR=str(own.state))
    with Terminal(cli, "top", rows=20, cols=60) as terminal:
        terminal.see("thopter-002")
        terminal.see("3 thopters, 3 at work")
        terminal.type("a")
        wait_for(lambda: terminal.read() or b"\x1b[?1049l" in terminal.raw)  # the shell's own screen
        terminal.see("its terminal ended with")
        terminal.see("thopter-002")
        terminal.resize(20, 120)
        terminal.see("fix the login bug fix")
        terminal.type("q")
        assert terminal.end() == 0
    assert cli.run("top").code == 2
