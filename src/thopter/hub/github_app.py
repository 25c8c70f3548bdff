"""Passwords for git from a GitHub App: its key signs a word, the word gets a token for one repository.

A token is good for an hour, may read and write that repository's contents and nothing else, and is kept in
memory only: a hub that starts anew asks for another. The key leaves this process in no form but signatures.
"""

from __future__ import annotations

import datetime
import email.utils
import hashlib
import logging
import os
import re
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

import msgspec
from msgspec import Struct

from thopter.gateway.login import LoginLater, NotThere
from thopter.kit.github_app import App, signed
from thopter.kit.sanitize import one_line
from thopter.model.errors import NotAllowed

log = logging.getLogger(__name__)
_SECONDS = 20.0
_AHEAD_S = 300.0  # before its end a token is not used any more
_SKEW_S = 30.0
_ANSWER_MAX = 1 << 20
_MOST = 1000
_PART = re.compile(r"(?!\.{1,2}$)[A-Za-z0-9._-]{1,100}")
_TOKEN = re.compile(r"[\x21-\x7e]{8,1024}")


class _Place(Struct, frozen=True):
    """One repository, and where its server is asked."""

    api: str
    owner: str
    repo: str

    def __str__(self) -> str:
        return f"{self.owner}/{self.repo}"


class _Token(Struct, frozen=True):
    """``until``: seconds since 1970 by our own clock."""

    text: str
    until: float


class AppTokens:
    """Of every App, host and repository; safe to use from several threads. ``env``: the user's environment,
    for certificates and proxies."""

    def __init__(self, env: Mapping[str, str] | None = None, clock: Callable[[], float] = time.time) -> None:
        self._env = dict(os.environ if env is None else env)
        self._clock = clock
        self._lock = threading.Lock()
        self._kept: dict[str, _Token] = {}
        self._asking: dict[str, threading.Lock] = {}

    def token(self, app: App, source: str) -> str:
        """A token for the https address ``source``, which must be one that ``app`` may be used for. Blocking:
        a minute at most. NotThere: the App is not installed on it; NotAllowed: what else a person has to
        mend; LoginLater: it may go better in a while."""
        place = _Place(*api_of(source))
        key = hashlib.sha256("\0".join((app.id, app.key, place.api, str(place).lower())).encode()).hexdigest()
        with self._lock:
            if len(self._asking) > _MOST:
                self._asking.clear()
                self._kept.clear()
            asking = self._asking.setdefault(key, threading.Lock())
        with asking:  # many pushes at once ask for one token
            found = self._kept.get(key)
            if found is None or found.until - _AHEAD_S <= self._clock():
                found = self._exchange(app, place)
                with self._lock:
                    self._kept[key] = found
            return found.text

    def forget(self, token: str) -> None:
        """It was refused: the next one is a new one."""
        with self._lock:
            self._kept = {k: t for k, t in self._kept.items() if t.text != token}

    def _exchange(self, app: App, place: _Place) -> _Token:
        import httpx2

        try:
            context = _trust(self._env)
            with httpx2.Client(timeout=_SECONDS, verify=context, follow_redirects=False) as client:
                return _Talk(client, app, place, self._clock).token()
        except (httpx2.HTTPError, httpx2.InvalidURL, OSError) as e:
            raise LoginLater(f"{urlsplit(place.api).netloc} can't be asked: {type(e).__name__}") from None


