"""What goes on for longer than its caller's token is good ends with it: talks, downloads, uploads."""

from __future__ import annotations

import asyncio
import json
import secrets
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import httpx2
import pytest
from hub_support import BOUND, HubProcess, Raw, wait_for
from test_hub_tokens import make, socket_of, ticket
from websockets.exceptions import ConnectionClosed

from thopter.hub.auth import ADMIN, ALL_SCOPES, OPERATE, OPERATOR, Holder
from thopter.kit.clock import SystemClock

SIZE = 64 << 20  # more than all buffers on the way hold


@contextmanager
def thopter(hub: HubProcess) -> Iterator[str]:
    """A thopter of this test's own; the path of its routes."""
    name = f"talks-{secrets.token_hex(4)}"
    assert hub.post("/v1/thopters", {"name": name}).status_code == 202
    try:
        yield f"/v1/thopters/{name}"
    finally:
        hub.request("DELETE", f"/v1/thopters/{name}")


def head(hub: HubProcess, token: str, line: str, *more: str) -> bytes:
    lines = [f"{line} HTTP/1.1", f"Host: 127.0.0.1:{hub.tcp_port}", f"Authorization: Bearer {token}", *more]
    return "\r\n".join(lines).encode() + b"\r\n\r\n"


def revoke(hub: HubProcess, name: str) -> None:
    assert hub.post("/v1/tokens/revoke", {"name": name}).status_code == 200


def closes(what: Callable[[], Any], bound: float = BOUND) -> None:
    """``what`` goes on until the other side closes, which it does within the bound."""
    went: list[BaseException] = []

    def run() -> None:
        try:
            what()
        except BaseException as e:  # told by the other thread
            went.append(e)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(bound)
    assert not thread.is_alive(), "it goes on"
    assert [e for e in went if not isinstance(e, ConnectionClosed)] == []


def until_closed(shell: Any) -> None:
    while True:
        shell.recv(timeout=BOUND)


@pytest.mark.battery("H3")
def test_revoking_a_token_ends_its_conversations_and_its_tickets(hub: HubProcess) -> None:
    name = f"short-{secrets.token_hex(4)}"
    kept = make(hub, f"kept-{secrets.token_hex(4)}", [OPERATE])
    with thopter(hub) as path, ExitStack() as stack:
        shells = [stack.enter_context(socket_of(hub, f"{path}/exec", "", Authorization=f"Bearer {kept}"))]
        token = make(hub, name, [OPERATE])
        unused = ticket(hub, token, "/v1/events")
        by_ticket = ticket(hub, token, "/v1/events")
        shells.append(
            stack.enter_context(socket_of(hub, f"{path}/exec", "", Authorization=f"Bearer {token}"))
        )
        for shell in shells:
            shell.send('{"argv":["sleep","600"]}')
            assert "started" in json.loads(shell.recv())
        streams = [stack.enter_context(Raw(("127.0.0.1", hub.tcp_port))) for _ in range(2)]
        by_token = head(hub, token, "GET /v1/events")
        page = head(hub, token, f"GET /v1/events?after=0&ticket={by_ticket}", "Sec-Fetch-Site: same-origin")
        without = b"\r\n".join(line for line in page.split(b"\r\n") if not line.startswith(b"Authorization"))
        for stream, asked in zip(streams, (by_token, without), strict=True):
            assert b" 200 " in stream.send(asked).head()
        revoke(hub, name)
        for stream in streams:
            closes(stream.rest)
        closes(lambda: until_closed(shells[1]))
        assert httpx2.get(hub.tcp + f"/v1/events?ticket={unused}").status_code in (401, 429)
        shells[0].send('{"signal":"TERM"}')
        assert json.loads(shells[0].recv(timeout=BOUND)) == {"signal": 15}, "another's goes on"


