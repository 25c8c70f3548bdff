"""What the driver reads in samples recorded from real runs stays what was reviewed."""

from __future__ import annotations

import json
from pathlib import Path

import golden
import pytest

from thopter.model.evidence import Fact
from thopter.model.nouns import Role

FILES = sorted(golden.sample_files())


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(golden.SAMPLES)))
def test_a_sample_is_read_as_expected(file: Path) -> None:
    expected = json.loads(golden.expectation(file).read_text(encoding="utf-8"))
    found = json.loads(json.dumps(golden.readings(file)))
    assert found == expected[file.name]


def test_no_expectation_stands_for_a_sample_that_is_gone() -> None:
    for path in golden.SAMPLES.rglob("*.expected.json"):
        assert set(json.loads(path.read_text())) == {f.name for f in FILES if golden.expectation(f) == path}


def test_every_sample_can_be_read() -> None:
    assert [f.name for f in FILES if any(r.get("problem") for r in golden.readings(f))] == []
    assert len(FILES) > 100


def test_reading_a_transcript_again_gives_the_same_keys_and_no_key_twice() -> None:
    for file in FILES:
        if file.stem in ("transcript", "subagent"):
            keys = [(e["key"]) for r in golden.readings(file) for e in r.get("entries", [])]
            assert len(set(keys)) == len(keys) > 3
            assert keys == [(e["key"]) for r in golden.readings(file) for e in r.get("entries", [])]


@pytest.mark.parametrize("version", ["2.1.197", "2.1.329"])
def test_a_permission_request_and_the_later_use_name_the_same_call(version: str) -> None:
    file = golden.SAMPLES / f"claude-{version}" / "permission-hooks.jsonl"
    told = [e for r in golden.readings(file) for e in r.get("evidence", [])]
    calls = {e["data"]["call"] for e in told if e["fact"] in (Fact.PERMISSION_ASKED, Fact.ACTIVITY)}
    assert len(calls) == 1
    assert "" not in calls


def test_transcript_entries_have_the_time_of_the_event_not_of_the_reading() -> None:
    for r in golden.readings(golden.SAMPLES / "claude-2.1.329" / "transcript.jsonl"):
        for entry in r.get("entries", []):
            assert golden.SEEN - entry["at"] > 60_000
            assert entry["role"] in set(Role)
