"""Boxes are as strong as was asked for, or are not made at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from local_lab import Lab, settings
from local_ways import ASKED

from thopter.model.errors import Refused, Unsupported
from thopter.model.nouns import Isolation
from thopter.model.sockets import BoxSpec
from thopter.testing.local import GOLDEN

pytestmark = pytest.mark.skipif(ASKED not in ("", "auto"), reason="of the usual boxes only")


def test_a_tier_that_nobody_knows_is_refused_in_a_sentence_and_nothing_is_made(lab: Lab) -> None:
    spec = BoxSpec(key="box_x", name="x", golden="base", isolation="diamond")
    caps = lab.run(lab.provider.caps(spec))
    assert "diamond" in caps.missing and caps.isolation is lab.run(lab.provider.caps()).isolation
    with pytest.raises(Refused, match="isolation 'diamond' can be made"):
        lab.run(lab.provider.ensure(spec))
    assert lab.run(lab.provider.list()) == [] == lab.run(lab.provider.leaks(frozenset()))


def test_the_usual_box_is_taken_where_it_is_strong_enough(lab: Lab) -> None:
    box = lab.box(isolation="namespaces")
    assert box.isolation is lab.run(lab.provider.caps()).isolation
    lab.run(lab.provider.destroy(box.key))


def test_a_setting_raises_every_box_and_lowers_none(tmp_path: Path) -> None:
    lab = Lab(tmp_path, settings(isolation="vm"))
    try:
        assert lab.provider._least(None) == "vm"
        assert lab.provider._least(BoxSpec(key="k", name="k", isolation="gvisor")) == "vm"
    finally:
        lab.end()


def _as_gvisor(lab: Lab, key: str, **changes: Any) -> None:
    """The record of a box as if it were of gVisor."""
    records = lab.provider._maker.records
    old = records.read(key)
    assert old is not None
    records.write(msgspec.structs.replace(old, isolation=Isolation.GVISOR, **changes))


def test_processes_are_never_started_beside_a_sandbox_that_should_hold_them(lab: Lab) -> None:
    box = lab.box()
    _as_gvisor(lab, box.key, snapshot="snap_x")
    try:
        with pytest.raises(Unsupported, match="it is a gVisor box"):
            lab.run(lab.provider.start_live(box.key, "snap_x"))
    finally:
        lab.run(lab.provider.destroy(box.key))


def test_a_box_weaker_than_is_asked_for_now_is_not_started_again(lab: Lab) -> None:
    box = lab.box()
    lab.run(lab.provider.stop(box.key))
    spec = BoxSpec(key=box.key, name="b" + box.key[4:], golden=GOLDEN, isolation="vm")
    try:
        with pytest.raises(Unsupported, match="weaker than is asked for now"):
            lab.run(lab.provider.revive(spec))
        _as_gvisor(lab, box.key)
        with pytest.raises(Unsupported, match="made as gvisor, weaker than is asked for now"):
            lab.run(lab.provider.revive(spec))
    finally:
        lab.run(lab.provider.destroy(box.key))
