"""Web push: a message encrypted for one browser (RFC 8291, RFC 8188) and who sends it (VAPID, RFC 8292).

Pure: bytes in, bytes out. The push service between us and the browser sees sizes and times, no words.
"""

from __future__ import annotations

import base64
import binascii
import os
import struct
from urllib.parse import urlsplit

import msgspec
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from thopter.model.errors import BadInput

PAYLOAD_MAX = 3500  # services take 4,096 bytes in all
RECORD = 4096
_JWT_SECONDS = 12 * 3600


def b64(data: bytes) -> str:
    """URL-safe base64 without padding."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def unb64(text: str) -> bytes:
    """The other way round; BadInput for what is none."""
    try:
        return base64.b64decode(text.rstrip("=") + "=" * (-len(text.rstrip("=")) % 4), "-_", validate=True)
    except (binascii.Error, ValueError):
        raise BadInput("that is no URL-safe base64") from None


def fresh_key() -> str:
    """A new private key, as text to be kept."""
    number = ec.generate_private_key(ec.SECP256R1()).private_numbers().private_value
    return b64(number.to_bytes(32, "big"))


def private_key(text: str) -> ec.EllipticCurvePrivateKey:
    """Read what :func:`fresh_key` made."""
    return ec.derive_private_key(int.from_bytes(unb64(text), "big"), ec.SECP256R1())


def public_point(key: ec.EllipticCurvePrivateKey) -> bytes:
    """Its public point, 65 bytes."""
    return key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)


def check_keys(p256dh: str, auth: str) -> None:
    """BadInput unless these are the keys of a subscription."""
    _browser_key(unb64(p256dh))
    if len(unb64(auth)) != 16:
        raise BadInput("keys.auth of a subscription is 16 bytes")


def _browser_key(point: bytes) -> ec.EllipticCurvePublicKey:
    try:
        if len(point) != 65:
            raise ValueError
        return ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), point)
    except (ValueError, UnsupportedAlgorithm):
        raise BadInput("keys.p256dh of a subscription is no point of P-256") from None


def encrypt(
    payload: bytes,
    p256dh: str,
    auth: str,
    *,
    sender: ec.EllipticCurvePrivateKey | None = None,
    salt: bytes | None = None,
) -> bytes:
    """One ``aes128gcm`` body for the browser with these keys; ``sender`` and ``salt`` are fresh unless given
    (by a test of the RFC's example)."""
    if len(payload) > PAYLOAD_MAX:
        raise BadInput(f"a message for a browser has at most {PAYLOAD_MAX} bytes")
    theirs = unb64(p256dh)
    sender = sender or ec.generate_private_key(ec.SECP256R1())
    salt = salt or os.urandom(16)
    ours = public_point(sender)
    shared = sender.exchange(ec.ECDH(), _browser_key(theirs))
    secret = _hkdf(unb64(auth), b"WebPush: info\x00" + theirs + ours, 32).derive(shared)
    key = _hkdf(salt, b"Content-Encoding: aes128gcm\x00", 16).derive(secret)
    nonce = _hkdf(salt, b"Content-Encoding: nonce\x00", 12).derive(secret)
    sealed = AESGCM(key).encrypt(nonce, payload + b"\x02", None)  # 2: the last record
    return salt + struct.pack(">IB", RECORD, len(ours)) + ours + sealed


def _hkdf(salt: bytes, info: bytes, length: int) -> HKDF:
    return HKDF(algorithm=SHA256(), length=length, salt=salt, info=info)


def authorization(key: ec.EllipticCurvePrivateKey, endpoint: str, subject: str, now_s: int) -> str:
    """The header's value that says who sends: a token for that push service, good for twelve hours."""
    parts = urlsplit(endpoint)
    claims = {"aud": f"{parts.scheme}://{parts.netloc}", "exp": now_s + _JWT_SECONDS, "sub": subject}
    head = b64(msgspec.json.encode({"typ": "JWT", "alg": "ES256"}))
    text = f"{head}.{b64(msgspec.json.encode(claims))}"
    r, s = decode_dss_signature(key.sign(text.encode(), ec.ECDSA(SHA256())))
    signed = b64(r.to_bytes(32, "big") + s.to_bytes(32, "big"))
    return f"vapid t={text}.{signed}, k={b64(public_point(key))}"
