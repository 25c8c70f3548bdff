"""Runs that were forked with their processes: the agent is there already, and becomes a run of this box."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Dict

from thopter.boxd import fields, procfs
from thopter.boxd.conn import Call, Channel, Handler
from thopter.boxd.fields import OpError, Request, bad

if TYPE_CHECKING:  # they hold this op
    from thopter.boxd.runs import Run, Runs

WAS = "was"  # file of a run: what its processes still call it


def open_inherit(runs: Runs, channel: Channel, request: Request) -> Handler:
    """Serve ``run.inherit``: the run ``was`` of the box that this one was forked from goes on here as
    ``run``. Its folder came along; its launcher writes the end where it always would."""
    name, was = runs.checked(fields.string(request, "run")), runs.checked(fields.string(request, "was"))
    if name == was:
        raise bad("a run can't inherit itself")

    async def work() -> Dict[str, Any]:
        run = runs.get_or_make(name)
        if not run.observed:
            _take_over(run, was, runs.folder)
            if not runs.takes(run):
                raise OpError("failed", f"the agent of run {was} is not here")
        return {"pid": run.pid}

    return Call(channel, work())


def _take_over(run: Run, was: str, folder: str) -> None:
    old = f"{folder}/{was}"
    if not os.path.islink(old):
        if not os.path.isdir(old):
            raise OpError("not_found", f"there is no run {was} here")
        with open(f"{old}/{WAS}", "a", encoding="ascii") as file:
            file.write(was + "\n")
        os.rename(old, run.folder)
        os.symlink(run.name, old)
    pid = run.read("pid").strip()
    try:
        now = procfs.read_small(f"/proc/{int(pid)}/stat")
    except (OSError, ValueError):
        raise OpError("not_found", f"the agent of run {was} is not here") from None
    with open(run.file("stat.new"), "wb") as out:  # it was started anew, by the kernel's count
        out.write(now)
    os.rename(run.file("stat.new"), run.file("stat"))
    for mark in ("started", "exited"):
        if run.marked(mark):
            os.unlink(run.file(mark))
    run.session = run.read("session").decode("ascii", "replace").strip()
