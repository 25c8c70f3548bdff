"""The weaker ways of keeping boxes apart: each passes the suite that every provider must pass."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from local_lab import Lab, settings
from local_ways import ASKED, HERE, as_user, need

from thopter.kit.linux import procs
from thopter.model.errors import Refused, Unsupported
from thopter.model.nouns import BoxState
from thopter.model.sockets import BoxHandle, BoxSpec, GoldenPart
from thopter.providers.local import engines

SUITE, WALLS, THIS = (str(HERE / f"test_local_{name}.py") for name in ("conformance", "walls", "ways"))
# An engine takes seconds for a box; what it does not change is shown by the others.
_SHORT = "a_new_box_is or destroyed_box_leaves or object_finds or gateways_listen or secret or usr or truth"


@pytest.mark.battery("S2", "S4", "S5", "S6", "S7", "S8")
@pytest.mark.root
@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("files", [(SUITE, THIS), (WALLS,)], ids=["suite", "walls"])
def test_boxes_made_by_bubblewrap_pass_the_suite_and_the_walls_hold(files: tuple[str, ...]) -> None:
    need("bubblewrap")
    as_user(54_331 + len(files), *files, way="bubblewrap")


@pytest.mark.root
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_boxes_without_isolation_pass_the_suite_as_far_as_it_is_not_about_isolation() -> None:
    as_user(54_334, SUITE, THIS, way="none")


@pytest.mark.root
@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("way", ["bubblewrap", "none"])
def test_a_hub_killed_at_any_step_of_such_a_box_leaves_nothing(way: str) -> None:
    need(way)
    killed = "killed_while_making_a_box or killed_while_destroying"
    faults = [f"{HERE / 'test_local_faults.py'}", "-k", f"({killed}) and hub and not after_its_restart"]
    assert "8 passed" in as_user(54_336 + len(way), *faults, way=way)


@pytest.mark.battery("S2", "S4", "S5", "S6", "S7", "S8")
@pytest.mark.root
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_boxes_made_by_a_container_engine_pass_the_suite_and_the_walls_hold() -> None:
    need("container")
    env = os.environ | {"THOPTER_TEST_ISOLATION": "container"}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", SUITE, WALLS, THIS, "-k", _SHORT, "-x", "-p", "no:xdist"],
        cwd=HERE.parent.parent, env=env, capture_output=True, text=True, timeout=540, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-1000:]
    left = subprocess.run(
        ["podman", "ps", "-aq", "--filter", "name=thopter-"], capture_output=True, text=True
    )
    assert left.stdout == ""


# ------------------------------------------------- what runs inside of the runs above, or by itself


weaker = pytest.mark.skipif(
    ASKED not in ("bubblewrap", "container", "none"), reason="of the weaker ways only"
)
plain = pytest.mark.skipif(ASKED != "none", reason="of boxes without isolation only")


@pytest.fixture(scope="module")
def one(lab: Lab) -> Iterator[BoxHandle]:
    """A box with two gateways' ports."""
    yield lab.box(ports=(8401, 8402))


@weaker
def test_what_a_box_is_called_and_cannot_do_is_the_truth(lab: Lab, one: BoxHandle) -> None:
    caps = lab.run(lab.provider.caps())
    assert one.isolation == caps.isolation == ASKED
    assert not {"snapshots", "stops"} & caps.facets and ASKED in caps.missing["snapshots"]
    for ask in (lab.provider.snapshot(one.key, "snap_x", {}), lab.provider.stop(one.key)):
        with pytest.raises(Unsupported, match=ASKED):
            lab.run(ask)
    with pytest.raises(Unsupported, match="snapshot"):
        lab.box(snapshot="snap_x")
    assert lab.run(lab.provider.get(one.key)).state is BoxState.READY


