"""The wire format: any cut, any garbage, any credit."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from thopter.boxd import wire

json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
channels = st.integers(0, 2**32 - 1)
frames = st.one_of(
    st.tuples(st.just("J"), channels, st.dictionaries(st.text(), json_values, max_size=4)),
    st.tuples(st.just("D"), channels, st.integers(0, 2), st.binary(max_size=300)),
    st.tuples(st.just("W"), channels, st.integers(0, 2), st.integers(0, 2**32 - 1)),
)


def encode(frame: tuple[Any, ...]) -> bytes:
    kind, *rest = frame
    return {"J": wire.message, "D": wire.data, "W": wire.credit}[kind](*rest)


def plain(item: wire.Item) -> tuple[Any, ...]:
    if isinstance(item, wire.Message):
        return ("J", item.channel, item.body)
    if isinstance(item, wire.Data):
        return ("D", item.channel, item.stream, item.data)
    return ("W", item.channel, item.stream, item.amount)


@given(st.lists(frames, max_size=8), st.data())
def test_frames_cut_anywhere_come_out_as_they_went_in(sent: list[Any], data: st.DataObject) -> None:
    stream = b"".join(encode(f) for f in sent)
    decoder, got, at = wire.Decoder(), [], 0
    while at < len(stream):
        step = data.draw(st.integers(1, max(1, len(stream))))
        got += decoder.feed(stream[at : at + step])
        at += step
    assert [plain(i) for i in got] == [tuple(f) for f in sent]
    assert decoder.pending == 0


@given(st.lists(st.binary(max_size=200), max_size=6))
def test_garbage_is_frames_or_a_protocol_error_and_nothing_else(pieces: list[bytes]) -> None:
    decoder = wire.Decoder()
    try:
        for piece in pieces:
            for item in decoder.feed(piece):
                assert isinstance(item, (wire.Message, wire.Data, wire.Credit))
    except wire.ProtocolError:
        with pytest.raises(wire.ProtocolError):
            decoder.feed(b"")


@given(st.sampled_from([b"J", b"D", b"W"]), st.binary(max_size=40), channels)
def test_wellframed_nonsense_is_refused_or_valid(kind: bytes, payload: bytes, channel: int) -> None:
    frame = (5 + len(payload)).to_bytes(4, "big") + kind + channel.to_bytes(4, "big") + payload
    try:
        items = wire.Decoder().feed(frame)
    except wire.ProtocolError:
        return
    assert len(items) == 1 and encode(plain(items[0]))


def test_an_oversized_frame_is_refused_by_its_head_alone() -> None:
    decoder = wire.Decoder()
    with pytest.raises(wire.ProtocolError, match="1048577"):
        decoder.feed((wire.MAX_FRAME + 1).to_bytes(4, "big") + b"J")
    assert decoder.pending == 0


@pytest.mark.parametrize(
    "payload",
    [
        b"[1]",
        b"1",
        b"",
        b"{",
        b'{"a":NaN}',
        b'{"a":Infinity}',
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"a":' * 50_000,
    ],
)
def test_a_message_that_is_no_json_object_is_a_protocol_error(payload: bytes) -> None:
    frame = (5 + len(payload)).to_bytes(4, "big") + b"J\0\0\0\1" + payload
    with pytest.raises(wire.ProtocolError):
        wire.Decoder().feed(frame)


def test_a_frame_of_the_greatest_size_passes_and_a_greater_one_is_not_made() -> None:
    content = b"x" * (wire.MAX_FRAME - 6)
    (item,) = wire.Decoder().feed(wire.data(1, 1, content))
    assert isinstance(item, wire.Data) and item.data == content
    with pytest.raises(ValueError, match="not fit"):
        wire.data(1, 1, content + b"x")
    with pytest.raises(ValueError, match="does not fit"):
        wire.message(1, {"a": "x" * wire.MAX_FRAME})


@given(st.binary(max_size=200))
def test_stray_bytes_survive_text_and_json(raw: bytes) -> None:
    (item,) = wire.Decoder().feed(wire.message(1, {"a": wire.to_text(raw)}))
    assert isinstance(item, wire.Message)
    assert wire.to_bytes(item.body["a"]) == raw


def test_a_message_fed_byte_by_byte_costs_linear_work() -> None:
    frame = wire.message(1, {"a": "x" * 100_000})
    decoder = wire.Decoder()
    items = [item for i in range(len(frame)) for item in decoder.feed(frame[i : i + 1])]
    assert len(items) == 1


@given(st.lists(st.integers(1, wire.WINDOW), max_size=60))
def test_credit_never_stalls_and_never_exceeds_the_window(wishes: list[int]) -> None:
    sender, receiver, unread = wire.SendWindow(), wire.ReceiveWindow(), 0
    for wish in wishes:
        if sender.left <= 0:  # the receiver reads all: then there must be credit again
            sender.grant(receiver.consumed(unread))
            unread = 0
        assert sender.left > 0
        count = min(wish, sender.left)
        sender.spend(count)
        receiver.received(count)
        unread += count
        assert unread <= wire.WINDOW


def test_data_beyond_the_credit_is_a_protocol_error() -> None:
    receiver = wire.ReceiveWindow()
    receiver.received(wire.WINDOW)
    with pytest.raises(wire.ProtocolError, match="credit"):
        receiver.received(1)
    messages = wire.ReceiveWindow()
    messages.received_message(wire.WINDOW + 500_000)  # one may overdraw
    with pytest.raises(wire.ProtocolError, match="credit"):
        messages.received_message(1)


def test_endless_credit_is_a_protocol_error() -> None:
    sender = wire.SendWindow()
    with pytest.raises(wire.ProtocolError):
        for _ in range(1000):
            sender.grant(2**32 - 1)


def test_the_frames_are_those_of_the_contract() -> None:
    body = json.dumps({"op": "ping"}, separators=(",", ":")).encode()
    assert wire.message(7, {"op": "ping"}) == (5 + len(body)).to_bytes(4, "big") + b"J\0\0\0\7" + body
    assert wire.data(7, 2, b"ab") == b"\0\0\0\x08D\0\0\0\7\2ab"
    assert wire.credit(7, 0, 258) == b"\0\0\0\x0aW\0\0\0\7\0\0\0\1\2"
