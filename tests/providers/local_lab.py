"""A local provider on a loop of its own, driven from plain tests; probes inside and outside boxes."""

from __future__ import annotations

import asyncio
import json
import secrets
import subprocess
import sys
import textwrap
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from thopter.kit.boxstreams import ExecResult
from thopter.kit.settings import Settings, Value
from thopter.model.nouns import Limits
from thopter.model.sockets import BoxHandle, BoxSpec
from thopter.providers.local import LocalProvider
from thopter.testing.local import GOLDEN, LocalPlace
from thopter.testing.provider_suite import linked

T = TypeVar("T")
PATIENCE = 60.0


def settings(**values: Any) -> Settings:
    """Settings with some local.* set."""
    return Settings({f"local.{k}": Value(v, "test") for k, v in values.items()})


class Lab:
    """One place, one provider, as many boxes as a test wants."""

    def __init__(self, folder: Path, with_settings: Settings | None = None) -> None:
        self.place = LocalPlace(folder, with_settings)
        self.runner = asyncio.Runner()
        self.open = self.place.open()
        self.provider: LocalProvider = self.runner.run(self.open.__aenter__())

    def run(self, work: Coroutine[Any, Any, T], patience: float = PATIENCE) -> T:
        """Run a coroutine to its end, bounded."""

        async def bounded() -> T:
            async with asyncio.timeout(patience):
                return await work

        return self.runner.run(bounded())

    def end(self) -> None:
        """Destroy everything."""
        try:
            self.runner.run(self.open.__aexit__(None, None, None))
            self.runner.run(self.place.end())
        finally:
            self.runner.close()

    def box(self, **changes: Any) -> BoxHandle:
        """A new box."""
        key = "box_" + secrets.token_hex(6)
        spec = BoxSpec(key=key, name="b" + key[4:], golden=GOLDEN)
        return self.run(self.provider.ensure(msgspec.structs.replace(spec, **changes)))

    def small_box(self, **limits: Any) -> BoxHandle:
        """A new box with these limits."""
        return self.box(limits=Limits(**limits))

    def exec(self, key: str, *argv: str, **how: Any) -> ExecResult:
        """Run a command in a box."""

        async def go() -> ExecResult:
            async with linked(self.provider, key) as link:
                return await link.exec(argv, timeout=PATIENCE, **how)

        return self.run(go(), PATIENCE * 2)

    def sh(self, key: str, script: str) -> str:
        """Output of a shell script in a box; it must succeed."""
        done = self.exec(key, "sh", "-c", script)
        assert done.exit == 0, f"{script!r}: {done.exit} {done.stdout!r} {done.stderr!r}"
        return done.stdout.decode("utf-8", "replace").strip()

    def py(self, key: str, probe: str) -> Any:
        """What a probe (Python that prints one line of JSON) finds inside a box."""
        done = self.exec(key, "python3", "-c", textwrap.dedent(probe))
        assert done.exit == 0, f"{done.exit} {done.signal} {done.stdout!r} {done.stderr!r}"
        return json.loads(done.stdout)

    def pids(self, handle: BoxHandle) -> list[int]:
        """All processes of a box, as the machine numbers them."""
        below: dict[int, list[int]] = {}
        for path in Path("/proc").glob("[0-9]*/stat"):
            try:
                fields = path.read_text().rpartition(")")[2].split()
            except OSError:
                continue
            below.setdefault(int(fields[1]), []).append(int(path.parent.name))
        found = [int(handle.memory["pid"])]
        for pid in found:
            found += below.get(pid, [])
        return found


def outside(probe: str) -> Any:
    """What the same probe finds on the machine itself, as whoever runs the tests."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(probe)], capture_output=True, check=True, timeout=PATIENCE
    )
    return json.loads(done.stdout)
