"""How gVisor's ``runsc`` is started: its options, and what it is told of the box (an OCI bundle).

Pure. The paths are those of the keeper's own root (gv_rootfs.py).
"""

from __future__ import annotations

import re
from typing import Any

PROGRAM, BUNDLE, STATE, TREE, APP = "/runsc", "/bundle", "/state", "/tree", "/first.pyz"
GUEST_APP = "/run/.first.pyz"  # where the box sees it
OLDEST = 20240729  # the oldest that was tried and works; in that of 2022 not even ls does
_DATE = re.compile(r"(?:release-|0\.0~)(\d{8})")
_NUMBER_OF_FILES = 65536


def version(said: str) -> int:
    """The date of a runsc by what its ``--version`` says; 0 when it can't be told."""
    found = _DATE.search(said)
    return int(found[1]) if found else 0


def argv(name: str) -> list[str]:
    """The command line. No network but the sandbox's own loopback; no sockets, pipes or devices of the host;
    what is written goes to the box's files at once, not into a layer of runsc's own."""
    return [
        PROGRAM, "--root", STATE, "--platform", "systrap", "--network", "none", "--ignore-cgroups",
        "--overlay2", "none", "--host-uds", "none", "--host-fifo", "none", "--oci-seccomp=false",
        "run", "--detach", "--bundle", BUNDLE, name,
    ]  # fmt: skip


def bundle(python: str, hostname: str, caps: list[str], tmp_bytes: int, shm_bytes: int) -> dict[str, Any]:
    """The bundle's ``config.json``."""
    kept = [f"CAP_{c}" for c in caps]
    still = ["nosuid", "nodev"]

    def tmpfs(where: str, *options: str) -> dict[str, Any]:
        return {"destination": where, "type": "tmpfs", "source": "tmpfs", "options": [*still, *options]}

    return {
        "ociVersion": "1.0.2",
        "process": {
            "terminal": False, "user": {"uid": 0, "gid": 0}, "cwd": "/", "env": [],
            "args": [python, "-S", "-E", "-I", "-B", GUEST_APP], "noNewPrivileges": True,
            "capabilities": {kind: kept for kind in ("bounding", "effective", "permitted")},
            "rlimits": [
                {"type": "RLIMIT_NOFILE", "hard": _NUMBER_OF_FILES, "soft": _NUMBER_OF_FILES},
                {"type": "RLIMIT_CORE", "hard": 0, "soft": 0},
            ],
        },
        "root": {"path": TREE, "readonly": False},
        "hostname": hostname,
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["ro"]},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs"},
            {"destination": "/dev/pts", "type": "devpts", "source": "devpts"},
            tmpfs("/dev/shm", "mode=1777", f"size={shm_bytes}"),
            tmpfs("/tmp", "mode=1777", f"size={tmp_bytes}"),
            tmpfs("/run", "mode=755", f"size={64 << 20}"),
            {"destination": GUEST_APP, "type": "bind", "source": APP, "options": ["ro"]},
        ],
        "linux": {"namespaces": [{"type": t} for t in ("pid", "network", "ipc", "uts", "mount")]},
    }  # fmt: skip
