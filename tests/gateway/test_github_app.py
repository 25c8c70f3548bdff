"""Pushes and fetches by a GitHub App: through the hub's own logins, mirrors and git, to a small GitHub."""

from __future__ import annotations

import base64
import contextlib
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from gateway_support import agit, commit, git, in_loop
from github_emulator import GitHub, github, new_key
from upstream_rig import NAME, Rig, basic, secret_in_processes

from thopter.gateway.login import LoginLater, NotThere
from thopter.gateway.mirror import Mirrors
from thopter.gateway.upstream import Upstreams
from thopter.hub.github_app import AppTokens, api_of
from thopter.hub.logins import Logins
from thopter.hub.shelf import Shelf
from thopter.kit import github_app
from thopter.kit.paths import find_paths
from thopter.kit.secrets import SecretStore, secret
from thopter.model.errors import BadInput, NotAllowed

APP, REPO = "77", "acme/proj"
KEY, PUBLIC = new_key()
POLICY = """
[policies.team]
extends = "default"
[policies.team.git]
push = "upstream"
credential = "forge"
[policies.team.credentials.forge]
secret = "git.app"
hosts = ["{host}"]
"""


class Forge:
    """A hub's parts for git with an App's key in the store, and the small GitHub where it is installed."""

    def __init__(self, rig: Rig, address: str, ca: Path, server: type[GitHub], host: str) -> None:
        self.rig, self.server = rig, server
        self.source = f"{address}/{REPO}.git"
        home = rig.root / "home"
        home.mkdir()
        self.env = {"HOME": str(home), "GIT_SSL_CAINFO": str(ca)}
        self.paths = find_paths({"HOME": str(home)})
        self.paths.config.mkdir(parents=True)
        (self.paths.config / "policy.toml").write_text(POLICY.format(host=host))
        self.secrets = SecretStore(self.paths, {}, "file")
        self.secrets.set("git.app", github_app.to_secret(github_app.read_app(APP, KEY)))
        self.now_ahead = 0.0
        self.tokens = AppTokens(self.env, lambda: time.time() + self.now_ahead)
        self.shelf = Shelf(self.paths, self.secrets)
        self.logins = Logins(self.shelf, self.secrets, self.tokens)
        folder, give = rig.root / "mirrors", (self.logins.password, self.logins.refused)
        self.mirrors = Mirrors(folder, self.env, *give)
        self.upstreams = Upstreams(folder, rig.root / "notes", give[0], self.env, give[1])

    async def mirrored(self) -> None:
        """Fetch it; then two commits more are in the mirror."""
        ref, _ = await self.mirrors.prepare(self.source, "", "team")
        self.rig.slug = ref.slug
        self.rig.a, self.rig.b = (commit(self.rig.work, x, **{x: x}) for x in ("a", "b"))
        kept = f"{self.rig.b}:refs/dropped/x/{self.rig.b}"
        await agit("push", "-q", str(self.mirrors.path(ref.slug)), kept, cwd=self.rig.work)

    async def push(self, commit: str, has: str = "") -> Any:
        return await self.upstreams.push(self.rig.slug, NAME, self.source, "team", commit, has)

    def password(self) -> str:
        found = self.logins.password("team", self.source)
        assert found
        return found


@contextlib.contextmanager
def forge(root: Path, host: str = "localhost") -> Iterator[Forge]:
    rig = Rig(root)
    (root / "up" / "acme").mkdir()
    (root / "up" / f"{REPO}.git").symlink_to(rig.bare)
    with github(root / "up", root) as (address, ca, server):
        server.apps, server.installed = {APP: PUBLIC}, {REPO: (5, APP), "acme/other": (5, APP)}
        yield Forge(rig, address, ca, server, host)


