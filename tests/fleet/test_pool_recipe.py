"""A recipe is the same for the same box, and another for whatever a box and its agent are made of."""

from __future__ import annotations

import types
from typing import Any

import pytest
from msgspec import structs

from thopter.agents.claude.agent import ClaudeAgent
from thopter.fleet.launch import FlyArgs
from thopter.fleet.warm import SPOKEN_MAX, recipe, speakable
from thopter.kit.settings import Settings, Value
from thopter.model.ids import BoxId
from thopter.model.nouns import Box, BoxState, Limits

SETTINGS = Settings({}).section("agents.claude")
ARGS = FlyArgs(
    box="box_1", run="run_1", name="amber", prompt="mend it", repo="/r", branch="", agent="claude",
    session="s", token="t", settings=SETTINGS,
)  # fmt: skip
BOX = Box(
    id=BoxId("box_1"), name="amber", provider="local", state=BoxState.CREATING, created_ms=1, changed_ms=1
)


def made_of(args: FlyArgs = ARGS, box: Box = BOX, **deps: Any) -> str:
    """The recipe by a hub of this kind."""
    hub = {
        "agents": {"claude": ClaudeAgent()}, "identity": ("Tess", "tess@example.invalid"), "owner": "Tess",
        "settings": Settings({}),
    }  # fmt: skip
    return recipe(types.SimpleNamespace(**(hub | deps)), box, args)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "own", [{"box": "box_2"}, {"run": "run_2"}, {"name": "blue"}, {"prompt": "else"}, {"branch": "dev"},
            {"session": "s2"}, {"token": "t2"}, {"since_ms": 5}]
)  # fmt: skip
def test_what_is_a_boxs_own_or_is_made_true_when_it_is_taken_does_not_count(own: dict[str, Any]) -> None:
    assert made_of(structs.replace(ARGS, **own)) == made_of()


@pytest.mark.parametrize(
    "more", [{"repo": "/other"}, {"adopt": True}, {"post_create": "make"}, {"home": True},
             {"settings": SETTINGS | {"model": "else"}}, {"settings": SETTINGS | {"env": {"A": "1"}}},
             {"settings": SETTINGS | {"version": "2.1.197"}}, {"settings": SETTINGS | {"new": 1}}]
)  # fmt: skip
def test_what_was_asked_for_counts(more: dict[str, Any]) -> None:
    assert made_of(structs.replace(ARGS, **more)) != made_of()


@pytest.mark.parametrize(
    "more", [{"snapshot": "snap_1"}, {"provider": "ssh"}, {"limits": Limits(pids=5)}, {"golden": "else"}]
)
def test_what_the_box_is_counts(more: dict[str, Any]) -> None:
    assert made_of(box=structs.replace(BOX, **more)) != made_of()


def test_a_box_that_may_reach_something_else_is_another_box() -> None:
    def under(name: str, why: str, ca: bool = True) -> str:
        return made_of(box=structs.replace(BOX, memory={"policy": {"name": name, "why": why, "ca": ca}}))

    assert under("default", "asked for") == under("default", "the default")
    assert len({made_of(), under("default", ""), under("closed", ""), under("default", "", ca=False)}) == 4


def test_a_box_without_the_placeholder_of_a_secret_it_may_use_is_another_box() -> None:
    def with_env(env: dict[str, str] | None) -> str:
        policy = {"name": "default", "why": "", "ca": True, "isolation": "", "env": env}
        return made_of(box=structs.replace(BOX, memory={"policy": policy}))

    bound = {"TRACKER": "thopter-secret-tracker"}
    each = [with_env(e) for e in ({}, bound, bound | {"B": "thopter-secret-b"}, {"TRACKER": "else"})]
    assert len(set(each)) == 4
    assert with_env(dict(reversed((bound | {"B": "thopter-secret-b"}).items()))) == each[2], "in any order"


def test_a_box_of_another_isolation_setting_is_another_box() -> None:
    def by(value: str) -> str:
        return made_of(settings=Settings({"local.isolation": Value(value, "test")}))

    assert by("auto") == made_of()
    assert len({by("auto"), by("gvisor"), by("vm")}) == 3, "one from before the hub was told is never taken"


def test_who_commits_counts() -> None:
    assert made_of(identity=("Ada", "tess@example.invalid")) != made_of()
    assert made_of(owner="Ada") != made_of()


@pytest.mark.parametrize(
    ("prompt", "can"),
    [("", True), ("mend it", True), ("/mend\nit", True), ("quit", False), ("a" * SPOKEN_MAX, True),
     ("a" * (SPOKEN_MAX + 1), False)],
)  # fmt: skip
def test_only_what_can_be_said_word_for_word_goes_to_an_agent_that_runs_already(
    prompt: str, can: bool
) -> None:
    deps = types.SimpleNamespace(agents={"claude": ClaudeAgent()})
    assert speakable(deps, structs.replace(ARGS, prompt=prompt)) is can  # type: ignore[arg-type]
