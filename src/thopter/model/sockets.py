"""The sockets drivers plug into, on one page: Provider, Agent.

A provider is a kind of place where boxes are made. Its core is small; what only some kinds can do
are facets, found with ``isinstance`` (all protocols here are runtime-checkable).

An agent is a kind of coding program: pure functions from bytes to facts and from wishes to files, argv
and keystrokes; no I/O, no clock.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, ClassVar, Protocol, runtime_checkable

from msgspec import Struct, field

from thopter.model.asks import AskReply
from thopter.model.nouns import BoxState, Isolation, Limits
from thopter.model.nouns import Leak as Leak
from thopter.model.reading import Reading as Reading

# ---------------------------------------------------------------------------------------- provider


class BoxSpec(Struct, frozen=True, kw_only=True):
    """What is wanted. ``key`` makes ``ensure`` idempotent; ``ports`` are the loopback ports on
    which gateways shall listen inside the box; ``native`` is for the vendor's own options.
    ``snapshot`` names a saved box to start from (facet Snapshots); empty: from ``golden`` alone.
    ``isolation``: the least tier (model/tiers.py) that will do; empty: any."""

    key: str
    name: str
    golden: str = "default"
    snapshot: str = ""
    isolation: str = ""
    limits: Limits = Limits()
    ports: tuple[int, ...] = ()
    tags: Mapping[str, str] = field(default_factory=dict)
    native: Mapping[str, Any] = field(default_factory=dict)


class Places(Struct, frozen=True, kw_only=True):
    """Where things are, as the box's own programs see them; all but a box that shares the machine's
    files and network has these. ``ports`` (numbers as text): what a wanted port really became."""

    home: str = "/root"
    work: str = "/work"
    opt: str = "/opt/thopter"
    bin: str = "/usr/local/bin"  # where a program of ours can be put
    run: str = "/run/thopter"  # boxd's own
    ports: Mapping[str, int] = field(default_factory=dict)

    def port(self, wanted: int) -> int:
        """The port that stands for ``wanted`` in this box."""
        return self.ports.get(str(wanted), wanted)

    def at(self, path: str) -> str:
        """Where a path below the usual home or work folder really is; others are as they are."""
        for usual, here in (("/root", self.home), ("/work", self.work)):
            if path == here or path.startswith(here + "/"):
                return path
            if path == usual or path.startswith(usual + "/"):
                return here + path.removeprefix(usual)
        return path


class BoxHandle(Struct, frozen=True, kw_only=True):
    """What the provider says of a box. ``memory`` is its opaque note, stored by the hub."""

    key: str
    state: BoxState
    isolation: Isolation
    tags: Mapping[str, str] = field(default_factory=dict)
    memory: Mapping[str, Any] = field(default_factory=dict)
    places: Places = Places()


class Caps(Struct, frozen=True, kw_only=True):
    """What this provider can do with this spec: sets of words, and words for what it can't.
    ``limits``: names of Limits fields that are really enforced. ``missing`` maps what is absent, also a
    tier that was asked for, to one sentence on how to get it (shown by ``thopter doctor``)."""

    isolation: Isolation
    facets: frozenset[str] = frozenset()
    limits: frozenset[str] = frozenset()
    missing: Mapping[str, str] = field(default_factory=dict)


Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@runtime_checkable
class Provider(Protocol):
    """The core every kind of provider has.

    After a hub restart a new object is made and ``list`` must find everything the old one made.
    No method keeps state that the outside does not hold. Errors are those of model.errors:
    NotFound, Conflict, Throttled, NotNow, Unsupported, Ambiguous.
    """

    name: ClassVar[str]

    async def start(self) -> None:
        """Make ready (helpers, folders). Idempotent; adopts what an earlier hub left running."""

    async def close(self) -> None:
        """Let go of helpers' connections; boxes go on."""

    async def caps(self, spec: BoxSpec | None = None) -> Caps:
        """Say what can be done, decided by really trying once (cached)."""

    async def ensure(self, spec: BoxSpec) -> BoxHandle:
        """Make the box, or return it when ``spec.key`` exists already. All or nothing: a failed
        creation leaves nothing behind."""

    async def get(self, key: str) -> BoxHandle:
        """Return the box's present state; ``NotFound`` when there is none."""

    async def list(self, tags: Mapping[str, str] | None = None) -> Sequence[BoxHandle]:
        """Every box of this provider that carries all ``tags``."""

    async def channel(self, key: str) -> Stream:
        """Open a byte stream to the box's boxd (protocol: boxd/wire.py)."""

    async def destroy(self, key: str) -> None:
        """End every process of the box and remove all it had. Gone already = success."""

    async def leaks(self, known: frozenset[str]) -> Sequence[Leak]:
        """List what this provider made on this machine that belongs to no key in ``known`` (keys of
        boxes and ids of snapshots)."""

    async def sweep(self, known: frozenset[str]) -> Sequence[Leak]:
        """Remove those leaks; return the ones removed."""


