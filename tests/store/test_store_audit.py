"""The audit's chain: what is acknowledged is in it, and what was done to it behind our back is found, by
us and by a reader that shares nothing with us."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from audit_reader import look
from store_support import Use, box

from thopter.kit.caller import Caller, caller
from thopter.model.errors import Conflict
from thopter.model.events import Event
from thopter.store.anchors import Anchors
from thopter.store.audit import Wanted
from thopter.store.audit_chain import Anchor, bounded, canonical, command_words
from thopter.store.store import Store, Tx

WRITER = Path(__file__).with_name("writer_process.py")
Db = sqlite3.Connection


def _event(n: int, kind: str = "egress.denied", **data: Any) -> Event:
    return Event(kind=kind, at_ms=n, box="box_1", data={"name": "heron-1", "n": n, **data})


async def _fill(store: Store, count: int = 12) -> None:
    for n in range(1, count + 1):
        await store.events.append([_event(n)])


def _faults(use: Use, folder: Path) -> list[str]:
    async def go(store: Store) -> list[str]:
        _head, found = await store.audit.faults(Anchors(folder / "audit.anchors").read().anchors)
        return [f.text for f in found]

    found: list[str] = use(go)
    return found


def test_every_audited_event_is_one_record_and_a_stranger_can_verify_the_chain(
    use: Use, tmp_path: Path
) -> None:
    async def go(store: Store) -> None:
        await store.boxes.insert(box(1, name="heron-1"))
        await _fill(store)
        await store.events.append([Event(kind="entry", at_ms=1, box="box_1"), _event(13, "run.created")])
        lines = await store.audit.read(Wanted())
        assert [line.seq for line in lines] == list(range(1, 14)), "an entry is nobody's decision"
        assert {line.name for line in lines} == {"heron-1"}
        assert [x.seq for x in await store.audit.read(Wanted(kind="run.created"))] == [13]
        assert [x.seq for x in await store.audit.read(Wanted(kind="egress."), after=10)] == [11, 12]
        assert [x.seq for x in await store.audit.read(Wanted(box="heron-1"), limit=2, last=True)] == [12, 13]
        assert await store.audit.read(Wanted(box="other")) == []
        assert [x.seq for x in await store.audit.read(Wanted(since_ms=12))] == [12, 13]

    use(go)
    assert _faults(use, tmp_path) == []
    wrong, pairs = look(tmp_path)
    assert wrong == []
    assert len(pairs) == 13


def test_pushes_secrets_tokens_and_budgets_are_audited_by_whoever_tells_of_them(
    use: Use, tmp_path: Path
) -> None:
    kinds = [
        "git.pushed", "git.refused", "git.upstream.sent", "secret.used", "token.created", "token.revoked",
        "run.budget", "approval.answered", "snapshot.dropped", "policy.in_force", "hub.started",
    ]  # fmt: skip
    others = ["entry", "run.state", "flow.step", "note", "box.said", "gitx", "message", "box.state"]

    async def go(store: Store) -> None:
        await store.events.append([Event(kind=k, at_ms=1) for k in (*others, *kinds, *others)])
        assert [x.kind for x in await store.audit.read(Wanted())] == kinds

    use(go)
    assert look(tmp_path)[0] == []


def test_a_record_without_a_name_gets_the_name_its_box_has(use: Use) -> None:
    async def go(store: Store) -> None:
        await store.boxes.insert(box(1, name="osprey"))
        await store.audit.append(Event(kind="person.exec", at_ms=1, box="box_1", data={"argv": ["ls"]}))
        assert [x.data["argv"] for x in await store.audit.read(Wanted(box="osprey"))] == [["ls"]]

    use(go)


def test_the_record_says_who_asked_and_the_hub_is_nobody(use: Use) -> None:
    async def go(store: Store) -> None:
        async def as_(name: str, n: int, kind: str) -> None:
            caller.set(Caller(name, admin=False))
            await store.events.append([_event(n, kind)])

        async with asyncio.TaskGroup() as group:
            group.create_task(as_("alice (uid 1000)", 1, "box.state"))
            group.create_task(as_("token", 2, "egress.allowed"))
        await store.events.append([_event(3, "egress.denied"), _event(4, "box.state")])
        by = {line.data["n"]: (line.by, line.kind) for line in await store.audit.read(Wanted())}
        assert by == {
            1: ("alice (uid 1000)", "box.state"), 2: ("token", "egress.allowed"), 3: ("hub", "egress.denied"),
        }, "what the hub does all the time by itself is not in it"  # fmt: skip

    use(go)


def test_what_fails_is_not_in_it_and_does_not_break_the_chain(use: Use, tmp_path: Path) -> None:
    async def go(store: Store) -> None:
        def bad(tx: Tx) -> None:
            tx.events.append([_event(99)])
            raise Conflict("after all not")

        async def refused() -> None:
            with contextlib.suppress(Conflict):
                await store.write(bad)

        async with asyncio.TaskGroup() as group:  # all in few transactions
            for n in range(1, 40):
                group.create_task(refused() if n % 3 else store.events.append([_event(n)]))  # type: ignore[arg-type]
        assert sorted(x.data["n"] for x in await store.audit.read(Wanted())) == list(range(3, 40, 3))

    use(go)
    assert _faults(use, tmp_path) == []
    assert look(tmp_path)[0] == []


# ---------------------------------------------------------------------------------- tampering


def _rehash(db: Db, start: int) -> None:
    """What a careful forger does: every hash from ``start`` on, and the head, made to fit again."""
    rows = db.execute("SELECT seq, record, hash FROM audit ORDER BY seq").fetchall()
    before = bytes.fromhex(rows[start - 2][2]) if start > 1 else bytes(32)
    for seq, record, _old in rows[start - 1 :]:
        before = hashlib.sha256(before + record.encode()).digest()
        db.execute("UPDATE audit SET hash = ? WHERE seq = ?", (before.hex(), seq))
    db.execute("UPDATE audit_head SET seq = ?, hash = ?", (rows[-1][0], before.hex()))


def _edit(db: Db, seq: int) -> None:
    db.execute("UPDATE audit SET record = replace(record, 'heron-1', 'heron-9') WHERE seq = ?", (seq,))
    db.execute("UPDATE audit SET name = 'heron-9' WHERE seq = ?", (seq,))


def _rewritten(db: Db) -> None:
    _edit(db, 5)


def _rewritten_with_its_hash(db: Db) -> None:
    _edit(db, 5)
    (record,) = db.execute("SELECT record FROM audit WHERE seq = 5").fetchone()
    (before,) = db.execute("SELECT hash FROM audit WHERE seq = 4").fetchone()
    mine = hashlib.sha256(bytes.fromhex(before) + record.encode()).hexdigest()
    db.execute("UPDATE audit SET hash = ? WHERE seq = 5", (mine,))


def _rewritten_with_all_hashes(db: Db) -> None:
    _edit(db, 5)
    _rehash(db, 5)


def _removed(db: Db) -> None:
    db.execute("DELETE FROM audit WHERE seq = 5")


def _removed_and_numbered_anew(db: Db) -> None:
    db.execute("DELETE FROM audit WHERE seq = 5")
    for seq in range(6, 13):
        db.execute("UPDATE audit SET seq = ?, record = replace(record, ?, ?) WHERE seq = ?",
                   (seq - 1, f'"seq":{seq}', f'"seq":{seq - 1}', seq))  # fmt: skip
    _rehash(db, 5)


def _reordered(db: Db) -> None:
    db.execute("UPDATE audit SET seq = -1 WHERE seq = 5")
    db.execute("UPDATE audit SET seq = 5 WHERE seq = 6")
    db.execute("UPDATE audit SET seq = 6 WHERE seq = -1")


def _added(db: Db) -> None:
    db.execute("INSERT INTO audit SELECT 13, at_ms, kind, box, name, record, hash FROM audit WHERE seq = 12")


def _cut(db: Db) -> None:
    db.execute("DELETE FROM audit WHERE seq > 9")


def _cut_with_its_head(db: Db) -> None:
    db.execute("DELETE FROM audit WHERE seq > 9")
    db.execute("UPDATE audit_head SET (seq, hash) = (SELECT seq, hash FROM audit WHERE seq = 9)")


def _emptied(db: Db) -> None:
    db.execute("DELETE FROM audit")
    db.execute("UPDATE audit_head SET seq = 0, hash = ?", ("0" * 64,))


def _found_by_another_box(db: Db) -> None:
    db.execute("UPDATE audit SET box = 'box_2' WHERE seq = 5")


def _number_made_text(db: Db) -> None:
    db.execute("UPDATE audit SET seq = 'five' WHERE seq = 5")


_TAMPERED = [
    _rewritten, _rewritten_with_its_hash, _rewritten_with_all_hashes, _removed, _removed_and_numbered_anew,
    _reordered, _added, _cut, _cut_with_its_head, _emptied, _found_by_another_box, _number_made_text,
]  # fmt: skip


@contextlib.contextmanager
def _forger(folder: Path) -> Iterator[Db]:
    db = sqlite3.connect(folder / "hub.db")
    try:
        yield db
        db.commit()
    finally:
        db.close()


@pytest.mark.battery("X6")
@pytest.mark.parametrize("tamper", _TAMPERED, ids=lambda f: f.__name__.strip("_"))
def test_whatever_is_done_to_the_table_is_found_by_us_and_by_a_stranger(
    use: Use, tmp_path: Path, tamper: Callable[[Db], None]
) -> None:
    async def go(store: Store) -> None:
        await _fill(store)
        head = await store.audit.head()
        Anchors(tmp_path / "audit.anchors").add(Anchor(head.seq, head.hash, 1))

    use(go)
    assert _faults(use, tmp_path) == []
    assert look(tmp_path)[0] == []
    with _forger(tmp_path) as db:
        tamper(db)
    assert _faults(use, tmp_path) != []
    assert look(tmp_path)[0] != []


def test_an_end_that_no_anchor_knows_yet_is_missed_when_the_head_is_left(use: Use, tmp_path: Path) -> None:
    use(_fill)
    with _forger(tmp_path) as db:
        _cut(db)
    assert _faults(use, tmp_path) == ["the chain ends at record 9 and should end at 12"]
    assert look(tmp_path)[0] != []


@pytest.mark.battery("X6")
def test_an_older_or_another_database_does_not_fit_the_anchors(use: Use, tmp_path: Path) -> None:
    anchors = Anchors(tmp_path / "audit.anchors")

    async def more(store: Store) -> None:
        await _fill(store, 5)
        head = await store.audit.head()
        anchors.add(Anchor(head.seq, head.hash, 1))

    use(more)
    shutil.copy(tmp_path / "hub.db", tmp_path / "old.db")
    use(more)
    assert _faults(use, tmp_path) == []
    shutil.copy(tmp_path / "old.db", tmp_path / "hub.db")
    assert [f for f in _faults(use, tmp_path) if "was anchored" in f]
    assert [f for f in look(tmp_path)[0] if "anchor" in f]
    (tmp_path / "hub.db").unlink()

    async def other(store: Store) -> None:
        await store.events.append([_event(n, other=True) for n in range(20)])

    use(other)
    assert [f for f in _faults(use, tmp_path) if "is another one" in f]
    assert [f for f in look(tmp_path)[0] if "anchor" in f]


# ---------------------------------------------------------------------------------- durability


@pytest.mark.battery("X6")
def test_after_kill_9_what_was_acknowledged_is_in_it_and_the_chain_is_whole(use: Use, tmp_path: Path) -> None:
    for _ in range(3):
        argv = [sys.executable, str(WRITER), str(tmp_path / "hub.db"), "20", "0", "person.exec"]
        process = subprocess.Popen(argv, stdout=subprocess.PIPE)
        assert process.stdout is not None
        try:
            acked = [int(process.stdout.readline()) for _ in range(300)]
        finally:
            process.kill()
            rest, _ = process.communicate()
        acked += [int(line) for line in rest.split(b"\n")[:-1]]
        wrong, pairs = look(tmp_path)
        assert wrong == []
        assert len(pairs) >= max(acked), "every event of it is audited, and numbers have no gaps"
        assert _faults(use, tmp_path) == []


def test_anchors_are_private_survive_a_torn_line_and_are_kept_few(tmp_path: Path) -> None:
    anchors = Anchors(tmp_path / "audit.anchors")
    anchors.add(Anchor(1, "a" * 64, 5))
    assert os.stat(anchors.path).st_mode & 0o777 == 0o600
    with anchors.path.open("a") as file:
        file.write("2 " + "b" * 40)  # the machine ended here
    Anchors(anchors.path).add(Anchor(3, "c" * 64, 6))
    found = Anchors(anchors.path).read()
    assert [a.seq for a in found.anchors] == [1, 3]
    assert found.bad == 0, "a line that was cut short is taken off"
    anchors.path.write_text("".join(f"{n} {'d' * 64} 1\n" for n in range(1, 4500)))
    again = Anchors(anchors.path)
    again.add(Anchor(4500, "e" * 64, 7))
    kept = [a.seq for a in again.read().anchors]
    assert (kept[0], kept[-1], len(kept)) == (1, 4500, 1002)
    assert os.stat(anchors.path).st_mode & 0o777 == 0o600


# ---------------------------------------------------------------------------------- what it holds


@pytest.mark.battery("X6")
def test_hostile_data_is_kept_small_and_can_be_read_again_by_anybody(use: Use, tmp_path: Path) -> None:
    deep: Any = "x"
    for _ in range(50):
        deep = [deep]
    data = {
        "float": 0.1, "nan": float("nan"), "big": 1 << 80, "lone": "\ud800", "nul": "a\0b", "esc": "\x1b[2J",
        "long": "y" * 100_000, "deep": deep, "many": list(range(10_000)), "bytes": b"\xff", "k" * 500: 1,
        "wide": {str(n): n for n in range(5000)}, "cyrillic": "жук", "null": None,
    }  # fmt: skip

    async def go(store: Store) -> None:
        await store.events.append([Event(kind="egress.denied", at_ms=1 << 90, data=data)])
        await store.events.append([_event(2, huge={f"k{n}": "z" * 900 for n in range(60)})])
        first, second = await store.audit.read(Wanted())
        assert first.data["float"] == "0.1"
        assert first.data["cyrillic"] == "жук"
        assert len(canonical(first.data)) < 20_000
        assert second.data["cut"] > 16_000
        assert second.name == "heron-1"

    use(go)
    assert look(tmp_path)[0] == []
    assert _faults(use, tmp_path) == []


def test_secrets_in_commands_and_data_do_not_get_into_it() -> None:
    argv = [
        "curl", "-u", "me:canary-1", "--password", "canary-2", "--api-key=canary-3", "DB_PASSWORD=canary-4",
        "-H", "Authorization: Bearer canary-55", "https://me:canary-66@example.com/", "--token", "canary-7",
        "sk-ant-canary0123456789abcdef", "plain",
    ]  # fmt: skip
    words = bounded({"argv": command_words(argv), "token": "canary-8", "text": "password: canary-99"})
    assert "canary" not in json.dumps(words)
    kept = words["argv"]
    assert [w for w in kept if "hidden" not in w] == ["curl", "-u", "--password", "-H", "--token", "plain"]


def test_words_that_are_no_secrets_are_kept_as_they_are() -> None:
    argv = ["git", "commit", "-m", "the token of the day; rm -rf $(pwd)\nnext", "--author=Tess <t@e.org>"]
    assert bounded({"argv": command_words(argv)})["argv"] == argv
