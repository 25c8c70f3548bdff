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
    """The run with its folders where the box really has them. Idempotent."""
    if places.at(Places().work) == Places().work:
        return run
    repo = run.repo
    if repo is not None:
        beside = tuple(structs.replace(r, folder=places.at(r.folder)) for r in repo.beside)
        repo = structs.replace(repo, folder=places.at(repo.folder), beside=beside)
    return structs.replace(run, cwd=places.at(run.cwd), repo=repo)
