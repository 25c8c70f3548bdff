"""The hub as a process: one per state folder, kill -9, background, stopping, private files."""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import subprocess
import threading
import time
from pathlib import Path

import httpx2
import pytest
from hub_support import BOUND, HubProcess, hub_process, wait_for


def test_a_second_hub_for_the_same_folder_gives_way_and_names_the_first(own: HubProcess) -> None:
    own.start()
    second = HubProcess(own.state.parent)
    process = second.spawn()
    _, err = process.communicate(timeout=BOUND)
    assert process.returncode == 5
    assert f"pid {own.pid()}" in err.decode() and "thopter hub stop" in err.decode()
    assert own.is_ready(), "the first one is not disturbed"


def test_ten_hubs_started_at_once_leave_exactly_one(root: Path) -> None:
    hubs = [HubProcess(root) for _ in range(10)]
    try:
        processes = [hub.spawn() for hub in hubs]
        wait_for(lambda: sum(p.poll() is not None for p in processes) == 9)
        wait_for(hubs[0].is_ready)
        codes = [p.poll() for p in processes]
        assert sorted(codes, key=str) == [5] * 9 + [None]
        assert hubs[0].pid() == processes[codes.index(None)].pid
    finally:
        for hub in hubs:
            hub.end()


def test_a_hub_killed_by_force_is_followed_by_another(own: HubProcess) -> None:
    own.start()
    made = own.post("/v1/runs", {"prompt": "x", "name": "kept"}).json()
    assert own.process is not None
    own.process.kill()
    own.process.communicate()
    assert own.socket.exists(), "kill -9 leaves the socket file"
    with pytest.raises(httpx2.TransportError):
        own.get("/v1/hub")
    own.start()
    kinds = _replay(own)
    assert kinds == ["hub.started", "box.created", "hub.started"], "nothing acknowledged is lost"
    assert made["name"] == "kept"


def _replay(hub: HubProcess) -> list[str]:
    kinds = []
    with hub.client() as client, client.stream("GET", "/v1/events?after=0") as answer:
        for line in answer.iter_lines():
            if line.startswith("data: "):
                kinds.append(json.loads(line[6:])["kind"])
            if kinds.count("hub.started") == 2:
                return kinds
    raise AssertionError(kinds)


def test_in_the_background_the_command_returns_when_clients_can_connect(own: HubProcess) -> None:
    starter = own.spawn(foreground=False)
    _, err = starter.communicate(timeout=BOUND)
    assert (starter.returncode, err) == (0, b"")
    pid = own.pid()  # the first try connects: the socket listens already
    try:
        assert pid != starter.pid
        assert os.getsid(pid) not in (pid, os.getsid(0)), "no terminal can become the hub's"
        assert Path(f"/proc/{pid}/cwd").resolve() == Path("/")
        assert os.readlink(f"/proc/{pid}/fd/2") == str(own.state / "hub.err")
    finally:
        assert own.post("/v1/hub/stop").status_code == 202
        wait_for(lambda: not Path(f"/proc/{pid}").exists())
    assert not own.socket.exists()
    own.start()  # the locks are free


@pytest.mark.parametrize("how", ["SIGTERM", "SIGINT", "stop"])
def test_the_hub_stops_in_good_order_and_ends_its_streams(own: HubProcess, how: str) -> None:
    own.start()
    ended: list[float] = []
    listening = threading.Event()

    def listen() -> None:
        with own.client() as client, client.stream("GET", "/v1/events") as answer:
            listening.set()
            for _ in answer.iter_lines():
                pass
        ended.append(time.monotonic())

    thread = threading.Thread(target=listen)
    thread.start()
    assert listening.wait(BOUND)
    process = own.process
    assert process is not None
    began = time.monotonic()
    if how == "stop":
        assert own.post("/v1/hub/stop").json() == {}
    else:
        process.send_signal(getattr(signal, how))
    process.communicate(timeout=BOUND)
    thread.join(BOUND)
    assert process.returncode == 0
    assert ended, "the event stream ended with a proper end, not with a broken connection"
    assert ended[0] - began < 5
    assert not own.socket.exists()
    assert [r["text"] for r in own.log()][-2:] == ["stopping", "stopped"]


def test_a_request_that_does_not_end_holds_the_stop_up_for_seconds_only(own: HubProcess) -> None:
    own.start()
    own.post("/v1/thopters", {"name": "one"})
    request = b"POST /v1/thopters/one/put?path=/x HTTP/1.1\r\nHost: thopter\r\n"
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(str(own.socket))
        sock.sendall(request + b"Content-Type: application/octet-stream\r\nContent-Length: 9\r\n\r\nhalf")
        assert own.process is not None
        time.sleep(0.2)  # so that the request is under way; either way the bound below holds
        began = time.monotonic()
        own.process.terminate()
        own.process.communicate(timeout=BOUND)
        assert time.monotonic() - began < 12
        assert own.process.returncode == 0
    assert not list((own.state / "files").glob("_x")), "half an upload is no file"


