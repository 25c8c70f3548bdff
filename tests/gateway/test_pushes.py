"""The outbox of pushes with real mirrors, notes, store and policies: what faults and races do to it."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import time
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from gateway_support import agit, commit, eventually, git, in_loop, until
from upstream_rig import NAME, REF, Rig

from thopter.fleet import pushes as outbox_of_pushes
from thopter.fleet.pushes import Pushes
from thopter.gateway.git import outbox, posthook
from thopter.gateway.mirror import Mirrors
from thopter.gateway.upstream import Upstreams
from thopter.hub.shelf import Shelf
from thopter.kit.clock import SystemClock
from thopter.kit.paths import Paths, find_paths
from thopter.kit.secrets import SecretStore
from thopter.kit.settings import Settings, load
from thopter.model.api.pushes import PushRequest
from thopter.model.errors import NotAllowed, StorageFull, ThopterError, TimedOut
from thopter.model.ids import BoxId, RunId
from thopter.model.nouns import Box, BoxState, RepoRef, Run, RunState
from thopter.store.pushes import QUEUED, SENT, PushRow
from thopter.store.store import Store, Tx

BOX, RUN = BoxId("box_1"), RunId("run_1")
POLICY = '[policies.open]\nextends = "default"\n[policies.open.git]\npush = "{push}"\n'


class ShakyMirrors(Mirrors):
    """Real ones that can fail as a machine without room or time makes them fail."""

    fault: ThopterError | None = None
    failed = 0

    async def branch_head(self, slug: str, name: str) -> str | None:
        if self.fault is not None:
            self.failed += 1
            raise self.fault
        return await super().branch_head(slug, name)


class ShakyUpstreams(Upstreams):
    """Real ones that can meet a machine that has no descriptors left."""

    fault: OSError | None = None
    failed = 0

    async def push(self, *args: Any) -> Any:
        if self.fault is not None:
            self.failed += 1
            raise self.fault
        return await super().push(*args)


class HeldClock(SystemClock):
    """Sleeping, while it is held, lasts until it no longer is."""

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.go.set()
        self.asleep: list[float] = []

    async def sleep(self, seconds: float) -> None:
        self.asleep.append(seconds)
        if self.go.is_set():
            return await super().sleep(seconds)
        await self.go.wait()
        return None


class Runs:
    """The newest run of a box, from the store."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def run_of(self, key: str) -> Run | None:
        return (await self._store.runs.of_box(key))[-1]


class Silent:
    """A git gateway of which nothing is heard."""

    async def git_log(self, _after: int, _wait_ms: int) -> dict[str, Any]:
        await asyncio.Event().wait()
        raise AssertionError


@dataclasses.dataclass
class Parts:
    """What the outbox needs of a hub."""

    paths: Paths
    settings: Settings
    clock: HeldClock
    store: Store
    policies: Shelf
    mirrors: ShakyMirrors
    upstreams: ShakyUpstreams
    crew: Runs
    gateways: Silent = dataclasses.field(default_factory=Silent)


class Desk:
    """A hub's outbox at work for box ``flag``, whose branch stands where it started."""

    def __init__(self, rig: Rig, parts: Parts, pushes: Pushes, tasks: dict[str, asyncio.Task[Any]]) -> None:
        self.rig = rig
        self.parts = parts
        self.pushes = pushes
        self.tasks = tasks
        self.notes = rig.root / "notes" / rig.slug
        self.mirror = parts.mirrors.path(rig.slug)

    async def moved(self, to: str) -> None:
        """Git took a push."""
        await agit("update-ref", REF, to, cwd=self.mirror)

    def noted(self, new: str, age_s: float = 0.0) -> Path:
        """The hook of a push left its note."""
        outbox.put(str(self.notes), BOX, REF, new)
        path = self.notes / NAME
        os.utime(path, (time.time() - age_s,) * 2)
        return path

    async def row(self) -> PushRow | None:
        return await self.parts.store.pushes.of(self.rig.slug, BOX)

    async def state(self, wanted: str) -> str:
        """How it stands with that commit."""
        row = await self.row()
        return row.state if row is not None and row.wanted == wanted else ""

    def told(self) -> dict[str, Any]:
        path = self.notes / f"{NAME}.told"
        return dict(json.loads(path.read_text())) if path.exists() else {}


