"""Run by tests: one life of an engine.

``flow_process.py FOLDER [FAILPOINT FLOW FAIL]``: take up every flow of earlier lives and wait for
their ends, print them; then, when asked, arm FAILPOINT, submit FLOW and wait to be killed.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path

import msgspec
from flow_support import Trace, TripArgs, engine

from thopter.kit import failpoint


async def main(folder: Path, point: str, flow: str, fail: str) -> None:
    """See the module docstring."""
    flows = engine(folder, Trace(folder / "told.log"))
    await flows.start()
    earlier = await flows.recover()
    views = [await flows.wait(f, 90) for f in earlier]
    while await flows.pending():  # noqa: ASYNC110 - what has ended is also written off
        await asyncio.sleep(0.02)
    print(json.dumps([msgspec.to_builtins(v) for v in views]), flush=True)
    if point:
        os.environ[failpoint.ENV] = point
        log = str(folder / "effects.log")
        await flows.submit("trip", TripArgs(name=flow, log=log, fail=fail), flow_id=flow)
        print("accepted", flush=True)
        await flows.wait(flow, 90)
        print("survived", flush=True)
    await flows.stop()


asyncio.run(main(Path(sys.argv[1]), *(sys.argv[2:5] or ["", "", ""])))
