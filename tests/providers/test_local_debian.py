"""Snapshots that are a Debian of their own: built as nobody, checked, and nothing left of what failed."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from debian_tool import install
from local_lab import Lab, settings
from test_local_building import SNAP, build, layout, programs, refused, tarred

from thopter.kit import failpoint
from thopter.kit.linux import procs
from thopter.model.errors import BadInput, ProviderError, Unsupported
from thopter.model.nouns import Limits
from thopter.providers.local.debian import _apt_conf, _failure
from thopter.providers.local.lowly import PLACE

pytestmark = pytest.mark.root


@pytest.fixture
def tools(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder for a program in mmdebstrap's place, first in the path."""
    folder = Path(f"/tmp/thopter-tool-{os.getpid()}-{time.monotonic_ns()}")
    folder.mkdir(mode=0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    yield folder
    shutil.rmtree(folder)


def small() -> bytes:
    """The root of a system that can run a shell."""
    return tarred(("etc", None), ("tmp", None), ("usr", None), ("usr/bin", None),
                  *programs("dash", "cat", "ls", "stat"), ("usr/bin/sh", "dash"))  # fmt: skip


def test_the_builder_is_nobody_for_the_machine_and_its_root_is_checked(
    own_lab: Lab, tools: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tools, small())
    monkeypatch.setenv("ANTHROPIC_AUTH_TOKEN", "sk-canary-1b9d")
    said = build(own_lab, "debian:trixie", ("jq",))
    assert "downloading the first" in said and said.index("downloading the first") < said.index(
        "installing the second"
    )
    assert any("no tmux" in line for line in said) and any("no git" in line for line in said)
    (made,) = own_lab.run(own_lab.provider.snapshots())
    assert set(made.missing) == {"tmux", "git"}
    box = own_lab.box(snapshot=SNAP)
    assert own_lab.sh(box.key, "cat /facts/harm 2>/dev/null || echo none") == "none"
    inside, outside, count = (int(n) for n in own_lab.sh(box.key, "cat /facts/uid_map").split())
    assert inside == 0 and outside >= 0x10000000 and count == 0x10000
    assert int(own_lab.sh(box.key, "cat /facts/processes")) < 20
    env = own_lab.sh(box.key, "cat /facts/env")
    assert "canary" not in env and f"HOME={PLACE}" in env
    argv = own_lab.sh(box.key, "cat /facts/argv").split("\n")
    (include,) = (a for a in argv if a.startswith("--include="))
    assert {"jq", "tmux", "git"} <= set(include.removeprefix("--include=").split(","))
    assert argv[argv.index("trixie") + 1] == f"{PLACE}/root.tar"
    assert own_lab.sh(box.key, "stat -c %u /facts/env /usr/bin") == "33\n0"
    assert own_lab.sh(box.key, "ls /dev/null /proc/self/status") == "/dev/null\n/proc/self/status"
    assert build(own_lab, "debian:trixie") == []  # there already
    assert own_lab.run(own_lab.provider.leaks(frozenset([box.key, SNAP]))) == []
    assert not os.path.lexists("/etc/thopter-hostile")


def test_the_root_goes_with_the_last_one_that_stands_on_it(own_lab: Lab, tools: Path) -> None:
    install(tools, small())
    build(own_lab, "debian:trixie")
    (made,) = own_lab.run(own_lab.provider.snapshots())
    place = own_lab.place.paths.state / "goldens" / made.golden
    box = own_lab.box(snapshot=SNAP)
    own_lab.run(own_lab.provider.snapshot(box.key, "snap_more", {}))
    own_lab.run(own_lab.provider.drop_snapshot(SNAP))
    own_lab.run(own_lab.provider.drop_snapshot("snap_more"))
    assert place.is_dir() and own_lab.sh(box.key, "cat /facts/uid_map")
    own_lab.run(own_lab.provider.destroy(box.key))
    assert not place.exists()
    assert own_lab.run(own_lab.provider.leaks(frozenset())) == []


def test_what_is_missing_is_known_of_boxes_made_from_it_too(own_lab: Lab, tools: Path) -> None:
    install(tools, small())
    build(own_lab, "debian:trixie")
    box = own_lab.box(snapshot=SNAP)
    own_lab.sh(box.key, "cat /usr/bin/sh > /usr/bin/tmux; ls /usr/bin/tmux")
    own_lab.run(own_lab.provider.snapshot(box.key, "snap_more", {}))
    handles = {h.id: h for h in own_lab.run(own_lab.provider.snapshots())}
    assert set(handles["snap_more"].missing) == {"git"}


FAULTS = {
    "the tool fails": ("echo 'E: it fell over'; exit 3", ProviderError, "it fell over"),
    "no such package": ("echo 'E: Unable to locate package zz'; exit 25", BadInput, "no package zz"),
    "no such suite": (
        "echo \"E: The repository 'x nosuite Release' does not have a Release file.\"; exit 1",
        BadInput, "no suite",
    ),
    "the disk is full": ("echo 'tar: No space left on device'; exit 2", ProviderError, "no space left"),
    "it makes nothing": ("exit 0", ProviderError, "made nothing"),
    "it makes a link": ('ln -s /etc/shadow "$target"; exit 0', ProviderError, "made nothing"),
    "it makes a pipe": ('mkfifo "$target"; exit 0', ProviderError, "something else"),
    "it makes noise": ('head -c 5000 /dev/urandom > "$target"; exit 0', BadInput, "can't be read"),
    "it is killed": ("kill -9 $$", ProviderError, "could not be built"),
}  # fmt: skip


@pytest.mark.parametrize("what", FAULTS)
def test_a_build_that_fails_says_why_and_leaves_nothing(lab: Lab, tools: Path, what: str) -> None:
    more, kind, words = FAULTS[what]
    install(tools, small(), more)
    refused(lab, "debian:trixie", words, kind)


@pytest.mark.parametrize("suite", ["", "-o", "trixie;id", "../x", "Trixie", "a" * 60])
def test_suites_that_are_none_are_refused(lab: Lab, suite: str) -> None:
    refused(lab, f"debian:{suite}", "no suite of Debian")


@pytest.mark.parametrize(
    "name", ["-y", "--option=x", "a b", "a,b", "a/b", "", "A", "x" * 200, "a\nb", "?essential"]
)
def test_packages_that_are_options_or_patterns_are_refused(lab: Lab, name: str) -> None:
    with pytest.raises(BadInput, match="no name of a package"):
        build(lab, "debian:trixie", (name,))
    assert lab.run(lab.provider.leaks(frozenset())) == []


def test_packages_for_an_image_are_refused_with_the_way_to_do_it(lab: Lab, tmp_path: Path) -> None:
    image = layout(tmp_path / "image", tarred(("a", b"a")))
    with pytest.raises(BadInput) as told:
        build(lab, str(image), ("jq",))
    assert "snapshot create" in told.value.hint


def test_without_the_tool_the_error_says_what_to_install(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr("thopter.providers.local.debian._TOOLS", "/nowhere")
    with pytest.raises(Unsupported) as told:
        build(lab, "debian:trixie")
    assert told.value.hint.startswith("apt install mmdebstrap")


def test_a_build_that_is_given_up_leaves_no_process_and_no_file(own_lab: Lab, tools: Path) -> None:
    install(tools, small(), "sleep 1234.5 & sleep 1234.5")

    async def half() -> None:
        lines = own_lab.provider.build_snapshot(SNAP, "debian:trixie", (), {})
        async for line in lines:
            if line == "installing the second":
                break
        await lines.aclose()  # type: ignore[attr-defined]
        await asyncio.sleep(0)

    own_lab.run(half())
    assert sleepers(tools) == []
    assert own_lab.run(own_lab.provider.leaks(frozenset())) == []


def sleepers(tools: Path) -> list[int]:
    """Processes of the program in mmdebstrap's place."""
    ours = os.fsencode(str(tools))
    return [pid for pid in procs_of_machine() if ours in procs.command_line(pid)]


def procs_of_machine() -> list[int]:
    """Every process there is."""
    return [int(p) for p in os.listdir("/proc") if p.isdigit()]


@pytest.mark.parametrize("dies_at", ["while it builds", "build.unpacked", "build.recorded", "build.kept"])
def test_a_hub_killed_while_building_leaves_nothing(own_lab: Lab, tools: Path, dies_at: str) -> None:
    running = dies_at == "while it builds"
    install(tools, small(), "sleep 1234.5" if running else "")
    paths = own_lab.place.paths
    env = os.environ | ({} if running else {failpoint.ENV: dies_at})
    argv = [sys.executable, str(Path(__file__).with_name("local_hub.py"))]
    hub = subprocess.Popen([*argv, str(paths.state), str(paths.runtime), "build", "snap_victim"], env=env,
                           stdout=subprocess.PIPE, text=True)  # fmt: skip
    with hub:
        assert hub.stdout is not None
        if running:
            assert any("installing the second" in line for line in hub.stdout)
            hub.kill()
        assert hub.wait(60) == -signal.SIGKILL
    end = time.monotonic() + 30
    while sleepers(tools) and time.monotonic() < end:
        time.sleep(0.02)
    assert sleepers(tools) == []
    own_lab.run(own_lab.provider.start())
    own_lab.run(own_lab.provider.sweep(frozenset()))
    assert own_lab.run(own_lab.provider.snapshots()) == []
    assert own_lab.run(own_lab.provider.leaks(frozenset())) == []
    shelf = own_lab.place.paths.state / "goldens"
    assert {p.name for p in shelf.iterdir() if not p.name.startswith(".mask")} <= {
        "base",
        os.readlink(shelf / "base"),
    }
    install(tools, small())
    assert build(own_lab, "debian:trixie")


def test_sources_of_the_operator_are_used_and_their_password_stays_out_of_the_box(
    tmp_path: Path, tools: Path
) -> None:
    install(tools, small(), 'cp sources.clean tree/facts/clean; for a; do case "$a" in --customize-hook=*)'
            ' mkdir -p tree/etc/apt/apt.conf.d; echo secret > tree/etc/apt/apt.conf.d/99mmdebstrap;'
            ' sh -c "${a#--customize-hook=}" hook tree ;; esac; done')  # fmt: skip
    own = tmp_path / "sources.list"
    own.write_text("deb https://me:pa55@mirror.invalid/debian trixie main\n")
    lab = Lab(tmp_path / "lab", settings(debian_sources=str(own)))
    try:
        build(lab, "debian:trixie")
        box = lab.box(snapshot=SNAP, limits=Limits())
        assert "me:pa55@" in lab.sh(box.key, "cat /facts/sources")  # the tool was given all of it
        assert lab.sh(box.key, "cat /etc/apt/sources.list") == "deb https://mirror.invalid/debian trixie main"
        assert lab.sh(box.key, "ls /etc/apt/apt.conf.d") == ""
        lab.run(lab.provider.drop_snapshot(SNAP))
        own.unlink()
        with pytest.raises(BadInput, match="debian_sources can't be read"):
            build(lab, "debian:trixie")
    finally:
        lab.end()


def test_the_words_of_apt_are_told_without_passwords() -> None:
    told = _failure("trixie", ["E: Failed to fetch https://me:pa55@mirror.invalid/x"])
    assert "mirror.invalid" in told.message and "pa55" not in told.message
    assert all(line.startswith(("//", "Acquire::")) for line in _apt_conf().splitlines())
