"""The scripted model as a server: routes, faults on purpose, and a log of what was asked."""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

import msgspec
from msgspec import UNSET, Struct, UnsetType

from thopter.model.errors import BadInput, ThopterError, TimedOut
from thopter.testing.http1 import Gone, Reply, Request, Server
from thopter.testing.scripted_model import render
from thopter.testing.scripted_model.choose import Choice, choose, prompts
from thopter.testing.scripted_model.scenario import Scenario, Script

SEEN_MAX = 2000
_JSON = {"content-type": "application/json"}
_SSE = {"content-type": "text/event-stream; charset=utf-8", "cache-control": "no-cache"}


class Seen(Struct, kw_only=True):
    """One request, as ``GET /_log`` and the log file show it. ``credential`` is the kind and a
    digest, never the secret. ``outcome``: ok, error, dropped, stalled, gone (client left)."""

    n: int
    at_ms: int
    method: str
    path: str
    status: int = 0
    outcome: str = "ok"
    script: str = ""
    turn: int = 0
    attempt: int = 0
    side: bool = False
    stream: bool = False
    model: str = ""
    messages: int = 0
    prompt: str = ""
    credential: str = ""
    agent: str = ""
    ms: float = 0.0


class Exchange(Struct, frozen=True):
    """A logged request with its headers and parsed body; only in memory, never written anywhere."""

    seen: Seen
    headers: Mapping[str, str]
    body: Mapping[str, Any]


def credential(headers: Mapping[str, str]) -> tuple[str, str]:
    """Return what the client authenticated with: its description for the log, and the secret."""
    auth, key = headers.get("authorization", ""), headers.get("x-api-key", "")
    kind, secret = ("x-api-key", key) if key else ("bearer", auth.removeprefix("Bearer ").strip())
    if not secret:
        return "none", ""
    return f"{kind} sha256:{hashlib.sha256(secret.encode()).hexdigest()[:12]}", secret


