"""What is changed in CRIU's images: one number, and nothing else whatever they hold."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from thopter.model.errors import Unsupported
from thopter.providers.local import criu, images

_NUMBERS = st.integers(0, (1 << 63) - 1)
_FIELD = st.one_of(
    st.tuples(st.integers(1, 500), st.just(0), _NUMBERS),
    st.tuples(st.integers(1, 500), st.just(2), st.binary(max_size=40)),
    st.tuples(st.integers(1, 500), st.just(1), st.binary(min_size=8, max_size=8)),
    st.tuples(st.integers(1, 500), st.just(5), st.binary(min_size=4, max_size=4)),
)


@given(st.lists(_FIELD, max_size=12))
def test_a_message_comes_out_as_it_went_in(fields: images.Fields) -> None:
    assert images.parse(images.join(fields)) == fields


@given(st.binary(max_size=60))
def test_bytes_that_are_no_message_are_a_value_error_and_nothing_worse(raw: bytes) -> None:
    try:
        images.parse(raw)
    except ValueError:
        return


def _write(path: Path, magic: bytes, fields: images.Fields) -> None:
    raw = images.join(fields)
    path.write_bytes(magic + struct.pack("<I", len(raw)) + raw)


def test_the_user_namespace_becomes_crius_own_and_all_else_stays(tmp_path: Path) -> None:
    ours: images.Fields = [(1, 0, 1), (9, 0, 6), (10, 0, 7), (12, 0, 5)]
    theirs: images.Fields = [(1, 0, 2), (9, 0, 6), (10, 0, 9), (12, 0, 5)]
    _write(tmp_path / "ids-63.img", b"CommIds1", theirs)
    rest: images.Fields = [(1, 0, 2), (13, 2, b"an id")]
    _write(tmp_path / "inventory.img", b"Invt", [rest[0], (3, 2, images.join(ours)), rest[1]])
    images.same_user_namespace(tmp_path, 63)
    raw = (tmp_path / "inventory.img").read_bytes()
    assert raw[:4] == b"Invt" and struct.unpack_from("<I", raw, 4) == (len(raw) - 8,)
    first, middle, last = images.parse(raw[8:])
    assert [first, last] == rest
    assert isinstance(middle[2], bytes)
    assert images.parse(middle[2]) == [(1, 0, 1), (9, 0, 6), (10, 0, 9), (12, 0, 5)]


@pytest.mark.parametrize("inventory", [b"", b"Invt\x05\0\0\0ab", b"Invt\x02\0\0\0\x08\x01"])
def test_images_of_another_shape_are_refused(tmp_path: Path, inventory: bytes) -> None:
    _write(tmp_path / "ids-63.img", b"CommIds1", [(10, 0, 9)])
    (tmp_path / "inventory.img").write_bytes(inventory)
    with pytest.raises(ValueError):
        images.same_user_namespace(tmp_path, 63)
    assert (tmp_path / "inventory.img").read_bytes() == inventory


@pytest.mark.parametrize(
    ("wish", "says"), [("off", "off"), ("/no/such/criu", "no program"), ("criu", "no program")]
)
def test_what_is_not_criu_is_told_with_what_to_do(tmp_path: Path, wish: str, says: str) -> None:
    with pytest.raises(Unsupported) as caught:
        criu.find(wish, tmp_path)
    assert says in caught.value.message and "local.criu" in caught.value.message + caught.value.hint


def test_an_old_criu_is_told_from_one_that_can_be_used(tmp_path: Path) -> None:
    old = Path("/bin/echo")  # a real program that is started as CRIU would be
    with pytest.raises(Unsupported) as caught:
        criu.find(str(old), tmp_path / "own")
    assert "does not start" in caught.value.message
    loader = (tmp_path / "own/loader").read_bytes()
    assert b"/etc/ld.so.preload" not in loader and b"/proc/0/ld.preload" in loader
