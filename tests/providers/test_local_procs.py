"""Killing a process with all below it, also where one can't end before its parent takes note of another."""

from __future__ import annotations

import subprocess
import sys

import pytest

from thopter.kit.linux import procs

# A program that makes the first process of a pid namespace, and one more in there of which it takes no note.
# The first can't end before that is done, and the program is about to be stopped.
_PARENT = """
import os, sys, time
from thopter.kit.linux import calls
CLONE_NEWPID = 0x20000000
calls.unshare(CLONE_NEWPID)
first = os.fork()
if not first:
    while True: time.sleep(60)
other = os.fork()
if not other:
    os._exit(0)
print(first, flush=True)
while True: time.sleep(60)
"""


@pytest.mark.root
def test_a_tree_is_killed_though_a_namespace_in_it_waits_for_the_stopped_parent() -> None:
    with subprocess.Popen([sys.executable, "-c", _PARENT], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        first = int(parent.stdout.readline())
        began, start = procs.start_time(first), procs.start_time(parent.pid)
        try:
            procs.kill_tree(parent.pid, start, 5.0)
        finally:
            parent.kill()
        assert not procs.alive(first, began)
        assert parent.wait() < 0
