"""Reading a TLS hello: real ones of real libraries, every cut and flip of them, and the lies."""

from __future__ import annotations

import ssl
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thopter.gateway.egress.hello import HELLO_MAX, Hello, NotTls, read_hello


def real(name: str | None = "api.example.com", alpn: bool = True) -> bytes:
    """The first flight of OpenSSL."""
    context = ssl.create_default_context()
    context.check_hostname = name is not None
    if alpn:
        context.set_alpn_protocols(["h2", "http/1.1"])
    out = ssl.MemoryBIO()
    tls = context.wrap_bio(ssl.MemoryBIO(), out, server_hostname=name)
    with pytest.raises(ssl.SSLWantReadError):
        tls.do_handshake()
    return out.read()


def made(extensions: bytes, *, rest: bytes = b"", kind: int = 1, version: int = 3) -> bytes:
    """A hello with these extensions."""
    body = b"\x03\x03" + bytes(32) + b"\x01s" + b"\x00\x02\x13\x01" + b"\x01\x00"
    body += struct.pack("!H", len(extensions)) + extensions + rest
    message = bytes([kind]) + len(body).to_bytes(3, "big") + body
    return b"\x16" + bytes([version, 1]) + struct.pack("!H", len(message)) + message


def extension(kind: int, data: bytes) -> bytes:
    return struct.pack("!HH", kind, len(data)) + data


def sni(*names: bytes, kind: int = 0, extra: bytes = b"") -> bytes:
    entries = b"".join(bytes([kind]) + struct.pack("!H", len(n)) + n for n in names)
    return extension(0, struct.pack("!H", len(entries)) + entries + extra)


def test_a_real_hello_is_read_however_it_drips_in_or_is_cut_into_records() -> None:
    raw = real()
    assert read_hello(raw) == Hello(name="api.example.com", ech=False)
    for cut in range(len(raw)):
        assert read_hello(raw[:cut]) is None
    assert read_hello(raw + b"more") == Hello(name="api.example.com", ech=False)
    message = raw[5:]
    for size in (1, 3, 4, 5, 100, len(message) - 1):
        records = b"".join(
            b"\x16\x03\x03" + struct.pack("!H", len(message[at : at + size])) + message[at : at + size]
            for at in range(0, len(message), size)
        )
        assert read_hello(records) == Hello(name="api.example.com", ech=False)
        assert read_hello(records[:-1]) is None
    assert read_hello(real(None)) == Hello(name=None, ech=False)
    assert read_hello(b"") is None


@pytest.mark.battery("E7")
def test_hidden_names_and_missing_ones_are_seen() -> None:
    assert read_hello(made(sni(b"a.test"))) == Hello(name="a.test", ech=False)
    assert read_hello(made(sni(b"a.test") + extension(0xFE0D, b"\x00"))) == Hello(name="a.test", ech=True)
    assert read_hello(made(extension(0xFE0C, b""))) == Hello(name=None, ech=False)
    assert read_hello(made(extension(16, b"xx") + sni(b""))) == Hello(name="", ech=False)
    assert read_hello(made(b"")) == Hello(name=None, ech=False)
    body = b"\x03\x03" + bytes(32) + b"\x00\x00\x02\x13\x01\x01\x00"  # no extensions at all
    message = b"\x01" + len(body).to_bytes(3, "big") + body
    raw = b"\x16\x03\x01" + struct.pack("!H", len(message)) + message
    assert read_hello(raw) == Hello(name=None, ech=False)


NOT = "this is not TLS"
SIZE = "a TLS record of a size that is not allowed"
KIND = "the first TLS message is no client hello"
TWICE = "an extension of the TLS hello comes twice"
MANY = "more than one server name"
UNKNOWN = "a server name of an unknown kind"
ASCII = "a server name that is not ASCII"
SHORT = "a field of the TLS hello is cut short"
AFTER = "bytes after the extensions of the TLS hello"
LONG = "the TLS hello is too long"


@pytest.mark.battery("E7")
@pytest.mark.parametrize(
    ("raw", "says"),
    [
        (b"GET / HTTP/1.1\r\n", NOT), (b"G", NOT), (b"\x16\x02", NOT),
        (b"\x17\x03", NOT),
        (b"\x16\x04\x01", NOT), (b"\x16\x03\x01\x00\x00", SIZE), (b"\x16\x03\x01\x40\x01", SIZE),
        (made(b"", kind=2), KIND), (made(sni(b"a.test") + sni(b"b.test")), TWICE),
        (made(extension(5, b"") + extension(5, b"")), TWICE),
        (made(sni(b"a", b"b")), MANY),
        (made(sni(b"a", extra=b"x")), MANY), (made(sni(b"a", kind=1)), UNKNOWN),
        (made(sni(b"\xc3\xbc.test")), ASCII), (made(extension(0, b"")), SHORT),
        (made(extension(0, b"\x00\x05\x00")), SHORT), (made(b"\x00\x00\x00"), SHORT),
        (made(b"\x00\x00\x00\x09abc"), SHORT),
        (made(sni(b"a.test"), rest=b"x"), AFTER),
        (b"\x16\x03\x01\x00\x04\x01\x00\x00\x10" + b"\x16\x03\x01\x00\x10" + bytes(16), SHORT),
        (b"\x16\x03\x01\x40\x00\x01\x01\x00\x00" + bytes(16380), LONG),
    ],
    ids=str,
)  # fmt: skip
def test_what_is_no_plain_hello_is_told(raw: bytes, says: str) -> None:
    with pytest.raises(NotTls) as e:
        read_hello(raw)
    assert str(e.value) == says


def test_the_largest_hello_is_the_largest() -> None:
    fill = HELLO_MAX - len(made(b"")) + 5 + 4 - 4 - 4
    biggest = made(extension(21, bytes(16000)) + extension(22, bytes(fill - 16000 - 4)))
    message = biggest[5:]
    records = b"".join(
        b"\x16\x03\x01" + struct.pack("!H", len(message[at : at + 16384])) + message[at : at + 16384]
        for at in range(0, len(message), 16384)
    )
    assert int.from_bytes(message[1:4], "big") + 4 == HELLO_MAX
    assert read_hello(records) == Hello(name=None, ech=False)
    assert read_hello(records[:-1]) is None
    # one byte a record: too much wrapping for what it holds
    dripped = b"".join(b"\x16\x03\x01\x00\x01" + message[at : at + 1] for at in range(14000))
    with pytest.raises(NotTls) as e:
        read_hello(dripped)
    assert str(e.value) == LONG


@pytest.mark.fuzz
@settings(max_examples=500, deadline=None)
@given(st.data())
def test_no_change_of_a_hello_breaks_the_reader(data: st.DataObject) -> None:
    raw = bytearray(data.draw(st.sampled_from((_REAL, made(sni(b"a.test") + extension(0xFE0D, b"x"))))))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(raw) - 1))
        raw[at] = data.draw(st.integers(0, 255))
    del raw[data.draw(st.integers(1, len(raw))) :]
    try:
        found = read_hello(bytes(raw))
    except NotTls as e:
        assert str(e)
        return
    assert found is None or found.name is None or found.name.isascii()


_REAL = real()