@runtime_checkable
class Confines(Protocol):
    """The box has no route; gateways listen inside it."""

    async def listeners(self, key: str) -> Mapping[int, socket.socket]:
        """Return listening TCP sockets bound to 127.0.0.1:<port> *inside* the box, one for each
        ``spec.ports``. May be called again (by a new gateway process); each call returns new
        descriptors of the same sockets."""


@runtime_checkable
class Suspends(Protocol):
    """Level FREEZE; the deeper ones are :class:`Stops`."""

    async def freeze(self, key: str) -> None:
        """Stop every process of the box at once. Idempotent."""

    async def thaw(self, key: str) -> None:
        """Let them go on. Idempotent."""


@runtime_checkable
class Stops(Protocol):
    """Levels MEMORY (``freeze``, then ``reclaim``) and DISK (``stop``)."""

    async def reclaim(self, key: str) -> int:
        """Give a frozen box's memory back to the machine as far as there is swap for it; returns
        the bytes given back (0: none could be). ``thaw`` brings all of it back."""

    async def stop(self, key: str) -> None:
        """End every process of the box and keep its files: on the disk when this returns. The box
        is STOPPED then. Idempotent."""

    async def revive(self, spec: BoxSpec) -> BoxHandle:
        """Start a STOPPED or LOST box again on the files it has, boxd answering. ``spec`` must be the
        one it was made with (its key finds it). READY or FROZEN already: returned as it is."""


@runtime_checkable
class Mends(Protocol):
    """Something that all boxes of the provider stand on can break, and be repaired. Its boxes write
    on this machine's disk."""

    async def mend(self) -> str:
        """Look, and repair what can be repaired now; the sentence for people about what can't be yet,
        empty when all is well. What can't go on is ended and is LOST, with its files. Cheap when all is
        well: it is asked every few seconds."""

    async def flush(self) -> None:
        """What boxes wrote until now is on the disk when this returns, as far as it is kept apart from
        what other programs write there."""


class SnapshotHandle(Struct, frozen=True, kw_only=True):
    """What a provider says of a saved box. ``own_bytes``: disk that would be free again without it
    (-1: not known); ``depth``: how many layers of saved boxes it stands on, itself included; ``missing``:
    programs that boxes from it lack, with what needs them."""

    id: str
    golden: str
    created_ms: int
    own_bytes: int = -1
    depth: int = 1
    parent: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)
    missing: Mapping[str, str] = field(default_factory=dict)


@runtime_checkable
class Snapshots(Protocol):
    """Saves boxes, and starts others from what was saved (``BoxSpec.snapshot``). A snapshot is
    immutable; boxes and snapshots made from it live on when it is dropped."""

    async def snapshot(self, key: str, snap: str, tags: Mapping[str, str]) -> SnapshotHandle:
        """Save the files of the box as they are at one instant (its processes stand still for it; a
        stopped, frozen or lost box is saved as it lies). Idempotent on ``snap``; all or nothing; on
        the disk when this returns."""

    async def snapshots(self) -> Sequence[SnapshotHandle]:
        """Every snapshot there is."""

    async def drop_snapshot(self, snap: str) -> None:
        """Remove it. Gone already = success."""

    def export_snapshot(self, snap: str) -> AsyncIterator[bytes]:
        """The whole of it (with what it stands on, the machine's own folders excepted) as one
        checksummed file."""

    async def import_snapshot(
        self, snap: str, body: AsyncIterator[bytes], tags: Mapping[str, str]
    ) -> SnapshotHandle:
        """Make a snapshot of such a file. It is hostile: BadInput for one that is cut short, changed
        or malformed, and then nothing was made."""

    def build_snapshot(
        self, snap: str, source: str, packages: Sequence[str], tags: Mapping[str, str]
    ) -> AsyncIterator[str]:
        """Make a snapshot whose whole root comes from ``source`` (``debian:SUITE`` or the absolute path
        of an OCI image folder or tar); yields lines of progress. BadInput for a source of no known
        kind, Unsupported where a tool it needs is missing (its hint says which)."""


class LiveHandle(Struct, frozen=True, kw_only=True):
    """A saved box that holds processes too. ``at_ms``: when they stood still (the hub's clock)."""

    snapshot: SnapshotHandle
    at_ms: int


@runtime_checkable
class ForksLive(Protocol):
    """Saves running processes with the files, and starts them again in boxes made from that. Whether it
    really can is in its caps, facet ``forks live``."""

    async def snapshot_live(self, key: str, snap: str, tags: Mapping[str, str], root: int) -> LiveHandle:
        """Like ``snapshot``, with the processes from ``root`` (a number inside the box) down; all of
        one instant. They go on afterwards. Idempotent on ``snap``. NotNow when somebody outside them
        is connected to them, Unsupported with what to do where it can't be had."""

    async def start_live(self, key: str, snap: str) -> None:
        """Start those processes in a box that was made from ``snap`` and in which only boxd has
        run, under the numbers they had. Their connections are closed. Idempotent."""


