"""Rate limits at the model gateway: the login's calls wait, nobody hammers, and all go on by themselves."""

from __future__ import annotations

import asyncio
import time

from gateway_support import Ask, Home, ask, eventually, in_loop, listener, plain, port_of, request
from model_rig import BOX_HEADERS, rig

OK = plain(b'{"type":"message"}')


def limited(status: str, *headers: str) -> object:
    return plain(
        b'{"type":"error","error":{"type":"rate_limit_error","message":"slow down"}}', status, *headers
    )


class Endpoint:
    """Refuses until ``open_at`` (monotonic), then answers; ``asks``: when it was asked."""

    def __init__(self, seconds: float, status: str, *headers: str) -> None:
        self.seconds = seconds
        self.open_at = 0.0
        self.refusal = limited(status, *headers)
        self.refused: list[float] = []
        self.busy = self.most = 0

    async def __call__(self, got: Ask, writer: asyncio.StreamWriter) -> None:
        now = time.monotonic()
        self.open_at = self.open_at or now + self.seconds
        if now < self.open_at:
            self.refused.append(now)
            await self.refusal(got, writer)  # type: ignore[operator]
            return
        self.busy += 1
        self.most = max(self.most, self.busy)
        await asyncio.sleep(0.1)
        self.busy -= 1
        await OK(got, writer)


@in_loop
async def test_calls_of_a_limited_login_wait_and_all_go_through_when_it_is_over(place: Home) -> None:
    endpoint = Endpoint(0.9, "429 Too Many Requests", "retry-after: 1")
    async with rig(place, endpoint) as r:
        first = await r.call()
        assert first.status == 429 and first.headers["retry-after"] == "1"
        with listener() as door:
            url, auth = (
                f"http://127.0.0.1:{r.up_port}",
                {"kind": "x-api-key", "secret": "sk-real-canary-8d1f"},
            )
            await r.client.attach("b2", door, upstream=url, run="r2", auth=auth)
            raw = request("POST", "/v1/messages", b"{}", BOX_HEADERS)
            waiting = asyncio.gather(
                *(r.call() for _ in range(10)), *(ask(port_of(door), raw) for _ in range(10))
            )
            parked: list[dict[str, object]] = []
            after = 0
            while len({str(x["run"]) for x in parked}) < 2:
                page = await r.client.log(after, wait_ms=20_000)
                after = int(page["next"])
                parked += [x for x in page["records"] if "parked" in str(x.get("error", ""))]
            assert all(x["status"] == 429 and int(str(x["reset_ms"])) > 0 for x in parked), "said at once"
            replies = await asyncio.wait_for(waiting, 60)
        assert [a.status for a in replies] == [200] * 20
        assert len(endpoint.refused) == 1, "nobody asked before it was over"
        assert (await r.client.usage("b1"))["requests"] == 11, "waiting is not a request of its own"


@in_loop
async def test_the_first_one_looks_whether_it_is_over(place: Home) -> None:
    endpoint = Endpoint(1.9, "429 Too Many Requests", "retry-after: 1")
    async with rig(place, endpoint) as r:
        await r.call()
        replies = await asyncio.gather(*(r.call() for _ in range(10)))
        assert len(endpoint.refused) == 2, "one of ten looked, too early"
        assert sorted(a.status for a in replies) == [200] * 9 + [429]


@in_loop
async def test_a_limit_of_hours_is_answered_here_with_the_time_that_is_left(place: Home) -> None:
    reset = int(time.time()) + 5 * 3600
    headers = ("anthropic-ratelimit-unified-status: rejected", f"anthropic-ratelimit-unified-reset: {reset}")
    endpoint = Endpoint(3600, "429 Too Many Requests", *headers)
    async with rig(place, endpoint) as r:
        assert (await r.call()).status == 429
        again = await r.call()
        assert again.status == 429 and again.json()["error"]["type"] == "rate_limit_error"
        assert 17_000 < int(again.headers["retry-after"]) <= 18_000
        assert len(endpoint.refused) == 1
        record = await r.last()
        assert record["refused"] and record["reset_ms"] == reset * 1000
        auth = {"kind": "x-api-key", "secret": "sk-another"}
        await r.attach(auth=auth)
        assert (await r.call()).status == 429 and len(endpoint.refused) == 2, "another login asks for itself"


@in_loop
async def test_an_overloaded_endpoint_without_a_time_is_given_a_moment(place: Home) -> None:
    endpoint = Endpoint(0.8, "529 Overloaded")
    async with rig(place, endpoint) as r:
        assert (await r.call()).status == 529
        replies = await asyncio.gather(*(r.call() for _ in range(5)))
        assert [a.status for a in replies] == [200] * 5 and len(endpoint.refused) == 1


@in_loop
async def test_a_refusal_that_names_no_time_binds_nobody_else(place: Home) -> None:
    endpoint = Endpoint(0.5, "429 Too Many Requests")
    async with rig(place, endpoint) as r:
        first = await r.call()
        replies = await asyncio.gather(*(r.call() for _ in range(5)))
        assert [a.status for a in (first, *replies)] == [429] * 6 and len(endpoint.refused) == 6
        records = (await r.client.log(0))["records"]
        assert not [x for x in records if "parked" in str(x.get("error", ""))]


@in_loop
async def test_whoever_leaves_while_it_waits_or_looks_holds_up_nobody(place: Home) -> None:
    endpoint = Endpoint(0.9, "429 Too Many Requests", "retry-after: 1")
    async with rig(place, endpoint) as r:
        await r.call()
        for _ in range(5):
            _reader, writer = await asyncio.open_connection("127.0.0.1", r.port)
            writer.write(request("POST", "/v1/messages", b"{}", BOX_HEADERS))
            await writer.drain()
            await asyncio.sleep(0.02)
            writer.transport.abort()
        assert (await asyncio.wait_for(r.call(), 30)).status == 200


@in_loop
async def test_one_that_looks_and_goes_away_is_followed_by_another_at_once(place: Home) -> None:
    async def answer(got: Ask, writer: asyncio.StreamWriter) -> None:
        if len(r.up.asks) == 1:
            body = b'{"type":"error"}'
            await plain(body, "429 Too Many Requests", "retry-after: 1")(got, writer)
        elif len(r.up.asks) == 2:
            await got.until_gone()
        else:
            await OK(got, writer)

    async with rig(place, answer) as r:
        await r.call()
        await asyncio.sleep(1.1)
        _reader, writer = await asyncio.open_connection("127.0.0.1", r.port)
        writer.write(request("POST", "/v1/messages", b"{}", BOX_HEADERS))
        await eventually(lambda: len(r.up.asks) == 2)
        writer.transport.abort()
        assert (await asyncio.wait_for(r.call(), 30)).status == 200