@asynccontextmanager
async def desk(root: Path, push: str = "upstream") -> AsyncIterator[Desk]:
    """One life of it."""
    rig = Rig(root)
    await rig.mirrored()
    paths = find_paths(
        {
            "HOME": str(root),
            "THOPTER_STATE_DIR": str(root / "state"),
            "THOPTER_CONFIG_DIR": str(root / "config"),
        }
    )
    paths.config.mkdir(parents=True)
    (paths.config / "policy.toml").write_text(POLICY.format(push=push))
    secrets = SecretStore(paths, {}, "file")
    store = await Store.open(root / "hub.db")
    parts = Parts(
        paths, load(paths.config_file, {}), HeldClock(), store, Shelf(paths, secrets),
        ShakyMirrors(root / "mirrors", {}),
        ShakyUpstreams(root / "mirrors", root / "notes", lambda _p, _s: None, {}), Runs(store),
    )  # fmt: skip
    ref = RepoRef(source=str(rig.bare), slug=rig.slug, branch="main", base=rig.base)
    box = Box(id=BOX, name=NAME, provider="local", state=BoxState.READY, created_ms=1, changed_ms=1,
              memory={"policy": {"name": "open"}})  # fmt: skip
    run = Run(id=RUN, box=BOX, agent="claude", prompt="", state=RunState.WORKING, created_ms=1,
              changed_ms=1, repo=ref)  # fmt: skip

    def record(tx: Tx) -> None:
        tx.boxes.insert(box)
        tx.runs.insert(run)

    try:
        await store.write(record)
        async with asyncio.TaskGroup() as group:
            tasks: dict[str, asyncio.Task[Any]] = {}

            async def guarded(work: Coroutine[Any, Any, Any]) -> None:
                try:
                    await work
                except Exception as e:  # what the hub's nursery does: told, and nothing else ends
                    failures.append(e)

            failures: list[Exception] = []

            def spawn(name: str, work: Coroutine[Any, Any, Any]) -> object:
                tasks[name] = group.create_task(guarded(work), name=name)
                return tasks[name]

            pushes = Pushes(parts, {})  # type: ignore[arg-type]
            await pushes.start(spawn)
            try:
                yield Desk(rig, parts, pushes, tasks)
            finally:
                for task in tasks.values():
                    task.cancel()
    finally:
        await store.close()


@pytest.fixture(autouse=True)
def _looked_at_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox_of_pushes, "_LOOK_S", 0.05)


@in_loop
async def test_of_two_pushes_that_race_the_one_git_took_goes_upstream_though_the_note_is_the_others(
    tmp_path: Path,
) -> None:
    async with desk(tmp_path) as d:
        await d.moved(d.rig.a)
        note = d.noted(d.rig.b, age_s=40)  # the one that lost wrote over the note of the one that won
        await eventually(lambda: d.told().get("final"))
        assert d.told() == {"new": d.rig.a, "text": d.told()["text"], "final": True}
        assert "upstream has it" in d.told()["text"] and d.rig.at() == d.rig.a
        assert await d.state(d.rig.a) == SENT and not note.exists()


@in_loop
async def test_a_push_that_git_refused_after_its_note_brings_nothing_upstream(tmp_path: Path) -> None:
    async with desk(tmp_path) as d:
        note = d.noted(d.rig.a, age_s=40)
        await eventually(lambda: not note.exists())
        assert await d.row() is None and d.rig.at() == "", "it has no branch"
        await d.moved(d.rig.a)
        d.noted(d.rig.a)
        await eventually(lambda: d.rig.at() == d.rig.a)  # the control


@pytest.mark.parametrize("fault", [TimedOut("git is slow"), StorageFull("no room")], ids=lambda f: f.code)
@in_loop
async def test_a_note_stays_while_the_mirror_cant_say_where_the_branch_is(
    tmp_path: Path, fault: ThopterError
) -> None:
    async with desk(tmp_path) as d:
        d.parts.mirrors.fault = fault
        await d.moved(d.rig.a)
        note = d.noted(d.rig.a)
        await eventually(lambda: d.parts.mirrors.failed >= 2)
        assert note.exists() and await d.row() is None
        d.parts.mirrors.fault = None
        await eventually(lambda: d.rig.at() == d.rig.a)
        await eventually(lambda: not note.exists())


@in_loop
async def test_a_note_that_cant_be_read_is_kept_and_holds_up_nobody_elses_push(tmp_path: Path) -> None:
    async with desk(tmp_path) as d:
        d.notes.mkdir(parents=True)
        other = d.notes / "another"
        other.symlink_to(other.name)  # reading it fails, and it is there all the same
        folder = d.notes / "a-folder"
        folder.mkdir()
        with pytest.raises(OSError):
            outbox._read(other)
        await d.moved(d.rig.a)
        d.noted(d.rig.a)
        await eventually(lambda: d.rig.at() == d.rig.a)
        assert other.is_symlink() and folder.is_dir() and not d.tasks["pushes upstream"].done()
        other.unlink()
        await d.moved(d.rig.b)
        d.noted(d.rig.b)
        await eventually(lambda: d.rig.at() == d.rig.b)


