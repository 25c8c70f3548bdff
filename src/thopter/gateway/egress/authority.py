"""The hub's certificate authority, and the certificates it signs for hosts whose TLS is opened."""

from __future__ import annotations

import datetime
import ipaddress
import os
import ssl
from collections import OrderedDict

from thopter.gateway.policy.hosts import is_address
from thopter.model.errors import BadInput

_LEAVES = 500
_DAYS = 7
_YEARS = 10


def make_authority(name: str, now: float) -> tuple[str, str]:
    """Make a new authority; returns certificate and key in PEM. ``now``: the time of day in seconds."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    at = datetime.datetime.fromtimestamp(now, datetime.UTC)
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    usage = x509.KeyUsage(
        digital_signature=True, key_cert_sign=True, crl_sign=True, content_commitment=False,
        key_encipherment=False, data_encipherment=False, key_agreement=False, encipher_only=False,
        decipher_only=False,
    )  # fmt: skip
    cert = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(at - datetime.timedelta(days=1))
        .not_valid_after(at + datetime.timedelta(days=365 * _YEARS))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return cert.public_bytes(serialization.Encoding.PEM).decode(), pem.decode()


class Mint:
    """Makes certificates for hosts, signed by the hub's own authority; one key for all, kept in memory."""

    def __init__(self, cert_pem: str, key_pem: str) -> None:
        from cryptography import x509  # dear to import; only gateways that open TLS need it
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import ec

        try:
            self._authority = x509.load_pem_x509_certificate(cert_pem.encode())
            key = serialization.load_pem_private_key(key_pem.encode(), None)
        except ValueError:
            raise BadInput("the certificate authority can't be read") from None
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise BadInput("the certificate authority has a key of another kind")
        self._signer = key
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._key_pem = self._key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        self._authority_pem = cert_pem.encode()
        self._made: OrderedDict[str, tuple[float, ssl.SSLContext]] = OrderedDict()

    def context(self, host: str, now: float) -> ssl.SSLContext:
        """A server's TLS context for ``host``; ``now`` is the time of day in seconds."""
        made, context = self._made.get(host, (0.0, None))
        if context is None or now - made > (_DAYS - 1) * 86400:
            context = self._make(host, now)
            self._made[host] = (now, context)
        self._made.move_to_end(host)
        if len(self._made) > _LEAVES:
            self._made.popitem(last=False)
        return context

    def _make(self, host: str, now: float) -> ssl.SSLContext:
        from cryptography import x509
        from cryptography.hazmat.primitives import hashes, serialization
        from cryptography.x509.oid import ExtendedKeyUsageOID

        at = datetime.datetime.fromtimestamp(now, datetime.UTC)
        name: x509.GeneralName = (
            x509.IPAddress(ipaddress.ip_address(host)) if is_address(host) else x509.DNSName(host)
        )
        authority_key = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._signer.public_key())
        cert = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([]))
            .issuer_name(self._authority.subject)
            .public_key(self._key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(at - datetime.timedelta(days=1))
            .not_valid_after(at + datetime.timedelta(days=_DAYS))
            .add_extension(x509.SubjectAlternativeName([name]), critical=True)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .add_extension(authority_key, critical=False)
            .sign(self._signer, hashes.SHA256())
        )
        pem = cert.public_bytes(serialization.Encoding.PEM) + self._authority_pem + self._key_pem
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["http/1.1"])
        _load(context, pem)
        return context


def _load(context: ssl.SSLContext, pem: bytes) -> None:
    """The library reads certificates from files only: give it one that is nowhere."""
    fd = os.memfd_create("leaf", os.MFD_CLOEXEC)
    try:
        os.write(fd, pem)
        context.load_cert_chain(f"/proc/self/fd/{fd}")
    finally:
        os.close(fd)