@weaker
@pytest.mark.skipif(not shutil.which("npm"), reason="no npm on this machine")
def test_a_golden_is_built_and_checked_in_boxes_and_is_where_the_box_says(lab: Lab, tmp_path: Path) -> None:
    package = tmp_path / "tool"
    (package / "bin").mkdir(parents=True)
    (package / "bin/tool.js").write_text("#!/usr/bin/env node\nconsole.log('it works');\n")
    (package / "made.js").write_text("require('fs').writeFileSync('mark', 'made in a box');\n")
    (package / "package.json").write_text(
        '{"name":"tool","version":"1.0.0","bin":{"tool":"bin/tool.js"},"scripts":{"install":"node made.js"}}'
    )
    subprocess.run(["npm", "pack", "--silent"], cwd=package, check=True, capture_output=True)
    version = f"file:{package}/tool-1.0.0.tgz"
    part = GoldenPart(name="tool", npm="tool", version=version, check=("bin/tool",))

    async def build() -> list[str]:
        return [line async for line in lab.provider.build_golden("with-tool", [part])]

    lines = lab.run(build(), 300)
    assert any("checked (it works)" in line for line in lines), lines
    box = lab.box(golden="with-tool")
    tool = f"{box.places.opt}/tool"
    assert (
        lab.sh(box.key, f"{tool}/bin/tool; cat {tool}/lib/node_modules/tool/mark")
        == "it works\nmade in a box"
    )
    lab.run(lab.provider.destroy(box.key))


@plain
def test_boxes_without_isolation_have_ports_and_folders_of_their_own(lab: Lab, one: BoxHandle) -> None:
    two = lab.box(ports=(8401, 8402))
    ports = [*one.places.ports.values(), *two.places.ports.values()]
    assert len(set(ports)) == 6 and sorted(one.places.ports) == ["8400", "8401", "8402"]
    assert one.places.home != two.places.home
    for box in (one, two):
        assert lab.sh(box.key, "echo $HOME; pwd").split() == [box.places.home] * 2
        listeners = lab.run(lab.provider.listeners(box.key))
        assert {p: s.getsockname()[1] for p, s in listeners.items()} == {
            p: box.places.port(p) for p in (8401, 8402)
        }
        for s in listeners.values():
            s.close()
        with socket.create_connection(("127.0.0.1", box.places.port(8400)), 30) as hook:
            hook.sendall(b"POST /hook/Stop HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n")
            assert b" 401 " in hook.recv(100)  # boxd is there, and wants the token
    lab.run(lab.provider.destroy(two.key))


@plain
def test_the_ports_of_a_box_without_isolation_outlive_the_zygote(lab: Lab, one: BoxHandle) -> None:
    lab.run(lab.provider._nursery.stop())
    listeners = lab.run(lab.provider.listeners(one.key))
    assert listeners[8401].getsockname()[1] == one.places.port(8401)
    for s in listeners.values():
        s.close()


@plain
def test_nothing_of_a_box_without_isolation_outlives_it_also_what_hid_away(lab: Lab) -> None:
    box = lab.box()
    hides = "import os, time\nif os.fork() == 0:\n os.setsid()\n if os.fork() == 0:\n  time.sleep(4321)\n"
    lab.sh(box.key, f"python3 -c '{hides}' > /dev/null 2>&1 < /dev/null; echo done")
    pids = lab.pids(box)
    assert len(pids) > 2
    lab.run(lab.provider.destroy(box.key))
    assert [p for p in pids if procs.stat_state(p) not in ("", "Z", "X")] == []
    assert not Path(box.places.home).exists()


@pytest.mark.battery("S1")
def test_docker_of_the_hosts_root_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for options, good in (('["name=seccomp,profile=builtin"]', False), ('["name=userns"]', True)):
        tool = tmp_path / "docker"
        tool.write_text(f"#!/bin/sh\necho '{options}'\n")
        tool.chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path))
        if good:
            assert engines.find() == str(tool)
        else:
            with pytest.raises(Exception, match="userns-remap"):
                engines.find()


@pytest.mark.battery("S1")
def test_root_is_refused_what_would_make_boxes_of_the_hosts_root(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("of root only")
    lab = Lab(tmp_path, settings(isolation="bubblewrap"))
    try:
        with pytest.raises(Refused, match="host's root") as caught:
            lab.run(lab.provider.ensure(BoxSpec(key="box_x", name="x", golden="base")))
        assert "ordinary user" in caught.value.hint
        assert lab.run(lab.provider.list()) == []
    finally:
        lab.end()
