"""The secret store: private, atomic, never overwritten when damaged, never hanging on a keyring."""

from __future__ import annotations

import json
import multiprocessing
import os
import stat
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from thopter.kit import secrets
from thopter.kit.durable import write_private
from thopter.kit.paths import Paths, find_paths
from thopter.kit.secrets import (
    CLAUDE,
    Secret,
    SecretStore,
    claude_credential,
    secret,
    without_credentials,
)
from thopter.model.errors import BadInput, Refused, TimedOut

CANARY = "sk-ant-canary-0123456789"


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    return find_paths({"HOME": str(tmp_path), "THOPTER_STATE_DIR": str(tmp_path / "s")})


def store(paths: Paths, backend: str = "file", **env: str) -> SecretStore:
    return SecretStore(paths, {"PATH": os.environ["PATH"], **env}, backend)


def file(paths: Paths) -> Path:
    return paths.config / "secrets.json"


def test_a_secret_comes_back_as_it_was_and_survives_a_restart(paths: Paths):
    assert store(paths).get(CLAUDE) is None
    assert store(paths).set(CLAUDE, secret("x-api-key", f" {CANARY}\n")) == "file"
    assert store(paths).get(CLAUDE) == Secret(kind="x-api-key", secret=CANARY)
    assert store(paths).names() == [CLAUDE]
    assert store(paths).delete(CLAUDE) and not store(paths).delete(CLAUDE)
    assert store(paths).get(CLAUDE) is None and CANARY not in file(paths).read_text()


def test_only_the_owner_can_read_it_whatever_the_umask(paths: Paths):
    old = os.umask(0)
    try:
        store(paths).set(CLAUDE, secret("bearer", CANARY))
    finally:
        os.umask(old)
    assert stat.S_IMODE(file(paths).stat().st_mode) == 0o600
    assert stat.S_IMODE(paths.config.stat().st_mode) == 0o700
    for path in paths.config.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_file_that_others_can_read_is_refused(paths: Paths):
    store(paths).set(CLAUDE, secret("bearer", CANARY))
    file(paths).chmod(0o640)
    with pytest.raises(Refused, match="read by others"):
        store(paths).get(CLAUDE)


def test_a_symlink_in_its_place_is_not_followed(paths: Paths, tmp_path: Path):
    store(paths).set(CLAUDE, secret("bearer", CANARY))
    file(paths).rename(tmp_path / "elsewhere")
    file(paths).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(Refused):
        store(paths).get(CLAUDE)


@pytest.mark.parametrize(
    "damage",
    [
        "",
        "{",
        "[]",
        '{"secrets": 5}',
        '{"secrets": {"a": {"kind": 1}}}',
        "\x00\xff",
        '{"secrets": {"../x": {"kind": "bearer", "where": "file", "secret": "' + CANARY + '"}}}',
    ],
)
def test_a_damaged_file_is_never_overwritten_nor_quoted(paths: Paths, damage: str):
    store(paths).set(CLAUDE, secret("bearer", CANARY))
    file(paths).write_text(damage)
    for call in (
        lambda s: s.get(CLAUDE),
        lambda s: s.set("b", secret("plain", "y")),
        lambda s: s.delete(CLAUDE),
        lambda s: s.names(),
    ):
        with pytest.raises(Refused, match="damaged") as caught:
            call(store(paths))
        assert CANARY not in str(caught.value) + caught.value.hint
    assert file(paths).read_text() == damage


@pytest.mark.parametrize("name", ["", "A", "../x", "a b", "a" * 101, "-x", "a\n"])
def test_names_are_narrow(paths: Paths, name: str):
    with pytest.raises(BadInput):
        store(paths).set(name, secret("plain", "x"))


@pytest.mark.parametrize("value", ["", "  \n", "two\nlines", "nul\0", "ä", "x" * 70_000])
def test_what_no_header_may_carry_is_no_secret(value: str):
    with pytest.raises(BadInput) as caught:
        secret("bearer", value)
    assert not value.strip() or value.strip() not in str(caught.value)
    with pytest.raises(BadInput):
        secret("cookie", "x")


def test_it_does_not_show_in_any_representation():
    one = secret("bearer", CANARY)
    assert CANARY not in repr(one) + str(one) + f"{one}" + repr([one]) + repr({"a": one})


def test_the_environment_gives_a_credential_with_its_kind():
    assert claude_credential({}) is None
    assert claude_credential({"ANTHROPIC_API_KEY": " "}) is None
    assert claude_credential({"ANTHROPIC_API_KEY": CANARY}) == (
        secret("x-api-key", CANARY),
        "ANTHROPIC_API_KEY",
    )
    for name in ("ANTHROPIC_AUTH_TOKEN", "CLAUDE_CODE_OAUTH_TOKEN"):
        assert claude_credential({name: CANARY}) == (secret("bearer", CANARY), name)
    left = without_credentials({"ANTHROPIC_API_KEY": "x", "CLAUDE_CODE_OAUTH_TOKEN": "y", "HOME": "/"})
    assert left == {"HOME": "/"}


def _set_many(paths: Paths, who: int) -> None:
    for n in range(10):
        SecretStore(paths, {}, "file").set(f"w{who}.{n}", secret("plain", f"v{who}{n}"))


def test_writers_at_once_lose_nothing(paths: Paths):
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_set_many, args=(paths, who)) for who in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
        assert writer.exitcode == 0
    assert len(store(paths).names()) == 40


def test_of_many_who_replace_the_same_secret_one_does_it(paths: Paths):
    first = secret("bearer", CANARY)
    store(paths).set(CLAUDE, first)
    with ThreadPoolExecutor(8) as pool:
        mine = [secret("bearer", f"sk-of-{n}-0123456789") for n in range(24)]
        where = list(pool.map(lambda value: store(paths).set(CLAUDE, value, first), mine))
    assert sorted(where) == [""] * 23 + ["file"]
    assert store(paths).get(CLAUDE) == mine[where.index("file")]
    assert store(paths).set("another", first, first) == "" and store(paths).get("another") is None


