"""The repository itself: what may not be in it, what must be, and that its lists are true."""

from __future__ import annotations

import os
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
from house_files import ROOT, name, tracked

# Registries' own addresses; split, so that this file does not find itself.
_REGISTRIES = re.compile(
    "|".join(
        (
            "py" + r"pi\.org",
            "python" + r"hosted\.",
            "registry\\." + "npmjs",
            "deb\\." + "debian",
            "proxy\\.gol" + "ang",
        )
    )
)
_FRAGMENT = re.compile(r"\d{4}-[a-z0-9-]+\.(added|changed|fixed|removed|security)\.md")


def texts() -> list[tuple[Path, str]]:
    """Return every tracked text file with its content."""
    return [
        (p, p.read_text("utf-8", errors="replace")) for p in tracked() if b"\0" not in p.read_bytes()[:8192]
    ]


def test_no_file_names_a_package_registry() -> None:
    assert [name(p) for p, text in texts() if _REGISTRIES.search(text)] == []


def test_no_file_names_a_path_of_the_machine_it_was_written_on() -> None:
    private = {str(ROOT)}
    home = os.environ.get("HOME", "")
    if home not in ("", "/", "/root"):  # /root is the home inside a box
        private.add(home)
    assert [name(p) for p, text in texts() if any(x in text for x in private)] == []


def test_the_lock_pins_every_package_with_hashes_and_no_address() -> None:
    text = (ROOT / "requirements.lock").read_text("utf-8")
    blocks = re.split(r"\n(?=[a-zA-Z0-9])", text)
    assert len(blocks) > 30
    for block in blocks:
        assert re.match(r"[a-zA-Z0-9._-]+==\S+", block), block[:80]
        assert "--hash=sha256:" in block, block[:80]
    assert "://" not in text


def test_every_dependency_is_in_the_lock() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    wanted = [*project["project"]["dependencies"], *project["dependency-groups"]["dev"]]
    lock = (ROOT / "requirements.lock").read_text("utf-8")
    pinned = {m.lower().replace("_", "-") for m in re.findall(r"^([A-Za-z0-9._-]+)==", lock, re.M)}
    names = {re.match(r"[A-Za-z0-9._-]+", w).group().lower().replace("_", "-") for w in wanted}  # type: ignore[union-attr]
    assert names - pinned == set()


@pytest.mark.parametrize("path", ["dev", ".ci/run"])
def test_the_scripts_can_be_run_and_are_well_formed(path: str) -> None:
    assert os.access(ROOT / path, os.X_OK)
    subprocess.run(["bash", "-n", str(ROOT / path)], check=True)


def test_ci_runs_what_developers_run() -> None:
    assert (ROOT / ".ci/run").read_text("utf-8").splitlines()[-1] == "./dev check && ./dev test"


def test_agents_md_fits_a_screen() -> None:
    assert len((ROOT / "AGENTS.md").read_text("utf-8").splitlines()) <= 60


def test_changes_are_fragments_of_the_right_form() -> None:
    fragments = [p for p in tracked() if p.parent == ROOT / "changes" and p.name != "README.md"]
    assert fragments
    for path in fragments:
        assert _FRAGMENT.fullmatch(path.name), path.name
        text = path.read_text("utf-8").strip()
        assert 0 < len(text) <= 600, f"{path.name}: one short paragraph for users"
        assert not text.startswith("#"), f"{path.name}: no headings, fragments are joined"


def test_no_two_test_files_share_a_name() -> None:
    """Pytest imports test files and their helpers by bare name; two of one name stop the whole run."""
    files = [p for p in tracked() if p.suffix == ".py" and p.is_relative_to(ROOT / "tests")]
    names = [p.name for p in files if p.name != "conftest.py"]
    assert sorted({n for n in names if names.count(n) > 1}) == []
