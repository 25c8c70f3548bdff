"""A port preview is for the user's own pages: what another page of the browser asks is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from thopter.cli.forward_guard import HEAD_MAX, REFUSAL, judge


def request(*headers: str, line: str = "GET / HTTP/1.1") -> bytes:
    return "\r\n".join([line, *headers, "", ""]).encode()


@pytest.mark.parametrize(
    "headers",
    [
        ("Host: localhost:3000",),
        ("host: 127.0.0.1:3000", "Origin: http://127.0.0.1:3000"),
        ("Host: [::1]:3000",),
        ("Host: app.localhost:3000",),
        ("Host: LOCALHOST:3000", "Sec-Fetch-Site: cross-site", "Sec-Fetch-Mode: navigate"),  # a link
        ("Host: 127.0.0.1", "Upgrade: websocket", "Origin: http://127.0.0.1"),
    ],
)
def test_pages_of_the_preview_itself_pass(headers: tuple[str, ...]) -> None:
    assert judge(request(*headers)) is True
    assert judge(request(*headers) + b"body\n\n") is True


@pytest.mark.battery("H19")
@pytest.mark.parametrize(
    "headers",
    [
        ("Host: evil.test:3000",),  # a name made to point here
        ("Host: localhost.evil.test",),
        ("Host: 127.0.0.1.evil.test",),
        ("Host: localhost", "Host: evil.test"),
        ("Accept: */*",),
        ("Host: 127.0.0.1:3000", "Origin: http://evil.test"),
        ("Host: 127.0.0.1:3000", "Origin: null"),
        ("Host: 127.0.0.1:3000", "Origin: http://127.0.0.1:9000"),  # another local service's page
        ("Host: 127.0.0.1:3000", "Origin: http://[bad"),
        ("Host: 127.0.0.1:3000", "Sec-Fetch-Site: cross-site", "Sec-Fetch-Mode: no-cors"),
    ],
)
@pytest.mark.parametrize("line", ["GET / HTTP/1.1", "POST /x HTTP/1.0", "made-up /x HTTP/1.1"])
def test_what_another_page_asks_does_not(headers: tuple[str, ...], line: str) -> None:
    assert judge(request(*headers, line=line)) is False
    assert judge(request(*headers, line=line).replace(b"\r\n", b"\n")) is False


@pytest.mark.parametrize(
    "first", [b"\x16\x03\x01\x02", b"\x00\x00\x00\x08", b"*1\r\n$4\r\nPING\r\n", b"PING\r\n", b"HELO a\r\n",
              b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"]
)  # fmt: skip
def test_what_no_page_can_say_passes(first: bytes) -> None:
    assert judge(first) is True


@given(st.integers(1, 200))
def test_nothing_passes_before_the_whole_head_is_there(cut: int) -> None:
    head = request("X: " + "y" * 100, "Host: evil.test", line="GET /a HTTP/1.1")
    assert judge(head[: min(cut, len(head) - 3)]) is None
    assert judge(head[: len(head) - 4], ended=True) is False


def test_a_head_without_end_is_not_kept_for_ever() -> None:
    assert judge(b"GET " + b"/" * HEAD_MAX) is False
    assert judge(b"GET / HTTP/1.1\r\nA: " + b"b" * HEAD_MAX) is False


def test_the_refusal_is_a_whole_answer() -> None:
    head, _, body = REFUSAL.partition(b"\r\n\r\n")
    assert f"Content-Length: {len(body)}".encode() in head
