"""Snapshots with a root of their own, from OCI images: checked, unpacked by us, and boxes in them work."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import io
import json
import os
import platform
import re
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest
from local_lab import Lab

from thopter.model.errors import BadInput, ThopterError

SNAP = "snap_image"
MACHINE = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
LAYER = "application/vnd.oci.image.layer.v1.tar"


def build(lab: Lab, source: str, packages: tuple[str, ...] = ()) -> list[str]:
    """Build it; the lines of progress."""

    async def go() -> list[str]:
        return [line async for line in lab.provider.build_snapshot(SNAP, source, packages, {})]

    return lab.run(go())


def tarred(*entries: tuple[str, Any]) -> bytes:
    """A layer: names with contents (bytes), link targets (str), TarInfo or None for a folder."""
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as tar:
        for name, what in entries:
            info = what if isinstance(what, tarfile.TarInfo) else tarfile.TarInfo(name)
            info.name, info.mode = name, 0o755
            if isinstance(what, bytes):
                info.size = len(what)
            elif isinstance(what, str):
                info.type, info.linkname = tarfile.SYMTYPE, what
            elif what is None:
                info.type = tarfile.DIRTYPE
            tar.addfile(info, io.BytesIO(what) if isinstance(what, bytes) else None)
    return raw.getvalue()


def layout(folder: Path, *layers: bytes, zipped: bool = True, kind: str = "") -> Path:
    """An OCI image folder with these layers."""
    blobs = folder / "blobs/sha256"
    blobs.mkdir(parents=True)

    def put(raw: bytes) -> dict[str, Any]:
        digest = hashlib.sha256(raw).hexdigest()
        (blobs / digest).write_bytes(raw)
        return {"digest": f"sha256:{digest}", "size": len(raw)}

    kind = kind or (LAYER + "+gzip" if zipped else LAYER)
    parts = [put(gzip.compress(one, 1) if zipped else one) | {"mediaType": kind} for one in layers]
    manifest = put(json.dumps({"schemaVersion": 2, "config": put(b"{}"), "layers": parts}).encode())
    (folder / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    other = {"digest": "sha256:" + "0" * 64, "platform": {"architecture": "s390x"}}
    mine = manifest | {"platform": {"architecture": MACHINE}}
    (folder / "index.json").write_text(json.dumps({"manifests": [other, mine]}))
    return folder


def programs(*names: str) -> list[tuple[str, Any]]:
    """Some programs of this machine with the libraries they need."""
    found: dict[str, Any] = {"lib": "usr/lib", "lib64": "usr/lib64", "bin": "usr/bin"}
    for name in names:
        path = os.path.realpath(f"/usr/bin/{name}")
        found[f"usr/bin/{name}"] = Path(path).read_bytes()
        said = subprocess.run(["ldd", path], capture_output=True, text=True, check=True).stdout
        for library in re.findall(r"(/\S+)", said):
            place = os.path.realpath(os.path.dirname(library)) + "/" + os.path.basename(library)
            found[place.lstrip("/")] = Path(library).read_bytes()
    return list(found.items())


def test_a_box_lives_in_an_image(own_lab: Lab, tmp_path: Path) -> None:
    base = tarred(*programs("dash", "cat", "ls", "rm"), ("usr/bin/sh", "dash"), ("etc", None),
                  ("etc/os-release", b"ID=ours\n"), ("etc/gone", b"x"),
                  ("opt/a/one", b"1"), ("opt/b/two", b"2"),
                  ("etc/passwd", b"root:x:0:0::/root:/bin/sh\n"))  # fmt: skip
    over = tarred(("etc/.wh.gone", b""), ("opt/a/.wh..wh..opq", b""), ("opt/a/new", b"n"), ("srv/late", b"l"))
    image = layout(tmp_path / "image", base, over)
    said = build(own_lab, str(image))
    assert any("2 layers" in line for line in said) and any("no tmux" in line for line in said)
    box = own_lab.box(snapshot=SNAP)
    look = (
        "cat /etc/os-release /srv/late; ls /opt/a /opt/b /usr/bin; ls /etc/gone || echo gone; echo w > /usr/w"
    )
    said_in = own_lab.sh(box.key, look).split()
    assert said_in == ["ID=ours", "l/opt/a:", "new", "/opt/b:", "two", "/usr/bin:", "cat", "dash", "ls", "rm",
                       "sh", "gone"]  # fmt: skip
    own_lab.run(own_lab.provider.snapshot(box.key, "snap_of_it", {}))
    made = own_lab.box(snapshot="snap_of_it")
    assert own_lab.sh(made.key, "cat /usr/w") == "w"
    assert build(own_lab, str(image)) == []  # there already
    known = frozenset([box.key, made.key, SNAP, "snap_of_it"])
    assert own_lab.run(own_lab.provider.leaks(known)) == []


def test_a_tar_of_an_image_will_do(own_lab: Lab, tmp_path: Path) -> None:
    image = layout(tmp_path / "image", tarred(("etc/mark", b"m")), zipped=False)
    with tarfile.open(tmp_path / "image.tar", "w") as tar:
        tar.add(image, arcname=".")
    build(own_lab, str(tmp_path / "image.tar"))
    (golden,) = {s.golden for s in own_lab.run(own_lab.provider.snapshots())}
    assert (own_lab.place.paths.state / "goldens" / golden / "root/etc/mark").read_bytes() == b"m"
    own_lab.run(own_lab.provider.drop_snapshot(SNAP))
    own_lab.run(own_lab.provider.sweep(frozenset()))
    assert not (own_lab.place.paths.state / "goldens" / golden).exists()


def special(kind: bytes, target: str = "") -> tarfile.TarInfo:
    """An entry of that kind."""
    info = tarfile.TarInfo("x")
    info.type, info.linkname = kind, target
    return info


HOSTILE = {
    "dots": [("../../thopter-hostile", b"x")],
    "through a link": [("l", "/tmp"), ("l/thopter-hostile", b"x")],
    "through two layers": [("l", "../../../../tmp"), ("l/a/thopter-hostile", b"x")],
    "hard link out": [("h", special(tarfile.LNKTYPE, "../../../etc/shadow"))],
    "hard link through a link": [("l", "/etc"), ("h", special(tarfile.LNKTYPE, "l/shadow"))],
    "whiteout above": [("../.wh.thopter-hostile", b"")],
}


@pytest.mark.battery("P1", "P6")
@pytest.mark.parametrize("what", HOSTILE)
def test_hostile_layers_are_refused(lab: Lab, tmp_path: Path, what: str) -> None:
    refused(lab, str(layout(tmp_path / "image", tarred(*HOSTILE[what]))))
    assert not os.path.lexists("/tmp/thopter-hostile")


def refused(lab: Lab, source: str, words: str | None = None, kind: type[ThopterError] = BadInput) -> None:
    """It is refused and leaves nothing."""
    with pytest.raises(kind, match=words):
        build(lab, source)
    assert lab.run(lab.provider.snapshots()) == []
    assert lab.run(lab.provider.leaks(frozenset())) == []


def test_images_that_are_none_are_refused(lab: Lab, tmp_path: Path) -> None:
    refused(lab, "/nowhere/at/all", "there is no")
    refused(lab, "ubuntu:24", "no known source")
    (tmp_path / "empty").mkdir()
    refused(lab, str(tmp_path / "empty"), "no OCI image")
    (tmp_path / "noise.tar").write_bytes(os.urandom(20_000))
    refused(lab, str(tmp_path / "noise.tar"), "no OCI image")
    refused(lab, str(layout(tmp_path / "kind", tarred(("a", b"")), kind="application/x-none")), "of a kind")
    changed = layout(tmp_path / "changed", tarred(("a", b"a")))
    for blob in (changed / "blobs/sha256").iterdir():
        if blob.read_bytes()[:2] == b"\x1f\x8b":
            blob.write_bytes(gzip.compress(tarred(("a", b"b"))))
    refused(lab, str(changed), "was changed")
    short = layout(tmp_path / "short", tarred(("a", os.urandom(5000)))[:3000], zipped=False)
    refused(lab, str(short), "can't be read")
    missing = layout(tmp_path / "missing", tarred(("a", b"a")))
    index = json.loads((missing / "index.json").read_text())
    index["manifests"] = index["manifests"][:1]
    (missing / "index.json").write_text(json.dumps(index))
    refused(lab, str(missing), "nothing for this machine")


@pytest.mark.battery("P1")
def test_an_endless_header_is_refused_before_it_is_read(lab: Lab, tmp_path: Path) -> None:
    info = tarfile.TarInfo("x")
    info.type, info.size = tarfile.XHDTYPE, 1 << 40
    refused(lab, str(layout(tmp_path / "image", info.tobuf(tarfile.GNU_FORMAT))), "too long")


def test_giving_up_while_an_image_is_read_leaves_nothing(lab: Lab, tmp_path: Path) -> None:
    image = layout(tmp_path / "image", tarred(("a", os.urandom(1 << 20))))

    async def half() -> None:
        lines = lab.provider.build_snapshot(SNAP, str(image), (), {})
        async for _ in lines:
            break
        await lines.aclose()  # type: ignore[attr-defined]
        await asyncio.sleep(0)

    lab.run(half())
    assert lab.run(lab.provider.leaks(frozenset())) == []
