"""The event stream: replay and live without gap or double, filters, slow and many listeners."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hub_support import BOUND, HubProcess, Raw, hub_process, hung_up, rss_kib, short_folder, wait_for

from thopter.hub import feed as feed_module
from thopter.hub.api import events as events_api
from thopter.hub.feed import CHUNK_BYTES, Feed, encode_event
from thopter.model.events import Event
from thopter.store.events import EventFilter
from thopter.store.store import Store


class Listener:
    """A listener on a raw connection that keeps what it was sent."""

    def __init__(self, hub: HubProcess, query: str = "", *lines: str) -> None:
        self.raw = Raw(hub.socket)
        head = [f"GET /v1/events{query} HTTP/1.1", "Host: thopter", *lines]
        self.raw.send("\r\n".join(head).encode() + b"\r\n\r\n")
        self.answer = self.raw.head()
        self._rest = b""

    def __enter__(self) -> Listener:
        return self

    def __exit__(self, *exc: object) -> None:
        self.raw.sock.close()

    def chunks(self) -> Iterator[bytes]:
        while True:
            while b"\r\n" not in self._rest:
                data = self.raw.sock.recv(65536)
                if not data:
                    raise AssertionError("cut off in the middle of a chunk")
                self._rest += data
            size, _, self._rest = self._rest.partition(b"\r\n")
            length = int(size, 16)
            while len(self._rest) < length + 2:
                data = self.raw.sock.recv(65536)
                if not data:
                    raise AssertionError("cut off in the middle of a chunk")
                self._rest += data
            chunk, self._rest = self._rest[:length], self._rest[length + 2 :]
            if not length:
                return
            yield chunk

    def events(self) -> Iterator[dict]:
        text = b""
        for chunk in self.chunks():
            text += chunk
            *whole, text = text.split(b"\n\n")
            for each in whole:
                fields = dict(line.split(b": ", 1) for line in each.split(b"\n") if line[:1] != b":")
                if b"data" in fields:
                    event = json.loads(fields[b"data"])
                    assert fields[b"id"] == str(event["seq"]).encode()
                    assert fields[b"event"] == event["kind"].encode()
                    yield event

    def take(self, count: int) -> list[dict]:
        found = self.events()
        return [next(found) for _ in range(count)]


def make(hub: HubProcess, count: int, prefix: str) -> None:
    """Append ``count`` events, quickly, over one connection."""
    with hub.client() as client:
        for n in range(count):
            assert client.post("/v1/thopters", json={"name": f"{prefix}-{n}"}).status_code == 202


def head(hub: HubProcess) -> int:
    with Listener(hub, "?after=0&kinds=hub.started") as listener:
        first = listener.take(1)[0]["seq"]
    answer = hub.get("/v1/events?after=99999999")
    assert answer.status_code == 409 and first >= 1
    return int(answer.json()["error"]["data"]["head"])


def test_events_come_in_order_with_their_numbers(hub: HubProcess) -> None:
    after = head(hub)
    with Listener(hub, f"?after={after}") as listener:
        assert b"content-type: text/event-stream" in listener.answer
        assert b"cache-control: no-store" in listener.answer
        make(hub, 3, "order")
        found = listener.take(3)
    assert [e["seq"] for e in found] == [after + 1, after + 2, after + 3]
    assert [e["data"]["name"] for e in found] == ["order-0", "order-1", "order-2"]


def test_without_a_number_only_what_happens_from_now_on_comes(hub: HubProcess) -> None:
    make(hub, 2, "before")
    with Listener(hub) as listener:
        make(hub, 1, "after")
        assert listener.take(1)[0]["data"]["name"] == "after-0"


def test_a_browser_that_comes_back_goes_on_after_its_last_event(hub: HubProcess) -> None:
    make(hub, 5, "back")
    end = head(hub)
    with Listener(hub, "?after=0", f"Last-Event-ID: {end - 2}") as listener:
        assert [e["data"]["name"] for e in listener.take(2)] == ["back-3", "back-4"]


@pytest.mark.parametrize("bad", ["x", "-1", "1.5", "9" * 30])
def test_a_bad_last_event_id_is_refused(hub: HubProcess, bad: str) -> None:
    assert hub.get("/v1/events", headers={"Last-Event-ID": bad}).status_code == 422


def test_a_number_of_another_history_is_a_conflict(hub: HubProcess) -> None:
    answer = hub.get(f"/v1/events?after={head(hub) + 1}")
    assert answer.status_code == 409
    assert "after=0" in answer.json()["error"]["hint"]


def test_filters_let_through_only_what_was_asked_for(hub: HubProcess) -> None:
    after = head(hub)
    made = [hub.post("/v1/thopters", {"name": f"filter-{n}"}).json() for n in range(3)]
    for query in (
        f"box={made[1]['box']}",
        f"flow={made[1]['flow']}",
        f"kinds=note,box.created&box={made[1]['box']}",
    ):
        for where in (after, head(hub)):
            with Listener(hub, f"?after={where}&{query}") as listener:
                if where == after:
                    assert listener.take(1)[0]["data"]["name"] == "filter-1"
                else:
                    assert hub.get("/v1/hub").status_code == 200
    with Listener(hub, f"?after={after}&kinds=hub.started,nothing") as listener:
        make(hub, 1, "unseen")
        listener.raw.sock.settimeout(1)
        with pytest.raises(TimeoutError):
            listener.take(1)


def test_thousands_of_events_reach_listeners_who_come_at_any_moment_once_each(hub: HubProcess) -> None:
    """The race between replay and live: listeners begin while events are being written."""
    total, writers, listeners = 3000, 3, 12
    start = head(hub)
    found: list[list[int]] = [[] for _ in range(listeners)]
    failed: list[BaseException] = []

    def listen(n: int) -> None:
        try:
            wait_for(lambda: head(hub) >= start + n * total // listeners // 2)
            with Listener(hub, f"?after={start}") as listener:
                found[n] = [e["seq"] for e in listener.take(total)]
        except BaseException as e:
            failed.append(e)

    threads = [threading.Thread(target=listen, args=(n,)) for n in range(listeners)]
    share = total // writers
    threads += [threading.Thread(target=make, args=(hub, share, f"race{n}")) for n in range(writers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(110)
    assert not failed, failed
    for seqs in found:
        assert seqs == list(range(start + 1, start + total + 1)), "every event once, in order"


def test_a_listener_that_reads_nothing_costs_nothing_and_is_dropped(own: HubProcess) -> None:
    own.start()
    before = rss_kib(own.pid())
    stuck = [Listener(own, "?after=0") for _ in range(5)]
    text = "x" * 200_000
    with own.client() as client:
        for n in range(150):  # 30 MB of events for each of them
            assert (
                client.post("/v1/runs", json={"prompt": "note", "name": f"n-{n}", "repo": text}).status_code
                == 202
            )
    grown = rss_kib(own.pid()) - before
    with Listener(own, "?after=0&kinds=note") as fast:
        assert len(fast.take(150)) == 150, "others are not held up"
    assert grown < 60_000, f"{grown} KiB"
    for each in stuck:
        each.raw.sock.settimeout(BOUND)
        with pytest.raises((AssertionError, ConnectionResetError)):  # after 30 s without taking anything
            while True:
                wait_for(lambda each=each: hung_up(each.raw.sock))
                for _ in each.chunks():
                    pass
        each.raw.sock.close()
    assert own.is_ready()


def test_500_listeners_at_once_all_hear_everything_in_little_memory(own: HubProcess) -> None:
    own.start()
    before = rss_kib(own.pid())
    listeners = [Listener(own, "?after=0") for _ in range(500)]
    opened = rss_kib(own.pid())
    make(own, 50, "many")
    began = time.monotonic()
    for listener in listeners:
        found = listener.take(51)
        assert found[-1]["data"]["name"] == "many-49"
    took = time.monotonic() - began
    after = rss_kib(own.pid())
    print(
        f"500 listeners: {(opened - before) / 500:.1f} KiB each when open, "
        f"{(after - before) / 500:.1f} KiB after 50 events, read in {took:.2f} s"
    )
    assert after - before < 100_000
    for listener in listeners:
        listener.raw.sock.close()
    wait_for(lambda: _descriptors(own) < 60)


def _descriptors(hub: HubProcess) -> int:
    return len(list(Path(f"/proc/{hub.pid()}/fd").iterdir()))


# ------------------------------------------------------------- the feed itself, on the real store


async def _follow(feed: Feed, cursor: int, want: EventFilter, until: int) -> list[int]:
    seqs: list[int] = []
    with feed.listening():
        while cursor < until:
            seen = cursor
            text, cursor = await feed.after(cursor, want)
            seqs += [int(line[4:]) for line in text.split(b"\n") if line.startswith(b"id: ")]
            if cursor == seen:
                async with asyncio.timeout(BOUND):
                    await feed.wait(cursor)
    return seqs


async def _run_feed(root: Path, size: int, count: int, listeners: int) -> None:
    store = await Store.open(root / "hub.db")
    feed = Feed(store.events)
    async with asyncio.TaskGroup() as group:
        running = group.create_task(feed.run())
        followers = []

        async def write() -> None:
            for n in range(count):
                box = f"box_{n % 3}"
                await store.events.append([Event(kind="note", at_ms=n, box=box, data={"text": "x" * size})])

        async def listen(n: int) -> None:
            await asyncio.sleep(n * 0.01)
            want = EventFilter(box=f"box_{n % 3}") if n % 2 else EventFilter()
            expected = [s for s in range(1, count + 1) if not want.box or (s - 1) % 3 == n % 3]
            assert await _follow(feed, 0, want, count) == expected

        async with asyncio.TaskGroup() as work:
            work.create_task(write())
            followers = [work.create_task(listen(n)) for n in range(listeners)]
        assert len(followers) == listeners
        running.cancel()
    await store.close()


@pytest.mark.parametrize(("size", "count"), [(10, 6000), (50_000, 400)])
def test_what_falls_out_of_memory_is_read_from_the_store(root: Path, size: int, count: int) -> None:
    """More events than the feed keeps, by number and by size, with and without a filter."""
    asyncio.run(_run_feed(root, size, count, 10))


def test_who_comes_after_the_oldest_fell_out_of_memory_misses_nothing(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The feed keeps following for another listener: what it dropped must not be skipped."""
    monkeypatch.setattr(feed_module, "_KEEP", 20)

    async def run() -> None:
        store = await Store.open(root / "hub.db")
        feed = Feed(store.events)
        async with asyncio.TaskGroup() as group:
            running = group.create_task(feed.run())
            with feed.listening():
                for n in range(10):
                    await store.events.append([Event(kind="note", at_ms=n)] * 10)
                    async with asyncio.timeout(BOUND):
                        await feed.wait(n * 10 + 9)
                assert await _follow(feed, 0, EventFilter(), 100) == list(range(1, 101))
                assert await _follow(feed, 50, EventFilter(), 100) == list(range(51, 101))
            running.cancel()
        await store.close()

    asyncio.run(run())