class _Talk:
    """The two calls for one token."""

    def __init__(self, client: Any, app: App, place: _Place, clock: Callable[[], float]) -> None:
        self._client = client
        self._app = app
        self._place = place
        self._clock = clock
        self._ahead = 0.0  # of our clock, what theirs is

    def token(self) -> _Token:
        where = f"/repos/{self._place}/installation"
        status, found = self._call("GET", where)
        if status == 404:
            raise NotThere(
                f"GitHub App {self._app.id} is not installed on {self._place}",
                hint="its owner installs it there: the App's page, 'Install', and that repository",
            )
        number = found.get("id")
        if status != 200 or not isinstance(number, int):
            raise self._unclear(status, found)
        body = {"repositories": [self._place.repo], "permissions": {"contents": "write"}}
        status, found = self._call("POST", f"/app/installations/{number}/access_tokens", body)
        if status == 422:
            raise NotAllowed(
                f"GitHub App {self._app.id} may not write contents of {self._place}: {_said(found)}",
                hint="give it 'Contents: read and write', and accept that where it is installed",
            )
        if status != 201:
            raise self._unclear(status, found)
        return self._checked(found)

    def _checked(self, found: Mapping[str, Any]) -> _Token:
        text, ends = str(found.get("token", "")), str(found.get("expires_at", ""))
        only = {str(r.get("full_name", "")).lower() for r in found.get("repositories") or []}
        try:
            until = datetime.datetime.fromisoformat(ends).timestamp() - self._ahead
        except ValueError:
            until = 0.0
        if not _TOKEN.fullmatch(text) or not until or only - {str(self._place).lower()}:
            raise LoginLater(f"what GitHub gave for {self._place} is no token for it alone")
        log.info("GitHub App %s has a token for %s", self._app.id, self._place)
        return _Token(text, until)

    def _call(
        self, verb: str, path: str, body: Mapping[str, Any] | None = None
    ) -> tuple[int, dict[str, Any]]:
        """Ask; once more, by their clock, when they do not take our word and our clocks differ."""
        answer, found = self._ask(verb, path, body)
        if answer.status_code == 401:
            theirs = _date(answer.headers.get("date", ""))
            off = theirs - self._clock() if theirs else 0.0
            if abs(off - self._ahead) > _SKEW_S:
                self._ahead = off
            answer, found = self._ask(verb, path, body)
        if answer.status_code == 401:
            clocks = f"; their clock is {self._ahead:+.0f} s ahead of ours" if self._ahead else ""
            raise NotAllowed(
                f"GitHub does not take the key of App {self._app.id}: {_said(found)}{clocks}",
                hint="is it this App's key, and not revoked? thopter secrets set NAME --github-app ID",
            )
        if answer.status_code == 404 and "ntegration not found" in _said(found):
            raise NotAllowed(f"there is no GitHub App {self._app.id} there", hint="look at its id")
        self._limited(answer, found)
        return answer.status_code, found

    def _ask(self, verb: str, path: str, body: Mapping[str, Any] | None) -> tuple[Any, dict[str, Any]]:
        word = signed(self._app, self._clock() + self._ahead)
        headers = {"authorization": f"Bearer {word}", "accept": "application/vnd.github+json",
                   "x-github-api-version": "2022-11-28", "user-agent": "thopter"}  # fmt: skip
        answer = self._client.request(verb, self._place.api + path, headers=headers, json=body)
        try:
            found = msgspec.json.decode(answer.content[:_ANSWER_MAX])
        except msgspec.DecodeError:
            found = {}
        return answer, found if isinstance(found, dict) else {}

    def _limited(self, answer: Any, found: Mapping[str, Any]) -> None:
        """Raise when they say that we ask too often, with how long it takes."""
        after, left = answer.headers.get("retry-after", ""), answer.headers.get("x-ratelimit-remaining", "")
        if answer.status_code not in (403, 429) or not (after or left == "0" or answer.status_code == 429):
            return
        reset = answer.headers.get("x-ratelimit-reset", "")
        wait = int(after) if after.isdecimal() else 60
        if not after and reset.isdecimal():
            wait = max(int(int(reset) - self._clock() - self._ahead), 1)
        raise LoginLater(f"GitHub's rate limit for App {self._app.id} is reached; it ends in {wait} s")

    def _unclear(self, status: int, found: Mapping[str, Any]) -> Exception:
        said = _said(found)
        if status in (301, 302, 307, 308):
            return NotAllowed(f"{self._place} has moved upstream", hint="use its new address")
        if status == 403:
            return NotAllowed(f"GitHub App {self._app.id} may not use {self._place}: {said}")
        return LoginLater(f"GitHub gave no token for {self._place}: HTTP {status} {said}".strip())


def api_of(source: str) -> tuple[str, str, str]:
    """Where the API of the server of ``source`` is, and the owner and the name of the repository there;
    NotAllowed when it is none of GitHub's."""
    parts = urlsplit(source)
    names = parts.path.strip("/").removesuffix(".git").split("/")
    if len(names) != 2 or not all(_PART.fullmatch(n) for n in names):
        raise NotAllowed(f"{one_line(source, 120)} is no OWNER/REPO of GitHub", hint="use another credential")
    host = (parts.hostname or "").lower()
    at = (f"[{host}]" if ":" in host else host) + ("" if parts.port in (None, 443) else f":{parts.port}")
    if host in ("github.com", "www.github.com"):
        api = "https://api.github.com"
    elif host.endswith(".ghe.com"):
        api = f"https://api.{at}"
    else:
        api = f"https://{at}/api/v3"
    return api, names[0], names[1]


def _trust(env: Mapping[str, str]) -> ssl.SSLContext:
    """The system's certificates, and those that git is told to trust."""
    context = ssl.create_default_context(cafile=env.get("SSL_CERT_FILE") or None)
    if env.get("GIT_SSL_CAINFO"):
        context.load_verify_locations(env["GIT_SSL_CAINFO"])
    return context


def _date(text: str) -> float:
    try:
        return email.utils.parsedate_to_datetime(text).timestamp()
    except (TypeError, ValueError):
        return 0.0


def _said(found: Mapping[str, Any]) -> str:
    return one_line(str(found.get("message", "")), 160)
