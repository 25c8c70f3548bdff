"""The disk below everything gets full, slowly or at once, and has room again: nothing finished is lost."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from e2e_lab import Lab, lab

from thopter.testing.survive import SCENARIO

pytestmark = [pytest.mark.claude, pytest.mark.root, pytest.mark.xdist_group("e2e"), pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def house() -> Iterator[Lab]:
    """Two thopters whose hub has a small disk of its own; ``ada`` has written a note."""
    with lab(SCENARIO, disk_mb=4096) as made:
        made.repo("proj")
        for name in ("ada", "ben"):
            made.run("run", "-d", "--repo", "proj", "--name", name, "Wait for my notes.", timeout=300)
        made.run("tell", "ada", "note 1")
        made.rest("ada", "ben")
        yield made


def _fill(made: Lab, leave: int) -> Path:
    """Use up the disk of the state folder but for ``leave`` bytes."""
    ballast = made.paths.state / "ballast"
    room = os.statvfs(made.paths.state)
    with ballast.open("xb") as f:
        size = room.f_bavail * room.f_frsize - leave
        while size > 4096:  # blocks for the file's own description are needed too
            try:
                os.posix_fallocate(f.fileno(), os.fstat(f.fileno()).st_size, size)
                size = 0 if leave else size // 2
            except OSError:
                size //= 2
    return ballast


def _notes(made: Lab, name: str) -> list[str]:
    return made.run("exec", name, "--", "cat", "notes.txt").stdout.split()


def test_boxes_stand_still_before_the_disk_is_full_and_go_on_with_what_they_were_told(house: Lab) -> None:
    ballast = _fill(house, 300 << 20)
    try:
        for name in ("ada", "ben"):
            house.until(f"{name} is held", lambda n=name: house.view(n)["box_state"] == "frozen")
            assert "the disk is nearly full" in house.view(name)["problem"]
        house.until("a note tells it", lambda: _told(house))
        house.run("hub", "restart")
        assert house.view("ada")["box_state"] == "frozen", "the next hub knows it too"
        house.run("tell", "--when-idle", "ada", "note 2")
        assert house.run("doctor", check=False).returncode == 1
    finally:
        ballast.unlink()
    house.until("ada goes on", lambda: _is_up(house, "ada") and _notes(house, "ada") == ["1", "2"])
    assert house.view("ada")["problem"] == ""
    assert len(_told(house)) == 1, "one note for all of them, the restart of the hub included"
    house.rest("ada", "ben")


def test_a_disk_that_is_full_at_once_costs_no_finished_turn(house: Lab) -> None:
    house.run("tell", "ben", "note 3")
    house.rest("ben")
    before = house.run("tail", "ben", "-n", "99").stdout
    house.until("it is on the disk", lambda: _flushed(house))
    ballast = _fill(house, 0)
    try:
        # Something in a box is written, and can't be: the kernel gives the boxes' disk up.
        house.run("exec", "ben", "--", "sh", "-c", "head -c 64M /dev/urandom > big; sync", check=False)
        house.until("that is seen", lambda: house.view("ben")["box_state"] == "lost")
        refused = house.run("tell", "--when-idle", "ben", "note 4", check=False)
        assert refused.returncode == 1 and "no room left" in refused.stderr
    finally:
        ballast.unlink()
    for name in ("ada", "ben"):
        house.until(f"{name} is back", lambda n=name: house.run("resume", n, check=False).returncode == 0)
    house.rest("ada", "ben")
    assert _notes(house, "ben") == ["3"]
    assert house.run("exec", "ben", "--", "git", "fsck", "--strict").returncode == 0
    assert house.run("tail", "ben", "-n", "99").stdout.count("Noted 3.") == before.count("Noted 3.") == 1
    house.run("tell", "ben", "note 4")
    house.rest("ben")
    assert _notes(house, "ben") == ["3", "4"]
    assert house.leaks() == []


def _told(made: Lab) -> list[str]:
    notes = (n["note"] for n in made.json("notify", "list"))
    return [n["letter"]["title"] for n in notes if n["kind"] == "disk"]


def _is_up(made: Lab, name: str) -> bool:
    view = made.view(name)
    return view["box_state"] == "ready" and view["state"] == "waiting"


def _flushed(made: Lab) -> bool:
    """True when the note of ``ben`` is on the disk, by the word of the filesystem."""
    box = made.view("ben")["id"]
    (file,) = (made.paths.state / "pool" / box).rglob("notes.txt")
    told = subprocess.run(["filefrag", "-v", str(file)], capture_output=True, text=True, check=True).stdout
    return "delalloc" not in told
