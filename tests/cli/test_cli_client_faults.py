"""The client of the hub against servers that break every rule."""

from __future__ import annotations

import contextlib
import io
import re
import socket
import time

import pytest
from bad_server import answer, bad_server, read_request
from hypothesis import given, settings
from hypothesis import strategies as st

from thopter.mesh.client import HubClient
from thopter.mesh.http import Body
from thopter.model import api
from thopter.model.errors import (
    Conflict,
    HubUnreachable,
    NotFound,
    ThopterError,
    Throttled,
    TimedOut,
)

HUB = b'{"version":"1","pid":7,"state_dir":"/s","started_ms":1,"ready":true,"news":"from the future"}'
ACCEPTED = b'{"flow":"f","name":"n"}'


def say(*pieces: bytes):
    """Read a request, then send these pieces and close."""

    def behave(connection: socket.socket, number: int) -> None:
        read_request(connection)
        for piece in pieces:
            connection.sendall(piece)

    return behave


def ask(behave, timeout: float = 30.0) -> api.HubInfo:
    with bad_server(behave) as server, HubClient(server.path, timeout=timeout) as client:
        return client.hub()


def test_an_answer_with_unknown_fields_is_understood():
    assert ask(say(answer(HUB))).pid == 7


@pytest.mark.parametrize("cut", range(1, 60, 7))
def test_an_answer_cut_anywhere_into_pieces_is_put_together(cut: int):
    whole = answer(HUB)
    assert ask(say(whole[:cut], whole[cut:])).pid == 7


def test_a_chunked_answer_with_extensions_and_trailers_is_read():
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    body = b"%x;x=1\r\n%s\r\n%X\r\n%s\r\n0\r\nX-T: 1\r\n\r\n" % (5, HUB[:5], len(HUB) - 5, HUB[5:])
    assert ask(say(head + body)).pid == 7


def test_an_informational_answer_before_the_real_one_is_skipped():
    assert ask(say(b"HTTP/1.1 103 Early Hints\r\nX: y\r\n\r\n" + answer(HUB))).pid == 7


def test_a_body_that_ends_with_the_connection_is_read():
    assert ask(say(b"HTTP/1.0 200 OK\r\n\r\n" + HUB)).pid == 7


@pytest.mark.parametrize(
    "garbage",
    [
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"\x00" * 200_000,
        b"HTTP/1.1 abc\r\n\r\n",
        b"HTTP/1.1 20000 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nno colon here\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 20_000,
        b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n" + HUB,
        b"HTTP/1.1 200 OK\r\nContent-Length: 5e3\r\n\r\n" + HUB,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n" + HUB,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"f" * 9000,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n",
        answer(b"<html>not json</html>"),
        answer(b"[]"),
        answer(b'{"version": 5}'),
        answer(b"\xff\xfe"),
        answer(b""),
    ],
)
def test_garbage_is_never_taken_for_a_hub(garbage: bytes):
    with pytest.raises(HubUnreachable):
        ask(say(garbage))


