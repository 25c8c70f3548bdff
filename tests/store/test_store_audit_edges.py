"""Commands that are too long to keep, and anchors that a full disk, a crash or a hand left otherwise."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from audit_reader import look
from hypothesis import given, settings
from hypothesis import strategies as st
from store_support import Use

from thopter.model.events import Event
from thopter.store.anchors import Anchors
from thopter.store.audit import Wanted
from thopter.store.audit_chain import Anchor, bounded, canonical, command_words
from thopter.store.store import Store

MOST = 16_000
DEED = ["sh", "-c", "rm -rf /work/.git"]


def _exec(argv: list[str]) -> dict[str, Any]:
    """What is recorded of a command, as people's hands are."""
    data = {"name": "heron-1", "argv": command_words(argv), "cwd": "/work", "terminal": False}
    return bounded(data)


@pytest.mark.battery("X6")
@pytest.mark.parametrize(
    "padding",
    [["x" * 1000] * 60, ["x" * 10_000] * 100, ["\u0436" * 1000] * 60, ["\x1b" * 1000] * 60,
     ["\U0001f600" * 500] * 64, ['"' * 1000] * 64],
    ids=["long", "very long", "letters that are escaped", "controls", "two escapes each", "quotes"],
)  # fmt: skip
def test_a_command_is_not_hidden_by_what_is_put_after_it(
    use: Use, tmp_path: Path, padding: list[str]
) -> None:
    found = _exec(DEED + padding)
    assert found["argv"][:3] == DEED
    assert (found["name"], found["cwd"], found["terminal"]) == ("heron-1", "/work", False)
    assert found["cut"] > MOST, "it says how much there was of it"
    assert found["argv"][-1].startswith("\u2026 and ") and found["argv"][-1].endswith(" more")
    assert len(canonical(found)) <= MOST

    async def go(store: Store) -> None:
        data = {"name": "heron-1", "argv": command_words(DEED + padding)}
        await store.events.append([Event(kind="person.exec", at_ms=1, box="box_1", data=data)])
        (line,) = await store.audit.read(Wanted(kind="person.exec"))
        assert line.data["argv"][:3] == DEED and line.name == "heron-1"

    use(go)
    assert look(tmp_path)[0] == [], "and any reader agrees with its hash"


@pytest.mark.battery("X6")
def test_a_word_that_is_cut_says_how_long_it_was() -> None:
    argv = ["sh", "-c", "echo " + "y" * 99_995]
    word = _exec(argv)["argv"][2]
    assert word == "echo " + "y" * 995 + "\u2026 (100000 characters)"
    assert _exec(["sh", "-c", "z" * 1000])["argv"][2] == "z" * 1000, "what fits is left alone"


def test_what_is_secret_stays_hidden_also_in_what_is_cut() -> None:
    argv = ["curl", "--password", "canary-1", "--api-key=canary-2", "https://me:canary-33@e.test/"]
    found = _exec(argv + ["x" * 1000] * 60)
    assert found["cut"] > MOST and "canary" not in json.dumps(found)


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from('x"\\\x1b\u0436\U0001f600\ud800'), st.integers(0, 1500)), max_size=2),
    st.integers(0, 70), st.integers(0, 4), st.integers(0, 70),
)  # fmt: skip
def test_whatever_is_told_its_record_is_small(
    letters: list[tuple[str, int]], many: int, deep: int, wide: int
) -> None:
    text = "".join(letter * count for letter, count in letters)
    value: Any = text
    for _ in range(deep):
        value = [value, {text: value}]
    data = {"name": "heron-1", "argv": [value] * many} | {f"{n}{text}": value for n in range(wide)}
    found = bounded(data)
    assert len(canonical(found)) <= MOST
    assert json.loads(canonical(found)) == found
    if "cut" in found:
        assert found["cut"] > MOST and found["name"] == "heron-1"


# ---------------------------------------------------------------------------------- anchors


