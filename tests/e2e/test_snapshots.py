"""The commands about snapshots, by the real command line: list, show, default, replace, prune, full disks."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from e2e_lab import Lab, lab

from thopter.kit.linux import calls

sys.path.append(str(Path(__file__).parent.parent / "providers"))

from test_local_building import layout, programs, tarred

pytestmark = [pytest.mark.claude, pytest.mark.root, pytest.mark.xdist_group("e2e"), pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def house() -> Iterator[Lab]:
    """A lab with one thopter, ``owl``."""
    with lab() as made:
        made.run("create", "owl", timeout=300)
        yield made


@pytest.fixture(autouse=True)
def _empty(house: Lab) -> Iterator[None]:
    yield
    house.run("snapshot", "default", "--clear")
    snaps = names(house)
    if snaps:
        house.run("snapshot", "destroy", *snaps)


def names(house: Lab) -> list[str]:
    """Names of all snapshots, oldest first."""
    return [s["name"] for s in house.json("snapshot", "list")["snapshots"]]


def test_snapshots_are_made_listed_shown_and_destroyed_by_name_or_id(house: Lab) -> None:
    house.run("snapshot", "create", "owl", "one")
    assert house.run("snapshot", "create", "owl", "one", check=False).returncode == 5
    house.run("snapshot", "create", "owl", "two")
    shown = house.json("snapshot", "show", "two")
    assert (shown["name"], shown["source"], shown["state"]) == ("two", "owl", "ready")
    text = house.run("snapshot", "list").stdout
    assert all(word in text for word in ("NAME", "one", "two", "owl", shown["id"]))
    house.run("snapshot", "destroy", shown["id"])
    assert names(house) == ["one"]
    assert house.run("snapshot", "destroy", "two", check=False).returncode == 3
    assert house.run("snapshot", "destroy", "one", "two", check=False).returncode == 8
    assert names(house) == [] and house.leaks() == []


def test_replace_makes_the_new_one_before_the_old_one_goes(house: Lab) -> None:
    house.run("snapshot", "create", "owl", "base")
    old = house.json("snapshot", "show", "base")["id"]
    house.run("exec", "owl", "--", "sh", "-c", "echo new > /root/new")
    house.run("snapshot", "replace", "owl", "base")
    new = house.json("snapshot", "show", "base")["id"]
    assert new != old and names(house) == ["base"]
    assert house.run("snapshot", "show", old, check=False).returncode == 3
    house.run("create", "chick", "--snapshot", "base", timeout=300)
    assert house.run("exec", "chick", "--", "cat", "/root/new").stdout == "new\n"
    house.run("destroy", "--yes", "chick")


def test_the_default_snapshot_is_chosen_shown_and_cleared_and_one_that_went_is_told(house: Lab) -> None:
    house.run("snapshot", "create", "owl", "gold")
    house.run("snapshot", "default", "gold")
    assert house.run("snapshot", "default").stdout == "gold\n"
    assert [s["default"] for s in house.json("snapshot", "list")["snapshots"]] == [True]
    house.run("snapshot", "destroy", "gold")
    assert "not there" in house.run("snapshot", "list").stderr
    gone = house.run("create", "x", check=False)
    assert gone.returncode == 3 and "--fresh" in gone.stderr
    house.run("snapshot", "default", "--clear")
    assert "No default" in house.run("snapshot", "default").stdout


def test_prune_removes_what_nobody_needs_and_nothing_else(house: Lab) -> None:
    house.run("snapshot", "create", "owl", "kept")
    house.run("snapshot", "create", "owl", "old")
    house.run("snapshot", "default", "kept")
    house.run("checkpoint", "owl", "mine")
    house.run("create", "brief", "--fresh", timeout=300)
    house.run("checkpoint", "brief", "orphan")
    house.run("destroy", "--yes", "brief")
    for argv in (("--named",), ("--older-than", "soon"), ("--older-than", "-1d")):
        assert house.run("snapshot", "prune", *argv, check=False).returncode == 2

    def pruned(*argv: str) -> list[str]:
        return [s["label"] or s["name"] for s in house.json("snapshot", "prune", *argv)["snapshots"]]

    left = [c["label"] for c in house.json("checkpoints", "owl")]
    assert pruned("--dry-run") == pruned() == [], "checkpoints go with their thopter, others are needed"
    assert pruned("--older-than", "0h", "--dry-run") == ["mine"] == pruned("--older-than", "0h", "--dry-run")
    assert pruned() == [] and pruned("--older-than", "1h", "--named") == []
    assert [c["label"] for c in house.json("checkpoints", "owl")] == left == ["mine"]
    assert pruned("--older-than", "0h") == ["mine"]
    assert names(house) == ["kept", "old"]
    assert pruned("--older-than", "0h", "--named") == ["old"]
    assert names(house) == ["kept"], "the default one is never pruned"
    assert house.leaks() == []


def test_what_an_image_lacks_is_shown_and_a_run_in_it_is_refused(house: Lab) -> None:
    image = layout(house.folder / "image", tarred(*programs("dash"), ("usr/bin/sh", "dash")))
    house.run("snapshot", "build", str(image), "--name", "bare")
    assert set(house.json("snapshot", "show", "bare")["missing"]) == {"tmux", "git"}
    assert "tmux (agents run in it)" in house.run("snapshot", "show", "bare").stdout
    before = house.json("status")
    done = house.run("run", "-d", "--snapshot", "bare", "go", check=False)
    assert done.returncode == 5 and "lacks tmux" in done.stderr and "--fresh" in done.stderr, done.stderr
    assert [v["name"] for v in house.json("status")] == [v["name"] for v in before], "nothing was made"
    for argv in (("debian:No Suite",), ("debian:trixie", "-p", "-y"), (str(image), "-p", "jq"), ("debian",)):
        bad = house.run("snapshot", "build", *argv, check=False)
        assert bad.returncode == 2 and "Traceback" not in bad.stderr, (argv, bad.stderr)
    assert names(house) == ["bare"] and house.leaks() == []


def test_an_export_to_a_full_disk_says_so_and_leaves_no_half_file(house: Lab) -> None:
    house.run("exec", "owl", "--", "sh", "-c", "head -c 9000000 /dev/urandom > /root/bulk")
    house.run("snapshot", "create", "owl", "big")
    full = house.folder / "full"
    full.mkdir()
    calls.mount("none", str(full), "tmpfs", 0, "size=4m")
    try:
        (full / "big.box").write_text("an older file")
        done = house.run("snapshot", "export", "big", str(full / "big.box"), check=False)
        assert done.returncode == 1 and os.strerror(errno.ENOSPC) in done.stderr, done.stderr
        assert "Traceback" not in done.stderr
        assert [p.name for p in full.iterdir()] == ["big.box"]
        assert (full / "big.box").read_text() == "an older file", "what was there stays"
    finally:
        calls.umount(str(full))
    missing = house.run("snapshot", "export", "big", str(Path("nowhere", "big.box")), check=False)
    assert missing.returncode == 1 and "No such file" in missing.stderr
    assert house.run("snapshot", "export", "none", "x.box", check=False).returncode == 3
    assert not (house.folder / "x.box").exists() and not list(house.folder.glob(".*.part"))