def test_an_event_larger_than_a_chunk_goes_through_alone(root: Path) -> None:
    async def run() -> None:
        store = await Store.open(root / "hub.db")
        await store.events.append([Event(kind="a\nb", at_ms=1, data={"t": "x" * CHUNK_BYTES * 2})] * 3)
        feed = Feed(store.events)
        text, cursor = await feed.after(0, EventFilter())
        assert cursor == 1 and text.count(b"\n\n") == 1
        assert text.startswith(b"id: 1\nevent: a b\ndata: {"), "a kind can't make a field of its own"
        await store.close()

    asyncio.run(run())


def test_a_quiet_or_filtered_stream_says_every_while_that_it_is_alive(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events_api, "KEEP_ALIVE_SECONDS", 0.2)

    async def run() -> None:
        store = await Store.open(root / "hub.db")
        feed = Feed(store.events)
        sent: list[bytes] = []

        async def send(message: dict) -> None:
            sent.append(message["body"])
            if sent.count(b": still here\n\n") == 4:
                feed.close()

        async def noise() -> None:
            while not feed.closed:
                await store.events.append([Event(kind="other", at_ms=1)])

        with feed.listening():
            async with asyncio.TaskGroup() as group:
                running = group.create_task(feed.run())
                group.create_task(noise())
                async with asyncio.timeout(BOUND):
                    await events_api._pump(feed, 0, EventFilter(kinds=("wanted",)), send)
                running.cancel()
        assert set(sent) == {b": still here\n\n", b""}
        await store.close()

    asyncio.run(run())


