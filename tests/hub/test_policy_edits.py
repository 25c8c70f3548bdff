"""Several who change the policy file at once: nothing that anybody wrote is lost."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from thopter.hub.shelf import Shelf
from thopter.hub.shelf_edit import with_host
from thopter.kit.paths import Paths
from thopter.kit.secrets import SecretStore, secret
from thopter.model.api.secrets import BindRequest, UnbindRequest
from thopter.model.errors import Refused

OURS = "# ours\n"


@pytest.fixture
def shelf(root: Path) -> Iterator[Shelf]:
    paths = Paths(root / "state", root / "run", root / "config")
    paths.config.mkdir(mode=0o700)
    store = SecretStore(paths, {}, "file")
    store.set("key", secret("plain", "a-secret-value"))
    yield Shelf(paths, store)


def hosts(shelf: Shelf) -> set[str]:
    """What boxes under the default policy may reach by name, besides what they may as shipped."""
    shelf.poll()
    assert shelf.problem == ""
    return {h for rule in shelf.get("default").rules for h in rule.hosts if h.endswith(".test")}


def outside(shelf: Shelf, host: str) -> None:
    """Somebody's editor saves the file with one more host in it: no lock, another file in its place."""
    new = shelf.file.with_name(f"editor.{host}")
    text = shelf.file.read_text() if shelf.file.exists() else OURS
    new.write_text(with_host(text, "default", host, 443))
    new.replace(shelf.file)


PROGRAM = """
import asyncio, sys
from pathlib import Path
from thopter.hub.shelf import Shelf
from thopter.kit.paths import Paths
from thopter.kit.secrets import SecretStore
paths = Paths(*map(Path, sys.argv[1:4]))
shelf = Shelf(paths, SecretStore(paths, {}, "file"))
for n in range(10):
    asyncio.run(shelf.allow_always("default", f"other-{n}.test", 443))
"""


def test_whoever_edits_at_once_loses_nothing_of_the_others_in_this_hub_or_in_another(shelf: Shelf) -> None:
    """Two hubs of one person share the file; so do an approval and a binding of one hub."""
    folders = [str(shelf.file.parent.parent / name) for name in ("other-state", "other-run", "config")]
    env = {"PYTHONPATH": os.pathsep.join(sys.path), "PATH": os.environ["PATH"]}
    other = subprocess.Popen([sys.executable, "-c", PROGRAM, *folders], env=env)
    try:

        async def ours() -> None:
            async with asyncio.timeout(60), asyncio.TaskGroup() as group:
                for n in range(10):
                    group.create_task(shelf.allow_always("default", f"ours-{n}.test", 443))
                    group.create_task(shelf.bind(BindRequest(name="key", host=f"bound-{n}.test")))

        asyncio.run(ours())
        assert other.wait(60) == 0
    finally:
        other.kill()
        other.wait()
    kinds = ("ours", "bound", "other")
    assert hosts(shelf) == {f"{kind}-{n}.test" for kind in kinds for n in range(10)}
    assert {b.host for b in shelf.bindings()} == {f"bound-{n}.test" for n in range(10)}


class Meddler:
    """Saves the file once at a moment of an edit, or each time."""

    def __init__(self, shelf: Shelf, times: int = 1) -> None:
        self.shelf = shelf
        self.left = times
        self.saved: list[str] = []

    def save(self) -> None:
        if self.left:
            self.left -= 1
            self.saved.append(f"outside-{len(self.saved)}.test")
            outside(self.shelf, self.saved[-1])

    def before(self, change: Callable[[str], str]) -> Callable[[str], str]:
        """An edit that takes so long that somebody saves meanwhile."""

        def slow(text: str) -> str:
            self.save()
            return change(text)

        return slow


def _while_it_is_edited(meddler: Meddler, patch: pytest.MonkeyPatch) -> None:
    edit: Any = meddler.shelf._edit
    patch.setattr(meddler.shelf, "_edit", lambda change: edit(meddler.before(change)))


def _while_it_is_written(meddler: Meddler, patch: pytest.MonkeyPatch) -> None:
    """At the last moment: the new file is on the disk already, not yet in its place."""
    sync = os.fsync

    def fsync(fd: int) -> None:
        sync(fd)
        if os.readlink(f"/proc/self/fd/{fd}").startswith(f"{meddler.shelf.file.parent}/.policy.toml."):
            meddler.save()

    patch.setattr(os, "fsync", fsync)


MOMENTS = pytest.mark.parametrize("moment", [_while_it_is_edited, _while_it_is_written])
Moment = Callable[[Meddler, pytest.MonkeyPatch], None]


@MOMENTS
@pytest.mark.parametrize("what", ["allow", "bind", "unbind"])
def test_what_somebody_saves_in_the_middle_of_an_edit_is_kept(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch, moment: Moment, what: str
) -> None:
    asyncio.run(shelf.bind(BindRequest(name="key", host="bound.test")))
    shelf.poll()
    meddler = Meddler(shelf)
    with monkeypatch.context() as patch:
        moment(meddler, patch)
        if what == "allow":
            asyncio.run(shelf.allow_always("default", "mine.test", 443))
        elif what == "bind":
            asyncio.run(shelf.bind(BindRequest(name="key", host="mine.test")))
        else:
            assert asyncio.run(shelf.unbind(UnbindRequest(name="key")))
    mine = {"bound.test", "mine.test"} if what != "unbind" else set()
    assert hosts(shelf) == {"outside-0.test"} | mine
    assert {b.host for b in shelf.bindings()} == {
        "allow": {"bound.test"}, "bind": {"bound.test", "mine.test"}, "unbind": set()
    }[what]  # fmt: skip
    assert [p.name for p in shelf.file.parent.iterdir() if p.name.startswith(".")] == []


@MOMENTS
def test_where_somebody_saves_all_the_time_the_edit_is_refused_and_theirs_stands(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch, moment: Moment
) -> None:
    meddler = Meddler(shelf, times=100)
    with monkeypatch.context() as patch:
        moment(meddler, patch)
        with pytest.raises(Refused, match="being changed by somebody else"):
            asyncio.run(shelf.allow_always("default", "mine.test", 443))
    assert hosts(shelf) == set(meddler.saved)
    assert 2 <= len(meddler.saved) <= 10
    assert [p.name for p in shelf.file.parent.iterdir() if p.name.startswith(".")] == []


def test_a_file_that_is_taken_away_in_the_middle_of_an_edit_stays_away_but_for_that_edit(
    shelf: Shelf,
) -> None:
    outside(shelf, "theirs.test")
    gone = threading.Event()

    def change(text: str) -> str:
        if not gone.is_set():
            gone.set()
            shelf.file.unlink()
        return with_host(text, "default", "mine.test", 443)

    shelf._edit(change)
    assert hosts(shelf) == {"mine.test"} and OURS not in shelf.file.read_text()