def test_reads_are_served_and_changes_wait_while_the_fleet_recovers(root: Path) -> None:
    hub = HubProcess(root, TEST_READY_SECONDS="3")
    try:
        hub.spawn()
        wait_for(hub.answers)
        assert hub.get("/v1/thopters").json() == {"thopters": []}
        assert hub.get("/v1/hub").json()["ready"] is False
        assert hub.post("/v1/runs", {"prompt": "x"}).status_code == 202
        assert hub.get("/v1/hub").json()["ready"] is True, "it came back when the fleet was ready"
    finally:
        hub.end()


def test_it_answers_before_its_inside_is_up(root: Path) -> None:
    hub = HubProcess(root, TEST_START_SECONDS="3")
    try:
        hub.spawn()
        wait_for(hub.answers)
        assert hub.get("/v1/hub").json()["ready"] is False
        assert hub.get("/v1/thopters").status_code == 200, "waits for the inside, then answers"
    finally:
        hub.end()


def test_a_hub_whose_inside_fails_tells_those_who_wait_and_ends(root: Path) -> None:
    hub = HubProcess(root, TEST_FAIL="1")
    try:
        process = hub.spawn()
        _, err = process.communicate(timeout=BOUND)
        assert process.returncode == 5
        assert b"the database is of a newer version" in err and b"update thopter" in err
        assert not hub.socket.exists()
    finally:
        hub.end()


def test_a_bug_at_start_is_logged_without_secrets(root: Path) -> None:
    hub = HubProcess(root, TEST_BUG="1")
    try:
        process = hub.spawn()
        _, err = process.communicate(timeout=BOUND)
        assert process.returncode == 1
        text = (hub.state / "hub.log").read_text()
        assert "KeyError" in text and "Traceback" in text
        assert b"sk-ant" not in err and "sk-ant" not in text
    finally:
        hub.end()


@pytest.mark.battery("H17")
def test_every_file_of_a_hub_started_with_umask_0_is_private(own: HubProcess) -> None:
    own.start("--listen", "127.0.0.1:0")
    own.post("/v1/thopters", {"name": "one"})
    found = [own.state, *own.state.rglob("*")]
    assert len(found) > 8
    for path in found:
        assert stat.S_IMODE(path.lstat().st_mode) & 0o077 == 0, path
    assert stat.S_IMODE(own.socket.lstat().st_mode) == 0o600
    assert stat.S_IMODE(own.state.lstat().st_mode) == 0o700


@pytest.mark.battery("H17")
def test_the_token_is_in_no_log_argv_or_environment(own: HubProcess) -> None:
    own.start("--listen", "127.0.0.1:0")
    token = own.token.encode()
    httpx2.get(own.tcp + "/v1/hub", headers={"Authorization": f"Bearer {own.token}"})
    httpx2.get(own.tcp + f"/v1/hub?token={own.token}")
    proc = Path(f"/proc/{own.pid()}")
    seen = [(proc / "environ").read_bytes(), (proc / "cmdline").read_bytes()]
    seen += [p.read_bytes() for p in own.state.rglob("hub.*") if p.is_file()]
    assert not any(token in each for each in seen)


@pytest.mark.battery("H17")
@pytest.mark.root
def test_another_process_of_the_same_user_can_not_read_the_hubs_memory(root: Path) -> None:
    if os.getuid() != 0:
        pytest.skip("needs root to become somebody else")
    hub = HubProcess(root)
    root.chmod(0o777)
    argv = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    try:
        process = hub.spawn(before=argv)
        wait_for(lambda: hub.answers() or hub.died(process))
        spy = subprocess.run([*argv, "cat", f"/proc/{hub.pid()}/environ"], capture_output=True)
        assert spy.returncode != 0 and b"Permission denied" in spy.stderr
        control = subprocess.run([*argv, "cat", "/proc/self/environ"], capture_output=True, env={"A": "b"})
        assert control.stdout == b"A=b\0", "such a process can read what it may"
    finally:
        hub.end()


@pytest.mark.battery("H17")
def test_the_hub_leaves_no_core_dump(own: HubProcess) -> None:
    own.start()
    limits = Path(f"/proc/{own.pid()}/limits").read_text()
    line = next(line for line in limits.splitlines() if line.startswith("Max core file size"))
    # 1: where core_pattern is a program, the kernel gives it a core in spite of 0, and not with 1.
    assert {*line.split()[4:6]} <= {"0", "1"}


def test_a_state_folder_that_can_not_be_made_is_told(root: Path) -> None:
    (root / "state").write_text("a file")
    for broken in (HubProcess(root), HubProcess(root, THOPTER_STATE_DIR=f"{root}/state/below")):
        process = broken.spawn()
        _, err = process.communicate(timeout=BOUND)
        assert process.returncode in (1, 5) and b"Traceback" not in err
        assert err.startswith(b"thopter hub: ")