@runtime_checkable
class Goldens(Protocol):
    """Keeps the read-only root that boxes start from."""

    async def golden_ready(self, golden: str, want: Sequence[GoldenPart]) -> bool:
        """True when that golden exists and holds exactly these parts."""

    def build_golden(self, golden: str, want: Sequence[GoldenPart]) -> AsyncIterator[str]:
        """Build it (atomically; the old one stays until then); yields lines of progress."""


class GoldenPart(Struct, frozen=True, kw_only=True):
    """Something installed into a golden: an npm package of an exact version under
    ``/opt/thopter/<name>``; ``check`` is the argv run there to prove that it works."""

    name: str
    npm: str
    version: str
    check: tuple[str, ...] = ()


# ------------------------------------------------------------------------------------------- agent


class FileSpec(Struct, frozen=True, kw_only=True):
    """A file to put into the box before the agent starts."""

    path: str
    content: bytes
    mode: int = 0o600


class LaunchContext(Struct, frozen=True, kw_only=True):
    """All an agent may know when it prepares and launches one run in one box.

    ``model_url`` is the loopback address of the model gateway inside the box; the credential is
    not here and never will be. ``hook_url`` is where boxd listens for hooks. ``settings`` are the
    agent's own settings from the hub (no secrets among them). ``prompt`` is what ``prompt_file``
    holds: an agent that takes its prompt as an argument passes it exactly (empty: no task yet).
    """

    run: str
    name: str
    session: str
    home: str
    cwd: str
    prompt_file: str
    model_url: str
    hook_url: str
    box_token: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    prompt: str = ""
    opt: str = "/opt/thopter"  # where the parts of the golden are


class Launch(Struct, frozen=True, kw_only=True):
    """How to start the agent's own screen: ``argv`` in ``cwd`` with exactly ``env``."""

    argv: tuple[str, ...]
    env: Mapping[str, str]
    cwd: str


class Keys(Struct, frozen=True, kw_only=True):
    """One step at the agent's terminal. Exactly one of ``text`` (typed literally), ``paste``
    (bracketed paste), ``keys`` (tmux key names) is set; then ``pause_ms`` passes."""

    text: str = ""
    paste: str = ""
    keys: tuple[str, ...] = ()
    pause_ms: int = 0


@runtime_checkable
class Agent(Protocol):
    """One kind of coding program; see the module docstring. Every ``read_*`` takes hostile bytes,
    never raises, and answers an empty Reading with ``problem`` for what it can't read."""

    name: ClassVar[str]

    def golden_part(self, settings: Mapping[str, Any]) -> GoldenPart:
        """What must be in the golden for this agent, at which pinned version."""

    def prepare(self, ctx: LaunchContext) -> tuple[FileSpec, ...]:
        """Files that make the agent come up with no question asked, hooks included."""

    def launch(self, ctx: LaunchContext) -> Launch:
        """The command for a fresh session with the prompt of ``ctx.prompt_file``."""

    def resume(self, ctx: LaunchContext) -> Launch:
        """The command that goes on with session ``ctx.session``."""

    def fork(self, ctx: LaunchContext, from_session: str) -> Launch:
        """The command for the new session ``ctx.session`` that goes on with a copy of
        ``from_session``, whose own record stays as it is; ``ctx.prompt`` is said first, empty: none."""

    def say(self, text: str) -> tuple[Keys, ...]:
        """Keystrokes that enter ``text`` as the user's own message and submit it. Raises BadInput
        for text that can't be entered (empty, NUL)."""

    def interrupt(self) -> tuple[Keys, ...]:
        """Keystrokes that stop the present turn and leave the agent at its prompt."""

    def transcript_root(self, ctx: LaunchContext) -> tuple[str, str]:
        """``(directory, glob)`` inside the box under which transcripts appear."""

    def status_root(self, ctx: LaunchContext) -> tuple[str, str]:
        """``(directory, glob)`` of the agent's own status files; ``("", "")`` where it has none."""

    def read_hook(self, event: str, body: bytes, at_ms: int, seen_ms: int) -> Reading:
        """Understand one hook call. ``at_ms`` is boxd's time of arrival."""

    def answer_hook(self, body: bytes, answer: AskReply) -> bytes:
        """The body that answers a held hook whose reading had an ``ask``; ``body`` is the hook's own.
        BadInput for an answer that does not fit."""

    def read_transcript(self, path: str, line: bytes, seen_ms: int) -> Reading:
        """Understand one complete line of a transcript file (path relative to the root)."""

    def read_status(self, path: str, content: bytes, seen_ms: int) -> Reading:
        """Understand the agent's own status file, where it has one."""

    def read_screen(self, screen: str, at_ms: int) -> Reading:
        """Understand a captured pane (plain text)."""
