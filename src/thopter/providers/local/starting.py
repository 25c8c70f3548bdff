"""Starting a program from the zygote: its parent is clean, outlives the hub and reaps it."""

from __future__ import annotations

import os
import signal
from typing import NoReturn

from thopter.kit.linux import calls, procs

_OOM_SCORE = 300
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def start(argv: list[str], cgroups: list[str], env: dict[str, str], log: int) -> dict[str, object]:
    """Fork a process that joins ``cgroups`` and becomes ``argv`` (a path first) with exactly
    ``env`` and a plain PATH, its output in the descriptor ``log``. Returns its ``pid`` and ``start``;
    why it could not become the program stands in the log. Raises OSError."""
    pid = os.fork()
    if pid == 0:
        _become(argv, cgroups, env, log)
    return {"pid": pid, "start": procs.start_time(pid)}


def _become(argv: list[str], cgroups: list[str], env: dict[str, str], log: int) -> NoReturn:
    try:
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGCHLD, signal.SIGHUP, signal.SIGINT, signal.SIGPIPE):
            signal.signal(number, signal.SIG_DFL)
        os.setsid()
        os.dup2(log, 1)
        os.dup2(log, 2)
        calls.close_all_but(())
        for path in cgroups:
            with open(f"{path}/cgroup.procs", "w") as f:
                f.write("0")
        try:
            with open("/proc/self/oom_score_adj", "w") as f:
                f.write(str(_OOM_SCORE))
        except PermissionError:
            pass  # an outer sandbox set a floor; then it stays
        os.execve(argv[0], argv, {"PATH": _PATH, **env})
    except BaseException as e:  # noqa: BLE001 - the log is all there is
        os.write(2, f"{argv[0]}: {e}\n".encode("utf-8", "replace"))
    finally:
        os._exit(127)
