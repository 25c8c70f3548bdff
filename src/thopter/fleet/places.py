"""Where things are in a recorded box, as its provider said when it was made."""

from __future__ import annotations

from msgspec import ValidationError, convert, structs

from thopter.model.nouns import Box, Run
from thopter.model.sockets import Places


def places_of(box: Box) -> Places:
    """The usual places, unless the record says otherwise (a box that shares the machine's files)."""
    try:
        return convert(box.memory.get("places", {}), Places)
    except ValidationError:
        return Places()


def move_run(run: Run, places: Places) -> Run:
    """The run with its folder where the box really has it. Idempotent."""
    usual = Places().work
    if places.work == usual or not (run.cwd == usual or run.cwd.startswith(usual + "/")):
        return run
    return structs.replace(run, cwd=places.work + run.cwd.removeprefix(usual))
