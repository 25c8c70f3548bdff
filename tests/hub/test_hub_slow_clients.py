"""Clients that send slowly, nothing, or far too much: others are served, memory stays bounded."""

from __future__ import annotations

import contextlib
import os
import socket
import statistics
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx2
import pytest
from hub_support import BOUND, HubProcess, Raw, hub_process, hung_up, rss_kib, short_folder, wait_for

from thopter.hub.protocol import HEAD_SECONDS, IDLE_MAX, STALL_SECONDS


@pytest.fixture
def fresh() -> Iterator[HubProcess]:
    with short_folder() as root, hub_process(root, "--listen", "127.0.0.1:0", TEST_THOPTERS="100") as hub:
        yield hub


def latencies(hub: HubProcess, count: int, tcp: bool) -> list[float]:
    """Milliseconds of each of ``count`` reads on one kept connection."""
    if tcp:
        headers = {"Authorization": f"Bearer {hub.token}"}
        client = httpx2.Client(base_url=hub.tcp, headers=headers, timeout=BOUND, verify=False)
    else:
        client = hub.client()
    times = []
    with client:
        for _ in range(count):
            began = time.perf_counter()
            assert client.get("/v1/hub").status_code == 200
            times.append((time.perf_counter() - began) * 1000)
    return sorted(times)


def open_many(hub: HubProcess, count: int, data: bytes) -> list[socket.socket]:
    """Connections on TCP that have sent ``data`` and no more."""
    found = []
    for _ in range(count):
        sock = socket.create_connection(("127.0.0.1", hub.tcp_port), timeout=BOUND)
        with contextlib.suppress(OSError):  # it may have been let go already
            sock.sendall(data)
        found.append(sock)
    return found


def closed(sock: socket.socket) -> bool:
    sock.setblocking(False)
    try:
        return sock.recv(1, socket.MSG_PEEK) in (b"", b"H")
    except BlockingIOError:
        return False
    except OSError:
        return True


@pytest.mark.battery("H15")
def test_thousands_of_half_open_connections_do_not_keep_others_out(fresh: HubProcess) -> None:
    """H15: nothing sent, half a head, a head that never ends; on TCP, where strangers can come."""
    quiet = latencies(fresh, 200, tcp=True)
    before = rss_kib(fresh.pid())
    heads = (b"", b"GET /v1/hub HTTP/1.1\r\nHost: ", b"GET /v1/hub HTTP/1.1\r\nX: " + b"a" * 1000)
    held: list[socket.socket] = []
    try:
        for head in heads:
            held += open_many(fresh, 1700, head)
        busy = latencies(fresh, 200, tcp=True)
        other_door = latencies(fresh, 50, tcp=False)
        grown = rss_kib(fresh.pid()) - before
        kept = len(held) - sum(map(closed, held))
        print(
            f"5,100 half-open: kept {kept}, memory +{grown} KiB, p50 {quiet[100]:.2f} -> {busy[100]:.2f} ms, "
            f"p99 {quiet[198]:.2f} -> {busy[198]:.2f} ms, unix p50 {other_door[25]:.2f} ms"
        )
        assert kept <= IDLE_MAX + 50
        assert grown < 60_000
        # Those that are kept are told off when their time is up.
        wait_for(lambda: all(map(closed, held)), HEAD_SECONDS + BOUND)
    finally:
        for sock in held:
            sock.close()


@pytest.mark.battery("H15")
def test_a_head_that_comes_byte_by_byte_is_cut_off_in_time(hub: HubProcess) -> None:
    with Raw(hub.socket) as raw:
        began = time.monotonic()
        got = b""
        raw.sock.settimeout(0.2)
        while not got and time.monotonic() - began < HEAD_SECONDS + BOUND:
            try:
                raw.sock.send(b"G" if time.monotonic() - began < 0.1 else b"x")
                got = raw.sock.recv(65536)
            except TimeoutError:
                continue
            except (BrokenPipeError, ConnectionResetError):
                break
        took = time.monotonic() - began
    assert got.startswith((b"HTTP/1.1 408", b"HTTP/1.1 400")), got
    assert took < HEAD_SECONDS + 20


