"""Finding and removing what no recorded box accounts for: everything is looked for where it would
be, not where a record says it is."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from msgspec import Struct

from thopter.kit.linux import loop, procs
from thopter.model.sockets import Leak
from thopter.providers.local import way_container, way_none
from thopter.providers.local.maker import Maker
from thopter.providers.local.order import TITLE
from thopter.providers.local.trees import remove_tree

_CUT_OFF_S = 60.0


class Found(Struct, frozen=True):
    """A leak and how to remove it (None: by asking the zygote to forget ``leak.key``)."""

    leak: Leak
    remove: Callable[[], object] | None


def find(maker: Maker, known: frozenset[str], zygote: dict[str, Any], building: bool) -> list[Found]:
    """All leaks. Blocking. ``zygote``: what the living one says of itself, empty without one;
    ``building``: a golden is being built right now."""
    return [
        *_keys(maker, known),
        *_processes(maker, known, zygote),
        *_groups(maker, known),
        *_saved(maker, known),
        *_goldens(maker, known, building),
        *_loops(maker),
        *_ways(maker, known),
        *(
            Found(Leak(kind="netns", what=f"the zygote listens inside box {key}", key=key), None)
            for key in zygote.get("boxes", ())
            if key not in known
        ),
    ]


def _keys(maker: Maker, known: frozenset[str]) -> Iterator[Found]:
    sockets = maker.paths.runtime / "b"
    names = {p.name for p in sockets.iterdir()} if sockets.is_dir() else set()
    for name in sorted(names):
        key = name.removesuffix(".sock")
        if name.startswith("."):  # a creation that was cut off between bind and rename
            with contextlib.suppress(FileNotFoundError):
                if time.time() - (sockets / name).lstat().st_mtime > _CUT_OFF_S:
                    yield Found(Leak(kind="socket", what=str(sockets / name)), (sockets / name).unlink)
        elif key not in known:
            yield Found(Leak(kind="socket", what=str(sockets / name), key=key), partial(maker.remove, key))
    places = ((maker.records.folder, set(maker.records.keys())), (maker.pool.folder, maker.pool.names()))
    for folder, keys in places:
        for key in sorted(keys - known):
            leak = Leak(kind="directory", what=str(folder / key), key=key)
            yield Found(leak, partial(maker.remove, key))


def _processes(maker: Maker, known: frozenset[str], zygote: dict[str, Any]) -> Iterator[Found]:
    records = {r.key: r for r in maker.records.all()}
    accounted = {*maker.spares.groups(), *(r.group for r in records.values())}
    # Builders and spares carry the zygote's title until they have their own.
    forks = set(procs.tree(int(zygote["pid"]))) if zygote else set()
    for pid in procs.all_pids():
        words = procs.command_line(pid)
        if len(words) != 1:
            continue
        title = words[0].split(" ")
        if title == ["thopter-zygote", maker.family] and pid not in forks:
            if int(zygote.get("pid", 0)) not in procs.ancestors(pid):
                yield _process(pid, "a zygote that nobody can reach")
        elif len(title) == 3 and title[0] == maker.family and _first(pid):
            _, kind, name = title
            if kind == "spare" and name not in accounted:
                yield _process(pid, f"a spare builder's first process ({TITLE} {name})")
            elif kind == "box" and name not in known and name not in records:
                yield _process(pid, f"the first process of box {name}", name)


def _first(pid: int) -> bool:
    """A box's first process, or one that says so and is no better isolated than we are."""
    return procs.first_of_namespace(pid) or not procs.in_namespace(pid)


def _ways(maker: Maker, known: frozenset[str]) -> Iterator[Found]:
    """What boxes have that other programs made, or nobody."""
    records = {r.key for r in maker.records.all()}
    for key in sorted(way_none.run_keys(maker.paths.runtime) - known - records):
        folder = way_none.run_dir(maker.paths.runtime, key)
        yield Found(Leak(kind="directory", what=str(folder), key=key), partial(remove_tree, folder))
    for key, container in way_container.strays(maker.family, maker.paths.state).items():
        if key not in known and key not in records:
            leak = Leak(kind="process", what=f"container {container}", key=key)
            yield Found(leak, partial(way_container.remove_stray, maker.family, maker.paths.state, key))


def _process(pid: int, what: str, key: str = "") -> Found:
    try:
        start = procs.start_time(pid)
    except (OSError, IndexError):
        start = -1
    kill = procs.kill if procs.first_of_namespace(pid) else procs.kill_tree
    return Found(Leak(kind="process", what=f"{pid}: {what}", key=key), partial(kill, pid, start))


def _groups(maker: Maker, known: frozenset[str]) -> Iterator[Found]:
    used = {r.group for r in maker.records.all()} | maker.spares.groups()
    for group in sorted(maker.groups.names() - used):
        yield Found(Leak(kind="cgroup", what=f"{maker.family}/{group}"), partial(maker.groups.destroy, group))


def _saved(maker: Maker, known: frozenset[str]) -> Iterator[Found]:
    for snap in sorted(maker.saved.ids() - known):
        leak = Leak(kind="directory", what=str(maker.saved.data(snap)), key=snap)
        yield Found(leak, partial(maker.saved.remove, snap))


def _goldens(maker: Maker, known: frozenset[str], building: bool) -> Iterator[Found]:
    if building or not maker.shelf.folder.is_dir():
        return
    used = [*(r.golden for r in maker.records.all()), *(s.golden for s in maker.saved.all() if s.id in known)]
    for path in maker.shelf.unused(used):
        yield Found(Leak(kind="directory", what=str(path)), partial(remove_tree, path))


def _loops(maker: Maker) -> Iterator[Found]:
    for device in maker.pool.stray_loops():
        leak = Leak(kind="loop", what=device)
        yield Found(leak, partial(loop.detach, device))
