"""What people, and whoever speaks for them, do in a box by hand: by its policy, and recorded before it is
done. It holds for every way in: exec, ssh and attach are commands, put and fetch are files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from thopter.fleet.egress import policy_of
from thopter.kit.caller import caller
from thopter.model.errors import NotAllowed
from thopter.store.audit_chain import command_words

if TYPE_CHECKING:
    from thopter.fleet.audit import Audits
    from thopter.fleet.deps import Deps
    from thopter.model.nouns import Box, Run

_AGENT = ("attach-session", "-t", "=agent")


class Hands:
    """One per hub."""

    def __init__(self, deps: Deps, audit: Audits) -> None:
        self._deps = deps
        self._audit = audit

    async def command(
        self,
        box: Box,
        run: Run,
        argv: Sequence[str],
        env: Mapping[str, str] | None,
        cwd: str,
        pty: bool,
    ) -> None:
        """A command is about to run in ``cwd``: NotAllowed, or recorded with its words as far as they are
        no secrets, and of the environment only the names."""
        names = sorted(env or ())
        data = {"argv": command_words(argv), "cwd": cwd, "terminal": pty} | ({"env": names} if names else {})
        policy = policy_of(self._deps, box, run)
        why = self._deps.policies.may_run(policy, argv, names, cwd, run.cwd, pty, caller.get().admin)
        kind = "person.attach" if tuple(argv[-3:]) == _AGENT else "person.exec"
        await self._record(kind, box, run, data, why)

    async def file(self, verb: str, box: Box, run: Run, path: str) -> None:
        """A file is about to be ``put`` or ``fetch``ed."""
        policy = policy_of(self._deps, box, run)
        why = self._deps.policies.may_carry(policy, caller.get().admin)
        await self._record(f"person.{verb}", box, run, {"path": path}, why)

    async def dial(self, box: Box, run: Run, port: int) -> None:
        """A port of the box is about to be connected to."""
        await self._record("person.dial", box, run, {"port": port}, "")

    async def _record(self, kind: str, box: Box, run: Run, data: dict[str, object], why: str) -> None:
        if why:
            await self._audit.act("person.refused", box, {**data, "text": why, "wanted": kind}, run.id)
            raise NotAllowed(why, hint="'thopter policy explain' says what it lists")
        await self._audit.act(kind, box, data, run.id)
