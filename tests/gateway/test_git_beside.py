"""A box with several mirrors: which one a request is about, and what each lets it push."""

from __future__ import annotations

import pytest

from thopter.gateway.git.routes import narrowed, parse_attach
from thopter.model.errors import BadInput

A, B = "a" * 40, "b" * 40
REQUEST = {
    "box": "box_1",
    "repo": "one",
    "branch": "thopter/flag",
    "base": A,
    "beside": [{"repo": "two", "branch": "thopter/flag", "base": B}],
}


def test_a_request_is_about_the_mirror_that_its_path_names_and_no_other():
    attach = parse_attach(REQUEST)
    assert narrowed(attach, "/r/two.git/info/refs?service=git-upload-pack").base == B
    assert narrowed(attach, "/r/one.git/git-receive-pack").base == A
    for odd in ("/r/two.gitx/info/refs", "/r/two", "/r/../two.git/x", "//r/two.git/x", "/r/%74wo.git/x"):
        assert narrowed(attach, odd).repo == "one"  # which then refuses a path that is not its own


@pytest.mark.parametrize(
    "beside",
    [
        [{"repo": "one", "branch": "thopter/flag"}],
        [{"repo": "../x", "branch": "thopter/flag"}],
        [{"repo": "two", "branch": "main"}],
        [{"repo": "two", "branch": "thopter/flag", "base": "HEAD"}],
        [{"repo": "two", "branch": "thopter/flag", "force": False}],
    ],
)
def test_what_stands_beside_is_checked_like_the_first(beside: list[dict[str, object]]):
    with pytest.raises(BadInput):
        parse_attach(REQUEST | {"beside": beside})