def test_an_answer_that_cant_be_read_is_no_traceback_in_the_box(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    told = tmp_path / f"{NAME}.told"
    told.symlink_to(told.name)
    env = {"THOPTER_OUTBOX": str(tmp_path), "THOPTER_OUTBOX_SECONDS": "0"}
    assert posthook.main(f"{'0' * 40} {'a' * 40} {REF}\n", env) == 0
    assert capfd.readouterr().err == "thopter: taken; the hub brings it upstream as soon as it can\n"


@in_loop
async def test_an_attempt_that_fails_for_want_of_descriptors_is_made_again_but_not_at_once(
    tmp_path: Path,
) -> None:
    async with desk(tmp_path) as d:
        d.parts.upstreams.fault = OSError(24, "Too many open files")
        d.parts.clock.go.clear()
        await d.moved(d.rig.a)
        d.noted(d.rig.a)
        await eventually(lambda: d.parts.upstreams.failed > 3 or 2.0 in d.parts.clock.asleep)
        await asyncio.to_thread(until, lambda: not (d.notes / NAME).exists())
        for _ in range(5):
            d.pushes._wake.set()
            await asyncio.sleep(0.05)
        assert d.parts.upstreams.failed == 1, "it waits two seconds, whoever wakes the outbox"
        assert not d.tasks["pushes upstream"].done() and await d.state(d.rig.a) == QUEUED
        d.parts.upstreams.fault = None
        d.parts.clock.go.set()
        await eventually(lambda: d.rig.at() == d.rig.a)


@in_loop
async def test_a_failing_disk_does_not_end_the_outbox(tmp_path: Path) -> None:
    async with desk(tmp_path) as d:
        failed: list[bool] = []

        def full(_now: float) -> Any:
            failed.append(True)
            raise OSError(28, "No space left on device")

        whole, d.parts.upstreams.notes = d.parts.upstreams.notes, full  # type: ignore[method-assign]
        await eventually(lambda: len(failed) > 1)
        assert not d.tasks["pushes upstream"].done()
        d.parts.upstreams.notes = whole  # type: ignore[method-assign]
        await d.moved(d.rig.a)
        d.noted(d.rig.a)
        await eventually(lambda: d.rig.at() == d.rig.a)


@in_loop
async def test_a_persons_force_during_an_attempt_is_not_undone_when_that_attempt_fails(
    tmp_path: Path,
) -> None:
    async with desk(tmp_path) as d:
        waits, go = tmp_path / "waits", tmp_path / "go"
        script = f"[ -e {go} ] && exit 0; touch {waits}; while [ ! -e {go} ]; do sleep 0.02; done; exit 1"
        d.rig.hook("pre-receive", script)
        await d.moved(d.rig.a)
        d.noted(d.rig.a)
        await eventually(waits.exists)
        git("checkout", "-q", "-b", "theirs", d.rig.base, cwd=d.rig.work)
        theirs = commit(d.rig.work, "theirs", t="t")
        await agit("fetch", "-q", str(d.rig.work), f"{theirs}:{REF}", cwd=d.rig.bare)
        await d.pushes.order(NAME, PushRequest(force=True))
        go.touch()
        await eventually(lambda: d.rig.at() == d.rig.a)
        await _settled(d, d.rig.a, SENT)


async def _settled(d: Desk, wanted: str, state: str) -> None:
    async def so() -> bool:
        return await d.state(wanted) == state

    await eventually(so)


@in_loop
async def test_what_an_earlier_attempt_pushed_is_known_for_its_own_after_more_attempts(
    tmp_path: Path,
) -> None:
    async with desk(tmp_path) as d:
        commits = [d.rig.a]
        for n in range(2):  # the box rewrites its branch: none of these is part of another
            git("checkout", "-q", "--detach", d.rig.base, cwd=d.rig.work)
            commits.append(commit(d.rig.work, f"again {n}", a=f"again {n}"))
            kept = f"{commits[-1]}:refs/dropped/x/{commits[-1]}"
            git("push", "-q", str(d.mirror), kept, cwd=d.rig.work)
        away = d.rig.bare.with_name("away.git")
        d.rig.bare.rename(away)
        for one in commits[:2]:  # the outcome of neither is heard
            await d.moved(one)
            d.noted(one)
            await eventually(lambda one=one: d.told().get("new") == one)
        row = await d.row()
        assert row is not None and row.state == QUEUED and row.tried.split() == commits[:2]
        git("update-ref", REF, commits[0], cwd=d.mirror)
        git("push", "-q", str(away), f"{REF}:{REF}", cwd=d.mirror)  # for the first one did arrive
        await d.moved(commits[2])
        away.rename(d.rig.bare)
        d.noted(commits[2])
        await eventually(lambda: d.told().get("new") == commits[2] and d.told().get("final"))
        assert d.rig.at() == commits[2] and await d.state(commits[2]) == SENT
        row = await d.row()
        assert row is not None and row.tried == ""


@pytest.mark.parametrize("push", ["none", "mirror"])
@in_loop
async def test_where_a_policy_lets_nothing_be_pushed_a_person_pushes_nothing_either(
    tmp_path: Path, push: str
) -> None:
    async with desk(tmp_path, push) as d:
        await d.moved(d.rig.a)
        if push == "mirror":  # the control: a person's word is enough there
            await d.pushes.order(NAME, PushRequest())
            return await _settled(d, d.rig.a, SENT)
        for force in (False, True):
            with pytest.raises(NotAllowed, match="push nothing") as told:
                await d.pushes.order(NAME, PushRequest(force=force))
            assert told.value.exit_code == 6
        assert await d.row() is None and d.rig.at() == ""
        return None
