"""boxd.pyz: the same bytes each time, any Python from 3.9, over stdio one boxd for all channels."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from boxd_support import BOUND, BoxdProcess, run, until

from thopter.boxd import procfs
from thopter.kit.boxd_bundle import build_zipapp
from thopter.kit.channel import BoxLink


def pythons() -> list[str]:
    """Interpreters of this machine from 3.9 on, oldest first."""
    found = sorted(Path.home().glob(".pyenv/versions/3.*/bin/python"), key=lambda p: _version(p))
    usable = [str(p) for p in found if _version(p) >= (3, 9)]
    return [*usable, *(["/usr/bin/python3"] if os.path.exists("/usr/bin/python3") else [])] or [
        sys.executable
    ]


def _version(path: Path) -> tuple[int, ...]:
    return tuple(int(n) for n in path.parts[-3].split(".") if n.isdigit())


@pytest.fixture
def pyz(folder: Path) -> str:
    """A fresh boxd.pyz."""
    return build_zipapp(str(folder / "boxd.pyz"))


def test_the_bundle_is_the_same_each_time_and_self_contained(folder: Path, pyz: str) -> None:
    again = build_zipapp(str(folder / "again.pyz"))
    assert Path(pyz).read_bytes() == Path(again).read_bytes()
    assert os.access(pyz, os.X_OK) and sorted(os.listdir(folder)) == ["again.pyz", "boxd.pyz"]


@pytest.mark.parametrize("python", pythons())
def test_it_serves_with_every_python_from_3_9(
    start: Callable[..., BoxdProcess], pyz: str, python: str
) -> None:
    boxd = start(python=python, pyz=pyz)

    async def go() -> None:
        async with boxd.link() as link:
            assert (await link.exec(["sh", "-c", "cat; exit 3"], stdin=b"x")).exit == 3
            async with link.open_exec(["tty"], pty=(10, 20)) as stream:
                assert b"/dev/pts" in b"".join([d async for _, d in stream])
            await link.put(str(boxd.folder / "t/a.jsonl"), b"1\n2\n")
            assert [p["lines"] async for p in link.tail(str(boxd.folder / "t"), "*")] == [["1", "2"]]
            pid = await link.run_start("r", ["sleep", "1000"], None, "/tmp")
            await link.tmux_keys("agent", [{"text": "x"}, {"paste": "y"}])
            os.kill(boxd.boxd_pid(), signal.SIGKILL)
        async with boxd.link() as link:
            os.kill(pid, signal.SIGTERM)
            async for record in link.journal(follow=True, kinds=["run.exited"]):
                assert record["signal"] == 15
                break

    run(go())
    assert boxd.hook("Stop")[0] == 204
    assert "defect" not in boxd.log.read_text()


@pytest.fixture
def stdio(folder: Path, pyz: str) -> Iterator[list[str]]:
    """The command of a provider's exec; the boxd it starts is ended afterwards."""
    config = {
        "run_dir": str(folder / "run"),
        "var_dir": str(folder / "var"),
        "home": str(folder),
        "hook_port": -1,
    }
    (folder / "config.json").write_text(json.dumps(config))
    try:
        yield [
            pythons()[-1],
            "-S",
            "-E",
            "-I",
            pyz,
            "serve",
            "--stdio",
            "--config",
            str(folder / "config.json"),
        ]
    finally:
        mine = str(folder).encode()
        for one in procfs.everything():  # the init of that boxd: its command line names our folder
            try:
                if mine in procfs.read_small(f"/proc/{one.pid}/cmdline"):
                    os.kill(one.pid, signal.SIGTERM)
            except OSError:
                continue


@asynccontextmanager
async def over_stdio(command: list[str]) -> AsyncIterator[BoxLink]:
    process = await asyncio.create_subprocess_exec(
        *command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, limit=1 << 20
    )
    assert process.stdin and process.stdout
    try:
        async with BoxLink.connect(process.stdout, process.stdin, timeout=BOUND) as link:
            yield link
    finally:
        async with asyncio.timeout(BOUND):
            await process.wait()


def test_channels_over_stdio_share_one_boxd_that_outlives_them(stdio: list[str]) -> None:
    async def go() -> None:
        content = os.urandom(3 << 20)
        async with over_stdio(stdio) as one, over_stdio(stdio) as two:
            assert one.facts["pid"] == two.facts["pid"]
            assert (await one.exec(["cat"], stdin=content)).stdout == content
            pid = await one.run_start("r", ["sleep", "1000"], None, "/tmp")
        async with over_stdio(stdio) as three:
            assert three.facts["boot"] == one.facts["boot"]
            assert await three.run_start("r", ["sleep", "1000"], None, "/tmp") == pid
            await three.run_stop("r")

    run(go())


def test_many_bridges_at_once_start_only_one_boxd(stdio: list[str]) -> None:
    async def boot() -> str:
        async with over_stdio(stdio) as link:
            return str(link.facts["boot"])

    async def go() -> list[str]:
        return await asyncio.gather(*(boot() for _ in range(6)))

    assert len(set(run(go()))) == 1


def test_a_lost_bridge_ends_the_commands_of_its_channel_only(stdio: list[str]) -> None:
    async def go() -> None:
        async with over_stdio(stdio) as keep, keep.open_exec(["sleep", "1000"]) as other:
            async with over_stdio(stdio) as lost, lost.open_exec(["sleep", "1000"]) as stream:
                pid = stream.pid
                lost.close()
            await until(lambda: (s := procfs.stat(pid)) is None or s.state in "ZX")
            assert procfs.alive(other.pid, procfs.stat(other.pid).started)  # type: ignore[union-attr]

    run(go())


@pytest.mark.parametrize(
    "args",
    [
        "",
        "serve",
        "serve --socket",
        "run",
        "serve --stdio --socket x",
        "serve --nope",
        "serve --config /nope",
    ],
)
def test_a_wrong_command_line_is_told(pyz: str, args: str) -> None:
    done = subprocess.run([pythons()[-1], pyz, *args.split()], capture_output=True, text=True, timeout=BOUND)
    assert done.returncode == 2 and "usage:" in done.stderr


@pytest.mark.parametrize(
    "config", ["{", "[]", '{"home": "relative"}', '{"hook_port": "x"}', '{"env": {"": "x"}}']
)
def test_a_wrong_configuration_is_told(pyz: str, folder: Path, config: str) -> None:
    (folder / "c").write_text(config)
    command = [pythons()[-1], pyz, "serve", "--stdio", "--config", str(folder / "c")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=BOUND)
    assert done.returncode == 2 and "boxd: " in done.stderr
