"""The model gateway's decisions and readings, without a process."""

from __future__ import annotations

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from thopter.gateway.http1 import Head, HeadFinder, parse_head
from thopter.gateway.model.ledger import Ledger
from thopter.gateway.model.policy import Refusal, decide, request_headers, response_headers
from thopter.gateway.model.upstream import Attach, Credential, parse_attach, parse_endpoint
from thopter.gateway.model.usage import EventReader, JsonReader, Tokens, read_limit, reader_for
from thopter.model.errors import BadInput

SECRET = "sk-real-canary"


def head(method: str, target: str, *headers: str) -> Head:
    raw = "\r\n".join([f"{method} {target} HTTP/1.1", "host: box", *headers]).encode() + b"\r\n\r\n"
    return parse_head(raw[: HeadFinder().find(bytearray(raw))])


ALLOWED = [
    ("POST", "/v1/messages"),
    ("POST", "/v1/messages?beta=true"),
    ("POST", "/v1/messages/count_tokens?beta=true"),
    ("GET", "/v1/models"),
    ("GET", "/v1/models?limit=1000"),
    ("GET", "/v1/models/claude-x-4.1@20260101"),
    ("HEAD", "/"),
    ("GET", "/"),
]


@pytest.mark.parametrize(("method", "target"), ALLOWED)
def test_the_calls_an_agent_needs_are_made_as_asked(method: str, target: str) -> None:
    assert decide(head(method, target)) == target


REFUSED = [
    ("GET", "/v1/files", 403),
    ("POST", "/v1/files", 403),
    ("POST", "/v1/messages/batches", 403),
    ("GET", "/v1/organizations/users", 403),
    ("POST", "/v1/messages/", 403),
    ("POST", "//v1/messages", 403),
    ("POST", "/v1/../v1/messages", 403),
    ("POST", "/v1/messages%2f..%2ffiles", 403),
    ("POST", "/V1/messages", 403),
    ("POST", "/v1/messages;x", 403),
    ("POST", "/v1/messages#x", 403),
    ("GET", "/v1/models/..", 403),
    ("GET", "/v1/models/../files", 403),
    ("GET", "/v1/models/%2e%2e", 403),
    ("GET", "/v1/models/a/b", 403),
    ("GET", "/v1/messages", 405),
    ("DELETE", "/v1/messages", 405),
    ("POST", "/", 405),
    ("PUT", "/v1/models", 405),
    ("OPTIONS", "/v1/messages", 405),
    ("POST", "/v1/messages?a=/../files", 400),
    ("POST", "/v1/messages?a=b?c", 400),
    ("POST", "/v1/messages?" + "a" * 1100, 400),
    ("GET", "/api/oauth/profile", 403),
    ("POST", "/v1/complete", 403),
]


@pytest.mark.parametrize(("method", "target", "status"), REFUSED)
def test_everything_else_of_the_endpoint_is_refused(method: str, target: str, status: int) -> None:
    found = decide(head(method, target))
    assert isinstance(found, Refusal) and found.status == status


@given(st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), max_size=60))
def test_no_target_outside_the_list_gets_through(text: str) -> None:
    found = decide(head("GET", "/" + text))
    if isinstance(found, str):
        path = found.partition("?")[0]
        assert path == "/" or path == "/v1/models" or path.startswith("/v1/models/")
        assert ".." not in path.split("/") and "%" not in path


def test_a_body_where_none_belongs_and_an_encoded_one_are_refused() -> None:
    assert isinstance(decide(head("GET", "/v1/models", "content-length: 5")), Refusal)
    assert isinstance(
        decide(head("POST", "/v1/messages", "content-encoding: gzip", "content-length: 5")), Refusal
    )


def sent(auth: Credential | None, *headers: str, **kw: object) -> dict[str, str]:
    attach = Attach(box="b", upstream="https://api.test", auth=auth, **kw)  # type: ignore[arg-type]
    pairs = request_headers(
        head("POST", "/v1/messages", "content-length: 2", *headers),
        attach,
        parse_endpoint("https://api.test"),
    )
    assert len({n.lower() for n, _ in pairs}) == len(pairs), "a header goes out twice"
    return {n.lower(): v for n, v in pairs}


