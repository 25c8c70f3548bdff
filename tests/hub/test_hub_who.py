"""Who asked: what the hub's doors know of a caller is in the audit of what they did."""

from __future__ import annotations

import json
import os
import socket
import sqlite3

import httpx2
from hub_support import BOUND, HubProcess

from thopter.hub.peer import peer_of, who


def _by(hub: HubProcess, name: str) -> str:
    """Who is on record for the end of a thopter."""
    with sqlite3.connect(f"file:{hub.state / 'hub.db'}?mode=ro", uri=True) as db:
        found = db.execute(
            "SELECT record FROM audit WHERE name = ? AND kind = 'box.destroyed'", (name,)
        ).fetchall()
    db.close()
    assert len(found) == 1
    return str(json.loads(found[0][0])["by"])


def test_at_the_unix_socket_it_is_the_user_by_the_kernels_word(hub: HubProcess) -> None:
    hub.post("/v1/thopters", {"name": "one"})
    answer = hub.request("DELETE", "/v1/thopters/one", headers={"X-Forwarded-For": "6.6.6.6"})
    assert answer.status_code == 202
    assert _by(hub, "one") == who(os.getuid())
    assert f"uid {os.getuid()}" in who(os.getuid())


def test_on_tcp_it_is_the_token_and_where_it_came_from(hub: HubProcess) -> None:
    hub.post("/v1/thopters", {"name": "two"})
    with httpx2.Client(base_url=hub.tcp, timeout=BOUND) as client:
        answer = client.delete("/v1/thopters/two", headers={"Authorization": f"Bearer {hub.token}"})
    assert answer.status_code == 202
    assert _by(hub, "two") == "token hub, from 127.0.0.1"


def test_a_user_without_a_name_is_a_number_and_a_socket_of_another_kind_is_nobody() -> None:
    class Transport:
        def __init__(self, sock: socket.socket | None) -> None:
            self.sock = sock

        def get_extra_info(self, name: str) -> socket.socket | None:
            return self.sock

    assert who(3_999_999_999) == "uid 3999999999"
    left, right = socket.socketpair(socket.AF_UNIX)
    with left, right, socket.socket(socket.AF_INET) as other:
        assert peer_of(Transport(left)) == (who(os.getuid()), os.getpid())
        assert peer_of(Transport(other)) is None
    assert peer_of(Transport(None)) is None