@in_loop
async def test_fetch_and_push_use_one_token_for_that_repository_and_it_and_the_key_are_nowhere_else(
    tmp_path: Path,
) -> None:
    with forge(tmp_path) as f:
        await f.mirrored()
        assert git("rev-parse", "main", cwd=f.mirrors.path(f.rig.slug)).strip() == f.rig.base
        done = await f.push(f.rig.a)
        assert (done.kind, f.rig.at()) == ("done", f.rig.a), done
        assert await f.upstreams.where(f.rig.slug, NAME, f.source, "team") == f.rig.a
        (token,) = f.server.issued
        assert f.server.issued[token][:2] == ({REPO}, {"contents": "write"}), "not for acme/other"
        assert set(f.server.given) == {f"x-access-token:{token}"}
        assert f.server.calls == [
            f"GET /repos/{REPO}/installation",
            "POST /app/installations/5/access_tokens",
        ]
        assert f.server.seen == [] and not secret_in_processes(KEY.splitlines()[5])
        places = [p for p in tmp_path.rglob("*") if p.is_file() and token.encode() in p.read_bytes()]
        line = KEY.splitlines()[5].encode()
        holders = [p.name for p in tmp_path.rglob("*") if p.is_file() and line in p.read_bytes()]
        assert places == [] and holders == ["secrets.json"]
        assert all(w["iat"] <= time.time() - 55 and w["exp"] - w["iat"] == 600 for w in f.server.words)


@in_loop
async def test_a_token_that_was_revoked_is_replaced_once_and_the_push_goes_on(tmp_path: Path) -> None:
    with forge(tmp_path) as f:
        await f.mirrored()
        f.server.issued.clear()
        assert ((await f.push(f.rig.a)).kind, f.rig.at()) == ("done", f.rig.a)
        f.server.issued.clear()
        await f.mirrors.prepare(f.source, "", "team")
        f.server.issued.clear()
        assert await f.upstreams.where(f.rig.slug, NAME, f.source, "team") == f.rig.a
        before = len(f.server.calls)
        f.server.may_pass = lambda *_: False  # type: ignore[method-assign]  # whatever is given: no endless asking
        found = await f.push(f.rig.b, f.rig.a)
        assert found.kind == "login" and "ghs_" not in found.text and len(f.server.calls) == before + 2


def test_many_pushes_at_once_ask_for_one_token(tmp_path: Path) -> None:
    with forge(tmp_path) as f, ThreadPoolExecutor(8) as crowd:
        assert len(set(crowd.map(lambda _: f.password(), range(8)))) == 1
        assert len(f.server.calls) == 2


def test_a_token_is_used_until_five_minutes_before_its_end_by_whichever_clock(tmp_path: Path) -> None:
    with forge(tmp_path) as f:
        first = f.password()
        f.now_ahead = 3600 - 330
        assert f.password() == first
        f.now_ahead = 3600 - 290
        assert f.password() != first
        with forge(_below(tmp_path, "fast")) as fast:
            fast.server.ahead = 7200.0  # they are two hours ahead: so is the end that they name
            second = fast.password()
            assert len(fast.server.calls) == 3, "once more by their clock, and then it is known"
            fast.now_ahead = 3600 - 290
            assert fast.password() != second


def _below(folder: Path, name: str) -> Path:
    (folder / name).mkdir()
    return folder / name


@pytest.mark.parametrize("off", [-50.0, 50.0, -5000.0, 5000.0])
def test_a_clock_that_is_wrong_is_no_reason_to_fail(tmp_path: Path, off: float) -> None:
    with forge(tmp_path) as f:
        f.server.ahead = off
        assert f.password().startswith("ghs_")
        assert len(f.server.calls) == (2 if abs(off) < 60 else 3)


def _not_installed(f: Forge) -> None:
    f.server.installed = {"acme/other": (5, APP)}


def _unknown(f: Forge) -> None:
    f.server.apps = {"78": PUBLIC}


def _another_key(f: Forge) -> None:
    f.server.apps = {APP: new_key()[1]}


def _reads_only(f: Forge) -> None:
    f.server.may = {"contents": "read"}


def _limited(f: Forge) -> None:
    f.server.limit = {"x-ratelimit-remaining": "0", "x-ratelimit-reset": str(int(time.time()) + 900)}


def _throttled(f: Forge) -> None:
    f.server.limit = {"retry-after": "41"}


def _broken(f: Forge) -> None:
    f.server.mode = "503"


PROBLEMS = {
    _not_installed: ("login", "GitHub App 77 is not installed on acme/proj"),
    _unknown: ("login", "there is no GitHub App 77 there"),
    _another_key: ("login", "does not take the key of App 77: A JSON web token could not be decoded"),
    _reads_only: ("login", "may not write contents of acme/proj: The permissions requested are not granted"),
    _limited: ("later", "rate limit for App 77 is reached; it ends in 89"),
    _throttled: ("later", "it ends in 41 s"),
    _broken: ("later", "HTTP 503"),
}


