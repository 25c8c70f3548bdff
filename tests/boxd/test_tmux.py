"""The agent's terminal: what is typed arrives exactly, and a dead pane kills nothing."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest
from boxd_support import BoxdProcess, run, until

from thopter.kit.channel import BoxLink
from thopter.model.errors import BadInput, Conflict, NotFound, NotNow

# Reads raw bytes from its terminal into a file, as a full-screen program would.
RAW = "stty raw -echo; printf ready; exec cat > {file}"
BRACKETED = "printf '\\033[?2004h'; " + RAW


async def typist(boxd: BoxdProcess, link: BoxLink, script: str = RAW) -> Path:
    """Start a pane that notes every byte it is sent."""
    file = boxd.folder / "typed"
    await link.tmux_start("agent", ["sh", "-c", script.format(file=file)])
    await screen_with(link, "ready")
    await until(file.exists)
    return file


async def screen_with(link: BoxLink, text: str) -> dict[str, Any]:
    end = time.monotonic() + 45
    while text not in (pane := await link.tmux_capture("agent"))["screen"]:
        assert time.monotonic() < end, pane
        await asyncio.sleep(0.02)
    return pane


def with_link(boxd: BoxdProcess, work: Any) -> Any:
    async def go() -> Any:
        async with boxd.link() as link:
            return await work(link)

    return run(go())


@pytest.mark.parametrize(
    "text",
    [
        "plain",
        "ends with ;",
        ";",
        "a;b\\;",
        "-l --",
        "$HOME `id` #{pane_id} %if",
        "'\"\\",
        "ünïcødé ✳ 🚁",
        "x" * 9000,
    ],
)
def test_text_is_typed_literally(boxd: BoxdProcess, text: str) -> None:
    async def work(link: BoxLink) -> None:
        file = await typist(boxd, link)
        await link.tmux_keys("agent", [{"text": text}, {"keys": ["Enter"]}])
        await until(lambda: file.read_bytes().endswith(b"\r"))
        assert file.read_bytes() == text.encode() + b"\r"

    with_link(boxd, work)


def test_a_paste_is_bracketed_and_whole(boxd: BoxdProcess) -> None:
    content = "line one;\nline 'two' #{x}\n" + "y" * 50_000 + "\nend"

    async def work(link: BoxLink) -> None:
        file = await typist(boxd, link, BRACKETED)
        await link.tmux_keys("agent", [{"paste": content}, {"keys": ["C-m"]}])
        await until(lambda: file.read_bytes().endswith(b"\r"))
        assert file.read_bytes() == b"\x1b[200~" + content.encode() + b"\x1b[201~\r"
        assert boxd.tmux("list-buffers") == ""

    with_link(boxd, work)


def test_typing_into_a_dead_pane_is_refused_and_the_server_lives(boxd: BoxdProcess) -> None:
    async def work(link: BoxLink) -> None:
        await link.tmux_start("other", ["sleep", "1000"])
        script = f"until [ -e {boxd.folder}/go ]; do sleep 0.05; done; exit 3"
        await link.tmux_start("agent", ["sh", "-c", script])
        boxd.tmux("set-option", "-t", "agent", "remain-on-exit", "on")
        (boxd.folder / "go").touch()
        await until(lambda: boxd.tmux("display-message", "-p", "-t", "agent", "#{pane_dead}") == "1\n")
        for step in ({"paste": "x"}, {"text": "x"}, {"keys": ["Enter"]}):
            with pytest.raises(NotNow, match="has ended"):
                await link.tmux_keys("agent", [step])
        sessions = {s["name"]: s for s in await link.tmux_list()}
        assert set(sessions) == {"other", "agent"}
        pane = sessions["agent"]["panes"][0]
        assert pane["dead"] and pane["dead_status"] in (3, None)  # tmux 3.3a loses it now and then
        assert boxd.tmux("list-buffers") == ""

    with_link(boxd, work)


def test_a_person_who_scrolls_does_not_swallow_keys(boxd: BoxdProcess) -> None:
    async def work(link: BoxLink) -> None:
        file = await typist(boxd, link)
        boxd.tmux("copy-mode", "-t", "agent")
        await link.tmux_keys("agent", [{"text": "through"}])
        await until(lambda: file.read_bytes() == b"through")

    with_link(boxd, work)


def test_two_messages_at_once_never_mix_and_others_are_served_meanwhile(boxd: BoxdProcess) -> None:
    async def work(link: BoxLink) -> None:
        file = await typist(boxd, link)

        async def say(c: str) -> None:
            await link.tmux_keys("agent", [{"text": c * 20, "pause_ms": 150} for _ in range(3)])

        typing = asyncio.gather(say("a"), say("b"), say("c"))
        pings = 0
        while not typing.done():
            await link.ping()
            pings += 1
            await asyncio.sleep(0.01)
        await typing
        await until(lambda: len(file.read_bytes()) == 180)
        got = file.read_text()
        assert sorted(got[i : i + 60] for i in (0, 60, 120)) == ["a" * 60, "b" * 60, "c" * 60]
        assert pings > 10

    with_link(boxd, work)


def test_a_cancelled_message_stops_and_lets_the_next_one_through(boxd: BoxdProcess) -> None:
    async def work(link: BoxLink) -> None:
        file = await typist(boxd, link)
        slow = [{"text": "a", "pause_ms": 60_000}, {"text": "never"}]
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1):
                await link.tmux_keys("agent", slow)
        await link.tmux_keys("agent", [{"text": "b"}])
        await until(lambda: file.read_bytes() == b"ab")

    with_link(boxd, work)


def test_a_message_is_typed_to_its_end_though_the_connection_is_lost(boxd: BoxdProcess) -> None:
    async def work(link: BoxLink) -> Path:
        file = await typist(boxd, link)
        link._mux.open(
            {
                "op": "tmux.keys",
                "target": "agent",
                "steps": [{"text": "half ", "pause_ms": 300}, {"text": "whole"}],
            }
        )
        await until(lambda: file.read_bytes() == b"half ")
        return file

    file = with_link(boxd, work)
    run(until(lambda: file.read_bytes() == b"half whole"))


def test_capture_tells_screen_cursor_title_and_history(boxd: BoxdProcess) -> None:
    async def work(link: BoxLink) -> None:
        script = "printf '\\033]2;my title\\007'; seq 1 200; printf 'ünï>'; exec sleep 1000"
        await link.tmux_start("agent", ["sh", "-c", script], cols=80, rows=24)
        pane = await screen_with(link, "ünï>")
        assert (pane["title"], pane["cursor"], pane["dead"], pane["pid"] > 1) == (
            "my title",
            [4, 23],
            False,
            True,
        )
        assert "\n1\n" not in "\n" + pane["screen"]
        long = await link.tmux_capture("agent", history=1000)
        assert long["screen"].startswith("1\n2\n")

    with_link(boxd, work)


def test_a_huge_history_is_cut_at_its_beginning(boxd: BoxdProcess) -> None:
    async def work(link: BoxLink) -> None:
        script = "for i in $(seq 1 6000); do printf '%0200d ü\\n' $i; done; printf done; exec sleep 1000"
        await link.tmux_start("agent", ["bash", "-c", script], cols=250)
        await screen_with(link, "done")
        pane = await link.tmux_capture("agent", history=50_000)
        assert pane["truncated"] and "done" in pane["screen"] and len(pane["screen"]) > 300_000

    with_link(boxd, work)


def test_a_session_that_exists_is_a_conflict_and_none_is_not_found(boxd: BoxdProcess) -> None:
    async def work(link: BoxLink) -> None:
        assert await link.tmux_list() == []
        with pytest.raises(NotFound):
            await link.tmux_capture("agent")
        await link.tmux_start("agent", ["sleep", "1000"])
        with pytest.raises(Conflict):
            await link.tmux_start("agent", ["sleep", "1000"])
        for call in (link.tmux_capture("nobody"), link.tmux_keys("nobody", [{"text": "x"}])):
            with pytest.raises(NotFound):
                await call

    with_link(boxd, work)


@pytest.mark.parametrize(
    "steps",
    [
        "x",
        [5], [{"text": "a", "paste": "b"}], [{"keys": "Enter"}], [{"keys": ["a b"]}], [{"keys": [""]}],
        [{"text": "a\0b"}], [{"text": "a", "pause_ms": -1}], [{"keys": ["a"], "pause_ms": 10**9}],
        [{"text": 5}],
    ],
)  # fmt: skip
def test_impossible_steps_are_refused_before_anything_is_typed(boxd: BoxdProcess, steps: Any) -> None:
    async def work(link: BoxLink) -> None:
        file = await typist(boxd, link)
        with pytest.raises(BadInput):
            await link.call(
                "tmux.keys",
                target="agent",
                steps=[{"text": "a"}, *steps] if isinstance(steps, list) else steps,
            )
        for target in ("-x", "a;b", "a'b", "", 5):
            with pytest.raises(BadInput):
                await link.call("tmux.keys", target=target or " ", steps=[])
        assert file.read_bytes() == b""

    with_link(boxd, work)


def test_the_session_has_the_asked_size_and_exactly_the_env(boxd: BoxdProcess) -> None:
    async def work(link: BoxLink) -> None:
        argv = [
            "sh",
            "-c",
            "stty size; env | grep -v -e ^PWD= -e ^SHLVL= -e ^_= -e ^OLDPWD= | sort; exec sleep 1000",
        ]
        await link.tmux_start("agent", argv, {"B": "c d'", "PATH": "/usr/bin:/bin"}, "/tmp", cols=90, rows=20)
        pane = await screen_with(link, "TERM=")
        assert pane["screen"].split("\n")[:4] == [
            "20 90",
            "B=c d'",
            "PATH=/usr/bin:/bin",
            "TERM=tmux-256color",
        ]

    with_link(boxd, work)


def test_a_session_can_be_started_while_the_old_server_is_going_away(boxd: BoxdProcess) -> None:
    async def work(link: BoxLink) -> None:
        for _ in range(25):
            await link.tmux_start("agent", ["sleep", "1000"])
            boxd.tmux("kill-server")
        await link.tmux_start("agent", ["sleep", "1000"])
        assert len(await link.tmux_list()) == 1

    with_link(boxd, work)
