"""A suspended box gives its memory back when there is swap, has it again when it goes on, and the truth
is told where there is none."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from local_lab import Lab

from thopter.kit.linux import cgroups

pytestmark = [pytest.mark.root, pytest.mark.xdist_group("swap")]

_MIB = 200
# Keeps random bytes, says how many and their digest, and once more when told to go on.
_HOARDER = f"""
import hashlib, os, sys, time
kept = [os.urandom(1 << 20) for _ in range({_MIB})]
def told():
    return hashlib.sha256(b"".join(kept[::7])).hexdigest() + hashlib.sha256(kept[-1]).hexdigest()
open("/root/first", "w").write(told())
os.rename("/root/first", "/root/before")
while not os.path.exists("/root/again"):
    time.sleep(0.05)
open("/root/second", "w").write(told())
os.rename("/root/second", "/root/after")
"""


@pytest.fixture
def swap() -> Iterator[None]:
    """Swap in a file, for the time of a test."""
    folder = Path(tempfile.mkdtemp(prefix="thopter-swap-", dir="/var/tmp"))
    file = folder / "swap"
    try:
        with open(file, "xb") as f:
            os.fchmod(f.fileno(), 0o600)
            os.posix_fallocate(f.fileno(), 0, 2 * _MIB << 20)
        made = subprocess.run(["mkswap", file], capture_output=True, text=True, check=False)
        on = subprocess.run(["swapon", file], capture_output=True, text=True, check=False)
        if made.returncode or on.returncode:
            pytest.skip(f"no swap can be made here ({on.stderr.strip()}): nothing is shown of it")
        try:
            yield
        finally:
            subprocess.run(["swapoff", file], check=True, timeout=300)
    finally:
        shutil.rmtree(folder)


def memory_of(lab: Lab, key: str) -> int:
    """What the kernel counts for the box."""
    groups = lab.provider._maker.groups
    h = next(h for h in groups.hierarchies if "memory" in h.controllers)
    record = lab.provider._maker.records.read(key)
    assert record is not None
    name = "memory.current" if h.version == 2 else "memory.usage_in_bytes"
    return int(Path(h.group(record.group), name).read_text())


def wait_for(lab: Lab, key: str, file: str) -> str:
    """What the box wrote there."""
    end = time.monotonic() + 120
    while time.monotonic() < end:
        done = lab.exec(key, "cat", file)
        if done.exit == 0:
            return done.stdout.decode()
        time.sleep(0.1)
    raise AssertionError(f"{file} was not written")


def test_a_suspended_box_gives_its_memory_back_and_has_it_again(own_lab: Lab, swap: None) -> None:
    if "memory" not in own_lab.provider._maker.groups.limits:
        pytest.skip("no memory controller: nothing is shown of giving memory back")
    assert "swap" not in own_lab.run(own_lab.provider.caps()).missing
    box = own_lab.box()
    own_lab.sh(box.key, f"cat > /root/hoard.py <<'E'\n{_HOARDER}\nE\n")
    own_lab.sh(box.key, "setsid python3 /root/hoard.py >/dev/null 2>&1 </dev/null &")
    before = wait_for(own_lab, box.key, "/root/before")
    held = memory_of(own_lab, box.key)
    assert held > _MIB << 20
    own_lab.run(own_lab.provider.freeze(box.key))
    freed = own_lab.run(own_lab.provider.reclaim(box.key), 300)
    left = memory_of(own_lab, box.key)
    assert freed > (_MIB << 20) * 3 // 4, (held, freed, left)
    assert left < held - (_MIB << 20) * 3 // 4, (held, freed, left)
    own_lab.run(own_lab.provider.thaw(box.key))
    own_lab.sh(box.key, "touch /root/again")
    assert wait_for(own_lab, box.key, "/root/after") == before


def test_without_swap_it_is_said(own_lab: Lab) -> None:
    if cgroups.any_swap():
        pytest.skip("this machine has swap")
    assert "no swap" in own_lab.run(own_lab.provider.caps()).missing["swap"]
    box = own_lab.box()
    own_lab.run(own_lab.provider.freeze(box.key))
    assert own_lab.run(own_lab.provider.reclaim(box.key)) == 0