def test_trouble_with_the_store_ends_no_stream(root: Path) -> None:
    class Failing:
        """The real events, except that the first three waits fail."""

        def __init__(self, store: Store) -> None:
            self.store = store
            self.failures = 3

        def __getattr__(self, name: str) -> object:
            return getattr(self.store.events, name)

        async def changed(self, after: int) -> int:
            if self.failures:
                self.failures -= 1
                raise OSError("the disk is away")
            return await self.store.events.changed(after)

    async def run() -> None:
        store = await Store.open(root / "hub.db")
        events = Failing(store)
        feed = Feed(events)  # type: ignore[arg-type]
        async with asyncio.TaskGroup() as group:
            running = group.create_task(feed.run())
            following = group.create_task(_follow(feed, 0, EventFilter(), 2))
            await asyncio.sleep(0)
            await store.events.append([Event(kind="note", at_ms=1)] * 2)
            assert await following == [1, 2]
            running.cancel()
        await store.close()

    asyncio.run(run())


def test_encoding_an_event_is_one_line_of_json() -> None:
    text = encode_event(Event(kind="note", at_ms=1, seq=7, data={"text": "a\r\nb\n\ndata: forged"}))
    assert text.count(b"\n") == 4 and text.endswith(b"\n\n") and b"\r" not in text
    assert json.loads(text.split(b"\n")[2][6:])["data"]["text"] == "a\r\nb\n\ndata: forged"


def test_a_stream_ends_when_the_hub_stops(root: Path) -> None:
    with short_folder() as folder, hub_process(folder) as hub, Listener(hub, "?after=0") as listener:
        assert listener.take(1)[0]["kind"] == "hub.started"
        hub.post("/v1/hub/stop")
        assert list(listener.chunks()) == [], "the last chunk is the empty one: a proper end"
