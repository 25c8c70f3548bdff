"""A Debian built by its own tools, and the real Claude Code at work in it."""

from __future__ import annotations

import shutil
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest
from e2e_lab import Lab, lab

from thopter.testing.scripted_model import Scenario, Script, Tool, Turn

pytestmark = [
    pytest.mark.claude, pytest.mark.root, pytest.mark.xdist_group("e2e"), pytest.mark.timeout(1500),
]  # fmt: skip

SUITE = "trixie"
_WORK = Tool(name="Bash", input={"command": "cat /etc/os-release > where.txt; jq --version >> where.txt"})
SCENARIO = Scenario(script=(Script(name="look", turns=(Turn(tools=(_WORK,)), Turn(say="Trixie."))),))


def need_mirror() -> None:
    """Skip, saying so, where a Debian can't be built: no tool, or no mirror that has the suite."""
    if shutil.which("mmdebstrap") is None:
        pytest.skip("mmdebstrap is not installed: nothing is shown of a real Debian")
    argv = ["apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages"]
    said = subprocess.run(argv, capture_output=True, text=True, check=False).stdout.split()
    for address in said:
        try:
            with urllib.request.urlopen(f"{address.rstrip('/')}/dists/{SUITE}/InRelease", timeout=30):
                return
        except (urllib.error.URLError, OSError, ValueError):
            continue
    pytest.skip(f"no mirror of this machine has {SUITE}: nothing is shown of a real Debian")


@pytest.fixture
def house() -> Iterator[Lab]:
    """A lab for one Debian."""
    need_mirror()
    with lab(SCENARIO) as made:
        yield made


def test_claude_code_works_in_a_debian_that_was_just_built(house: Lab) -> None:
    said = house.run("snapshot", "build", f"debian:{SUITE}", "-p", "jq", "--name", SUITE, timeout=1200)
    assert f"Snapshot '{SUITE}' built" in said.stdout, said
    assert house.json("snapshot", "show", SUITE)["missing"] == {}
    repo = house.repo()
    house.run(
        "run", "-d", "--repo", str(repo), "--name", "deb", "--snapshot", SUITE, "script:look", timeout=300
    )
    house.rest("deb")
    view = house.view("deb")
    assert (view["state"], view["reason"]) == ("waiting", "turn_end"), view
    found = house.run(
        "exec", "deb", "--", "sh", "-c", "cat where.txt; id -u; git log --oneline | wc -l"
    ).stdout
    assert f"VERSION_CODENAME={SUITE}" in found and "jq-" in found, found
    house.run("snapshot", "create", "deb", "saved")  # and it is a box like others
    house.run("run", "-d", "--name", "again", "--snapshot", "saved", "script:look", timeout=300)
    house.rest("again")
    assert house.view("again")["reason"] == "turn_end"
    house.run("destroy", "--yes", "deb", "again")
    house.run("snapshot", "destroy", SUITE, "saved")
    assert house.leaks() == []
