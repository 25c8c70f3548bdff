"""``thopter token`` and ``thopter secrets bind`` against the real shell of a hub."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import httpx2
import pytest
from hub_support import HubProcess


def thopter(hub: HubProcess, *argv: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "thopter.cli.main", *argv],
        env=hub.env | {"THOPTER_NO_START": "1", "THOPTER_SECRETS_BACKEND": "file"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def ok(hub: HubProcess, *argv: str) -> str:
    done = thopter(hub, *argv)
    assert done.returncode == 0, done
    return done.stdout


def test_a_token_is_made_used_listed_and_revoked(hub: HubProcess) -> None:
    made = thopter(
        hub, "token", "create", "ci", "--scope", "operate", "--scope", "approve", "--expires", "12h"
    )
    token = made.stdout.strip()
    assert made.returncode == 0 and token.startswith("thp_") and "approve, operate" in made.stderr
    headers = {"Authorization": f"Bearer {token}"}
    assert httpx2.get(hub.tcp + "/v1/thopters", headers=headers).status_code == 200
    assert httpx2.get(hub.tcp + "/v1/tokens", headers=headers).status_code == 403
    listed = ok(hub, "token", "list")
    assert "ci" in listed and "approve operate" in listed and token not in listed
    found: list[dict[str, Any]] = json.loads(ok(hub, "token", "list", "--json"))
    ours = next(t for t in found if t["name"] == "ci")
    assert 11 * 3600_000 < ours["expires_ms"] - ours["created_ms"] <= 12 * 3600_000 and ours["used_ms"]
    assert thopter(hub, "token", "create", "ci").returncode == 5
    assert "Revoked ci" in ok(hub, "token", "revoke", "ci")
    assert httpx2.get(hub.tcp + "/v1/thopters", headers=headers).status_code == 401
    assert thopter(hub, "token", "revoke", "ci").returncode == 3
    old = hub.token
    assert str(hub.state / "token") in ok(hub, "token", "revoke", "hub")
    for given, status in ((old, 401), (hub.token, 200)):
        answer = httpx2.get(hub.tcp + "/v1/thopters", headers={"Authorization": f"Bearer {given}"})
        assert answer.status_code == status


@pytest.mark.parametrize(
    "argv",
    [
        ("token", "create", "Bad Name"),
        ("token", "create", "x", "--scope", "root"),
        ("token", "create", "x", "--expires", "soon"),
        ("token", "create", "x", "--expires", "0d"),
        ("secrets", "bind", "x"),
        ("secrets", "bind", "x", "--host", "a.test:port"),
        ("secrets", "bind", "x", "--host", "a.test:0"),
        ("secrets", "bind", "x", "--host", "a.test", "--header", "Authorization"),
        ("secrets", "bind", "x", "--host", "a.test", "--header", "Authorization: Bearer"),
    ],
)
def test_what_can_not_be_meant_is_a_usage_error(hub: HubProcess, argv: tuple[str, ...]) -> None:
    done = thopter(hub, *argv)
    assert done.returncode == 2 and done.stderr.startswith("thopter: ") and "Traceback" not in done.stderr


def test_bindings_are_made_listed_masked_and_taken_back(hub: HubProcess) -> None:
    said = thopter(hub, "secrets", "bind", "api.key", "--host", "[2001:db8::1]:8443", "--policy", "team")
    assert said.returncode == 0 and "api.key goes to [2001:db8::1]:8443" in said.stdout
    assert "thopter secrets set api.key" in said.stderr
    listed = ok(hub, "secrets", "list")
    assert "api.key (not set)" in listed and "authorization: Bearer ****" in listed and "team" in listed
    assert json.loads(ok(hub, "secrets", "list", "--json"))[0]["bindings"][0]["port"] == 8443
    assert "no longer goes to [2001:db8::1]:8443" in ok(hub, "secrets", "unbind", "api.key")
    assert thopter(hub, "secrets", "unbind", "api.key").returncode == 3
