"""Everything again as an ordinary user: root starts the same tests under a user id of nobody's."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import thopter
from thopter.kit.linux import procs
from thopter.model.errors import Refused
from thopter.model.nouns import Isolation
from thopter.providers.local import modes

SOURCE = Path(thopter.__file__).parent.parent
HERE = Path(__file__).parent
FILES = (
    "test_local_conformance.py",
    "test_local_walls.py",
    "test_local_daily_work.py",
    "test_local_limits.py",
    "test_local_saving.py",
    "test_local_carrying.py",
)


@contextlib.contextmanager
def home_of(user: int) -> Iterator[Path]:
    """A folder of that user."""
    folder = Path(tempfile.mkdtemp(prefix="thopter-u-", dir="/tmp"))
    os.chown(folder, user, user)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def alive(user: int) -> list[str]:
    """The processes of that user (no zombies: some first processes of machines do not reap)."""
    found = []
    for pid in procs.all_pids():
        try:
            if os.stat(f"/proc/{pid}").st_uid == user and not procs.stopped(pid):
                found.append(" ".join(procs.command_line(pid)))
        except OSError:
            continue
    return found


def python() -> str:
    """An interpreter that everybody may run and that takes the same packages."""
    wanted = f"python{sys.version_info.major}.{sys.version_info.minor}"
    found = shutil.which(wanted, path="/usr/bin:/usr/local/bin")
    if found is None:
        pytest.skip(f"no {wanted} that an ordinary user may run")
    return found


@pytest.mark.root
@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("file", FILES)
def test_as_an_ordinary_user(file: str) -> None:
    user = 54_321 + FILES.index(file)  # one each: they may run at the same time
    packages = [p for p in sys.path if p.endswith("site-packages")]
    argv = ["setpriv", "--reuid", str(user), "--regid", str(user), "--clear-groups", python(), "-m", "pytest"]
    with home_of(user) as home:
        env = {
            "PATH": "/usr/bin:/bin", "HOME": str(home), "TMPDIR": str(home), "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONPATH": ":".join([str(SOURCE), *packages]),
        }  # fmt: skip
        done = subprocess.run(
            [*argv, str(HERE / file), "--basetemp", str(home / "t"), "-p", "no:xdist"],
            cwd=HERE.parent.parent, env=env, capture_output=True, text=True, timeout=540, check=False,
        )  # fmt: skip
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-1000:]
    assert "passed" in done.stdout
    deadline = time.monotonic() + 30
    while left := alive(user):
        assert time.monotonic() < deadline, left
        time.sleep(0.1)


def test_root_never_falls_back_to_anything_weaker() -> None:
    assert [m.isolation for m in modes.choices(0, 0, "auto")] == [Isolation.NAMESPACES_IDMAPPED]
    for asked in ("namespaces-user", "bubblewrap"):
        with pytest.raises(Refused, match="can't be had by root"):
            modes.choices(0, 0, asked)


def test_no_isolation_is_never_chosen_by_itself() -> None:
    for uid in (0, 1000):
        assert Isolation.NONE not in [m.isolation for m in modes.choices(uid, uid, "auto")]
