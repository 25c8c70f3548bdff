"""What people (and whoever speaks for them) do in a box by hand: recorded before it is done."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from thopter.store.audit_chain import command_words

if TYPE_CHECKING:
    from thopter.fleet.audit import Audits
    from thopter.model.nouns import Box, Run

_AGENT = ("attach-session", "-t", "=agent")


async def command(
    audit: Audits,
    box: Box,
    run: Run,
    argv: Sequence[str],
    env: Mapping[str, str] | None,
    cwd: str,
    pty: bool,
) -> None:
    """A command is about to run: who, where, and its words as far as they are no secrets; of the
    environment only the names."""
    words = command_words(argv)
    kind = "person.attach" if tuple(argv[-3:]) == _AGENT else "person.exec"
    data = {"argv": words, "cwd": cwd, "terminal": pty} | ({"env": sorted(env)} if env else {})
    await audit.act(kind, box, data, run.id)
