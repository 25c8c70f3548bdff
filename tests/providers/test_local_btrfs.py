"""The pool of an ordinary user on a btrfs of somebody else's: subvolumes it may make but not destroy."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import traceback
from collections.abc import Iterator
from pathlib import Path

import pytest

from thopter.kit.linux import calls, loop
from thopter.model.nouns import Limits
from thopter.providers.local.pool import Pool

USER = 54_990


@pytest.fixture
def theirs() -> Iterator[Path]:
    """A folder of an ordinary user on a btrfs that is mounted without user_subvol_rm_allowed."""
    tool = shutil.which("mkfs.btrfs", path=os.defpath + ":/usr/sbin:/sbin")
    if tool is None:
        pytest.skip("mkfs.btrfs is not installed: nothing is shown of btrfs")
    top = Path(tempfile.mkdtemp(prefix="thopter-btrfs-", dir="/tmp"))
    top.chmod(0o755)
    mounted = top / "fs"
    mounted.mkdir()
    try:
        with open(top / "image", "xb") as f:
            f.truncate(1 << 30)
        subprocess.run([tool, "-q", str(top / "image")], check=True, capture_output=True, timeout=120)
        with loop.attached(top / "image") as device:
            calls.mount(device, str(mounted), "btrfs")
        try:
            home = mounted / "home"
            home.mkdir()
            os.chown(home, USER, USER)
            yield home
        finally:
            calls.umount(str(mounted))
    finally:
        shutil.rmtree(top)


@pytest.mark.root
def test_an_ordinary_user_on_btrfs_makes_saves_and_removes_boxes(theirs: Path) -> None:
    """In a process of that user."""
    pid = os.fork()
    if pid == 0:
        try:
            os.setgroups([])
            os.setresgid(USER, USER, USER)
            os.setresuid(USER, USER, USER)
            _work(theirs)
        except BaseException:
            (theirs / "problem").write_text(traceback.format_exc())
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
    assert not (theirs / "problem").exists(), (theirs / "problem").read_text()
    assert sorted(p.name for p in (theirs / "pool").iterdir()) == [".saved"]
    assert list((theirs / "pool/.saved").iterdir()) == []


def _work(state: Path) -> None:
    pool = Pool(state, "auto", False)
    pool.start()
    assert pool.subvolumes and not pool.limits_disk
    assert "quotas are off" in pool.missing, pool.missing
    assert pool.names() == set(), "the probe is gone"
    top = pool.make("one", 0, Limits())
    (top / "root/upper/deep/er").mkdir(parents=True)
    (top / "root/upper/deep/er/file").write_text("x")
    (top / "root/upper/deep").chmod(0)  # as a box can
    assert pool.save("one", "snap") == -1
    two = pool.start_from("snap", "two", Limits())
    (two / "root/upper/deep").chmod(0o700)
    assert (two / "root/upper/deep/er/file").read_text() == "x"
    for _ in range(2):  # gone is gone
        pool.remove("one")
        pool.remove_saved("snap")
        pool.remove("two")
