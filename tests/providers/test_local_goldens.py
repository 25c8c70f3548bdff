"""Goldens: built atomically with real npm packages, whose own code only ever runs in a box."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from local_lab import Lab

from thopter.model.errors import BadInput, ProviderError
from thopter.model.sockets import GoldenPart
from thopter.providers.local import npm

needs_npm = pytest.mark.skipif(not shutil.which("npm", path="/usr/bin"), reason="no npm in /usr")
SEMVER = GoldenPart(name="semver", npm="semver", version="7.7.2", check=("bin/semver", "1.2.3"))
CLAUDE = GoldenPart(
    name="claude", npm="@anthropic-ai/claude-code", version="2.1.329", check=("bin/claude", "--version")
)


def build(lab: Lab, *parts: GoldenPart, name: str = "default", patience: float = 600) -> list[str]:
    """Build a golden; its lines of progress."""

    async def go() -> list[str]:
        return [line async for line in lab.provider.build_golden(name, parts)]

    return lab.run(go(), patience)


def ready(lab: Lab, *parts: GoldenPart, name: str = "default") -> bool:
    """Is it there?"""
    return lab.run(lab.provider.golden_ready(name, parts))


def local_package(folder: Path, name: str, scripts: dict[str, str]) -> GoldenPart:
    """A package of our own, packed by npm, with a command that prints what its install script left."""
    source = folder / name
    source.mkdir()
    (source / "cli.js").write_text(
        "#!/usr/bin/env node\nconsole.log(require('fs').readFileSync(__dirname + '/made', 'utf8'))\n"
    )
    (source / "package.json").write_text(
        json.dumps({"name": name, "version": "1.0.0", "bin": {name: "cli.js"}, "scripts": scripts})
    )
    subprocess.run(["npm", "pack", "--silent"], cwd=source, check=True, capture_output=True, timeout=120)
    return GoldenPart(name=name, npm=name, version=f"file:{source}/{name}-1.0.0.tgz", check=(f"bin/{name}",))


@needs_npm
def test_a_golden_with_a_package_is_built_checked_and_used(own_lab: Lab) -> None:
    assert not ready(own_lab, SEMVER)
    lines = build(own_lab, SEMVER)
    assert any("npm installs semver 7.7.2" in line for line in lines)
    assert any("checked (1.2.3)" in line for line in lines)
    assert ready(own_lab, SEMVER)
    assert not ready(own_lab) and not ready(own_lab, SEMVER, CLAUDE)
    one = own_lab.box(golden="default")
    assert own_lab.sh(one.key, "/opt/thopter/semver/bin/semver 2.0.0; ls /opt/thopter") == "2.0.0\nsemver"


@needs_npm
def test_install_scripts_run_in_a_box_and_never_on_the_machine(own_lab: Lab, tmp_path: Path) -> None:
    marker = tmp_path / "ran-on-the-machine"
    spy = (
        f"(echo x > {marker}) 2>/dev/null; id -u > made; cat /proc/self/uid_map >> made; "
        "(ls /root/.ssh /home/* 2>/dev/null; true) >> made"
    )
    part = local_package(tmp_path, "with-scripts", {"postinstall": spy})
    lines = build(own_lab, part)
    assert any("install scripts run in a box" in line for line in lines)
    assert not marker.exists()
    made = own_lab.sh(own_lab.box(golden="default").key, "/opt/thopter/with-scripts/bin/with-scripts").split()
    assert made[:2] == ["0", "0"] and len(made) == 4
    assert made[2] != "0"  # root of a box, and of nothing else


@needs_npm
def test_an_old_golden_stays_while_a_new_one_fails_and_while_boxes_use_it(
    own_lab: Lab, tmp_path: Path
) -> None:
    first = local_package(tmp_path, "first", {"postinstall": "echo 1 > made"})
    build(own_lab, first)
    old = own_lab.box(golden="default")
    broken = local_package(tmp_path, "broken", {"postinstall": "echo so sorry >&2; exit 3"})
    with pytest.raises(ProviderError, match=r"broken: its install scripts failed .*so sorry"):
        build(own_lab, broken)
    silent = local_package(tmp_path, "silent", {})
    with pytest.raises(ProviderError, match=r"silent: it does not work .*"):
        build(own_lab, silent)
    assert ready(own_lab, first) and not ready(own_lab, broken)
    known = frozenset([old.key])
    assert own_lab.run(own_lab.provider.leaks(known)) == []
    good = local_package(tmp_path, "good", {"postinstall": "echo made > made"})
    build(own_lab, good)
    assert ready(own_lab, good)
    assert own_lab.sh(old.key, "ls /opt/thopter; /opt/thopter/first/bin/first").split() == ["first", "1"]
    new = own_lab.box(golden="default")
    assert own_lab.sh(new.key, "ls /opt/thopter") == "good"
    own_lab.run(own_lab.provider.destroy(old.key))
    known = frozenset([new.key])
    assert own_lab.run(own_lab.provider.leaks(known)) == []  # a golden without a name goes with its last box
    assert own_lab.sh(new.key, "/opt/thopter/good/bin/good") == "made"


@needs_npm
def test_building_twice_gives_the_same_golden(own_lab: Lab) -> None:
    digests = []
    for _ in range(2):
        build(own_lab, SEMVER)
        digests.append(os.readlink(own_lab.place.paths.state / "goldens" / "default"))
    assert digests[0] == digests[1]


@needs_npm
def test_a_build_that_is_given_up_leaves_nothing(own_lab: Lab) -> None:
    async def give_up(after: int) -> None:
        lines = own_lab.provider.build_golden("default", (SEMVER,))
        for _ in range(after):
            await anext(lines)
        await lines.aclose()

    for after in (1, 2, 3):
        own_lab.run(give_up(after))
        assert own_lab.run(own_lab.provider.leaks(frozenset())) == []

    async def cancel() -> None:
        async with asyncio.timeout(1.0):
            async for _ in own_lab.provider.build_golden("default", (SEMVER,)):
                pass

    with pytest.raises(TimeoutError):
        own_lab.run(cancel())
    assert own_lab.run(own_lab.provider.leaks(frozenset())) == []
    assert not ready(own_lab, SEMVER)


def test_what_can_not_be_a_part_is_refused(own_lab: Lab) -> None:
    for wrong in (
        GoldenPart(name="../x", npm="semver", version="1.0.0"),
        GoldenPart(name="x", npm="--prefix=/", version="1.0.0"),
        GoldenPart(name="x", npm="semver", version="-g"),
        GoldenPart(name="x", npm="", version="1.0.0"),
    ):
        with pytest.raises(BadInput):
            build(own_lab, wrong)
    with pytest.raises(BadInput):
        build(own_lab, SEMVER, SEMVER)


@needs_npm
def test_npm_that_fails_says_why(own_lab: Lab) -> None:
    missing = GoldenPart(name="x", npm="semver", version="0.0.0-no-such-version")
    with pytest.raises(ProviderError, match=r"npm could not install semver@0\.0\.0-no-such-version: .+"):
        build(own_lab, missing)
    assert own_lab.run(own_lab.provider.leaks(frozenset())) == []


def test_without_npm_the_error_says_what_to_install(own_lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(ProviderError, match="no npm") as caught:
        build(own_lab, SEMVER)
    assert "install nodejs" in caught.value.hint


def test_npm_sees_no_secret_of_the_environment() -> None:
    env = {"PATH": "/bin", "HOME": "/root", "HTTPS_PROXY": "p", "npm_config_cafile": "c", "SECRET_TOKEN": "s",
           "ANTHROPIC_API_KEY": "k", "THOPTER_X": "x", "NODE_OPTIONS": "--require /evil"}  # fmt: skip
    assert sorted(npm.clean_env(env)) == ["HOME", "HTTPS_PROXY", "PATH", "npm_config_cafile"]


@needs_npm
@pytest.mark.claude
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_claude_code_is_installed_and_runs_in_a_box(own_lab: Lab) -> None:
    build(own_lab, CLAUDE, patience=800)
    one = own_lab.box(golden="default")
    said = own_lab.sh(one.key, "/opt/thopter/claude/bin/claude --version; id -u")
    assert said.split() == ["2.1.329", "(Claude", "Code)", "0"]


@pytest.mark.root
def test_a_golden_can_not_be_changed_from_a_box(own_lab: Lab) -> None:
    build(own_lab)
    root = own_lab.place.paths.state / "goldens" / "default" / "root"
    before = {p: p.stat().st_mtime_ns for p in root.rglob("*") if p.is_file() and not p.is_symlink()}
    one = own_lab.box(golden="default")
    own_lab.sh(
        one.key, "find /etc /root /var -type f | while read f; do echo x >> $f; done; rm -rf /opt/* /srv"
    )
    assert {p: p.stat().st_mtime_ns for p in before} == before
