"""The small parts of the shell, each alone: locks, tokens, throttle, log, scopes, JSON, ports."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import httpx2
import pytest
from hub_support import wait_for
from hypothesis import given
from hypothesis import strategies as st
from memory_fleet import MemoryInside

from thopter.hub import answers, auth
from thopter.hub.api import ROUTES
from thopter.hub.app import build_app
from thopter.hub.auth import ALL_SCOPES, READ, Throttle, Tokens, load_token
from thopter.hub.doors import Door, UnixDoor, parse_listen
from thopter.hub.life import Hub
from thopter.hub.lock import FileLock, holder
from thopter.hub.ports import Compose, Composition
from thopter.kit.clock import SystemClock
from thopter.kit.paths import Paths
from thopter.kit.settings import Settings
from thopter.model.errors import BadInput, Conflict, PartlyDone, Refused, ThopterError, Throttled


class Hand:
    """A clock moved by hand."""

    def __init__(self) -> None:
        self.now = 0.0

    def now_ms(self) -> int:
        return int(self.now * 1000)

    def monotonic(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.now += seconds


# ------------------------------------------------------------------------------------------ locks


def test_a_lock_is_free_again_when_its_holder_is_killed(root: Path) -> None:
    path = root / "lock"
    code = (
        "import sys,time; from pathlib import Path; from thopter.hub.lock import FileLock\n"
        f"lock = FileLock(Path({str(path)!r}), 'x'); lock.sign(); print('held', flush=True); time.sleep(600)"
    )
    other = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, env={"PYTHONPATH": "src"})
    try:
        assert other.stdout is not None and other.stdout.readline() == b"held\n"
        with pytest.raises(Conflict, match=f"pid {other.pid}") as refused:
            FileLock(path, "has it")
        assert refused.value.data["pid"] == other.pid == holder(path)
    finally:
        other.kill()
        other.communicate()
    lock = FileLock(path, "has it")
    assert holder(path) is None, "what the dead one wrote is gone"
    lock.sign()
    assert holder(path) == os.getpid()
    lock.release()
    FileLock(path, "has it").release()


def test_programs_started_by_the_holder_do_not_keep_its_lock(root: Path) -> None:
    lock = FileLock(root / "lock", "x")
    child = subprocess.Popen(["sleep", "600"], close_fds=False)
    try:
        lock.release()
        FileLock(root / "lock", "x").release()
    finally:
        child.kill()
        child.wait()


def test_a_lock_that_is_a_symlink_is_refused(root: Path) -> None:
    (root / "lock").symlink_to(root / "elsewhere")
    with pytest.raises(Refused):
        FileLock(root / "lock", "x")
    assert not (root / "elsewhere").exists()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"pid":"1"}', '{"pid":-1}', '{"pid":true}', "\xff" * 999])
def test_nonsense_in_a_lock_file_names_nobody(root: Path, text: str) -> None:
    (root / "lock").write_text(text, encoding="latin-1")
    assert holder(root / "lock") is None


# ----------------------------------------------------------------------------------------- tokens


def test_a_token_is_made_once_and_private(root: Path) -> None:
    token = load_token(root / "token")
    assert load_token(root / "token") == token
    assert (root / "token").stat().st_mode & 0o777 == 0o600
    assert len(token) >= 43 and token.startswith("thp_")
    assert os.listdir(root) == ["token"]


@pytest.mark.parametrize(
    "text", ["", "short", "thp_", "x" * 50, "thp_" + "a" * 300, "thp_" + "a" * 40 + "\0"]
)
def test_a_file_without_a_sound_token_is_refused_and_kept(root: Path, text: str) -> None:
    path = root / "token"
    path.write_text(text)
    path.chmod(0o600)
    with pytest.raises(Refused):
        load_token(path)
    assert path.read_text() == text


def test_a_token_file_that_is_a_symlink_is_refused(root: Path) -> None:
    (root / "real").write_text("thp_" + "a" * 43)
    (root / "real").chmod(0o600)
    (root / "token").symlink_to(root / "real")
    with pytest.raises(Refused):
        load_token(root / "token")


def test_the_throttle_lets_some_failures_pass_then_one_in_two_seconds() -> None:
    clock = Hand()
    throttle = Throttle(clock)
    assert [throttle.failed() for _ in range(20)] == [0.0] * 20
    assert throttle.failed() == pytest.approx(2.0)
    clock.now += 1
    assert throttle.failed() == pytest.approx(1.0)
    clock.now += 1
    assert throttle.failed() == 0.0
    assert throttle.failed() > 0
    clock.now += 3600
    assert [throttle.failed() for _ in range(20)] == [0.0] * 20, "rest does not add up beyond the room"
    assert throttle.failed() > 0


@given(st.binary(max_size=300))
def test_no_header_but_the_right_one_is_a_token(given_header: bytes) -> None:
    import asyncio

    tokens = Tokens({"thp_" + "a" * 43: ALL_SCOPES}, Throttle(Hand()))
    tokens.loaded.set()

    async def run() -> None:
        for headers in ([given_header], [b"Bearer " + given_header], []):
            assert await tokens.holder(headers, 1) is None
        assert await tokens.holder([b"Bearer thp_" + b"a" * 43], 1) is not None

    asyncio.run(run())


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("127.0.0.1:80", ("127.0.0.1", 80)),
        ("localhost:1", ("127.0.0.1", 1)),
        ("[::1]:9", ("::1", 9)),
        ("127.9.9.9:0", ("127.9.9.9", 0)),
    ],
)
def test_loopback_addresses_are_understood(text: str, found: tuple[str, int]) -> None:
    assert parse_listen(text) == found


@given(st.text(max_size=30))
def test_any_other_address_is_bad_input(text: str) -> None:
    try:
        host, port = parse_listen(text)
    except BadInput:
        return
    assert (host.startswith("127.") or host == "::1") and 0 <= port <= 65535


# ------------------------------------------------------------------------------------------ doors


def test_the_socket_is_replaced_without_a_moment_in_which_there_is_none(root: Path) -> None:
    first = UnixDoor(root / "s")
    second = UnixDoor(root / "s")
    assert (root / "s").stat().st_mode & 0o777 == 0o600
    first.remove()
    assert (root / "s").exists(), "the first does not remove what is the second's"
    second.remove()
    assert os.listdir(root) == []
    first.sock.close()
    second.sock.close()


def test_a_path_too_long_for_a_socket_is_told(root: Path) -> None:
    long = root / ("d" * 90)
    long.mkdir()
    with pytest.raises(BadInput, match="too long"):
        UnixDoor(long / "hub.sock")


# ---------------------------------------------------------------------------------------- answers


def test_any_error_becomes_json() -> None:
    errors = [
        ThopterError("x", data=object()), ThopterError("\ud800"), PartlyDone("x", done=["a"], left={"b": 1}),
        ThopterError("x", deep=[[[[[{}]]]]], bytes=b"\xff", key={1: 2}, huge=10**40),
    ]  # fmt: skip
    for error in errors:
        found = json.loads(answers.error_body(error))["error"]
        assert set(found) == {"code", "message", "hint", "data"}


@pytest.mark.parametrize("value", [0, 1.2, 7, "soon", None, -1, float("inf"), True])
def test_retry_after_is_a_whole_number_or_absent(value: object) -> None:
    headers = dict(answers.error_headers(Throttled("x", retry_after=value)))
    found = headers.get(b"retry-after")
    assert found is None or found.isdigit()
    if value == 1.2:
        assert found == b"2"


@given(
    st.recursive(
        st.text() | st.integers(-(2**63), 2**63) | st.none(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_any_text_can_be_encoded(value: object) -> None:
    json.loads(answers.encode({"value": value}))
    json.loads(answers.encode({"value": value, "surrogate": "\udc80\ud800"}))


# ----------------------------------------------------------------------------------------- scopes


class Wired:
    """The real application in this process, behind a door whose token may only read."""

    def __init__(self, root: Path) -> None:
        self.hub = Hub(Paths(root, root, root), Settings({}), SystemClock())
        self.root = root
        reader = Tokens({"reader": frozenset({READ})}, Throttle(SystemClock()))
        door = Door(label="x", sock=None, hosts=frozenset({"hub"}), tokens=reader)  # type: ignore[arg-type]
        self.app = build_app(self.hub, door)

    async def ask(self, method: str, path: str, scopes_token: str) -> int:
        transport = httpx2.ASGITransport(app=self.app)
        async with httpx2.AsyncClient(transport=transport, base_url="http://hub") as client:
            headers = {"Authorization": f"Bearer {scopes_token}"}
            return (await client.request(method, path, headers=headers)).status_code


def test_a_token_may_do_only_what_its_scopes_say(root: Path) -> None:
    import asyncio

    async def run() -> None:
        wired = Wired(root)
        inside = MemoryInside(wired.hub.paths, wired.hub.settings)

        def load() -> Compose:
            def compose(paths: Paths, settings: Settings) -> Composition:
                return inside  # type: ignore[return-value]

            return compose

        async with asyncio.TaskGroup() as group:
            running = group.create_task(wired.hub.bring_up(load))
            async with asyncio.timeout(60):
                await wired.hub.parts(mutating=True)
            await inside.fleet.add("one", "")
            for route in ROUTES:
                if route.kind in ("events", "exec"):
                    continue
                path = route.path.replace("{name}", "one").replace("{id}", "flow_1")
                status = await wired.ask(route.method, path, "reader")
                if route.scope == READ:
                    assert status < 400 or status in (404, 422), route  # nothing is there, nothing was said
                else:
                    assert status == 403, route
            assert not wired.hub.ending, "it did not stop"
            running.cancel()
        await wired.hub.take_down(10)

    asyncio.run(run())


def test_waiting_helper_gives_up(root: Path) -> None:
    with pytest.raises(AssertionError):
        wait_for(lambda: False, 0.05)


def test_the_file_names_of_the_auth_module_are_what_the_contract_says() -> None:
    assert auth.token_file(Path("/s")) == Path("/s/token")
