"""In a box made by the zygote the standard library can't be reached: boxd must need nothing of it."""

from __future__ import annotations

import asyncio
import signal
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any

import pytest
from boxd_support import BoxdProcess, run, until

from thopter.kit.tasks import Background
from thopter.model.errors import BadInput, ThopterError

# Everything imported, then no way to import anything: as after pivot_root.
PRELUDE = """
import builtins, codecs
class Refuse:
    def find_spec(self, name, path=None, target=None):
        sys.stderr.write("IMPORT " + name + chr(10))
        raise ImportError(name)
sys.path[:] = []
sys.path_hooks[:] = []
sys.path_importer_cache.clear()
sys.meta_path[:] = [Refuse()]
"""


@pytest.mark.parametrize("inotify", [True, False])
def test_every_op_and_every_error_works_without_any_import(
    start: Callable[..., BoxdProcess], inotify: bool
) -> None:
    boxd = start(prelude=PRELUDE, inotify=inotify)
    run(_everything(boxd))
    assert "IMPORT" not in boxd.log.read_text()


async def _everything(boxd: BoxdProcess) -> None:
    folder = boxd.folder
    async with boxd.link() as link:
        assert (await link.exec(["sh", "-c", "cat"], stdin=b"x")).stdout == b"x"
        async with link.open_exec(["sleep", "100"], pty=(10, 20)) as stream:
            await stream.resize(5, 6)
            await stream.signal("KILL")
            assert await stream.wait() == ("signal", signal.SIGKILL)
        await link.put(str(folder / "t/a.jsonl"), "ä\n".encode() + b"\xff\n")
        assert len(await link.fetch(str(folder / "t/a.jsonl"))) == 5
        await link.stat(str(folder))
        await link.procs()
        assert len(await link.read_files(str(folder), "**/*.jsonl")) == 1
        assert [m async for m in link.tail(str(folder), "**/*.jsonl")]
        await link.run_start("r", ["sh", "-c", "echo up; exec cat"], None, "/tmp")
        await link.tmux_keys("agent", [{"text": "ä;"}, {"paste": "x"}, {"keys": ["Enter"], "pause_ms": 1}])
        await link.tmux_capture("agent", 100)
        await link.tmux_list()
        await link.run_stop("r")
        await _errors(link, folder)
        await _hooks(boxd, link)
        await _relays(link)


async def _errors(link: Any, folder: Any) -> None:
    async def refused(work: Any) -> None:
        with pytest.raises(ThopterError):
            await work

    await refused(link.exec(["nope"]))
    await refused(link.exec(["true"], cwd="/nope"))
    await refused(link.call("no-such-op"))
    await refused(link.call("exec", argv=5))
    await refused(link.put("/proc/nope/x", b""))
    await refused(link.fetch(str(folder)))
    await refused(link.stat("/nope"))
    await refused(link.tmux_capture("nope"))
    await refused(link.tmux_start("x", ["nope"]))
    await refused(link.run_start("q", ["sh", "-c", "exit 3"], None, "/tmp"))
    await refused(link.run_stop("never"))
    await refused(link.hook_answer("nope"))
    await refused(link.call("dial", port=1, host="ä.example"))
    await refused(link.call("dial", port=1))
    await refused(link.call("listen", port=70000))
    with pytest.raises(BadInput):
        await link.exec(["true"], env={"": "x"})


async def _hooks(boxd: BoxdProcess, link: Any) -> None:
    def post(query: str, token: str) -> int:
        url = f"http://127.0.0.1:{link.facts['hook_port']}/hook/Stop?run=r%C3%A4{query}"
        request = urllib.request.Request(url.replace("%C3%A4", ""), b'{"a": "\xc3\xa4"}')
        request.add_header("Authorization", "Bearer " + token)
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as e:
            return e.code

    assert await asyncio.to_thread(post, "", boxd.token) == 204
    assert await asyncio.to_thread(post, "", "wrong") == 401
    assert await asyncio.to_thread(post, "&hold=x", boxd.token) == 400

    async def answer() -> None:
        async for record in link.journal(follow=True):
            if "id" in record:
                await link.hook_answer(record["id"], 200, '{"ok":1}')
                return

    status, _ = await asyncio.gather(asyncio.to_thread(post, "&hold=30", boxd.token), answer())
    assert status == 200


async def _relays(link: Any) -> None:
    ready: list[int] = []

    async def echo(stream: Any) -> None:
        while data := await stream.read():
            await stream.write(data)

    async with Background() as background:
        background.spawn(link.listen(0, echo, ready.append))
        await until(lambda: ready)
        async with link.dial(ready[0]) as stream:
            await stream.write(b"hello")
            await stream.eof()
            assert await stream.read() == b"hello"