def test_new_settings_are_read_on_sighup_and_bad_ones_change_nothing(own: HubProcess, root: Path) -> None:
    config = root / "config" / "thopter" / "config.toml"
    config.parent.mkdir(parents=True)
    config.write_text('[hub]\nlog_level = "info"\n')
    own.start()
    config.write_text('[hub]\nlog_level = "debug"\n')
    assert own.process is not None
    own.process.send_signal(signal.SIGHUP)
    wait_for(lambda: any(r["text"] == "settings were read again" for r in own.log()))
    own.get("/v1/thopters")
    wait_for(lambda: any(r["level"] == "debug" and r["text"] == "request" for r in own.log()))
    config.write_text("[hub\n")
    own.process.send_signal(signal.SIGHUP)
    bad = wait_for(lambda: [r for r in own.log() if "the old ones stay" in r["text"]])
    assert "line 1" in bad[0]["text"]
    assert own.is_ready()


def test_one_socket_is_not_taken_from_a_hub_of_another_folder(root: Path) -> None:
    shared = root / "shared"
    shared.mkdir(mode=0o700)
    (root / "a").mkdir()
    (root / "b").mkdir()
    first, second = HubProcess(root / "a"), HubProcess(root / "b")
    first.socket = second.socket = shared / "hub.sock"
    try:
        first.start("--socket", str(first.socket))
        process = second.spawn("--socket", str(second.socket))
        _, err = process.communicate(timeout=BOUND)
        assert process.returncode == 5 and f"pid {first.pid()}" in err.decode()
        assert first.get("/v1/hub").json()["state_dir"] == str(first.state)
    finally:
        first.end()
        second.end()


@pytest.mark.parametrize("what", ["file", "folder", "symlink"])
def test_what_is_in_the_sockets_way_is_not_removed(own: HubProcess, what: str, root: Path) -> None:
    own.socket.parent.mkdir(parents=True)
    if what == "file":
        own.socket.write_text("mine")
    elif what == "folder":
        own.socket.mkdir()
    else:
        own.socket.symlink_to(root / "elsewhere")
    process = own.spawn()
    _, err = process.communicate(timeout=BOUND)
    assert process.returncode == 5 and b"in the way" in err
    assert own.socket.is_symlink() or own.socket.exists()


def test_a_socket_in_a_folder_that_others_may_enter_is_refused(own: HubProcess, root: Path) -> None:
    open_folder = root / "open"
    open_folder.mkdir()
    open_folder.chmod(0o755)
    process = own.spawn("--socket", str(open_folder / "hub.sock"))
    _, err = process.communicate(timeout=BOUND)
    assert process.returncode == 5 and b"others may enter" in err
    assert stat.S_IMODE(open_folder.stat().st_mode) == 0o755, "it is not changed either"


@pytest.mark.battery("H1")
@pytest.mark.parametrize(
    "listen", ["0.0.0.0:0", "[::]:0", "192.0.2.1:80", "example.com:80", "127.0.0.1", ":1"]
)
def test_only_loopback_is_listened_on(own: HubProcess, listen: str) -> None:
    process = own.spawn("--listen", listen)
    _, err = process.communicate(timeout=BOUND)
    assert process.returncode == 2, err
    assert b"Traceback" not in err
    assert not own.socket.exists()


def test_a_port_that_is_taken_is_told_and_nothing_is_left(own: HubProcess) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        process = own.spawn("--listen", f"127.0.0.1:{taken.getsockname()[1]}")
        _, err = process.communicate(timeout=BOUND)
    assert process.returncode == 5 and b"hub.listen" in err
    own.start()


def test_a_token_file_that_others_can_read_is_refused(own: HubProcess) -> None:
    own.state.mkdir(mode=0o700)
    token = own.state / "token"
    token.write_text("thp_" + "a" * 43)
    token.chmod(0o644)
    process = own.spawn("--listen", "127.0.0.1:0")
    _, err = process.communicate(timeout=BOUND)
    assert process.returncode == 5 and b"can be read by others" in err


def test_it_serves_within_a_second_of_its_start(root: Path) -> None:
    times = []
    for n in range(3):
        (root / str(n)).mkdir()
        hub = HubProcess(root / str(n))
        try:
            began = time.monotonic()
            hub.spawn()
            wait_for(hub.answers)
            times.append(time.monotonic() - began)
        finally:
            hub.end()
    print(f"start to serving: best {min(times) * 1000:.0f} ms of {len(times)}")
    # A loaded machine may be slower; the budget itself (1 s) is measured by the bench.
    assert min(times) < 10


def test_nothing_of_the_program_is_left_in_the_runtime_folder(own: HubProcess) -> None:
    with hub_process(own.state.parent) as hub:
        assert hub.socket.exists()
    assert sorted(p.name for p in own.socket.parent.iterdir()) == ["hub.sock.lock"]


def test_a_hub_whose_terminal_is_held_up_goes_on(own: HubProcess) -> None:
    """Its stderr is a pipe here that nobody reads; it holds 64 KiB."""
    own.start()
    with own.client() as client:
        for n in range(1500):
            assert client.post("/v1/thopters", json={"name": f"n-{n}"}).status_code == 202
    assert sum(r["text"] == "request" for r in own.log()) >= 1500, "the log has all of it"
    own.post("/v1/hub/stop")
    assert own.process is not None
    wait_for(lambda: own.process.poll() is not None)
    assert own.process.returncode == 0
