"""An egress gateway between a box's clients and local servers, beside a canary that must never be dialled."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import ipaddress
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from gateway_support import Answer, Home, Reply, Upstream, listener, plain, port_of, read_reply, upstream

from thopter.gateway.client import GatewayClient
from thopter.gateway.egress.authority import make_authority
from thopter.gateway.policy.model import Policy, Rule

LOOP = ("127.0.0.0/8", "::1/128")
NOW = datetime.datetime.now(datetime.UTC).timestamp()


class Authority:
    """A certificate authority made for a test: its certificate, and contexts of servers it vouches for."""

    def __init__(self, folder: Path) -> None:
        self.cert, self.key = make_authority("test servers", NOW)
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.file = folder / "servers-ca.pem"
        self.file.write_text(self.cert)

    def server(self, *names: str) -> ssl.SSLContext:
        """A server's context with a certificate for ``names``."""
        signer: Any = serialization.load_pem_private_key(self.key.encode(), None)
        issuer = x509.load_pem_x509_certificate(self.cert.encode())
        key = ec.generate_private_key(ec.SECP256R1())
        at = datetime.datetime.now(datetime.UTC)
        alt = [_general(n) for n in names]
        cert = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([]))
            .issuer_name(issuer.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(at - datetime.timedelta(days=1))
            .not_valid_after(at + datetime.timedelta(days=2))
            .add_extension(x509.SubjectAlternativeName(alt), critical=True)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False
            )
            .sign(signer, hashes.SHA256())
        )
        pem = cert.public_bytes(serialization.Encoding.PEM) + key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        path = self.folder / f"{names[0].replace(':', '_')}.pem"
        path.write_bytes(pem)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(path)
        return context


def _general(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def rule(*hosts: str, **more: Any) -> Rule:
    return Rule(**{"name": "r", "hosts": hosts, "addresses": LOOP} | more)


def policy(*rules: Rule, **more: Any) -> Policy:
    return Policy(name="test", rules=rules, **more)


class Rig:
    """What a test works with."""

    def __init__(self, client: GatewayClient, pid: int, authority: Authority) -> None:
        self.client = client
        self.pid = pid
        self.authority = authority
        self.ca = make_authority("hub", NOW)
        self.door = listener()
        self.port = port_of(self.door)
        self.canary: Upstream
        self.canary_port = 0
        self.up: Upstream
        self.up_port = 0
        self.tls_port = 0

    async def attach(self, wanted: Policy, **fields: Any) -> None:
        """Attach box ``b1`` (anew) under a policy."""
        ca = {"cert": self.ca[0], "key": self.ca[1]}
        more = {"run": "r1", "name": "nemo", "ca": ca} | fields
        await self.client.attach("b1", self.door, policy=msgspec.to_builtins(wanted), **more)

    async def open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.port, limit=1 << 20)

    async def raw(self, data: bytes, head_only: bool = False) -> Reply:
        """Send bytes on a fresh connection and read one answer."""
        reader, writer = await self.open()
        try:
            writer.write(data)
            async with asyncio.timeout(60):
                return await read_reply(reader, head_only)
        finally:
            writer.close()

    async def get(
        self, url: str, method: str = "GET", host: str = "", *headers: str, body: bytes = b""
    ) -> Reply:
        """Ask for a plain http address by the proxy."""
        host = host or url.split("/")[2]
        lines = [f"{method} {url} HTTP/1.1", f"host: {host}", *headers]
        if body:
            lines.append(f"content-length: {len(body)}")
        return await self.raw("\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body, method == "HEAD")

    async def connect(
        self, authority: str, host: str | None = None
    ) -> tuple[Reply, asyncio.StreamReader, asyncio.StreamWriter]:
        """Ask for a tunnel."""
        reader, writer = await self.open()
        writer.write(f"CONNECT {authority} HTTP/1.1\r\nhost: {host or authority}\r\n\r\n".encode("latin-1"))
        async with asyncio.timeout(60):
            head = await reader.readuntil(b"\r\n\r\n")
        lines = head.decode("latin-1").split("\r\n")
        headers = {n.lower(): v.strip() for n, _, v in (x.partition(":") for x in lines[1:] if x)}
        reply = Reply(int(lines[0].split(" ")[1]), headers | {":phrase": lines[0]}, b"", True)
        if reply.status != 200:
            reply.body = await reader.readexactly(int(headers["content-length"]))
        return reply, reader, writer

    async def secure(
        self, authority: str, name: str | None, *, trust: str = "", alpn: list[str] | None = None
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A tunnel with TLS in it, asking for server ``name``; trusts the test's servers and the hub's CA."""
        reply, reader, writer = await self.connect(authority)
        assert reply.status == 200, reply.body
        context = ssl.create_default_context(cadata=trust or self.authority.cert + self.ca[0])
        context.check_hostname = name is not None
        if alpn:
            context.set_alpn_protocols(alpn)
        async with asyncio.timeout(60):
            await writer.start_tls(context, server_hostname=name)
        return reader, writer

    async def records(self, count: int, **wanted: Any) -> list[dict[str, Any]]:
        """Wait for so many records that have these fields."""
        found: list[dict[str, Any]] = []
        after = 0
        async with asyncio.timeout(60):
            while len(found) < count:
                page = await self.client.log(after, wait_ms=2000)
                after = page["next"]
                found += [r for r in page["records"] if all(r[k] == v for k, v in wanted.items())]
        return found


@contextlib.asynccontextmanager
async def rig(place: Home, answer: Answer | None = None, **client: Any) -> AsyncIterator[Rig]:
    """A gateway, an upstream by http and https (for ``localhost`` and 127.0.0.1), and the canary."""
    authority = Authority(place.root / "ca")
    gateway, pong = await place.start("egress", env={"SSL_CERT_FILE": str(authority.file)} | client)
    found = Rig(gateway, pong.pid, authority)
    answer = answer or plain(b"hello", kind="text/plain")
    tls = authority.server("localhost", "127.0.0.1")
    async with (
        upstream(answer) as (up, port),
        upstream(answer, ssl=tls) as (secure, tls_port),
        upstream(plain(b"canary")) as (canary, canary_port),
    ):
        secure.asks = up.asks
        found.up, found.up_port, found.tls_port = up, port, tls_port
        found.canary, found.canary_port = canary, canary_port
        try:
            yield found
        finally:
            found.door.close()
        assert canary.connections == 0, "the canary was dialled"