class ScriptedModel:
    """An Anthropic Messages API that plays a scenario; use as ``async with``.

    Nothing is remembered between requests but the log and the attempts that ``fail_first`` counts,
    so it may be restarted at any time.
    """

    def __init__(
        self,
        scenario: Scenario,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        log: Path | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.scenario = scenario
        self.exchanges: deque[Exchange] = deque(maxlen=SEEN_MAX)
        self._server = Server(self._handle, host, port)
        self._log_path = log
        self._log: TextIO | None = None
        self._attempts: dict[str, int] = {}
        self._clock, self._count = clock, 0

    @property
    def url(self) -> str:
        """What ``ANTHROPIC_BASE_URL`` shall be."""
        return self._server.url

    @property
    def seen(self) -> list[Seen]:
        """Every request so far (the last :data:`SEEN_MAX`)."""
        return [x.seen for x in list(self.exchanges)]

    async def __aenter__(self) -> ScriptedModel:
        if self._log_path is not None:
            try:
                self._log = self._log_path.open("a", encoding="utf-8", errors="backslashreplace")
            except OSError as e:
                raise BadInput(f"log {self._log_path} can't be written: {e.strerror}") from None
        try:
            await self._server.__aenter__()
        except ThopterError:
            self._close_log()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await self._server.__aexit__(kind, error, trace)
        finally:
            self._close_log()

    def _close_log(self) -> None:
        if self._log is not None:
            self._log.close()
            self._log = None

    # ------------------------------------------------------------------------------------ routes

    async def _handle(self, request: Request, reply: Reply) -> None:
        self._count += 1
        seen = Seen(
            n=self._count, at_ms=int(self._clock() * 1000), method=request.method, path=request.path,
            credential=credential(request.headers)[0], agent=request.headers.get("user-agent", "")[:120],
        )  # fmt: skip
        began = time.monotonic()
        body: dict[str, Any] = {}
        try:
            if request.path.startswith("/v1/messages"):
                body = _decode(request)
            self.exchanges.append(Exchange(seen, request.headers, body))
            await self._route(request, body, seen, reply)
        except BadInput as e:
            seen.outcome = "error"
            await self._error(reply, seen, 400, e.message, str(seen.n))
        except Gone:
            seen.outcome = "gone"
            raise
        finally:
            seen.ms = round((time.monotonic() - began) * 1000, 1)
            self._write(seen)

    async def _route(self, request: Request, body: dict[str, Any], seen: Seen, reply: Reply) -> None:
        key = (request.method, request.path)
        if request.path.startswith("/v1/") and self._refused(request):
            seen.outcome = "error"
            await self._error(reply, seen, 401, "invalid x-api-key", str(seen.n))
        elif key == ("POST", "/v1/messages"):
            await self._message(
                body, hashlib.sha256(request.body).hexdigest(), len(request.body), seen, reply
            )
        elif key == ("POST", "/v1/messages/count_tokens"):
            await self._json(reply, seen, {"input_tokens": render.tokens(len(request.body))})
        elif key == ("GET", "/v1/models"):
            shown = {"type": "model", "id": self.scenario.model, "display_name": "Scripted model",
                     "created_at": "2026-01-01T00:00:00Z"}  # fmt: skip
            await self._json(reply, seen, {"data": [shown], "has_more": False,
                                           "first_id": shown["id"], "last_id": shown["id"]})  # fmt: skip
        elif key == ("GET", "/_log"):
            await self._json(
                reply, seen, {"seen": [msgspec.to_builtins(s) for s in self.seen if s is not seen]}
            )
        elif key == ("POST", "/_scripts"):
            names = self.add(request.body)
            await self._json(reply, seen, {"scripts": names})
        elif request.path == "/" and request.method in ("GET", "HEAD"):
            await self._json(
                reply, seen, {"service": "scripted model", "scripts": [s.name for s in self.scenario.script]}
            )
        else:
            seen.outcome = "error"
            await self._error(reply, seen, 404, f"no {request.method} {request.path} here", str(seen.n))

    def add(self, raw: bytes) -> list[str]:
        """Add or replace scripts given as JSON ``{"script": […]}``; returns all names."""
        try:
            asked = msgspec.json.decode(raw, type=_Added)
            self.scenario = self.scenario.with_scripts(asked.script)
        except (msgspec.DecodeError, ValueError) as e:
            raise BadInput(f"scripts: {e}") from None
        return [s.name for s in self.scenario.script]

    def _refused(self, request: Request) -> bool:
        want = self.scenario.require_key
        return bool(want) and credential(request.headers)[1] != want

    # ---------------------------------------------------------------------------------- messages

    async def _message(self, body: dict[str, Any], digest: str, size: int, seen: Seen, reply: Reply) -> None:
        said = prompts(body)
        seen.prompt = said[-1].text if said else ""
        seen.stream, seen.model = bool(body.get("stream")), str(body.get("model", ""))
        seen.messages = len(body["messages"])
        choice = choose(self.scenario, body)
        seen.script, seen.turn, seen.side = choice.script, choice.number, choice.side
        # A client that falls back from streaming to not asks the same question again.
        same = json.dumps([choice.script, choice.number, body["messages"]], sort_keys=True)
        which = hashlib.sha256(same.encode("utf-8", "surrogatepass")).hexdigest()
        seen.attempt = self._attempts[which] = self._attempts.get(which, 0) + 1
        turn = choice.turn
        broken = turn.broken and not (turn.fail_first and seen.attempt > turn.fail_first)
        await reply.pause(_ms(turn.delay_ms, self.scenario.delay_ms))
        if broken and turn.status != 200:
            seen.outcome = "error"
            headers = {} if turn.retry_after is None else {"retry-after": f"{turn.retry_after:g}"}
            await self._error(
                reply, seen, turn.status, render.fill(turn.message, choice.words), digest, headers
            )
            return
        answer = render.message(turn, choice.words, model=seen.model or self.scenario.model,
                                digest=which, size=size)  # fmt: skip
        if seen.stream:
            await self._stream(answer, choice, broken, seen, reply)
        else:
            await self._whole(answer, choice, broken, seen, reply)

    async def _whole(
        self, answer: dict[str, Any], choice: Choice, broken: bool, seen: Seen, reply: Reply
    ) -> None:
        turn = choice.turn
        if broken and turn.drop_after is not None:
            await self._drop(reply, seen)
        elif broken and turn.error_after is not None:
            seen.outcome = "error"
            await self._error(reply, seen, 529, turn.message or "Overloaded", str(seen.n))
        else:
            if broken and turn.stall_after is not None:
                await self._stall(turn.stall_ms, seen, reply)
            await self._json(reply, seen, answer)

    async def _stream(
        self, answer: dict[str, Any], choice: Choice, broken: bool, seen: Seen, reply: Reply
    ) -> None:
        turn = choice.turn
        gap = _ms(turn.chunk_ms, self.scenario.chunk_ms)
        pieces = list(render.stream(answer, self.scenario.chunk_chars))
        faults = (turn.drop_after, turn.error_after, turn.stall_after) if broken else (None, None, None)
        drop, fail, stall = (None if at is None else min(at, len(pieces) - 1) for at in faults)
        seen.status = 200
        if drop != 0:
            await reply.start(200, {**_SSE, "request-id": answer["id"].replace("msg", "req")})
        for number, piece in enumerate(pieces):
            if number == stall:
                await self._stall(turn.stall_ms, seen, reply)
            if number == drop:
                await self._drop(reply, seen)
                return
            if number == fail:
                seen.outcome = "error"
                shown = {"type": "overloaded_error", "message": turn.message or "Overloaded"}
                await reply.write(render.event("error", error=shown))
                break
            await reply.write(piece)
            if gap and number < len(pieces) - 1:
                await reply.pause(gap)
        await reply.finish()

    async def _drop(self, reply: Reply, seen: Seen) -> None:
        seen.outcome = "dropped"
        reply.drop()

    async def _stall(self, ms: int, seen: Seen, reply: Reply) -> None:
        seen.outcome = "stalled"
        await reply.pause(None if ms < 0 else ms / 1000)

    # ----------------------------------------------------------------------------------- answers

    async def _json(self, reply: Reply, seen: Seen, data: dict[str, Any]) -> None:
        seen.status = 200
        await reply.send(200, json.dumps(data, ensure_ascii=False).encode("utf-8", "surrogatepass"), _JSON)

    async def _error(
        self,
        reply: Reply,
        seen: Seen,
        status: int,
        text: str,
        digest: str,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        seen.status = status
        body = json.dumps(render.error_body(status, text, digest)).encode()
        await reply.send(status, body, {**_JSON, **(headers or {})})

    def _write(self, seen: Seen) -> None:
        if self._log is not None:
            self._log.write(json.dumps(msgspec.to_builtins(seen)) + "\n")
            self._log.flush()

    # ------------------------------------------------------------------------------------- tests

    async def wait_for(self, wanted: Callable[[Seen], bool], seconds: float = 30) -> Seen:
        """Wait until a request satisfies ``wanted``; TimedOut with what was seen otherwise."""
        try:
            async with asyncio.timeout(seconds):
                while True:
                    for seen in self.seen:
                        if wanted(seen):
                            return seen
                    await asyncio.sleep(0.02)
        except TimeoutError:
            asked = [(s.path, s.script, s.turn, s.status, s.prompt[:60]) for s in self.seen[-20:]]
            raise TimedOut(f"no such request within {seconds} s; seen: {asked}") from None


class _Added(Struct, forbid_unknown_fields=True):
    script: tuple[Script, ...]


def _ms(own: int | UnsetType, default: int) -> float:
    return (default if own is UNSET else own) / 1000


def _decode(request: Request) -> dict[str, Any]:
    if request.method != "POST":
        return {}
    try:
        data = json.loads(request.body)
    except (ValueError, RecursionError) as e:
        raise BadInput(f"the body is not JSON: {e}") from None
    if not isinstance(data, dict):
        raise BadInput("the body is not a JSON object")
    return data