def test_only_the_real_credential_and_harmless_headers_reach_the_endpoint() -> None:
    hostile = [
        "authorization: Bearer box",
        "x-api-key: box",
        "proxy-authorization: Basic x",
        "cookie: a=b",
        "x-forwarded-host: evil.test",
        "forwarded: host=evil",
        "x-goog-api-key: box",
        "api-key: box",
        "connection: keep-alive, x-secret",
        "te: trailers",
        "upgrade: h2c",
        "x-http-method-override: DELETE",
        "x-original-url: /v1/files",
        "via: 1.1 x",
        "accept-encoding: gzip",
        "origin: https://evil.test",
    ]
    good = ["anthropic-version: 2023-06-01", "user-agent: claude-cli/2", "x-stainless-lang: js", "x-app: cli"]
    out = sent(Credential(kind="x-api-key", secret=SECRET), *hostile, *good)
    assert out == {
        "host": "api.test",
        "accept-encoding": "identity",
        "content-length": "2",
        "x-api-key": SECRET,
        "anthropic-version": "2023-06-01",
        "user-agent": "claude-cli/2",
        "x-stainless-lang": "js",
        "x-app": "cli",
    }
    assert "x-api-key" not in sent(Credential(kind="bearer", secret=SECRET), *hostile)
    assert sent(Credential(kind="bearer", secret=SECRET))["authorization"] == f"Bearer {SECRET}"
    assert not {"authorization", "x-api-key"} & set(sent(None, *hostile))


def test_a_subscription_token_gets_its_beta_and_betas_that_open_connections_are_dropped() -> None:
    betas = ("anthropic-beta: a-1, mcp-client-2025-04-04", "anthropic-beta: MCP-Client-x,b-2")
    assert sent(None, *betas)["anthropic-beta"] == "a-1,b-2"
    token = Credential(kind="bearer", secret="sk-ant-oat01-x")
    assert sent(token, *betas)["anthropic-beta"] == "a-1,b-2,oauth-2025-04-20"
    assert sent(Credential(kind="oauth", secret="t"), "anthropic-beta: oauth-2025-04-20")[
        "anthropic-beta"
    ] == ("oauth-2025-04-20")
    assert "anthropic-beta" not in sent(Credential(kind="bearer", secret="sk-ant-api03"))


def test_the_operators_own_headers_win_over_the_boxs() -> None:
    added = {"X-App": "ours", "anthropic-beta": "c-3", "x-team": "t"}
    out = sent(None, "x-app: theirs", "anthropic-beta: a-1", headers=added)
    assert (out["x-app"], out["x-team"], out["anthropic-beta"]) == ("ours", "t", "a-1,c-3")


def test_a_box_sees_no_cookie_routing_or_connection_header_of_the_endpoint() -> None:
    raw = [
        (b"Content-Type", b"application/json"),
        (b"Set-Cookie", b"a=b"),
        (b"Location", b"http://evil"),
        (b"Transfer-Encoding", b"chunked"),
        (b"Alt-Svc", b"h3"),
        (b"Retry-After", b"7"),
        (b"Server", b"x"),
        (b"anthropic-ratelimit-requests-remaining", b"0"),
        (b"anthropic-organization-id", b"org"),
        (b"WWW-Authenticate", b"Basic"),
        (b"request-id", b"req_1"),
        (b"x-request-id", b"bad\x07"),
    ]
    assert dict(response_headers(raw)) == {
        "content-type": "application/json",
        "retry-after": "7",
        "request-id": "req_1",
        "anthropic-ratelimit-requests-remaining": "0",
    }


