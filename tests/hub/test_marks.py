"""Which of the operator's secrets pushes are searched for, and that the log names those that they are not."""

from __future__ import annotations

from pathlib import Path

import pytest

from thopter.gateway.git.shapes import known
from thopter.hub.marks import Marks
from thopter.kit.paths import find_paths
from thopter.kit.secrets import SecretStore, secret


def test_secrets_that_cant_be_recognized_are_named_in_the_log_and_the_others_are_found(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = SecretStore(find_paths({"HOME": str(tmp_path)}), {}, "file")
    for name, value in (("a.long", "correct-horse-battery"), ("b.short", "hunter2!"), ("d.last", "x" * 20)):
        store.set(name, secret("plain", value))
    store.set("c.many", secret("plain", " ".join(f"word-number-{n:04}" for n in range(999))))
    marks = Marks(store)
    found = marks.all()
    assert len(found) == 1000 and known(b"KEY=correct-horse-battery", found)
    assert known(b"'word-number-0998'", found) and not known(b"hunter2!", found)
    assert not known(b"x" * 20, found)
    said = [r.getMessage().partition("for the secret ")[2] for r in caplog.records]
    assert [s.partition(":")[0] for s in said] == ["b.short", "d.last"]
    assert marks.all() == found and len(caplog.records) == 2, "once, until the store changes"
    assert "hunter2" not in caplog.text
    store.delete("c.many")
    assert known(b"x" * 20, marks.all())
