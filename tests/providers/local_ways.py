"""Which way of keeping boxes apart the tests of the local provider use, and running them in others.

``THOPTER_TEST_ISOLATION`` names it; empty: whatever the provider takes by itself.
"""

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
from thopter.kit.settings import Settings, Value
from thopter.providers.local.npm import clean_env

SOURCE = Path(thopter.__file__).parent.parent
HERE = Path(__file__).parent
VM_KERNEL = HERE.parent.parent / ".dev/vm"  # where ./dev puts it
ASKED = os.environ.get("THOPTER_TEST_ISOLATION", "")
_NEEDS = {"bubblewrap": "bwrap", "container": "podman"}


def settings() -> Settings | None:
    """What ``local.isolation`` is in this run."""
    if not ASKED:
        return None
    more = {"local.vm_kernel": Value(str(VM_KERNEL), "test")} if ASKED == "vm" else {}
    return Settings({"local.isolation": Value(ASKED, "test"), **more})


def need(way: str) -> None:
    """Skip, saying so, where the program for this way is missing."""
    tool = _NEEDS.get(way, "")
    if tool and shutil.which(tool) is None:
        pytest.skip(f"{tool} is not installed: nothing is shown of boxes made by it")
    if tool == "podman" and os.path.isdir("/sys/fs/cgroup/unified"):
        argv = ["podman", "info", "--format", "{{.Host.OCIRuntime.Name}}"]
        if subprocess.run(argv, capture_output=True, text=True, check=False).stdout.strip() == "crun":
            pytest.skip("podman's crun runs nothing on a machine with both kinds of cgroups; runc does")


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


def _env(home: Path) -> str:
    """The interpreter of an environment that has our packages, also for what is started without one."""
    subprocess.run([python(), "-m", "venv", "--without-pip", str(home / "v")], check=True)
    site = next((home / "v/lib").glob("python3*/site-packages"))
    packages = [p for p in sys.path if p.endswith("site-packages")]
    (site / "thopter-tests.pth").write_text("\n".join([str(SOURCE), *packages]) + "\n")
    return str(home / "v/bin/python")


def as_user(user: int, *what: str, way: str = "", seconds: float = 540) -> str:
    """Run tests (files and options of pytest) under a user id of nobody's; its output. They must
    pass within ``seconds`` and leave no process. Of the environment they get what npm needs."""
    with home_of(user) as home:
        env = clean_env(os.environ) | {
            "PATH": "/usr/bin:/bin", "HOME": str(home), "TMPDIR": str(home), "PYTHONDONTWRITEBYTECODE": "1",
            "THOPTER_TEST_ISOLATION": way,
        }  # fmt: skip
        argv = ["setpriv", "--reuid", str(user), "--regid", str(user), "--clear-groups", _env(home)]
        done = subprocess.run(
            [*argv, "-m", "pytest", *what, "-rs", "--basetemp", str(home / "t"), "-n", "0"],
            cwd=HERE.parent.parent, env=env, capture_output=True, text=True, timeout=seconds, check=False,
        )  # fmt: skip
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-1000:]
    assert "passed" in done.stdout
    deadline = time.monotonic() + 30
    while left := alive(user):
        assert time.monotonic() < deadline, left
        time.sleep(0.1)
    return done.stdout
