"""Names and addresses: an emulated name service that lies, changes its mind, or says nothing."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from egress_rig import Authority, Rig, policy, rule
from gateway_support import Home, in_loop, plain, upstream

from thopter.gateway.client import GatewayClient

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0, reason="another resolv.conf needs a mount namespace of root's"
)
_A, _AAAA = 1, 28


class NameService:
    """DNS over UDP on an address of its own; ``answers`` gives the addresses by name, list by list."""

    def __init__(self) -> None:
        self.answers: dict[str, list[list[str]]] = {}
        self.asked: list[tuple[str, int]] = []
        self.address = f"127.{os.getpid() >> 8 & 255}.{os.getpid() & 255}.53"
        self.sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.sock.bind((self.address, 53))
        self.sock.settimeout(0.1)
        self.ended = False
        self.thread = threading.Thread(target=self._serve)
        self.thread.start()

    def _serve(self) -> None:
        while not self.ended:
            with contextlib.suppress(TimeoutError):
                data, peer = self.sock.recvfrom(4096)
                answer = self._answer(data)
                if answer:
                    self.sock.sendto(answer, peer)

    def _answer(self, data: bytes) -> bytes:
        at, labels = 12, []
        while data[at]:
            labels.append(data[at + 1 : at + 1 + data[at]].decode())
            at += 1 + data[at]
        kind = struct.unpack("!H", data[at + 1 : at + 3])[0]
        name = ".".join(labels)
        self.asked.append((name, kind))
        lists = self.answers.get(name)
        if lists is None:
            return data[:2] + b"\x81\x83" + data[4:6] + bytes(6) + data[12 : at + 5]
        if lists == [["silence"]]:
            return b""
        now = lists[0]
        wanted = [a for a in now if (":" in a) == (kind == _AAAA)]
        family = socket.AF_INET6 if kind == _AAAA else socket.AF_INET
        records = b"".join(
            b"\xc0\x0c"
            + struct.pack("!HHIH", kind, 1, 0, 16 if kind == _AAAA else 4)
            + socket.inet_pton(family, a)
            for a in wanted
        )
        if kind == _AAAA and len(lists) > 1:  # both questions of one look-up were answered: now it changes
            lists.pop(0)
        return (
            data[:2]
            + b"\x81\x80"
            + data[4:6]
            + struct.pack("!H", len(wanted))
            + bytes(4)
            + data[12 : at + 5]
            + records
        )

    def close(self) -> None:
        self.ended = True
        self.thread.join()
        self.sock.close()


@pytest.fixture
def names() -> Iterator[NameService]:
    """A name service for one test."""
    found = NameService()
    try:
        yield found
    finally:
        found.close()


def start_with_names(place: Home, names: NameService, authority: Authority) -> None:
    """Start the gateway where /etc/resolv.conf names the emulated service."""
    conf = place.root / "resolv.conf"
    conf.write_text(f"nameserver {names.address}\noptions timeout:1 attempts:1\n")
    argv = [sys.executable, "-m", "thopter.gateway.egress", "--socket", str(place.run / "egress.sock")]
    argv += ["--state", str(place.state)]
    env = {"PATH": os.environ["PATH"], "PYTHONPATH": str(Path(__file__).parents[2] / "src")}
    env["SSL_CERT_FILE"] = str(authority.file)
    script = f'mount --bind {conf} /etc/resolv.conf && exec "$@"'
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", script, "sh", *argv],
        env=env,
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert b"ready" in done.stdout, done


@contextlib.asynccontextmanager
async def rig(place: Home, names: NameService) -> AsyncIterator[Rig]:
    authority = Authority(place.root / "ca")
    place.run.mkdir(parents=True, exist_ok=True, mode=0o700)
    place.state.mkdir(parents=True, exist_ok=True, mode=0o700)
    await asyncio.to_thread(start_with_names, place, names, authority)
    client = GatewayClient("thopter.gateway.egress", place.run / "egress.sock", place.state)
    pong = await client.ping()
    place.pids.append(pong.pid)
    found = Rig(client, pong.pid, authority)
    async with (
        upstream(plain(b"hello", kind="text/plain")) as (up, port),
        upstream(plain(b"no")) as (canary, cport),
    ):
        found.up, found.up_port, found.canary, found.canary_port = up, port, canary, cport
        try:
            yield found
        finally:
            found.door.close()
        assert canary.connections == 0, "the canary was dialled"


BAD = (
    "127.0.0.1", "169.254.169.254", "10.0.0.1", "192.168.1.1", "100.64.0.1", "0.0.0.0", "::1",
    "::ffff:127.0.0.1",
    "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "2002:7f00:1::", "fd00:ec2::254", "fe80::1", "::",
)  # fmt: skip


@pytest.mark.battery("E5")
@in_loop
async def test_a_name_that_points_inside_is_refused_whatever_the_wrapping(
    place: Home, names: NameService
) -> None:
    async with rig(place, names) as r:
        inside = {f"n{i}.test": bad for i, bad in enumerate(BAD)}
        here = socket.gethostbyname(socket.gethostname())
        inside["own.test"] = here
        for name, bad in inside.items():
            names.answers[name] = [[bad]]
        names.answers["mixed.test"] = [["8.8.8.8", "127.0.0.1"]]
        # One address that the rule allows and one that it does not, whichever the system puts first.
        names.answers |= {
            "half.test": [["127.0.0.1", "127.0.0.2"]],
            "flah.test": [["127.0.0.2", "127.0.0.1"]],
        }
        names.answers["good.test"] = [["127.0.0.1"]]
        wanted = rule(*inside, "mixed.test", ports=(r.canary_port,), plain=True, addresses=())
        half = rule("half.test", "flah.test", ports=(r.canary_port,), plain=True, addresses=("127.0.0.1/32",))
        await r.attach(policy(wanted, half, rule("good.test", ports=(r.up_port,), plain=True)))
        for name in (*inside, "mixed.test", "half.test", "flah.test"):
            reply = await r.get(f"http://{name}:{r.canary_port}/")
            assert (reply.status, reply.headers["thopter-refused"]) == (403, "address"), (
                name,
                inside.get(name),
            )
        assert (await r.get(f"http://good.test:{r.up_port}/")).body == b"hello"


@pytest.mark.battery("E5")
@in_loop
async def test_a_name_is_asked_for_once_a_connection_and_what_was_vetted_is_dialled(
    place: Home, names: NameService
) -> None:
    async with rig(place, names) as r:
        await r.attach(policy(rule("flip.test", ports=(r.up_port,), plain=True, addresses=("127.0.0.1/32",))))
        for _ in range(5):
            names.answers["flip.test"] = [["127.0.0.1"], ["127.0.0.2"]]  # good, and then bad
            names.asked.clear()
            assert (await r.get(f"http://flip.test:{r.up_port}/")).body == b"hello"
            assert names.asked.count(("flip.test", _A)) == 1
            assert {n for n, _ in names.asked} == {"flip.test"}
        reply = await r.get(f"http://flip.test:{r.up_port}/")  # the bad answer's turn
        assert reply.headers["thopter-refused"] == "address"


@pytest.mark.battery("E4")
@in_loop
async def test_a_host_that_policy_denies_is_never_looked_up(place: Home, names: NameService) -> None:
    async with rig(place, names) as r:
        names.answers["good.test"] = [["127.0.0.1"]]
        await r.attach(policy(rule("good.test", ports=(r.up_port,), plain=True)))
        secret = "c2VjcmV0" * 4
        for host in (f"{secret}.evil.test", "evil.test", f"{secret}.good.test"):
            assert (await r.connect(f"{host}:443"))[0].status == 403
            assert (await r.get(f"http://{host}/")).status == 403
        assert names.asked == []
        assert (await r.get(f"http://good.test:{r.up_port}/")).status == 200
        assert {n for n, _ in names.asked} == {"good.test"}


@in_loop
async def test_a_name_service_that_is_silent_or_says_no_is_told_and_holds_up_nobody_else(
    place: Home, names: NameService
) -> None:
    async with rig(place, names) as r:
        names.answers["silent.test"] = [["silence"]]
        names.answers["good.test"] = [["127.0.0.1"]]
        hosts = rule("silent.test", "none.test", "good.test", ports=(r.up_port,), plain=True)
        await r.attach(policy(hosts))
        async with asyncio.TaskGroup() as group:
            waiting = group.create_task(r.get(f"http://silent.test:{r.up_port}/"))
            assert (await r.get(f"http://good.test:{r.up_port}/")).body == b"hello"
            reply = await r.get(f"http://none.test:{r.up_port}/")
            assert (reply.status, reply.headers["thopter-refused"]) == (502, "resolve")
        assert waiting.result().status in (502, 504)
        assert waiting.result().headers["thopter-refused"] == "resolve"
