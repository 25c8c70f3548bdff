"""Making boxd.pyz: boxd as one file that runs with any Python from 3.9, always the same bytes."""

from __future__ import annotations

import os
import stat
import zipfile
from collections.abc import Iterable, Iterator

import thopter.boxd

_MAIN = b"import sys\nfrom thopter.boxd.__main__ import main\nsys.exit(main(sys.argv[1:]))\n"
_PACKAGE = b'"""The part of thopter that runs in a box."""\n'
_DATE = (1980, 1, 1, 0, 0, 0)


def _content() -> Iterator[tuple[str, bytes]]:
    here = os.path.dirname(os.path.abspath(thopter.boxd.__file__ or ""))
    yield "__main__.py", _MAIN
    yield "thopter/__init__.py", _PACKAGE
    for name in sorted(os.listdir(here)):
        if name.endswith(".py"):
            with open(os.path.join(here, name), "rb") as file:
                yield "thopter/boxd/" + name, file.read()


def build_zipapp(dest: str, more: Iterable[tuple[str, bytes]] = ()) -> str:
    """Write boxd.pyz to ``dest`` (atomically, mode 0755) and return ``dest``. Stored, not
    compressed: compressors differ between versions. ``more``: files (name, content) to add, or to
    take the place of ours. Raises OSError."""
    files = {**dict(_content()), **dict(more)}
    temp = f"{dest}.{os.getpid()}.new"
    with open(temp, "wb") as file:
        file.write(b"#!/usr/bin/env python3\n")
        with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
            for name, content in files.items():
                info = zipfile.ZipInfo(name, _DATE)
                info.external_attr = (stat.S_IFREG | 0o644) << 16
                info.create_system = 3
                archive.writestr(info, content)
    os.chmod(temp, 0o755)
    os.rename(temp, dest)
    return dest
