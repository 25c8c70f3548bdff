"""The process: one per socket, nobody's child, found again, ended when asked."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from gateway_support import (
    Home,
    alive,
    ask,
    eventually,
    in_loop,
    kill,
    listener,
    plain,
    port_of,
    request,
    until,
    upstream,
)

from thopter.gateway.client import GatewayClient, GatewayDown, Pong, git_client, model_client
from thopter.kit.paths import Paths
from thopter.model.errors import BadInput, ThopterError

SECRET = "sk-canary-5f0c1d7e8b"


@in_loop
async def test_twenty_callers_at_once_get_the_same_one_process(place: Home) -> None:
    pongs = await asyncio.gather(*(place.client("model").ensure() for _ in range(20)))
    place.pids.append(pongs[0].pid)
    assert len({(p.pid, p.boot) for p in pongs}) == 1
    assert pongs[0].name == "model" and pongs[0].attached == []


@in_loop
async def test_a_second_process_on_the_same_socket_steps_back(place: Home) -> None:
    _, pong = await place.start("model")
    argv = [sys.executable, "-m", "thopter.gateway.model", "--socket", str(place.run / "model.sock")]
    second = await asyncio.to_thread(
        subprocess.run, [*argv, "--state", str(place.state)], capture_output=True, timeout=60, check=False
    )
    assert json.loads(second.stdout) == {"busy": True} and second.returncode == 0
    assert (await place.client("model").ping()).pid == pong.pid


@in_loop
async def test_it_is_nobodys_child_and_holds_nothing_of_who_started_it(place: Home) -> None:
    leak = socket.socketpair()
    os.set_inheritable(leak[0].fileno(), True)
    os.environ["THOPTER_TEST_SECRET"] = SECRET
    try:
        _, pong = await place.start("model")
    finally:
        del os.environ["THOPTER_TEST_SECRET"]
        leak[0].close()
    leak[1].setblocking(False)
    assert leak[1].recv(1) == b"", "the gateway inherited a descriptor"
    leak[1].close()
    fields = Path(f"/proc/{pong.pid}/stat").read_text().rpartition(")")[2].split()
    assert int(fields[1]) != os.getpid(), "it is still our child"
    assert int(fields[3]) == pong.pid, "it does not lead its own session"
    for name in ("cmdline", "environ"):
        assert SECRET.encode() not in Path(f"/proc/{pong.pid}/{name}").read_bytes()


@in_loop
async def test_it_survives_the_one_who_started_it(place: Home) -> None:
    code = (
        "import asyncio, pathlib; from thopter.gateway.client import GatewayClient\n"
        f"c = GatewayClient('thopter.gateway.git', pathlib.Path({str(place.run / 'git.sock')!r}),"
        f" pathlib.Path({str(place.state)!r}))\nprint(asyncio.run(c.ensure()).pid, flush=True)\n"
        "import os, signal; os.kill(0, signal.SIGKILL)\n"  # its whole process group dies with it
    )
    hub = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-c", code],
        capture_output=True,
        timeout=60,
        start_new_session=True,
        check=False,
    )
    pid = int(hub.stdout)
    place.pids.append(pid)
    assert hub.returncode == -9 and alive(pid)
    assert (await place.client("git").ping()).pid == pid


@in_loop
async def test_stop_ends_it_and_stopping_nothing_is_fine(place: Home) -> None:
    client, pong = await place.start("model")
    await client.stop()
    await eventually(lambda: not alive(pong.pid))
    with pytest.raises(GatewayDown):
        await client.ping()
    await client.stop()
    assert (await place.start("model"))[1].boot != pong.boot


@in_loop
async def test_it_ends_by_itself_when_idle_but_not_while_something_is_attached(place: Home) -> None:
    client, pong = await place.start("model", idle_exit=1.0)
    with listener() as door:
        await client.attach("b", door, upstream="http://127.0.0.1:9")
        await asyncio.sleep(2.5)
        assert alive(pong.pid)
        await client.detach("b")
    await eventually(lambda: not alive(pong.pid))


@in_loop
async def test_a_killed_gateway_is_started_again_and_told_anew_at_once(place: Home) -> None:
    client = place.client("model")
    boots: list[Pong] = []

    async def on_boot(pong: Pong) -> None:
        place.pids.append(pong.pid)
        boots.append(pong)

    supervisor = asyncio.get_running_loop().create_task(client.supervise(on_boot))
    try:
        await eventually(lambda: boots)
        await asyncio.to_thread(kill, boots[0].pid)
        await eventually(lambda: len(boots) == 2)
        assert boots[0].boot != boots[1].boot
        await asyncio.sleep(0.3)
        assert len(boots) == 2, "one boot was told twice"
    finally:
        supervisor.cancel()


@in_loop
async def test_a_socket_file_left_by_a_dead_process_is_replaced(place: Home) -> None:
    client, pong = await place.start("model")
    await asyncio.to_thread(kill, pong.pid)
    assert (place.run / "model.sock").exists()
    assert (await place.start("model"))[1].pid != pong.pid
    assert stat.S_IMODE((place.run / "model.sock").stat().st_mode) == 0o600
    assert client.control == place.run / "model.sock"


@in_loop
async def test_a_state_folder_that_can_not_be_ours_is_refused_in_one_sentence(place: Home) -> None:
    place.state.parent.mkdir(exist_ok=True)
    place.state.write_text("not a folder")
    with pytest.raises(ThopterError, match=r"not a folder|can't start|Not a directory|exists"):
        await place.client("model").ensure()


@in_loop
async def test_control_requests_that_make_no_sense_are_answered_and_end_nothing(place: Home) -> None:
    client, pong = await place.start("model")
    bad = [
        b"\n",
        b"{\n",
        b"[]\n",
        b'{"op":"fly"}\n',
        b'{"op":"attach"}\n',
        b'{"op":"attach","box":"a\\u0000"}\n',
    ]
    bad += [b'{"op":"detach","box":5}\n', b'{"op":"log","after":-1}\n', b"x" * (2 << 20)]
    for line in bad:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(30)
            sock.connect(str(client.control))
            try:
                sock.sendall(line)
            except (BrokenPipeError, ConnectionResetError):
                continue  # refused before the end of it
            if not line.endswith(b"\n"):
                sock.shutdown(socket.SHUT_WR)
            await asyncio.sleep(0)
            answer = await asyncio.to_thread(_line, sock)
        assert answer == b"" or json.loads(answer)["error"]["code"] == "bad_input", line[:60]
    with socket.socket(socket.AF_UNIX) as half:
        half.connect(str(client.control))
        half.sendall(b'{"op":"pi')
    assert (await client.ping()).boot == pong.boot


def _line(sock: socket.socket) -> bytes:
    try:
        return sock.makefile("rb").readline()
    except ConnectionResetError:
        return b""


@in_loop
async def test_only_a_listening_socket_can_be_attached(place: Home) -> None:
    client, _ = await place.start("model")
    one, two = socket.socketpair()
    with pytest.raises(BadInput, match="not a listening"):
        await client.attach("b", one, upstream="http://127.0.0.1:9")
    with pytest.raises(BadInput, match="must come along"):
        await client.attach("b", None, upstream="http://127.0.0.1:9")
    assert await client.list() == {}
    one.close()
    two.setblocking(False)
    assert two.recv(1) == b"", "the gateway kept the refused descriptor"
    two.close()


@in_loop
async def test_detaching_frees_the_listening_socket_and_ends_its_connections(place: Home) -> None:
    client, _ = await place.start("model")
    async with upstream(plain(b"{}")) as (_up, port):
        door = listener()
        number = port_of(door)
        await client.attach("b", door, upstream=f"http://127.0.0.1:{port}")
        reader, writer = await asyncio.open_connection("127.0.0.1", number)
        writer.write(request("GET", "/v1/models"))
        assert b"200" in await reader.readuntil(b"\r\n\r\n")
        assert await client.detach("b") and not await client.detach("b")
        async with asyncio.timeout(30):
            await reader.read()  # the connection ends
        writer.close()
    door.close()
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", number)
    assert await client.list() == {}


@in_loop
async def test_what_is_logged_is_one_record_a_line(place: Home) -> None:
    client, _ = await place.start("model")
    with listener() as door:
        await client.attach("b", door, upstream="http://127.0.0.1:9")
        await ask(port_of(door), request("GET", "/v1/models"))
    lines = until(lambda: (place.state / "gateway" / "model.log").read_text().splitlines())
    assert all(set(json.loads(line)) == {"at_ms", "level", "text"} for line in lines)


def test_the_hubs_clients_are_made_from_its_folders(tmp_path: Path) -> None:
    paths = Paths(tmp_path / "s", tmp_path / "r", tmp_path / "c")
    model, git = model_client(paths), git_client(paths)
    assert isinstance(model, GatewayClient)
    assert (model.control, git.control) == (tmp_path / "r" / "model.sock", tmp_path / "r" / "git.sock")