def _anchors(folder: Path, count: int) -> Path:
    anchors = Anchors(folder / "audit.anchors")
    for n in range(1, count + 1):
        assert anchors.add(Anchor(n, f"{n:064x}", n)) is False
    return anchors.path


FULL = """
import errno, resource, signal, sys
from pathlib import Path
from thopter.store.anchors import Anchors
from thopter.store.audit_chain import Anchor
path, room = Path(sys.argv[1]), int(sys.argv[2])
anchors = Anchors(path)
most = path.stat().st_size + room
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (most, resource.RLIM_INFINITY))
try:
    anchors.add(Anchor(4, "4" * 64, 4))
except OSError as e:
    print("refused", errno.errorcode[e.errno])
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
print(path.stat().st_size - most + room, anchors.add(Anchor(5, "5" * 64, 5)))
"""


@pytest.mark.parametrize("room", [0, 1, 40, 68])
def test_an_anchor_that_the_disk_had_no_room_for_is_not_there_in_part(tmp_path: Path, room: int) -> None:
    path = _anchors(tmp_path, 3)
    env = {"PYTHONPATH": os.pathsep.join(sys.path)}
    argv = [sys.executable, "-c", FULL, str(path), str(room)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=True, env=env)
    refused, after = done.stdout.splitlines()
    assert refused in ("refused ENOSPC", "refused EFBIG"), done.stdout
    assert after == "0 False", "as long as before; the next one is written as ever"
    found = Anchors(path).read()
    assert ([a.seq for a in found.anchors], found.bad) == ([1, 2, 3, 5], 0)


@pytest.mark.parametrize("keep", [1, 30, 67])
def test_a_line_that_was_cut_short_is_taken_off_and_nothing_else(tmp_path: Path, keep: int) -> None:
    path = _anchors(tmp_path, 3)
    whole = path.read_bytes()
    lines = whole.splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:2]) + lines[2][:keep])
    read = Anchors(path).read()
    assert ([a.seq for a in read.anchors], read.bad) == ([1, 2], 0), "it is no sign of anybody's hand"
    assert Anchors(path).add(Anchor(3, f"{3:064x}", 3)) is False
    assert path.read_bytes() == whole


def test_what_was_never_a_line_of_ours_is_left_and_counted(tmp_path: Path) -> None:
    path = _anchors(tmp_path, 2)
    strange = b"x" * 500
    path.write_bytes(path.read_bytes() + strange)
    assert Anchors(path).add(Anchor(3, "3" * 64, 3)) is False
    found = Anchors(path).read()
    assert ([a.seq for a in found.anchors], found.bad) == ([1, 2, 3], 1)
    assert strange in path.read_bytes()


@pytest.mark.parametrize("how", ["removed", "emptied", "another"])
def test_a_file_that_went_away_while_it_was_used_is_told_once(tmp_path: Path, how: str) -> None:
    path = tmp_path / "audit.anchors"
    anchors = Anchors(path)
    assert anchors.add(Anchor(1, "1" * 64, 1)) is False, "the first one ever is no news"
    anchors.add(Anchor(2, "2" * 64, 2))
    if how == "emptied":
        path.write_bytes(b"")
    else:
        path.unlink()
    if how == "another":
        path.touch()
    assert anchors.add(Anchor(3, "3" * 64, 3)) is True
    assert anchors.add(Anchor(4, "4" * 64, 4)) is False
    assert os.stat(path).st_mode & 0o777 == 0o600 or how == "another"
    assert [a.seq for a in Anchors(path).read().anchors] == [3, 4]


def test_who_reads_while_the_first_anchor_is_written_does_not_make_it_one_that_was_begun_anew(
    tmp_path: Path,
) -> None:
    for n in range(20):
        anchors = Anchors(tmp_path / f"audit.anchors.{n}")
        over = threading.Event()

        def look(anchors: Anchors = anchors, over: threading.Event = over) -> None:
            while not over.is_set():
                anchors.read()

        reader = threading.Thread(target=look)
        reader.start()
        try:
            assert anchors.add(Anchor(1, "1" * 64, 1)) is False
        finally:
            over.set()
            reader.join()
