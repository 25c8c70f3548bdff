"""A stranger's text gets a box with a kernel of its own: the real Claude Code at work in gVisor."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from e2e_lab import Lab, lab

from thopter.testing.scripted_model import Scenario, Script, Tool, Turn

pytestmark = [
    pytest.mark.claude, pytest.mark.root, pytest.mark.xdist_group("e2e"), pytest.mark.timeout(600),
]  # fmt: skip

RUNSC = Path(os.environ.get("THOPTER_LOCAL_RUNSC") or Path(__file__).parents[2] / ".dev/runsc/usr/bin/runsc")
_WORK = Tool(
    name="Bash", input={"command": "cat /proc/version > kernel.txt; git status --short >> kernel.txt"}
)
SCENARIO = Scenario(
    script=(
        Script(name="look", turns=(Turn(tools=(_WORK,)), Turn(say="A kernel of its own."))),
        Script(name="again", turns=(Turn(say="Still here."),)),
    )
)
POLICY = """
[trust]
outsider = "strangers"
[policies.strangers]
extends = "closed"
isolation = "gvisor"
"""


@pytest.fixture
def house() -> Iterator[Lab]:
    """A lab whose policy wants gVisor for text of strangers; skipped where no runsc can be had."""
    if not RUNSC.exists() and shutil.which("runsc") is None:
        pytest.skip("no runsc here ('./dev setup' gets one where apt can)")
    with lab(SCENARIO) as made:
        if RUNSC.exists():
            made.env["THOPTER_LOCAL_RUNSC"] = str(RUNSC)
        made.paths.config.mkdir(parents=True, exist_ok=True)
        (made.paths.config / "policy.toml").write_text(POLICY)
        yield made


@pytest.mark.battery("S1")
def test_claude_code_works_on_a_strangers_text_in_gvisor_and_a_killed_hub_finds_it(house: Lab) -> None:
    off = {"THOPTER_LOCAL_RUNSC": "off", "THOPTER_LOCAL_VM_KERNEL": "/nonexistent"}  # nothing stronger either
    for how, who in (
        (("--trust", "outsider"), "policy strangers"),
        (("--isolation", "gvisor"), "this request"),
    ):
        without = house.run("run", *how, "-d", "script:look", check=False, env=off)
        assert without.returncode == 5, without
        assert who in without.stderr and "local.runsc is off" in without.stderr
    assert house.json("status") == []
    house.run("hub", "stop")
    repo = house.repo()
    house.run(
        "run", "-d", "--trust", "outsider", "--repo", str(repo), "--name", "odd", "script:look", timeout=300
    )
    house.rest("odd")
    view = house.view("odd")
    assert (view["state"], view["reason"], view["isolation"]) == ("waiting", "turn_end", "gvisor"), view
    assert "isolation gvisor (at least gvisor was asked for)" in house.run("policy", "explain", "odd").stdout
    kernel = house.run("exec", "odd", "--", "cat", "kernel.txt").stdout
    assert "Linux version" in kernel and os.uname().release not in kernel and "?? kernel.txt" in kernel
    house.kill_hub()
    house.run("tell", "odd", "script:again")
    house.until("it heard", lambda: "Still here." in house.view("odd")["last_message"])
    house.run("freeze", "odd")
    assert house.view("odd")["box_state"] == "frozen"
    house.run("resume", "odd")
    checks = {c["name"]: c for c in house.json("doctor")}
    assert checks["provider local: isolation gvisor"]["level"] == "ok", checks
    house.run("destroy", "--yes", "odd")
    assert house.leaks() == []
