"""kill -9 of the hub while it builds a snapshot from an image: afterwards it is there, once."""

from __future__ import annotations

import hashlib
import io
import json
import platform
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from e2e_lab import Lab, lab

pytestmark = [pytest.mark.claude, pytest.mark.root, pytest.mark.xdist_group("e2e"), pytest.mark.timeout(600)]

MACHINE = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())


@pytest.fixture(scope="module")
def house() -> Iterator[Lab]:
    """A lab that has a golden box, and a small image in its folder."""
    with lab() as made:
        made.run("create", "first", timeout=300)
        _image(made.folder / "image")
        yield made


def _image(folder: Path) -> None:
    """An OCI image folder with one layer of one file."""
    blobs = folder / "blobs/sha256"
    blobs.mkdir(parents=True)

    def put(raw: bytes) -> dict[str, object]:
        digest = hashlib.sha256(raw).hexdigest()
        (blobs / digest).write_bytes(raw)
        return {"digest": f"sha256:{digest}", "size": len(raw)}

    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as tar:
        info = tarfile.TarInfo("etc/mark")
        info.size = 4
        tar.addfile(info, io.BytesIO(b"mark"))
    layer = put(raw.getvalue()) | {"mediaType": "application/vnd.oci.image.layer.v1.tar"}
    manifest = put(json.dumps({"schemaVersion": 2, "config": put(b"{}"), "layers": [layer]}).encode())
    mine = manifest | {"platform": {"architecture": MACHINE}}
    (folder / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    (folder / "index.json").write_text(json.dumps({"manifests": [mine]}))


@pytest.mark.parametrize("point", ["flow.golden.after", "flow.build.before", "flow.build.after"])
def test_a_build_survives_kill_9_of_the_hub(house: Lab, point: str) -> None:
    house.dies_at(point, "snapshot", "build", str(house.folder / "image"), "--name", "milk")
    house.run("hub", "start")
    house.until("it is built", lambda: [s["state"] for s in _snapshots(house)] == ["ready"])
    assert [s["name"] for s in _snapshots(house)] == ["milk"]
    marks = list((house.paths.state / "goldens").glob("*/root/etc/mark"))
    assert [m.read_text() for m in marks] == ["mark"], "one root, and it is whole"
    house.run("snapshot", "destroy", "milk")
    assert house.leaks() == []


def _snapshots(house: Lab) -> list[dict[str, str]]:
    return list(house.json("snapshot", "list")["snapshots"])
