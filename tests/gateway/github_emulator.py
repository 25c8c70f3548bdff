"""A small GitHub: the two calls by which an App gets a token, and git over https that wants such a token.

It checks what GitHub checks, by its own clock (``ahead`` of ours): the word's signature, who signed it and
when; where the App is installed and what it may do there; and of a token, its repository, age and rights.
"""

from __future__ import annotations

import base64
import contextlib
import datetime
import json
import secrets
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from upstream_rig import Handler, https

API = "/api/v3"


def new_key(bits: int = 2048) -> tuple[str, Any]:
    """A private key as GitHub gives it (PEM), and its public half."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=bits)
    text = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.TraditionalOpenSSL,
        serialization.NoEncryption(),
    )
    return text.decode(), key.public_key()


class GitHub(Handler):
    """``apps``: id → public key; ``installed``: "owner/repo" → (installation, id of the App);
    ``may``: what installations may do; ``limit``: headers with which calls are put off."""

    apps: dict[str, Any]
    installed: dict[str, tuple[int, str]]
    may: dict[str, str]
    issued: dict[str, tuple[set[str], dict[str, str], float]]
    calls: list[str]
    words: list[dict[str, Any]]
    ahead: float
    good_s: float
    limit: dict[str, str]

    def date_time_string(self, timestamp: float | None = None) -> str:
        return super().date_time_string(type(self)._now() if timestamp is None else timestamp)

    @classmethod
    def _now(cls) -> float:
        return time.time() + cls.ahead

    def _serve(self) -> None:
        if self.path.startswith(API + "/"):
            return self._api(self.path.removeprefix(API))
        return super()._serve()

    def may_pass(self, auth: str) -> bool:
        """Whether git's request comes with a token that is good for it."""
        if super().may_pass(auth):
            return True
        with contextlib.suppress(ValueError):
            name, _, token = base64.b64decode(auth.removeprefix("Basic ")).decode().partition(":")
            repos, rights, until = type(self).issued.get(token, (set(), {}, 0.0))
            path = "/".join(self.path.partition("?")[0].split("/")[1:3]).removesuffix(".git")
            wanted = "write" if "git-receive-pack" in self.path else "read"
            had = {"write": ("write", "read"), "read": ("read",)}.get(rights.get("contents", ""), ())
            return name == "x-access-token" and path in repos and wanted in had and until > self._now()
        return False

    # ------------------------------------------------------------------------------ the API

    def _api(self, path: str) -> None:
        kind = type(self)
        kind.calls.append(f"{self.command} {path}")
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if kind.mode.isdecimal():
            return self._answer(int(kind.mode), {})
        if kind.limit:
            return self._answer(403, {"message": "API rate limit exceeded"}, kind.limit)
        app, problem = self._signed_by(self.headers.get("Authorization") or "")
        if problem:
            return self._answer(404 if "not found" in problem else 401, {"message": problem})
        if not self.headers.get("User-Agent") or "github" not in (self.headers.get("Accept") or ""):
            return self._answer(403, {"message": "Request forbidden by administrative rules."})
        parts = path.strip("/").split("/")
        if self.command == "GET" and parts[0] == "repos" and parts[3:] == ["installation"]:
            number, owner = kind.installed.get("/".join(parts[1:3]), (0, ""))
            return (
                self._answer(200, {"id": number, "app_id": app})
                if owner == app
                else self._answer(404, {"message": "Not Found"})
            )
        if (
            self.command == "POST"
            and parts[:2] == ["app", "installations"]
            and parts[3:] == ["access_tokens"]
        ):
            return self._give(int(parts[2]), app, json.loads(body))
        return self._answer(404, {"message": "Not Found"})

    def _give(self, number: int, app: str, wish: dict[str, Any]) -> None:
        kind = type(self)
        there = {repo for repo, (n, a) in kind.installed.items() if (n, a) == (number, app)}
        if not there:
            return self._answer(404, {"message": "Not Found"})
        names = wish.get("repositories")
        repos = there if names is None else {r for r in there if r.partition("/")[2] in names}
        rights = dict(wish.get("permissions") or kind.may)
        lacks = {k for k, v in rights.items() if kind.may.get(k) not in (v, "write")}
        if lacks or (names is not None and len(repos) != len(names)):
            said = "The permissions requested are not granted to this installation."
            return self._answer(422, {"message": said if lacks else "There is at least one repository that"})
        token, until = "ghs_" + secrets.token_hex(18), self._now() + kind.good_s
        kind.issued[token] = (repos, rights, until)
        ends = datetime.datetime.fromtimestamp(until, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        self._answer(
            201,
            {
                "token": token,
                "expires_at": ends,
                "permissions": rights,
                "repository_selection": "selected" if names else "all",
                "repositories": [{"full_name": r, "name": r.partition("/")[2]} for r in sorted(repos)],
            },
        )
        return None

    def _signed_by(self, auth: str) -> tuple[str, str]:
        """(App, ""), or ("", why not)."""
        undecoded = "A JSON web token could not be decoded"
        try:
            head, claims, signature = auth.removeprefix("Bearer ").split(".")
            found = json.loads(_decoded(claims))
            if not auth.startswith("Bearer ") or json.loads(_decoded(head))["alg"] != "RS256":
                return "", undecoded
            public = type(self).apps.get(str(found["iss"]))
            if public is None:
                return "", "Integration not found"
            signed = f"{head}.{claims}".encode()
            public.verify(_decoded(signature), signed, padding.PKCS1v15(), hashes.SHA256())
            iat, exp, now = found["iat"], found["exp"], self._now()
        except (ValueError, KeyError, InvalidSignature):
            return "", undecoded
        if not isinstance(iat, int) or iat > now:
            return "", "'Issued at' claim ('iat') must be an Integer representing the time of the assertion"
        if not isinstance(exp, int) or exp <= now:
            return "", "'Expiration time' claim ('exp') must be a numeric value representing the future time"
        if exp > now + 600:
            return "", "'Expiration time' claim ('exp') is too far in the future"
        type(self).words.append(found)
        return str(found["iss"]), ""

    def _answer(self, status: int, what: dict[str, Any], headers: dict[str, str] | None = None) -> None:
        raw = json.dumps(what).encode()
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)


def _decoded(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


@contextlib.contextmanager
def github(root: Path, folder: Path) -> Iterator[tuple[str, Path, type[GitHub]]]:
    """Serve the repositories ``root``/OWNER/REPO.git; yields the address, the CA's file and what was seen."""
    fresh: dict[str, Any] = {"apps": {}, "installed": {}, "may": {"contents": "write"}, "issued": {}}
    fresh |= {"calls": [], "words": [], "ahead": 0.0, "good_s": 3600.0, "limit": {}}
    with https(root, folder, GitHub, fresh) as (address, ca, kind):
        yield address, ca, kind  # type: ignore[misc]