@pytest.mark.battery("H3")
def test_a_download_ends_when_its_token_is_revoked(hub: HubProcess) -> None:
    name = f"down-{secrets.token_hex(4)}"
    token = make(hub, name, [OPERATE])
    kind = {"Content-Type": "application/octet-stream"}
    with thopter(hub) as path:
        put = hub.request("POST", f"{path}/put?path=/{name}", content=b"x" * SIZE, headers=kind)
        assert put.status_code == 200
        with Raw(("127.0.0.1", hub.tcp_port)) as whole:  # the control
            whole.send(head(hub, token, f"GET {path}/fetch?path=/{name}", "Connection: close"))
            assert len(whole.rest()) > SIZE
        with Raw(("127.0.0.1", hub.tcp_port)) as cut:
            cut.send(head(hub, token, f"GET {path}/fetch?path=/{name}", "Connection: close"))
            assert b" 200 " in cut.head()
            revoke(hub, name)
            found: list[int] = []
            closes(lambda: found.append(len(cut.rest())))
            assert found[0] < SIZE, "it was cut off"


@pytest.mark.battery("H3")
@pytest.mark.parametrize("what", ["put", "import"])
def test_an_upload_ends_when_its_token_is_revoked_and_is_not_taken(hub: HubProcess, what: str) -> None:
    name = f"up-{secrets.token_hex(4)}"
    with thopter(hub) as path, Raw(("127.0.0.1", hub.tcp_port)) as up:
        token = make(hub, name, [ADMIN])
        target = f"{path}/put?path=/{name}" if what == "put" else "/v1/snapshot-imports?name=new"
        more = ("Content-Type: application/octet-stream", "Content-Length: 1000")
        up.send(head(hub, token, f"POST {target}", *more) + b"x" * 10)
        if what == "put":
            wait_for(lambda: list((hub.state / "files").glob(f"*{name}.new")))
        revoke(hub, name)
        answer = up.head()  # nothing more is sent
        assert b" 401 " in answer, answer
        up.send(b"x" * 990)
        assert hub.get(f"{path}/fetch?path=/{name}").status_code == 404
        assert [f for f in (hub.state / "files").iterdir() if f.name.endswith(name)] == []


@pytest.mark.battery("H3")
@pytest.mark.parametrize("how", ["expires", "revoked before", "revoked"])
def test_a_holders_end_comes_with_its_token_and_not_before(how: str) -> None:
    clock = SystemClock()

    async def go() -> None:
        until = clock.now_ms() + 300 if how == "expires" else 0
        holder = Holder("x", ALL_SCOPES, until, asyncio.Event())
        assert holder.over is not None
        if how == "revoked before":
            holder.over.set()
        elif how == "revoked":
            asyncio.get_running_loop().call_later(0.1, holder.over.set)
        assert holder.good(clock.now_ms()) is (how != "revoked before")
        async with asyncio.timeout(BOUND):
            await holder.ended(clock)
        assert not holder.good(clock.now_ms()) and clock.now_ms() >= until
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await OPERATOR.ended(clock)  # the operator's never comes

    asyncio.run(go())


@pytest.mark.battery("H3")
def test_a_request_whose_body_comes_after_its_token_was_revoked_does_nothing(hub: HubProcess) -> None:
    """Or whoever had an admin's token could make another with it, later."""
    name = f"late-{secrets.token_hex(4)}"
    token = make(hub, name, [ADMIN])
    body = json.dumps({"name": f"again-{name}", "scopes": ["admin"]}).encode()
    more = ("Content-Type: application/json", f"Content-Length: {len(body)}")
    with Raw(("127.0.0.1", hub.tcp_port)) as raw:
        raw.send(head(hub, token, "POST /v1/tokens", *more) + body[:5])
        used = {t["name"]: t["used_ms"] for t in wait_for(lambda: _tokens(hub, name))}
        assert used[name], "it was let in"
        revoke(hub, name)
        answer = raw.send(body[5:]).head()
    assert b" 401 " in answer, answer
    assert f"again-{name}" not in hub.get("/v1/tokens").text


def _tokens(hub: HubProcess, name: str) -> list[dict[str, Any]]:
    """All tokens, once that one was shown."""
    found: list[dict[str, Any]] = hub.get("/v1/tokens").json()["tokens"]
    return found if any(t["used_ms"] for t in found if t["name"] == name) else []
