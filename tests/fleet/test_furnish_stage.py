"""Uploads that wait for their box: kept whole, kept private, and gone when nobody will ask for them."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from thopter.fleet.furnish import UPLOADS_MAX, Stage, check_uploads
from thopter.model.api.furnish import Upload
from thopter.model.errors import BadInput


def test_what_waits_is_private_the_same_after_a_restart_and_gone_when_dropped(tmp_path: Path):
    uploads = [Upload(path="~/a", content=b"\0secret", mode=0o755), Upload(path="/work/b", content=b"")]
    staged = Stage(tmp_path).put("flow_1", uploads)
    assert staged == Stage(tmp_path).put("flow_1", uploads)  # asked again under the same key
    again = Stage(tmp_path)
    assert [again.content("flow_1", s.number) for s in staged] == [b"\0secret", b""]
    files = [p for p in (tmp_path / "uploads").rglob("*") if p.is_file()]
    assert files and all(stat.S_IMODE(p.stat().st_mode) == 0o600 for p in files)
    assert all(stat.S_IMODE(p.parent.stat().st_mode) == 0o700 for p in files)
    again.drop("flow_1")
    again.drop("flow_1")
    with pytest.raises(FileNotFoundError):
        again.content("flow_1", 0)


def test_what_a_hub_left_that_died_is_swept_and_what_is_still_wanted_stays(tmp_path: Path):
    stage = Stage(tmp_path)
    stage.sweep(frozenset())  # nothing was ever uploaded
    for flow in ("flow_1", "flow_2"):
        stage.put(flow, [Upload(path="/x", content=flow.encode())])
    Stage(tmp_path).sweep(frozenset({"flow_2"}))
    assert [p.name for p in (tmp_path / "uploads").iterdir()] == ["flow_2"]
    assert stage.content("flow_2", 0) == b"flow_2"


@pytest.mark.parametrize("path", ["relative", "~x/y", "/a/../b", "/a/", "/a\0b", "~/../../etc/passwd", "/.."])
def test_a_place_that_can_not_be_in_a_box_is_refused(path: str):
    with pytest.raises(BadInput):
        check_uploads([Upload(path=path, content=b"")])


def test_too_much_at_once_is_refused():
    half = b"x" * (UPLOADS_MAX // 2)
    check_uploads([Upload(path=f"/{n}", content=half) for n in range(2)])
    with pytest.raises(BadInput, match="MiB"):
        check_uploads([Upload(path=f"/{n}", content=half) for n in range(3)])
