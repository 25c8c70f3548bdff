"""Scenario files: what is accepted, and what is said about mistakes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from thopter.model.errors import BadInput
from thopter.testing.scripted_model import load_scenario, parse_scenario

TOML = """
delay_ms = 5
[[script]]
name = "one"
match = "hello"
[[script.turns]]
say = "hi"
tools = [{ name = "Read", input = { file_path = "/a" } }]
delay_ms = 0
"""


def test_toml_and_json_say_the_same(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text(TOML)
    turn = {"say": "hi", "tools": [{"name": "Read", "input": {"file_path": "/a"}}], "delay_ms": 0}
    data = {"delay_ms": 5, "script": [{"name": "one", "match": "hello", "turns": [turn]}]}
    (tmp_path / "a.json").write_text(json.dumps(data))
    assert load_scenario(tmp_path / "a.toml") == load_scenario(str(tmp_path / "a.json"))


def test_the_demo_is_built_in_and_whole() -> None:
    demo = load_scenario("demo")
    assert [s.name for s in demo.script] == ["first", "readme-json", "readme", "fix", "flag", "docs"]
    for script in demo.script:
        assert script.turns[-1].say
        assert not script.turns[-1].tools
        assert not any(t.broken for t in script.turns)


@pytest.mark.parametrize(
    ("script", "why"),
    [
        ({"name": "a b", "turns": [{"say": "x"}]}, "cannot name a script"),
        ({"name": "a", "turns": []}, "has no turns"),
        ({"name": "a", "turns": [{}]}, "must say, think, call a tool or fail"),
        ({"name": "a", "match": "(", "turns": [{"say": "x"}]}, "not a regular expression"),
        ({"name": "a", "turns": [{"say": "x", "fail_first": 1}]}, "needs to know how to fail"),
        ({"name": "a", "turns": [{"say": 1}]}, "script[0].turns[0].say"),
        ({"name": "a", "turns": [{"says": "x"}]}, "unknown field `says`"),
        ({"name": "a", "after": ["b"], "turns": [{"say": "x"}]}, "comes after 'b'"),
    ],
)
def test_a_mistake_is_named_with_its_place(script: dict[str, Any], why: str) -> None:
    with pytest.raises(BadInput) as refused:
        parse_scenario({"script": [script]}, "file x")
    assert why in refused.value.message
    assert refused.value.message.startswith("file x: ")


def test_two_scripts_of_one_name_are_refused() -> None:
    script = {"name": "a", "turns": [{"say": "x"}]}
    with pytest.raises(BadInput, match="there twice: a"):
        parse_scenario({"script": [script, script]}, "x")


@pytest.mark.parametrize(("name", "text"), [("x.toml", "a = ["), ("x.json", "{"), ("x.toml", "\xff")])
def test_a_file_that_cannot_be_parsed_is_an_error(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_bytes(text.encode("latin-1"))
    with pytest.raises(BadInput, match=r"is not (TOML|JSON)"):
        load_scenario(tmp_path / name)


def test_a_file_that_is_not_there_is_an_error_that_names_the_built_in_ones() -> None:
    with pytest.raises(BadInput) as refused:
        load_scenario("/nonexistent.toml")
    assert "demo" in refused.value.hint