def test_half_an_answer_is_an_error_and_not_a_short_answer():
    for whole in (answer(HUB), b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n50\r\n" + HUB):
        with pytest.raises(HubUnreachable, match="broke off"):
            ask(say(whole[:-10]))
    with pytest.raises(HubUnreachable, match="broke off"):
        ask(say(b"HTTP/1.1 200 OK\r\nContent-"))


def test_silence_is_bounded_and_says_for_how_long():
    def silent(connection: socket.socket, number: int) -> None:
        connection.recv(65536)
        connection.recv(65536)  # until the client goes

    begun = time.monotonic()
    with pytest.raises(HubUnreachable, match="did not answer within"):
        ask(silent, timeout=0.3)
    assert time.monotonic() - begun < 20


def test_silence_in_the_middle_of_a_body_is_bounded_too():
    def stalls(connection: socket.socket, number: int) -> None:
        read_request(connection)
        connection.sendall(answer(HUB)[:-10])
        connection.recv(65536)

    with pytest.raises(HubUnreachable, match="stopped in the middle"):
        ask(stalls, timeout=0.5)


def test_silence_after_a_change_says_that_it_may_still_happen():
    def silent(connection: socket.socket, number: int) -> None:
        read_request(connection)
        connection.recv(65536)

    with bad_server(silent) as server, HubClient(server.path) as client:
        client.timeout = 0.3
        with pytest.raises(TimedOut, match="may still happen"):
            client._post("/v1/runs", api.RunRequest(prompt="x"), api.Accepted, timeout=0.3)


def test_a_page_of_html_with_500_is_one_clear_error():
    with pytest.raises(ThopterError, match="HTTP 500") as caught:
        ask(say(answer(b"<html><body>oops</body></html>", b"500 Internal Server Error", b"text/html")))
    assert caught.value.exit_code == 1
    assert "html" not in caught.value.message


@pytest.mark.parametrize("status", [b"502 Bad Gateway", b"503 Service Unavailable", b"504 Gateway Timeout"])
def test_a_gateway_error_without_a_reason_is_an_unreachable_hub(status: bytes):
    with pytest.raises(HubUnreachable):
        ask(say(answer(b"", status)))


def test_errors_of_the_hub_keep_their_class_hint_and_data():
    body = b'{"error":{"code":"throttled","message":"slow down","hint":"wait","data":{"retry_after":3}}}'
    with pytest.raises(Throttled) as caught:
        ask(say(answer(body, b"429 Too Many Requests")))
    assert (caught.value.message, caught.value.hint, caught.value.data) == (
        "slow down",
        "wait",
        {"retry_after": 3},
    )
    with pytest.raises(NotFound):
        ask(say(answer(b'{"error":{"code":"not_found","message":"no"}}', b"404 Not Found")))
    with pytest.raises(ThopterError, match="odd"):
        ask(say(answer(b'{"error":{"code":"of_tomorrow","message":"odd","data":[1]}}', b"418 Teapot")))


def test_a_redirect_is_not_followed():
    with pytest.raises(ThopterError, match="HTTP 302"):
        ask(say(b"HTTP/1.1 302 Found\r\nLocation: /v1/other\r\nContent-Length: 0\r\n\r\n"))


def test_a_change_whose_connection_dies_unanswered_is_sent_again_with_the_same_key():
    seen: list[bytes] = []

    def dies_once(connection: socket.socket, number: int) -> None:
        seen.append(read_request(connection))
        if number > 1:
            connection.sendall(answer(ACCEPTED, b"202 Accepted"))

    with bad_server(dies_once) as server, HubClient(server.path) as client:
        assert client.run(api.RunRequest(prompt="x")).flow == "f"
    keys = [re.search(rb"Idempotency-Key: (\S+)", request).group(1) for request in seen]
    assert len(keys) == 2 and keys[0] == keys[1]


def test_a_change_is_sent_twice_at_most_and_never_after_a_part_of_an_answer():
    with bad_server(lambda connection, number: read_request(connection) and None) as server:
        with HubClient(server.path) as client, pytest.raises(HubUnreachable, match="without an answer"):
            client.run(api.RunRequest(prompt="x"))
        assert server.connections == 2
    with bad_server(say(b"HTTP/1.1 202 Acc")) as server:
        with HubClient(server.path) as client, pytest.raises(HubUnreachable):
            client.run(api.RunRequest(prompt="x"))
        assert server.connections == 1


def test_every_change_has_a_key_of_its_own():
    seen: list[bytes] = []

    def good(connection: socket.socket, number: int) -> None:
        while request := read_request(connection):
            seen.append(request)
            connection.sendall(answer(ACCEPTED if b"/runs" in request or b"DELETE" in request else b"{}"))

    with bad_server(good) as server, HubClient(server.path) as client:
        client.run(api.RunRequest(prompt="x"))
        client.run(api.RunRequest(prompt="x"))
        client.destroy("n")
        client.freeze("n")
        assert server.connections == 1, "the connection is kept"
    keys = [re.search(rb"Idempotency-Key: (\S+)", request).group(1) for request in seen]
    assert len(set(keys)) == 4


def test_a_kept_connection_that_the_hub_closed_meanwhile_is_made_anew():
    def one_each(connection: socket.socket, number: int) -> None:
        read_request(connection)
        connection.sendall(answer(HUB))

    with bad_server(one_each) as server, HubClient(server.path) as client:
        for _ in range(3):
            assert client.hub().pid == 7
        assert server.connections == 3


def test_an_answer_that_nobody_asked_for_is_not_taken_for_the_next_one():
    def chatty(connection: socket.socket, number: int) -> None:
        while read_request(connection):
            connection.sendall(answer(HUB) + answer(HUB.replace(b"7", b"666")))

    with bad_server(chatty) as server, HubClient(server.path) as client:
        assert [client.hub().pid for _ in range(3)] == [7, 7, 7]


def test_names_can_not_leave_their_place_in_the_address():
    seen: list[bytes] = []

    def note(connection: socket.socket, number: int) -> None:
        seen.append(read_request(connection))
        connection.sendall(answer(b"{}", b"404 Not Found"))

    with bad_server(note) as server, HubClient(server.path) as client:
        for name in ("a/b", "a b", "a?x", "a#b", "é", "a\r\nX: y", "../hub"):
            with pytest.raises(ThopterError):
                client.check(name)
        for name in ("", ".", ".."):
            with pytest.raises(ThopterError, match="does not name"):
                client.check(name)
    for request in seen:
        assert re.fullmatch(rb"GET /v1/thopters/[A-Za-z0-9._~%-]+/check HTTP/1\.1", request.split(b"\r\n")[0])
    assert b"a%2Fb" in seen[0] and b"%0D%0A" in seen[5]


def test_a_download_that_breaks_off_is_an_error():
    whole = answer(b"x" * 100_000, kind=b"application/octet-stream")
    out = io.BytesIO()
    with bad_server(say(whole[:50_000])) as server, HubClient(server.path) as client:
        with pytest.raises(HubUnreachable, match="broke off"):
            client.bundle("n", out)
        assert client.bundle  # the client is still usable: it makes a new connection
    with bad_server(say(whole)) as server, HubClient(server.path) as client:
        out = io.BytesIO()
        assert client.bundle("n", out) == 100_000 == len(out.getvalue())


def test_no_socket_a_dead_socket_and_a_full_one_are_unreachable(tmp_path):
    with pytest.raises(HubUnreachable, match="no hub is running"):
        HubClient(tmp_path / "none.sock").hub()
    dead = socket.socket(socket.AF_UNIX)
    dead.bind(str(tmp_path / "dead.sock"))
    dead.close()
    with pytest.raises(HubUnreachable, match="no hub is running"):
        HubClient(tmp_path / "dead.sock").hub()
    full = socket.socket(socket.AF_UNIX)
    full.bind(str(tmp_path / "full.sock"))
    full.listen(0)
    waiting = [socket.socket(socket.AF_UNIX) for _ in range(3)]
    for one in waiting:
        one.setblocking(False)
        one.connect_ex(str(tmp_path / "full.sock"))
    with pytest.raises(HubUnreachable):
        HubClient(tmp_path / "full.sock", timeout=0.3).hub()
    for one in (full, *waiting):
        one.close()
    with pytest.raises(HubUnreachable):
        HubClient(tmp_path / ("x" * 200)).hub()


@settings(max_examples=200, deadline=None)
@given(st.lists(st.binary(min_size=1, max_size=40), max_size=8), st.data())
def test_a_chunked_body_comes_out_whole_however_it_is_cut(chunks: list[bytes], data: st.DataObject):
    wire = b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n\r\n" + b"NEXT"
    body, got = Body({"transfer-encoding": "chunked"}), b""
    while wire:
        cut = data.draw(st.integers(1, len(wire)))
        got += body.feed(wire[:cut])
        wire = wire[cut:]
    assert (got, body.done, body.rest) == (b"".join(chunks), True, b"NEXT")


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=300))
def test_no_bytes_make_the_framing_loop_or_crash(junk: bytes):
    body = Body({"transfer-encoding": "chunked"})
    with contextlib.suppress(HubUnreachable):
        assert len(body.feed(junk)) <= len(junk)


def test_conflict_is_a_refusal():
    with pytest.raises(Conflict) as caught:
        ask(say(answer(b'{"error":{"code":"conflict","message":"two of them"}}', b"409 Conflict")))
    assert caught.value.exit_code == 5
