"""A GitHub App's key: how it is kept, and the short-lived word it signs to say who it is.

Nothing here speaks to anybody, and nothing is ever shown: ``repr`` leaves the key out.
"""

from __future__ import annotations

import base64
import json
import re
from typing import Any

from msgspec import Struct

from thopter.kit.secrets import Secret
from thopter.model.errors import BadInput

KIND = "github-app"
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_LEAST_BITS = 2048
_BACK_S = 60  # GitHub's own advice: their clock may be behind
_GOOD_S = 540  # they take ten minutes at most, by their clock


class App(Struct, frozen=True, kw_only=True):
    """``id``: the App's id or its client id; ``key``: its private key (RSA, PEM)."""

    id: str
    key: str

    def __repr__(self) -> str:
        return f"App(id={self.id!r})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return [("id", self.id)]


def read_app(app_id: str, key: str) -> App:
    """Check what a person gave; BadInput (without a word of the key) when it can't be used."""
    if not _ID.fullmatch(app_id):
        raise BadInput(
            f"{app_id[:60]!r} is no id of a GitHub App", hint="its settings show it: a number, or Iv…"
        )
    app = App(id=app_id, key=key.replace("\r\n", "\n").strip() + "\n")
    _private(app)
    return app


def to_secret(app: App) -> Secret:
    """As the secret store keeps it: the key's lines stay lines, so that pushes can be searched for them."""
    return Secret(kind=KIND, secret=f"{app.id}\n{app.key}")


def from_secret(secret: Secret) -> App:
    """Read it back; BadInput when it is no App's."""
    app_id, _, key = secret.secret.partition("\n")
    if secret.kind != KIND or not _ID.fullmatch(app_id):
        raise BadInput("the stored key of the GitHub App is damaged", hint="thopter secrets set --github-app")
    return App(id=app_id, key=key)


def signed(app: App, now: float) -> str:
    """Its word (a JWT, RS256) that it is that App, good from a minute before ``now`` (seconds) until nine
    after; BadInput when the key can't sign."""
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import padding

    head = {"alg": "RS256", "typ": "JWT"}
    claims = {"iat": int(now) - _BACK_S, "exp": int(now) + _GOOD_S, "iss": app.id}
    text = f"{_coded(json.dumps(head).encode())}.{_coded(json.dumps(claims).encode())}"
    signature = _private(app).sign(text.encode(), padding.PKCS1v15(), hashes.SHA256())
    return f"{text}.{_coded(signature)}"


def _coded(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def _private(app: App) -> Any:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    hint = "GitHub makes one: the App's settings, 'Private keys', 'Generate a private key'"
    try:
        key = load_pem_private_key(app.key.encode(), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):  # no detail: its text could quote the key
        raise BadInput("that is no private key in PEM form, without a password", hint=hint) from None
    if not isinstance(key, RSAPrivateKey) or key.key_size < _LEAST_BITS:
        raise BadInput(f"that is no RSA key of {_LEAST_BITS} bits or more", hint=hint)
    return key
