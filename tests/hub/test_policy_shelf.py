"""Policies through every fault of their file: the last good ones stay in force, also over a restart."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from thopter.hub.shelf import Shelf
from thopter.kit.paths import Paths, find_paths
from thopter.kit.secrets import SecretStore
from thopter.model.errors import NotFound

GOOD = '[policies.team]\nextends = "closed"\n[[policies.team.hosts]]\nhost = "a.test"\n'


@pytest.fixture
def paths(tmp_path: Path) -> Iterator[Paths]:
    found = find_paths(
        {
            "HOME": str(tmp_path),
            "THOPTER_STATE_DIR": str(tmp_path / "s"),
            "THOPTER_CONFIG_DIR": str(tmp_path / "c"),
        }
    )
    found.config.mkdir()
    yield found


def _shelf(paths: Paths, setting: str = "") -> Shelf:
    return Shelf(paths, SecretStore(paths), setting)


def _write(paths: Paths, text: str) -> None:
    """Another file in its place, as editors do."""
    new = paths.config / "new"
    new.write_text(text)
    new.replace(paths.config / "policy.toml")


def _check(shelf: Shelf) -> dict[str, tuple[str, str]]:
    return {c.name: (c.level, c.text) for c in asyncio.run(shelf.checks())}


def _a_folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


_BROKEN: dict[str, Callable[[Path], object]] = {
    "an unknown key": lambda f: f.write_text(GOOD + "methds = ['GET']\n"),
    "no TOML": lambda f: f.write_text(GOOD + "[[[\n"),
    "a contradiction": lambda f: f.write_text(GOOD + "tls = false\nmethods = ['GET']\n"),
    "two rules about one host": lambda f: f.write_text(
        GOOD + "[[policies.team.hosts]]\nhost='a.test'\ninspect=true\n"
    ),
    "allowed and denied": lambda f: f.write_text(GOOD.replace("[[", "deny = ['a.test']\n[[")),
    "a policy that is not there": lambda f: f.write_text('default = "nobody"\n' + GOOD),
    "trust in one that is not there": lambda f: f.write_text('[trust]\noutsider = "nobody"\n' + GOOD),
    "a circle": lambda f: f.write_text(GOOD.replace('"closed"', '"b"') + '[policies.b]\nextends="team"\n'),
    "a list without words": lambda f: f.write_text(GOOD + "[policies.team.commands]\nmode = 'listed'\n"),
    "no text": lambda f: f.write_bytes(b"\xff\xfe" + GOOD.encode()),
    "a byte that ends texts": lambda f: f.write_bytes(GOOD.encode() + b"\0"),
    "far too long": lambda f: f.write_text(GOOD + "#" * (1 << 20)),
    "cut in the middle": lambda f: f.write_text(GOOD[:-4]),
    "a folder": _a_folder,
    "a link to itself": lambda f: (f.unlink(), f.symlink_to(f)),
}


@pytest.mark.parametrize("breaks", _BROKEN.values(), ids=_BROKEN)
def test_a_file_that_can_not_be_used_leaves_the_last_good_one_in_force_also_over_restarts(
    paths: Paths, breaks: Callable[[Path], object]
) -> None:
    _write(paths, GOOD)
    shelf = _shelf(paths)
    before = shelf.book
    assert shelf.source == "file"
    breaks(paths.config / "policy.toml")
    assert not shelf.poll(), "nothing else is in force"
    for found in (shelf, _shelf(paths), _shelf(paths)):
        assert found.book.policies == before.policies
        assert (found.source, bool(found.problem)) == ("last good", True)
        level, text = _check(found)["policy"]
        assert level == "fail" and "the last good one stays in force" in text
        assert found.in_force()["problem"] == found.problem


def test_with_no_good_one_ever_everything_is_closed_and_walls_are_as_strong(paths: Paths) -> None:
    (paths.config / "policy.toml").write_text("[[[")
    shelf = _shelf(paths)
    assert shelf.source == "closed"
    assert all(not p.rules for p in shelf.book.policies.values())
    assert shelf.choose("", "")["name"] == "closed"
    assert shelf.choose("", "", "outsider")["isolation"] == "vm"
    assert "nothing is allowed" in _check(shelf)["policy"][1]
    assert shelf.may_run("closed", ["ls"], [], "", "/work", False, admin=False) != ""
    assert shelf.may_run("closed", ["ls"], [], "", "/work", False, admin=True) == "", (
        "who can mend it may look"
    )
    _write(paths, GOOD)
    assert shelf.poll() and shelf.source == "file"


def test_a_file_that_was_taken_away_is_no_longer_the_last_good_one(paths: Paths) -> None:
    _write(paths, GOOD)
    shelf = _shelf(paths)
    (paths.config / "policy.toml").unlink()
    assert shelf.poll() and shelf.source == "shipped"
    _write(paths, "[[[")
    for found in (shelf, _shelf(paths)):
        found.poll()
        assert "team" not in found.book.policies
        assert found.book.policies["default"].rules


def test_without_room_for_the_copy_the_new_policies_hold_and_it_is_tried_again(paths: Paths) -> None:
    _write(paths, GOOD)
    shelf = _shelf(paths)
    copy = paths.state / "policy.good.toml"
    kept = copy.read_text()
    copy.unlink()
    copy.mkdir()  # nothing can take its place
    (copy / "x").touch()
    _write(paths, GOOD.replace("a.test", "b.test"))
    assert shelf.poll() and shelf.source == "file"
    assert shelf.test("team", "b.test:443", "CONNECT", ()).verdict == "allow"
    assert _check(shelf)["policy copy"][0] == "warn"
    (copy / "x").unlink()
    copy.rmdir()
    assert not shelf.poll()
    assert copy.read_text() == kept.replace("a.test", "b.test")
    assert os.stat(copy).st_mode & 0o777 == 0o600
    assert "policy copy" not in _check(shelf)


def test_the_policy_is_the_first_that_says_something_and_says_why(paths: Paths) -> None:
    repo = "https://git.test/x"
    text = f'default = "ask"\n[repos]\n"{repo}" = "team"\n[trust]\nwriter = "strict"\n' + GOOD
    text += '[policies.strict]\nisolation = "namespaces"\n[policies.strict.box]\nmemory_mb = 512\n'
    _write(paths, text)
    shelf = _shelf(paths, "default")

    def chosen(*argv: str) -> tuple[str, str]:
        found = shelf.choose(*argv)
        return found["name"], found["why"]

    assert chosen("", "") == ("default", "setting policy")
    assert chosen("", repo) == ("team", f"policy.toml says so for {repo}")
    assert chosen("", repo, "operator")[0] == "team"
    assert chosen("", repo, "writer") == ("strict", "its text is by a person trusted as writer")
    assert chosen("", repo, "outsider")[0] == "outsider"
    assert chosen("closed", repo, "outsider") == ("closed", "asked for")
    strict = shelf.choose("strict", "")
    assert (strict["isolation"], strict["most"]["memory_mb"]) == ("namespaces", 512.0)
    shelf.setting = ""
    assert chosen("", "") == ("ask", "the default")
    shelf.setting = "nobody"
    assert _check(shelf)["policy setting"][0] == "fail"
    with pytest.raises(NotFound, match="setting policy"):
        shelf.choose("", "")


def test_in_force_is_equal_exactly_when_nothing_has_changed(paths: Paths) -> None:
    _write(paths, GOOD)
    shelf = _shelf(paths)
    first = shelf.in_force()
    _write(paths, "# a word more\n" + GOOD)
    shelf.poll()
    assert shelf.in_force() == first
    _write(paths, GOOD.replace("a.test", "b.test"))
    shelf.poll()
    second = shelf.in_force()
    assert second != first
    assert second["policies"]["default"] == first["policies"]["default"]  # type: ignore[index]
