"""A box with several mirrors: which one a request is about, and what each lets it push."""

from __future__ import annotations

import pytest

from thopter.gateway.git.routes import narrowed, parse_attach
from thopter.model.errors import BadInput

A, B = "a" * 40, "b" * 40
ONE, TWO = "one-" + "1" * 10, "two-" + "2" * 10
REQUEST = {
    "box": "box_1",
    "repo": ONE,
    "branch": "thopter/flag",
    "base": A,
    "beside": [{"repo": TWO, "branch": "thopter/flag", "base": B}],
}


def test_a_request_is_about_the_mirror_that_its_path_names_and_no_other():
    attach = parse_attach(REQUEST)
    assert narrowed(attach, f"/r/{TWO}.git/info/refs?service=git-upload-pack").base == B
    assert narrowed(attach, f"/r/{ONE}.git/git-receive-pack").base == A
    for odd in ("/r/{}.gitx/info/refs", "/r/{}", "/r/../{}.git/x", "//r/{}.git/x", "/r/%74{}.git/x"):
        assert narrowed(attach, odd.format(TWO)).repo == ONE  # which then refuses a path that is not its own


@pytest.mark.parametrize(
    "beside",
    [
        [{"repo": ONE, "branch": "thopter/flag"}],
        [{"repo": "../x", "branch": "thopter/flag"}],
        [{"repo": TWO, "branch": "main"}],
        [{"repo": TWO, "branch": "thopter/flag", "base": "HEAD"}],
        [{"repo": TWO, "branch": "thopter/flag", "force": False}],
    ],
)
def test_what_stands_beside_is_checked_like_the_first(beside: list[dict[str, object]]):
    assert len(parse_attach(REQUEST).every) == 2
    with pytest.raises(BadInput):
        parse_attach(REQUEST | {"beside": beside})