@in_loop
async def test_why_there_is_no_token_is_said_and_the_push_waits(tmp_path: Path) -> None:
    with forge(tmp_path) as f:
        await f.mirrored()
        well = {k: getattr(f.server, k) for k in ("installed", "apps", "may", "limit", "mode")}
        for spoil, (kind, text) in PROBLEMS.items():
            f.tokens.forget(f.password())
            spoil(f)
            found = await f.push(f.rig.a)
            assert found.kind == kind and text in found.text, (spoil, found)
            assert "PRIVATE" not in found.text and f.rig.at() == ""
            for name, value in well.items():
                setattr(f.server, name, value)
        assert (await f.push(f.rig.a)).kind == "done"


@in_loop
async def test_where_the_app_is_not_installed_the_operators_own_login_fetches_and_else_the_app_is_named(
    tmp_path: Path,
) -> None:
    with forge(tmp_path) as f:
        _not_installed(f)
        with pytest.raises(NotThere, match="not installed on acme/proj"):
            await f.mirrors.prepare(f.source, "", "team")
        helper = "!f() { echo username=x-access-token; echo password=own-login; }; f"
        git("config", "--file", f"{f.env['HOME']}/.gitconfig", "credential.helper", helper)
        f.server.tokens = {basic("x-access-token", "own-login")}
        ref, _ = await f.mirrors.prepare(f.source, "", "team")
        assert ref.base == f.rig.base
        f.server.limit = {"retry-after": "9"}
        with pytest.raises(LoginLater):  # that says nothing about where the App is installed
            await f.mirrors.prepare(f.source, "", "team")


def test_nothing_is_asked_of_hosts_that_the_credential_does_not_name(tmp_path: Path) -> None:
    with forge(tmp_path, host="github.com") as f:
        with pytest.raises(NotAllowed, match="lets credential forge not go to localhost"):
            f.password()
        assert f.server.asked == [] and f.server.calls == []


def test_the_api_is_found_by_the_host_and_only_two_names_make_a_repository() -> None:
    for source, api in (
        ("https://github.com/acme/proj.git", "https://api.github.com"),
        ("https://git@GitHub.com:443/acme/proj/", "https://api.github.com"),
        ("https://acme.ghe.com/acme/proj", "https://api.acme.ghe.com"),
        ("https://git.example.com:8443/acme/proj.git", "https://git.example.com:8443/api/v3"),
        ("https://[::1]:8443/acme/proj", "https://[::1]:8443/api/v3"),
    ):
        assert api_of(source) == (api, "acme", "proj")
    for source in (
        "https://github.com/acme",
        "https://github.com/a/b/c",
        "https://github.com/a/..",
        "https://h/a/%2e",
    ):
        with pytest.raises(NotAllowed, match="no OWNER/REPO"):
            api_of(source)


def test_what_cant_sign_is_no_key_and_is_never_quoted() -> None:
    small = new_key(1024)[0]
    for app, key in (
        ("77", "hello"),
        ("77", small),
        ("7 7", KEY),
        ("", KEY),
        ("77", KEY.replace("A", "B", 9)),
    ):
        with pytest.raises(BadInput) as told:
            github_app.read_app(app, key)
        assert told.value.hint and KEY.splitlines()[3] not in str(told.value.to_dict())
    found = github_app.read_app("Iv23.abc", "\n" + KEY.replace("\n", "\r\n") + "\r\n")
    assert github_app.from_secret(github_app.to_secret(found)) == found and "BEGIN" not in repr(found)
    with pytest.raises(BadInput):
        github_app.from_secret(secret("plain", "77"))


def test_an_apps_key_is_for_git_alone(tmp_path: Path) -> None:
    from thopter.gateway.git.shapes import known
    from thopter.hub.gateways import sendable
    from thopter.hub.marks import Marks

    store = SecretStore(find_paths({"HOME": str(tmp_path)}), {}, "file")
    store.set("git.app", github_app.to_secret(github_app.read_app(APP, KEY)))
    store.set("git.pat", secret("plain", "hunter2-hunter2"))
    kept, pat = store.get("git.app"), store.get("git.pat")
    assert sendable(kept) is None and sendable(pat) == "hunter2-hunter2" and sendable(None) is None
    marks = Marks(store).all()
    assert known(f'key = "{KEY.splitlines()[4]}"'.encode(), marks), "each line of it is known in pushes"
    assert base64.b64decode(KEY.splitlines()[4])
