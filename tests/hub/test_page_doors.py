"""How pages reach the hub from elsewhere: a tunnel's address, or TLS of its own; and the command line."""

from __future__ import annotations

import datetime
import ssl
import subprocess
import sys
from pathlib import Path

import httpx2
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from hub_support import HubProcess
from test_page_sessions import PHONE

from thopter.cli.dashboard import drawn
from thopter.hub.doors import parse_listen, parse_page_url
from thopter.hub.qr import rows_of
from thopter.model.errors import BadInput

URL = "https://laptop.example.ts.net"


def certificate(folder: Path) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "hub")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=9))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), False)
        .sign(key, hashes.SHA256())
    )
    cert, secret = folder / "cert.pem", folder / "key.pem"
    cert.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    secret.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    secret.chmod(0o600)
    return cert, secret


def log_in(client: httpx2.Client, hub: HubProcess, origin: str, host: str) -> httpx2.Response:
    code = hub.post("/v1/sessions/links").json()["url"].partition("#")[2]
    headers = {"Origin": origin, "Host": host, "User-Agent": PHONE}
    return client.post("/v1/sessions", json={"code": code}, headers=headers)


def test_the_address_of_a_tunnel_is_the_pages_own_and_no_other_is(root: Path) -> None:
    hub = HubProcess(root, THOPTER_PAGE_URL=URL + "/")
    try:
        hub.start("--listen", "127.0.0.1:0")
        link = hub.post("/v1/sessions/links").json()
        assert link["url"].startswith(URL + "/login#") and not link["local"]
        with httpx2.Client(base_url=hub.tcp, verify=False) as client:
            made = log_in(client, hub, URL, "laptop.example.ts.net")
            assert made.status_code == 201, made.text
            cookie = made.headers["set-cookie"]
            assert cookie.startswith("__Host-thopter=") and "; Secure" in cookie
            here = {"Host": "laptop.example.ts.net", "X-Thopter": made.json()["key"]}
            here["Cookie"] = cookie.partition(";")[0]
            assert client.get("/v1/thopters", headers=here).status_code == 200
            same = {**here, "Origin": URL}
            assert client.post("/v1/variables", json={"values": {"A": "b"}}, headers=same).status_code == 200
            for origin in ("http://laptop.example.ts.net", hub.tcp, "https://example.ts.net"):
                assert client.get("/v1/thopters", headers={**here, "Origin": origin}).status_code == 403
            for host in ("evil.ts.net", "laptop.example.ts.net:443", "example.ts.net"):
                assert client.get("/v1/thopters", headers={**here, "Host": host}).status_code == 421
            loopback = {**here, "Host": hub.tcp.removeprefix("http://")}
            assert client.get("/v1/thopters", headers=loopback).status_code == 401, "another cookie's name"
            plain = log_in(client, hub, hub.tcp, loopback["Host"])
            assert plain.status_code == 201 and "; Secure" not in plain.headers["set-cookie"]
    finally:
        hub.end()


def test_the_hub_speaks_tls_with_a_certificate_of_ones_own(root: Path) -> None:
    cert, key = certificate(root)
    hub = HubProcess(root, THOPTER_HUB_TLS_CERT=str(cert), THOPTER_HUB_TLS_KEY=str(key))
    try:
        hub.start("--listen", "127.0.0.1:0")
        assert hub.tcp.startswith("https://127.0.0.1:")
        where = hub.tcp.replace("127.0.0.1", "localhost")
        with httpx2.Client(base_url=where, verify=ssl.create_default_context(cafile=str(cert))) as client:
            made = log_in(client, hub, where, where.removeprefix("https://"))
            assert made.status_code == 201, made.text
            assert made.headers["set-cookie"].startswith(f"__Host-thopter-{hub.tcp_port}=")
            bearer = {"Authorization": f"Bearer {hub.token}"}
            assert client.get("/v1/thopters", headers=bearer).status_code == 200
            assert client.get("/").headers["x-frame-options"] == "DENY"
            plain = {**bearer, "Origin": f"http://{where[8:]}"}
            assert client.get("/v1/hub", headers=plain).status_code == 403
        with pytest.raises(httpx2.TransportError):
            httpx2.get(hub.tcp.replace("https", "http") + "/v1/hub")
    finally:
        hub.end()


