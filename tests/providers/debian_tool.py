"""A program in mmdebstrap's place for tests: it says how it was started, and makes a small root of a tar.

Installed by :func:`install`; what it runs as and where is the provider's work, the root is the test's.
"""

from __future__ import annotations

import tarfile
from pathlib import Path

_SCRIPT = """\
#!/bin/sh
set -e
for last; do case "$last" in *.tar) target=$last ;; esac; done
echo "I: downloading the first"
mkdir -p tree/facts
cat /proc/self/uid_map > tree/facts/uid_map
for arg; do echo "$arg"; done > tree/facts/argv
env > tree/facts/env
cat sources.list > tree/facts/sources
(echo x > /etc/thopter-hostile) 2>/dev/null && echo written > tree/facts/harm
(echo x > {folder}/harm) 2>/dev/null && echo written > tree/facts/harm
ls /proc | grep -c '^[0-9]' > tree/facts/processes
mknod tree/facts/sda b 8 0 2>/dev/null && echo device > tree/facts/harm
tar -xf {folder}/base.tar -C tree
chown -R 0:0 tree; chown 33:33 tree/facts/env
echo "I: installing the second"
{more}
tar -cf "$target" -C tree .
"""


def install(folder: Path, base: bytes, more: str = "") -> str:
    """Put it into ``folder`` (which strangers may look into); returns the PATH that finds it first.

    ``base``: a tar that the root is made of; ``more``: shell lines before the end.
    """
    for parent in (folder, *folder.parents):
        if parent.stat().st_uid == 0 and parent != Path("/") and not parent.stat().st_mode & 0o001:
            parent.chmod(parent.stat().st_mode | 0o011)
    folder.joinpath("base.tar").write_bytes(base)
    tool = folder / "mmdebstrap"
    tool.write_text(_SCRIPT.format(folder=folder, more=more))
    tool.chmod(0o755)
    assert tarfile.is_tarfile(folder / "base.tar")
    return f"{folder}:/usr/sbin:/usr/bin:/sbin:/bin"