def test_a_base_url_is_read_with_its_prefix() -> None:
    found = parse_endpoint("http://[::1]:8080/anthropic/")
    assert (found.host, found.port, found.prefix, found.authority) == (
        "::1",
        8080,
        "/anthropic",
        "[::1]:8080",
    )
    assert parse_endpoint("https://api.anthropic.com").url == "https://api.anthropic.com"
    assert parse_endpoint("https://api.anthropic.com:443/").authority == "api.anthropic.com"


@pytest.mark.parametrize(
    "url",
    [
        "",
        "api.anthropic.com",
        "ftp://x",
        "https://",
        "https://u:p@x",
        "https://x/?a",
        "https://x/#a",
        "http://x:99999",
        "https://x/../y",
        "https://x/%2e",
        "file:///etc/passwd",
        "https://a b",
        "https://x\r\nhost: y",
        "http://exämple",
    ],
)
def test_a_base_url_that_is_no_plain_address_is_refused(url: str) -> None:
    with pytest.raises(BadInput):
        parse_endpoint(url)


BAD_ATTACH = [
    {"auth": {"kind": "basic", "secret": SECRET}},
    {"auth": {"kind": "bearer"}},
    {"auth": SECRET},
    {"auth": {"kind": "bearer", "secret": SECRET + "\r\nx: y"}},
    {"auth": {"kind": "bearer", "secret": ""}},
    {"auth": {"kind": "bearer", "secret": SECRET, "x": SECRET}},
    {"headers": {"host": SECRET}},
    {"headers": {"a b": SECRET}},
    {"headers": {"x": SECRET + "\n"}},
    {"auth": {"kind": SECRET, "secret": SECRET}},
    {"limits": {"connections": SECRET}},
    {"run": [SECRET]},
    {"auth": {"kind": "bearer", "secret": [SECRET]}},
]


@pytest.mark.parametrize("fields", BAD_ATTACH)
def test_no_refused_attachment_and_no_repr_ever_shows_the_secret(fields: dict[str, object]) -> None:
    with pytest.raises(BadInput) as caught:
        parse_attach({"box": "b", "upstream": "https://x", **fields})
    assert SECRET not in str(caught.value) + repr(caught.value.to_dict())
    attach = Attach(box="b", upstream="https://x", auth=Credential(kind="bearer", secret=SECRET))
    assert SECRET not in repr(attach) + str(attach.auth) + repr(
        attach.auth.__rich_repr__() if attach.auth else ""
    )


START = {
    "type": "message_start",
    "message": {
        "model": "m-1",
        "usage": {
            "input_tokens": 9,
            "output_tokens": 1,
            "cache_read_input_tokens": 3,
            "cache_creation_input_tokens": 2,
        },
    },
}
DELTA = {"type": "message_delta", "delta": {}, "usage": {"output_tokens": 77}}


def stream(*events: object) -> bytes:
    return b"".join(b"event: x\r\ndata: " + json.dumps(e).encode() + b"\r\n\r\n" for e in events)


@given(st.integers(1, 400))
def test_tokens_are_read_from_a_stream_however_it_is_cut(step: int) -> None:
    raw, reader = stream(START, {"type": "ping"}, DELTA, {"type": "message_stop"}), EventReader()
    for at in range(0, len(raw), step):
        reader.feed(raw[at : at + step])
    reader.end()
    want = Tokens(input_tokens=9, output_tokens=77, cache_read_input_tokens=3, cache_creation_input_tokens=2)
    assert (reader.tokens, reader.model, reader.complete) == (want, "m-1", True)


def test_a_stream_that_stops_early_is_not_complete_and_an_error_event_is_seen() -> None:
    reader = EventReader()
    reader.feed(stream(START, {"type": "error", "error": {"type": "overloaded_error", "message": "busy"}}))
    assert (
        not reader.complete and reader.error == "overloaded_error: busy" and reader.tokens.output_tokens == 1
    )