def test_a_write_that_fails_leaves_the_old_file_and_no_litter(tmp_path: Path):
    target = tmp_path / "f"
    write_private(target, b"old")
    code = (
        "import resource, sys, pathlib, signal\n"
        "from thopter.kit.durable import write_private\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))\n"
        "write_private(pathlib.Path(sys.argv[1]), b'x' * 1000)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(target)], capture_output=True)
    assert done.returncode == 1 and b"OSError" in done.stderr
    assert target.read_bytes() == b"old" and list(tmp_path.iterdir()) == [target]


# A keyring for tests: a real backend of the keyring library that keeps everything in a file.
BACKEND = """
    import json, os, pathlib, sys, time
    import keyring.backend, keyring.errors

    class Files(keyring.backend.KeyringBackend):
        priority = 1
        path = pathlib.Path(os.environ["TEST_KEYRING"])

        def _all(self):
            return json.loads(self.path.read_text()) if self.path.exists() else {}

        def set_password(self, service, name, value):
            self.path.write_text(json.dumps(self._all() | {name: value}))
            pathlib.Path(f"{self.path}.argv").write_text(" ".join(sys.argv) + json.dumps(dict(os.environ)))

        def get_password(self, service, name):
            return self._all().get(name)

        def delete_password(self, service, name):
            rest = self._all()
            if rest.pop(name, None) is None:
                raise keyring.errors.PasswordDeleteError("none")
            self.path.write_text(json.dumps(rest))

    class Hangs(Files):
        def get_password(self, *args):
            time.sleep(600)
        set_password = get_password

    class Locked(Files):
        def get_password(self, *args):
            raise keyring.errors.KeyringLocked("it is locked")
        set_password = get_password
"""


@pytest.fixture
def keyring_env(tmp_path: Path) -> dict[str, str]:
    (tmp_path / "filekeyring.py").write_text(textwrap.dedent(BACKEND))
    return {
        "PYTHON_KEYRING_BACKEND": "filekeyring.Files",
        "PYTHONPATH": str(tmp_path),
        "TEST_KEYRING": str(tmp_path / "ring"),
        "HOME": str(tmp_path),
    }


def test_in_a_keyring_the_file_holds_only_the_name(paths: Paths, keyring_env: dict[str, str], tmp_path: Path):
    ring = store(paths, "keyring", **keyring_env, ANTHROPIC_API_KEY=CANARY)
    assert ring.set(CLAUDE, secret("bearer", CANARY)) == "keyring"
    assert CANARY not in file(paths).read_text() and json.loads((tmp_path / "ring").read_text()) == {
        CLAUDE: CANARY
    }
    assert CANARY not in (tmp_path / "ring.argv").read_text(), (
        "neither an argument nor an environment holds it"
    )
    assert ring.get(CLAUDE) == secret("bearer", CANARY)
    assert store(paths, "file", **keyring_env).get(CLAUDE) == secret("bearer", CANARY)
    assert ring.delete(CLAUDE) and json.loads((tmp_path / "ring").read_text()) == {}


def test_a_secret_that_moves_into_the_file_leaves_the_keyring(
    paths: Paths, keyring_env: dict[str, str], tmp_path: Path
):
    store(paths, "keyring", **keyring_env).set(CLAUDE, secret("bearer", CANARY))
    store(paths, "file", **keyring_env).set(CLAUDE, secret("bearer", "new"))
    assert store(paths, "keyring", **keyring_env).get(CLAUDE) == secret("bearer", "new")
    assert json.loads((tmp_path / "ring").read_text()) == {}


def test_a_keyring_that_hangs_is_an_error_in_bounded_time(
    paths: Paths, keyring_env: dict[str, str], monkeypatch
):
    store(paths, "keyring", **keyring_env).set(CLAUDE, secret("bearer", CANARY))
    monkeypatch.setattr(secrets, "_KEYRING_SECONDS", 2.0)
    hangs = keyring_env | {"PYTHON_KEYRING_BACKEND": "filekeyring.Hangs"}
    with pytest.raises(TimedOut, match="keyring"):
        store(paths, "keyring", **hangs).get(CLAUDE)
    auto = SecretStore(paths, hangs | {"DBUS_SESSION_BUS_ADDRESS": "unix:path=/nonexistent"})
    assert auto.backend == "keyring"
    assert auto.set("other", secret("plain", "kept")) == "file"
    assert auto.get("other") == secret("plain", "kept")


def test_a_locked_keyring_is_never_taken_for_no_secret(paths: Paths, keyring_env: dict[str, str]):
    store(paths, "keyring", **keyring_env).set(CLAUDE, secret("bearer", CANARY))
    locked = store(paths, "keyring", **keyring_env | {"PYTHON_KEYRING_BACKEND": "filekeyring.Locked"})
    with pytest.raises(Refused, match="locked"):
        locked.get(CLAUDE)
    with pytest.raises(Refused, match="locked"):
        locked.set(CLAUDE, secret("bearer", "new"))


def test_without_a_session_bus_the_file_is_used(paths: Paths):
    assert SecretStore(paths, {}).backend == ("keyring" if sys.platform == "darwin" else "file")
    assert (
        SecretStore(paths, {"THOPTER_SECRETS_BACKEND": "file", "DBUS_SESSION_BUS_ADDRESS": "x"}).backend
        == "file"
    )
    with pytest.raises(BadInput):
        SecretStore(paths, {"THOPTER_SECRETS_BACKEND": "paper"})
