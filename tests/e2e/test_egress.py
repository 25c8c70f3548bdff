"""Egress end to end: real tools in a real box against servers of this test; the canary stays dry."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import shutil
import signal
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from e2e_lab import Lab
from egress_world import CANARY, HOST, NAME, OPEN, PROBE, ROOT, World, policy_text, world

from thopter.gateway.client import egress_client


@pytest.fixture(scope="module")
def w() -> Iterator[World]:
    with world() as found:
        yield found


@pytest.mark.battery("E3", "E18")
def test_curl_reaches_what_policy_allows_and_nothing_else(w: World) -> None:
    for url in (f"https://{HOST}:{w.secure.port}", f"http://{HOST}:{w.plain.port}"):
        assert w.box("curl", "-sSf", f"{url}/hello.txt").stdout == "hello from outside\n"
        done = w.box("curl", "-sS", "-X", "POST", "-d", "x", f"{url}/hello.txt")
        assert "thopter: POST is not allowed" in done.stdout
    for argv in (
        ("curl", "-sS", "-m", "20", f"http://{CANARY}:{w.canary.port}/x"),
        ("curl", "-sS", "-m", "20", "--noproxy", "*", f"http://{CANARY}:{w.canary.port}/x"),
        ("env", "-i", "/usr/bin/curl", "-sS", "-m", "20", f"http://{CANARY}:{w.canary.port}/x"),
        (
            "curl",
            "-sS",
            "-m",
            "20",
            "--proxy",
            "socks5h://127.0.0.1:8403",
            f"http://{CANARY}:{w.canary.port}/",
        ),
        ("curl", "-sSf", "-m", "20", "--http2-prior-knowledge", f"http://{CANARY}:{w.canary.port}/"),
    ):
        done = w.box(*argv, check=False)
        assert done.returncode != 0 or "thopter: policy team does not allow" in done.stdout, argv
    assert {m for m, _, _ in w.secure.asked + w.plain.asked} == {"GET"}


@pytest.mark.battery("E10")
def test_the_boxs_own_credentials_stay_behind_where_they_can_be_seen(w: World) -> None:
    url = f"https://{HOST}:{w.secure.port}/hello.txt"
    w.box("curl", "-sSf", "-u", "attacker:token", "-H", "Cookie: a=attacker", "-H", "X-Kept: 1", url)
    method, _path, headers = w.secure.asked[-1]
    assert method == "GET"
    assert "attacker" not in str(headers)
    assert base64.b64encode(b"attacker:token").decode() not in str(headers)
    assert headers["x-kept"] == "1"


def test_an_opaque_tunnel_is_the_servers_own_tls(w: World) -> None:
    url = f"https://{OPEN}:{w.open.port}/hello.txt"
    done = w.box("curl", "-sS", url, check=False)
    assert "certificate" in done.stderr  # the test's own authority is no business of the box
    assert w.box("curl", "-sSfk", url).stdout == "hello from outside\n"
    assert w.box("curl", "-sSfk", "-X", "POST", "-d", "x", url).returncode == 0


@pytest.mark.battery("E12", "E18")
def test_pip_npm_git_and_apt_work_unmodified_and_publish_nothing(w: World) -> None:
    base = f"https://{NAME if ROOT else HOST}:{w.named.port}"
    w.sh(f"pip download -q --no-deps --disable-pip-version-check -d /tmp/w -i {base}/simple/ tinypkg")
    assert "tinypkg-1.0-py3-none-any.whl" in w.sh("ls /tmp/w").stdout
    if ROOT:  # npm takes no certificate for an address when it asks by a proxy
        w.sh(f"mkdir -p /tmp/n && cd /tmp/n && npm install --silent --no-audit --registry {base}/ tinypkg")
        assert w.sh("cd /tmp/n && node -p \"require('tinypkg')\"").stdout == "tiny\n"
    w.sh(f"git clone -q {base}/proj.git /tmp/g")
    assert w.sh("cat /tmp/g/a.txt").stdout == "from git\n"
    if shutil.which("apt-get"):
        line = f"deb [trusted=yes] http://{HOST}:{w.plain.port}/apt ./"
        apt = "apt-get -qq -o Dir::Etc::sourcelist=/tmp/s.list -o Dir::Etc::sourceparts=- update"
        w.sh(f"echo '{line}' > /tmp/s.list && {apt}")
        assert any(p.startswith("/apt/") for _, p, _ in w.plain.asked)
    before = len(w.named.asked)
    token = f"--//{NAME}:{w.named.port}/:_authToken=x"
    done = w.sh(f"cd /tmp/n/node_modules/tinypkg && npm publish --registry {base}/ {token}", check=False)
    assert done.returncode != 0
    assert all(m == "GET" for m, _, _ in w.named.asked[before:])


def test_what_is_refused_is_shown_and_can_be_allowed(w: World) -> None:
    w.box("curl", "-sS", "-m", "20", f"https://other.invalid:{w.open.port}/", check=False)
    shown = w.lab.until(
        "the refusal is an event",
        lambda: [x for x in w.lab.json("egress", "nemo")["lines"] if x["host"] == "other.invalid"],
    )
    assert shown[0]["code"] == "host_unknown"
    assert "thopter egress allow nemo" in w.box("curl", "-sS", "http://other.invalid/").stdout
    text = w.lab.run("egress", "nemo")
    assert "other.invalid" in text.stdout
    assert "policy team" in text.stderr
    done = w.lab.run("policy", "test", "https://other.invalid/", "--thopter", "nemo", check=False)
    assert (done.returncode, "denied (host_unknown)" in done.stdout) == (6, True)
    w.lab.run("egress", "allow", "nemo", "other.invalid")
    assert w.lab.run("policy", "test", "https://other.invalid/", "--thopter", "nemo").returncode == 0
    done = w.box("curl", "-sS", "-m", "20", "https://other.invalid/", check=False)
    assert "502" in done.stderr  # it may go out now; there is no such name
    w.lab.kill_hub()
    assert w.lab.json("egress", "nemo")["grants"][0]["host"] == "other.invalid"
    kinds = {e["verdict"] for e in w.lab.json("egress", "nemo", "--all")["lines"]}
    assert kinds == {"deny", "allow"}


def test_allowed_for_good_is_written_into_the_file_beside_what_stands_there(w: World) -> None:
    file = w.lab.folder / "config/policy.toml"
    file.write_text("# ours\n" + policy_text(w))
    w.lab.run("egress", "allow", "nemo", "kept.invalid:8443", "--always")
    text = file.read_text()
    assert text.startswith("# ours\n")
    assert "kept.invalid" in text
    assert w.lab.run("policy", "check", str(file)).returncode == 0
    assert w.lab.run("policy", "test", "kept.invalid:8443").returncode == 0
    again = w.lab.run("egress", "allow", "nemo", "kept.invalid:8443", "--always")
    assert again.returncode == 0
    assert file.read_text() == text


def test_a_file_that_can_not_be_used_changes_nothing_and_the_doctor_says_so(w: World) -> None:
    file = w.lab.folder / "config/policy.toml"
    good = file.read_text()
    try:
        file.write_text(good.replace("methods", "metods", 1))
        check = w.lab.until("the doctor says so", lambda: _policy_check(w.lab, "fail"))
        assert "did you mean 'methods'" in check["text"]
        assert "last good" in check["text"]
        assert (
            w.box("curl", "-sSf", f"https://{HOST}:{w.secure.port}/hello.txt").stdout
            == "hello from outside\n"
        )
        w.lab.kill_hub()  # also over a restart
        assert _policy_check(w.lab, "fail")
        assert w.lab.json("policy", "show")["source"] == "last good"
        assert (
            w.box("curl", "-sSf", f"https://{HOST}:{w.secure.port}/hello.txt").stdout
            == "hello from outside\n"
        )
        done = w.lab.run("policy", "check", check=False)
        assert done.returncode == 1
        assert "policy.toml:" in done.stdout
    finally:
        file.write_text(good)
    w.lab.until("it is in force again", lambda: _policy_check(w.lab, "ok"))
    file.write_text(good.replace(OPEN, "127.0.0.9"))
    try:
        w.lab.until(
            "a rule that is gone holds",
            lambda: w.lab.run("policy", "test", f"{OPEN}:{w.open.port}", check=False).returncode == 6,
        )
        assert w.box("curl", "-sSk", f"https://{OPEN}:{w.open.port}/", check=False).returncode != 0
    finally:
        file.write_text(good)


def _policy_check(made: Lab, level: str) -> dict[str, Any]:
    done = made.run("doctor", "--json", check=False)
    return next((c for c in json.loads(done.stdout) if c["name"] == "policy" and c["level"] == level), {})


@pytest.mark.battery("E15")
def test_without_its_gateway_a_box_reaches_nothing_and_afterwards_all_is_as_before(w: World) -> None:
    url = f"https://{HOST}:{w.secure.port}/hello.txt"
    client = egress_client(w.lab.paths)
    for _ in range(2):
        before = len(w.secure.asked)
        pid = asyncio.run(client.ping()).pid
        w.lab.kill_hub()
        os.kill(pid, signal.SIGKILL)
        assert len(w.secure.asked) == before
        w.lab.json("status")  # starts a hub
        w.lab.until(
            "the box is served again",
            lambda: w.box("curl", "-sS", "-m", "20", url, check=False).returncode == 0,
        )
        assert asyncio.run(client.ping()).pid != pid
    pid = asyncio.run(client.ping()).pid
    os.kill(pid, signal.SIGKILL)
    assert w.box("curl", "-sSf", "-m", "60", url).stdout == "hello from outside\n"


def test_the_key_of_the_hubs_authority_is_in_no_box(w: World) -> None:
    key = (w.lab.paths.state / "egress-ca/ca.key").read_text().splitlines()[1]
    assert (w.lab.paths.state / "egress-ca/ca.key").stat().st_mode & 0o777 == 0o600
    where = "/etc /root /tmp /work /run /var /opt/thopter"
    found = w.sh(f"grep -rlF -e '{key}' {where} 2>/dev/null; env | grep -c '{key}'", check=False)
    assert found.stdout.strip() == "0"
    cert = (w.lab.paths.state / "egress-ca/ca.pem").read_text().splitlines()[1]
    assert "hub-ca.pem" in w.sh(f"grep -rlF -e '{cert}' /etc/thopter").stdout


def test_a_policy_that_opens_no_tls_puts_no_trust_into_the_box(w: World) -> None:
    w.lab.run("run", "--name", "dory", "-d", "--policy", "closed", "say hello")
    env = w.lab.run("exec", "dory", "--", "env").stdout
    assert "HTTPS_PROXY=http://127.0.0.1:8403" in env
    assert "SSL_CERT_FILE" not in env
    assert w.lab.run("exec", "dory", "--", "ls", "/etc/thopter/hub-ca.pem", check=False).returncode != 0
    done = w.lab.run(
        "exec", "dory", "--", "curl", "-sS", "-m", "20", f"http://{HOST}:{w.plain.port}/hello.txt"
    )
    assert "policy closed does not allow" in done.stdout
    assert "has policy closed: asked for" in w.lab.run("policy", "explain", "dory").stdout
    done = w.lab.run("run", "--policy", "nope", "-d", "x", check=False)
    assert done.returncode == 3
    assert "there is no policy 'nope'" in done.stderr
    w.lab.run("destroy", "--yes", "dory")


@pytest.mark.battery("E3", "E4", "G18")
def test_a_box_has_no_way_out_but_the_proxy_whatever_it_tries(w: World) -> None:
    w.lab.run("exec", "nemo", "--", "sh", "-c", "cat > /tmp/probe.py", stdin=PROBE)
    outer = socket.gethostbyname(socket.gethostname())
    done = w.box("env", "-i", "/usr/bin/python3", "/tmp/probe.py", CANARY, str(w.canary.port), outer)
    assert done.stdout.split() == ["proxy"]


@pytest.mark.battery("E11")
def test_a_credential_is_added_outside_the_box(w: World) -> None:
    secret = "egress-canary-77c1f0a9"
    file = w.lab.folder / "config/policy.toml"
    good = file.read_text()
    w.lab.run("secrets", "set", "egress.tracker", stdin=secret)
    uses = 'credential = "tracker"'
    table = f'[policies.team.credentials.tracker]\nsecret = "egress.tracker"\nhosts = ["{OPEN}"]\n'
    file.write_text(policy_text(w, open=uses) + table)
    try:
        url = f"https://{OPEN}:{w.open.port}/hello.txt"

        def sent() -> bool:
            w.box("curl", "-sS", "-m", "20", "-H", "Authorization: Bearer attacker", url, check=False)
            return bool(w.open.asked) and w.open.asked[-1][2].get("authorization") == f"Bearer {secret}"

        w.lab.until("the credential is added", sent)
        where = "/etc /root /tmp /work /run /var /opt/thopter /proc/self/environ"
        found = w.sh(f"grep -rlF -e '{secret}' {where} 2>/dev/null; true")
        assert found.stdout == ""
        state = [p for p in w.lab.paths.state.rglob("*.log") if secret in p.read_text(errors="replace")]
        assert state == []
    finally:
        file.write_text(good)
