"""What the strict reader takes, and what it refuses."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from thopter.gateway.http1 import (
    HEAD_MAX,
    BadRequest,
    BodyDecoder,
    Head,
    HeadFinder,
    parse_head,
    response_head,
)


def read(raw: bytes) -> Head:
    size = HeadFinder().find(bytearray(raw))
    assert size, "the head is not complete"
    return parse_head(raw[:size])


def refused(raw: bytes) -> int:
    with pytest.raises(BadRequest) as caught:
        read(raw)
    return caught.value.status


def test_an_ordinary_request_is_read_whole() -> None:
    head = read(
        b"POST /v1/messages?beta=true HTTP/1.1\r\nHost: x\r\nX-A:  b c \r\nContent-Length: 12\r\n\r\nbody"
    )
    assert (head.method, head.target, head.length, head.keep_alive) == (
        "POST",
        "/v1/messages?beta=true",
        12,
        True,
    )
    assert head.header("x-a") == "b c"
    assert head.header("missing") is None


def test_a_chunked_body_has_no_length_and_http_1_0_is_not_kept_alive() -> None:
    chunked = read(
        b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: Chunked\r\nExpect: 100-continue\r\n\r\n"
    )
    assert chunked.length is None and chunked.has_body and chunked.expects_continue
    assert not read(b"GET / HTTP/1.0\r\n\r\n").keep_alive
    assert not read(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: foo, Close\r\n\r\n").keep_alive


LINES = {
    "both lengths": b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n",
    "two lengths": b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\nContent-Length: 4\r\n\r\n",
    "listed lengths": b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 4, 4\r\n\r\n",
    "signed length": b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: +4\r\n\r\n",
    "hex length": b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 0x4\r\n\r\n",
    "unknown coding": b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
    "hidden coding": b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: xchunked\r\n\r\n",
    "two codings": b"POST / HTTP/1.1\r\nHost: x\r\n" + b"Transfer-Encoding: chunked\r\n" * 2 + b"\r\n",
    "coding in 1.0": b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n",
    "folded header": b"GET / HTTP/1.1\r\nHost: x\r\nA: b\r\n c\r\n\r\n",
    "space before colon": b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length : 4\r\n\r\n",
    "no colon": b"GET / HTTP/1.1\r\nHost: x\r\nnonsense\r\n\r\n",
    "empty name": b"GET / HTTP/1.1\r\nHost: x\r\n: v\r\n\r\n",
    "bare line feed": b"GET / HTTP/1.1\r\nHost: x\nA: b\r\n\r\n",
    "only line feeds": b"GET / HTTP/1.1\nHost: x\n\n",
    "bare carriage return": b"GET / HTTP/1.1\r\nHost: x\rA: b\r\n\r\n",
    "NUL": b"GET / HTTP/1.1\r\nHost: x\x00\r\n\r\n",
    "8-bit": b"GET /\xe2\x80\xae HTTP/1.1\r\nHost: x\r\n\r\n",
    "two hosts": b"GET / HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n",
    "no host": b"GET / HTTP/1.1\r\nA: b\r\n\r\n",
    "absolute target": b"GET http://evil.test/ HTTP/1.1\r\nHost: x\r\n\r\n",
    "authority target": b"CONNECT evil.test:443 HTTP/1.1\r\nHost: x\r\n\r\n",
    "star target": b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n",
    "two spaces": b"GET  / HTTP/1.1\r\nHost: x\r\n\r\n",
    "tab": b"GET\t/ HTTP/1.1\r\nHost: x\r\n\r\n",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "lower case method": b"get / HTTP/1.1\r\nHost: x\r\n\r\n",
    "HTTP/0.9": b"GET /\r\n\r\n",
    "empty line first": b"\r\n\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n",
    "expectation": b"GET / HTTP/1.1\r\nHost: x\r\nExpect: magic\r\n\r\n",
}


@pytest.mark.battery("E8")
@pytest.mark.parametrize("name", LINES)
def test_what_could_be_read_in_two_ways_is_refused(name: str) -> None:
    assert refused(LINES[name]) in (400, 417, 501)


@pytest.mark.battery("E8")
def test_too_long_a_head_or_too_many_headers_are_refused() -> None:
    assert refused(b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"a" * HEAD_MAX + b"\r\n\r\n") == 431
    assert refused(b"GET / HTTP/1.1\r\nHost: x\r\n" + b"a: b\r\n" * 101 + b"\r\n") == 431
    assert refused(b"GET /" + b"a" * 5000 + b" HTTP/1.1\r\nHost: x\r\n\r\n") == 400


@given(st.lists(st.integers(1, 40), max_size=30))
def test_a_head_is_found_however_it_drips_in(cuts: list[int]) -> None:
    raw = b"GET / HTTP/1.1\r\nHost: x\r\nAccept: */*\r\n\r\nrest"
    finder, buffer, at = HeadFinder(), bytearray(), 0
    found = 0
    for cut in [*cuts, len(raw)]:
        buffer += raw[at : at + cut]
        at = min(at + cut, len(raw))
        found = finder.find(buffer)
        if found:
            break
    assert found == raw.index(b"\r\n\r\n") + 4


@pytest.mark.battery("E8")
@given(st.integers(0, 60), st.sampled_from([b"\n", b"\x00", b"\x80", b"\r"]))
def test_a_bad_byte_anywhere_in_a_head_is_found_however_it_drips_in(where: int, bad: bytes) -> None:
    raw = b"GET / HTTP/1.1\r\nHost: xxxxxxxxxxxxxxxxxxxxxxxx\r\nAccept: aaaaa\r\n\r\n"
    where = min(where, len(raw) - 5)
    if raw[where : where + 1] in b"\r\n" or raw[where - 1 : where] == b"\r":
        where = 5
    raw = raw[:where] + bad + raw[where:]
    finder, buffer = HeadFinder(), bytearray()
    with pytest.raises(BadRequest):
        for byte in raw:
            buffer.append(byte)
            if size := finder.find(buffer):
                parse_head(bytes(buffer[:size]))


def decoder(head: bytes) -> BodyDecoder:
    return BodyDecoder(read(b"POST / HTTP/1.1\r\nHost: x\r\n" + head + b"\r\n\r\n"))


def test_a_body_ends_at_its_length_and_the_next_request_stays_in_the_buffer() -> None:
    body, buffer = decoder(b"Content-Length: 5"), bytearray(b"helloGET / ")
    assert body.feed(buffer) == b"hello" and body.done
    assert bytes(buffer) == b"GET / "


@given(st.lists(st.binary(min_size=1, max_size=50), max_size=8), st.integers(1, 17))
def test_chunks_come_out_as_they_went_in_however_they_are_cut(parts: list[bytes], step: int) -> None:
    raw = b"".join(b"%x\r\n%b\r\n" % (len(p), p) for p in parts) + b"0\r\n\r\nNEXT"
    body, buffer, out = decoder(b"Transfer-Encoding: chunked"), bytearray(), b""
    for at in range(0, len(raw), step):
        buffer += raw[at : at + step]
        out += body.feed(buffer)
    assert out == b"".join(parts) and body.done
    assert bytes(buffer) == b"NEXT"


CHUNKS = {
    "extension": b"4;a=b\r\nabcd\r\n0\r\n\r\n",
    "signed": b"+4\r\nabcd\r\n0\r\n\r\n",
    "prefix": b"0x4\r\nabcd\r\n0\r\n\r\n",
    "underscore": b"1_0\r\nabcd\r\n0\r\n\r\n",
    "space": b" 4\r\nabcd\r\n0\r\n\r\n",
    "bare line feed": b"4\nabcd\n0\n\n",
    "too long a number": b"000000004\r\nabcd\r\n0\r\n\r\n",
    "over its size": b"2\r\nabcd\r\n0\r\n\r\n",
    "trailer": b"0\r\nA: b\r\n\r\n",
    "empty": b"\r\n\r\n",
}


@pytest.mark.battery("E8")
@pytest.mark.parametrize("name", CHUNKS)
def test_a_chunk_that_others_might_read_differently_is_refused(name: str) -> None:
    with pytest.raises(BadRequest):
        body, buffer = decoder(b"Transfer-Encoding: chunked"), bytearray(CHUNKS[name])
        for _ in range(20):
            body.feed(buffer)
        assert not body.done


def test_a_response_header_can_not_be_split() -> None:
    with pytest.raises(ValueError, match="unsafe"):
        response_head(200, [("a", "b\r\nset-cookie: c")])
    assert response_head(529, [("a", "b")]) == b"HTTP/1.1 529 Unknown\r\na: b\r\n\r\n"
