"""Boxes are as strong as was asked for, or are not made at all."""

from __future__ import annotations

from pathlib import Path

import pytest
from local_lab import Lab, settings
from local_ways import ASKED

from thopter.model.errors import Refused
from thopter.model.sockets import BoxSpec

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
