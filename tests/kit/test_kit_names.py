"""Friendly names."""

from __future__ import annotations

import random

from thopter.kit.names import FIRST, SECOND, friendly
from thopter.model.ids import check_name


def test_there_are_over_a_hundred_words_of_each_kind_and_none_twice():
    assert len(FIRST) >= 100 and len(SECOND) >= 100
    assert len(set(FIRST)) == len(FIRST) and len(set(SECOND)) == len(SECOND)
    assert not set(FIRST) & set(SECOND)


def test_every_name_may_name_a_thopter():
    for first in FIRST:
        for second in SECOND:
            check_name(f"{first}-{second}")


def test_a_taken_name_is_never_given():
    everything = {f"{a}-{b}" for a in FIRST for b in SECOND}
    free = everything.pop()
    name = friendly(everything | {f"{n}-2" for n in everything}, random.Random(1))
    assert name == free or name.endswith("-3")
    check_name(name)


def test_names_differ():
    assert len({friendly() for _ in range(100)}) > 90