@pytest.mark.parametrize("case", ["open key", "no key", "not a key", "everywhere", "not without", "plain"])
def test_what_can_not_be_safe_is_refused_with_a_reason(root: Path, case: str) -> None:
    cert, key = certificate(root)
    tls = {"THOPTER_HUB_TLS_CERT": str(cert), "THOPTER_HUB_TLS_KEY": str(key)}
    env, listen, word = tls, "127.0.0.1:0", ""
    if case == "open key":
        key.chmod(0o644)
        word = "chmod 600"
    elif case == "no key":
        env, word = {"THOPTER_HUB_TLS_CERT": str(cert)}, "belong together"
    elif case == "not a key":
        key.write_text("nothing")
        word = "can't be used"
    elif case == "everywhere":
        listen, word = "0.0.0.0:0", "page.url"
    elif case == "not without":
        env, listen, word = {}, "0.0.0.0:0", "hub.tls_cert"
    else:
        env, word = {"THOPTER_PAGE_URL": "http://laptop.example"}, "https"
    hub = HubProcess(root, **env)
    process = hub.spawn("--listen", listen)
    _, err = process.communicate(timeout=60)
    assert process.returncode in (2, 5) and word in err.decode(), err


def test_addresses_of_pages_have_no_path_and_no_tricks() -> None:
    assert parse_page_url("https://Laptop.example:8443/") == "laptop.example:8443"
    assert parse_page_url("http://localhost:8480") == "localhost:8480"
    wrong = ["https://", "laptop", "https://a/b", "https://u:p@a", "https://a?x", "https://a#x", "ftp://a"]
    for text in [*wrong, "http://a", "https://a b", "https://ä.example", "https://a:99999", "//a"]:
        with pytest.raises(BadInput):
            parse_page_url(text)
    assert parse_listen("192.0.2.1:8480", far=True) == ("192.0.2.1", 8480)
    with pytest.raises(BadInput):
        parse_listen("192.0.2.1:8480")


def cli(hub: HubProcess, *args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "thopter.cli.main", *args],
        env=hub.env, capture_output=True, text=True, timeout=60,
    )  # fmt: skip


def test_the_command_prints_a_link_lists_who_is_in_and_logs_them_out(own: HubProcess) -> None:
    own.start("--listen", "127.0.0.1:0")
    done = cli(own, "dashboard", "--role", "viewer")
    assert done.returncode == 0 and done.stdout.startswith(own.tcp + "/login#"), done.stderr
    assert "5 minutes" in done.stderr and "viewer" in done.stderr
    code = done.stdout.strip().partition("#")[2]
    made = httpx2.post(own.tcp + "/v1/sessions", json={"code": code, "device": "phone\x1b[31m"},
                       headers={"Origin": own.tcp})  # fmt: skip
    assert made.status_code == 201
    listed = cli(own, "dashboard", "--list").stdout
    session = made.json()["session"]["id"]
    assert session in listed and "viewer" in listed and "\x1b" not in listed
    assert cli(own, "dashboard", "--revoke", session).returncode == 0
    assert cli(own, "dashboard", "--revoke", session).returncode == 3
    assert cli(own, "dashboard", "--revoke-all").stdout == "Logged out 0 pages.\n"
    assert cli(own, "dashboard", "--list", "--revoke-all").returncode == 2
    shown = cli(own, "dashboard", "--qr")
    assert "▀" in shown.stdout and "page.url" in shown.stderr


def test_a_qr_code_is_drawn_as_it_is() -> None:
    rows = rows_of("https://laptop.example.ts.net/login#" + "a" * 43)
    lines = drawn(rows)
    cells = {"█": "00", "▀": "01", "▄": "10", " ": "11"}
    back = ["".join(cells[ch][half] for ch in line) for line in lines for half in (0, 1)]
    assert [row[2:-2] for row in back[2 : 2 + len(rows)]] == rows
    assert set("".join(back[:2])) == {"0"} and {row[:2] for row in back} == {"00"}


def test_the_doctor_says_where_the_page_is_reached() -> None:
    from thopter.fleet.doctor import page_check
    from thopter.kit.settings import Settings, parse

    def told(**values: str) -> str:
        named = {k.replace("_", ".", 1): v for k, v in values.items()}
        return page_check(Settings({k: parse(k, v, "test") for k, v in named.items()})).text

    assert "this machine only" in told() and "this machine only" in told(page_url="http://localhost:8480")
    assert URL in told(page_url=URL) and "https" in told(hub_tls_cert="/x", hub_listen="0.0.0.0:1")
