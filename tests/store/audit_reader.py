"""An independent reader of the audit: knows docs/reference/audit.md, the standard library, nothing of ours.

``python audit_reader.py STATE_FOLDER`` or ``python audit_reader.py FILE.ndjson``: prints what is wrong, one
line each, and last ``records N`` and ``head N:HASH``; exit status 1 when anything is wrong.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sqlite3
import sys
import tempfile
from pathlib import Path

AUDITED = ("egress.", "approval.", "snapshot.", "secret.", "git.", "push.", "token.", "policy.", "budget.",
           "peer.", "person.", "audit.")  # fmt: skip
ALSO = ("hub.started", "run.created", "run.told", "run.budget", "box.destroyed")


def chain(pairs: list[tuple[str, str]]) -> list[str]:
    """Faults of ``(record text, hash)`` pairs, in order."""
    wrong = []
    before = bytes(32)
    for place, (text, stated) in enumerate(pairs, 1):
        digest = hashlib.sha256()
        digest.update(before)
        digest.update(text.encode("utf-8"))
        if digest.hexdigest() != stated:
            wrong.append(f"place {place}: hash does not fit")
        try:
            record = json.loads(text)
        except ValueError:
            wrong.append(f"place {place}: not JSON")
        else:
            again = json.dumps(record, sort_keys=True, separators=(",", ":"))
            if again != text:
                wrong.append(f"place {place}: not in the canonical form")
            if not isinstance(record, dict) or record.get("seq") != place:
                wrong.append(f"place {place}: holds record {record.get('seq') if record else '?'}")
        try:
            before = bytes.fromhex(stated)
        except ValueError:
            wrong.append(f"place {place}: no hash")
            before = bytes(32)
    return wrong


def from_database(folder: Path) -> tuple[list[tuple[str, str]], list[str]]:
    """The pairs of a state folder, and what its other tables and its anchors say against them."""
    with tempfile.TemporaryDirectory() as copy:
        for name in ("hub.db", "hub.db-wal"):
            if (folder / name).exists():
                shutil.copy(folder / name, copy)
        db = sqlite3.connect(Path(copy) / "hub.db")
        rows = db.execute("SELECT seq, at_ms, kind, box, record, hash FROM audit ORDER BY seq").fetchall()
        head = db.execute("SELECT seq, hash FROM audit_head").fetchall()
        events = db.execute("SELECT kind, at_ms, box FROM events").fetchall()
        db.close()
    wrong = []
    told: dict[tuple[str, int, str], int] = {}
    for seq, at_ms, kind, box, text, _stated in rows:
        record = json.loads(text)
        if [record["seq"], record["at_ms"], record["kind"], record["box"]] != [seq, at_ms, kind, box]:
            wrong.append(f"row {seq}: its columns are not its record's")
        told[kind, at_ms, box] = told.get((kind, at_ms, box), 0) + 1
    for kind, at_ms, box in events:
        if kind in ALSO or kind.startswith(AUDITED):
            told[kind, at_ms, box] = told.get((kind, at_ms, box), 0) - 1
            if told[kind, at_ms, box] < 0:
                wrong.append(f"event {kind} of {at_ms} is not in the audit")
    last = (rows[-1][0], rows[-1][5]) if rows else (0, "0" * 64)
    if head != [last]:
        wrong.append(f"ends at {last[0]}, and its head says {head}")
    known = {row[0]: row[5] for row in rows}
    anchors = folder / "audit.anchors"
    for line in anchors.read_text().splitlines() if anchors.exists() else []:
        seq, stated, _at = line.split(" ")
        if known.get(int(seq)) != stated:
            wrong.append(f"anchor {seq} does not fit")
    return [(row[4], row[5]) for row in rows], wrong


def from_export(file: Path) -> list[tuple[str, str]]:
    """The pairs of an exported file: 9 characters, the hash, 11 characters, the record, ``}``."""
    lines = file.read_text("utf-8").split("\n")[:-1]
    return [(line[84:-1], line[9:73]) for line in lines]


def look(path: Path) -> tuple[list[str], list[tuple[str, str]]]:
    """Everything that is wrong, and the pairs."""
    pairs, wrong = from_database(path) if path.is_dir() else (from_export(path), [])
    return [*chain(pairs), *wrong], pairs


if __name__ == "__main__":
    found, all_pairs = look(Path(sys.argv[1]))
    for one in found:
        print(one)
    print(f"records {len(all_pairs)}")
    print(f"head {len(all_pairs)}:{all_pairs[-1][1] if all_pairs else '0' * 64}")
    sys.exit(1 if found else 0)