@pytest.mark.battery("H15")
def test_a_body_that_never_comes_is_cut_off_in_time(hub: HubProcess) -> None:
    head = b"POST /v1/runs HTTP/1.1\r\nHost: thopter\r\nContent-Type: application/json\r\n"
    with Raw(hub.socket) as raw:
        answer = raw.send(head + b"Content-Length: 90\r\n\r\n{").head()
    assert answer.startswith(b"HTTP/1.1 408")


@pytest.mark.battery("H15")
def test_ten_thousand_requests_at_once_on_one_connection_are_answered_in_order(hub: HubProcess) -> None:
    """H15: pipelining. Others are served meanwhile, and memory stays where it is."""
    count = 10_000
    before = rss_kib(hub.pid())
    with Raw(hub.socket) as raw, ThreadPoolExecutor(1) as pool:
        data = b"GET /v1/none HTTP/1.1\r\nHost: thopter\r\n\r\n" * (count - 1)
        data += b"GET /v1/none HTTP/1.1\r\nHost: thopter\r\nConnection: close\r\n\r\n"
        sending = pool.submit(raw.send, data)
        assert hub.get("/v1/hub").status_code == 200
        answer = raw.rest()
        sending.result(BOUND)
    assert answer.count(b"HTTP/1.1 404") == count
    assert rss_kib(hub.pid()) - before < 30_000


def test_a_client_that_takes_no_answer_is_dropped_and_frees_its_memory(fresh: HubProcess) -> None:
    """Pipelined requests for a large answer, none of it read."""
    size = 4 << 20
    kind = {"Content-Type": "application/octet-stream"}
    where = "/v1/thopters/thopter-000"
    fresh.request("POST", f"{where}/put?path=/big", content=os.urandom(size), headers=kind)
    before = rss_kib(fresh.pid())
    stuck = []
    try:
        for _ in range(20):
            raw = Raw(fresh.socket)
            raw.send(f"GET {where}/fetch?path=/big HTTP/1.1\r\nHost: thopter\r\n\r\n".encode() * 50)
            stuck.append(raw)
        assert fresh.is_ready()
        grown = rss_kib(fresh.pid()) - before
        assert grown < 60_000, grown
        wait_for(lambda: all(hung_up(raw.sock) for raw in stuck), STALL_SECONDS * 2 + BOUND)
        assert all(len(raw.rest()) < size for raw in stuck), "cut off, not served to the end"
    finally:
        for raw in stuck:
            raw.sock.close()


@pytest.mark.parametrize("tail", [b"GET /v1/hub HT", b"garbage"])
def test_an_answer_under_way_is_not_mixed_with_what_comes_after(hub: HubProcess, tail: bytes) -> None:
    request = b"POST /v1/runs HTTP/1.1\r\nHost: thopter\r\nContent-Type: application/json\r\n"
    body = b'{"prompt":"slow"}'
    with Raw(hub.socket) as raw:
        raw.send(request + b"Content-Length: %d\r\n\r\n" % len(body) + body + tail)
        answer = raw.rest()
    assert answer.count(b"HTTP/1.1 ") <= 2
    assert answer == b"" or answer.startswith(b"HTTP/1.1 202")


def test_connections_that_are_kept_open_and_idle_are_let_go(hub: HubProcess) -> None:
    with Raw(hub.socket) as raw:
        raw.send(b"GET /v1/none HTTP/1.1\r\nHost: thopter\r\n\r\n")
        assert raw.head().startswith(b"HTTP/1.1 404")
        raw.sock.settimeout(BOUND)
        assert raw.rest().startswith(b"{"), "the body, then the end after 15 s"


def test_reads_of_100_thopters_are_quick(fresh: HubProcess) -> None:
    times = []
    with fresh.client() as client:
        for _ in range(300):
            began = time.perf_counter()
            answer = client.get("/v1/thopters")
            times.append((time.perf_counter() - began) * 1000)
            assert answer.status_code == 200 and len(answer.json()["thopters"]) == 100
    print(
        f"GET /v1/thopters with 100: p50 {statistics.median(times):.2f} ms with this client, "
        f"{len(answer.content)} bytes; hub memory {rss_kib(fresh.pid()) // 1024} MiB"
    )
    assert statistics.median(times) < 500