@given(st.binary(max_size=200), st.sampled_from([EventReader, JsonReader]))
def test_no_bytes_of_an_endpoint_break_the_reading(
    data: bytes, kind: type[EventReader] | type[JsonReader]
) -> None:
    reader = kind()
    for piece in (
        data,
        b'data: {"usage": 1}\n',
        b'data: {"type":"message_delta","usage":{"output_tokens":-1}}\n',
        data,
    ):
        reader.feed(piece)
    reader.end()
    assert reader.tokens.output_tokens == 0


def test_an_endless_line_is_skipped_without_being_kept() -> None:
    reader = EventReader()
    for _ in range(40):
        reader.feed(b"data: " + b"x" * 65536)
    assert len(reader._line) <= 1 << 20
    reader.feed(b"\n" + stream(DELTA))
    assert reader.tokens.output_tokens == 77


def test_a_plain_answer_is_read_at_its_end_and_count_tokens_counts_nothing() -> None:
    reader = reader_for("/v1/messages", "application/json; charset=utf-8", "")
    reader.feed(json.dumps({"model": "m", "usage": {"input_tokens": 4, "output_tokens": 5}}).encode())
    reader.end()
    assert (reader.tokens.input_tokens, reader.tokens.output_tokens, reader.model) == (4, 5, "m")
    other = reader_for("/v1/messages/count_tokens", "application/json", "")
    other.feed(b'{"usage": {"input_tokens": 4}}')
    other.end()
    assert not other.tokens


NOW = 1_700_000_000_000


@pytest.mark.parametrize(
    ("headers", "retry", "reset"),
    [
        ({"retry-after": "30"}, 30.0, NOW + 30_000),
        ({"retry-after": "Tue, 14 Nov 2023 22:14:20 GMT"}, 60.0, NOW + 60_000),
        ({"retry-after": "nan"}, 0.0, 0),
        ({"retry-after": "soon"}, 0.0, 0),
        ({"retry-after": "-5"}, 0.0, 0),
        ({"retry-after": "1e300"}, 90 * 86400.0, NOW + 90 * 86_400_000),
        ({"anthropic-ratelimit-unified-reset": "1700003600"}, 0.0, NOW + 3_600_000),
        (
            {
                "anthropic-ratelimit-tokens-reset": "2023-11-14T22:15:00Z",
                "anthropic-ratelimit-tokens-remaining": "0",
                "anthropic-ratelimit-requests-reset": "2023-11-14T22:14:00Z",
                "anthropic-ratelimit-requests-remaining": "9",
            },
            0.0,
            NOW + 100_000,
        ),
        ({"anthropic-ratelimit-tokens-reset": "gestern"}, 0.0, 0),
    ],
)
def test_when_to_come_back_is_read_from_whatever_the_endpoint_said(
    headers: dict[str, str], retry: float, reset: int
) -> None:
    found = read_limit(429, list(headers.items()), NOW)
    assert found.at_ms == NOW and found.retry_after_s == pytest.approx(retry) and found.reset_ms == reset


def record(box: str, **kw: object) -> dict[str, object]:
    base = {
        "at_ms": 1,
        "box": box,
        "run": "r",
        "method": "POST",
        "path": "/v1/messages",
        "status": 200,
        "ms": 1.0,
    }
    return base | kw


def test_the_account_is_bounded_and_says_what_it_dropped() -> None:
    import asyncio

    ledger = Ledger()
    for number in range(2500):
        ledger.add(
            record("a" if number % 2 else "b", tokens=Tokens(output_tokens=2), model=f"m{number}"), None
        )
    page = asyncio.run(ledger.page(100, "a", 300, 0))
    assert (len(page.records), page.dropped, page.records[0].seq) == (300, 400, 502)
    rest = asyncio.run(ledger.page(page.next, "a", 2000, 0))
    assert rest.records[0].seq == page.records[-1].seq + 2 and rest.next == 2500
    usage = ledger.usage("a")
    assert usage.requests == 1250 and usage.tokens.output_tokens == 2500 and len(usage.by_model) == 33
    assert msgspec.to_builtins(ledger.usage("never"))["requests"] == 0
