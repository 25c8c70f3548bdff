"""Random kills while agents work and people talk to them; afterwards everything is counted.

Each round tells every thopter something, kills one thing for each at a random moment, brings all
back by ``hub start`` and ``resume`` alone, and compares what was acknowledged with what is there.

The scripted agent does what a careful one would: told to go on, it looks whether its last note is
written and committed, and does what is missing. A turn of which nobody took up the rest is counted as
cut short: its message was heard, its command ran at most once.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from msgspec import Struct, field

from thopter.kit.paths import find_paths
from thopter.testing.scripted_model import Scenario, Script, Tool, Turn
from thopter.testing.victims import BOX_VICTIMS, DISK_VICTIM, HUB_VICTIMS, Victims

_NOTE = "sleep 1; echo ${n} >> notes.txt && git add -A && git commit -qm 'note ${n}'"
_LOOK = (
    'rm -f .git/index.lock; test -z "$(git status --porcelain)"'
    ' || { git add -A && git commit -qm "note $(tail -n 1 notes.txt)"; }'
)
SCENARIO = Scenario(
    script=(
        Script(
            name="note",
            match=r"note (?P<n>\d+)",
            turns=(
                Turn(say="I write ${n} down.", tools=(Tool(name="Bash", input={"command": _NOTE}),)),
                Turn(say="Noted ${n}."),
            ),
        ),
        Script(
            name="on",
            match="Look at what is already done",
            turns=(
                Turn(say="I look.", tools=(Tool(name="Bash", input={"command": _LOOK}),)),
                Turn(say="Done."),
            ),
        ),
    )
)
_PATIENCE = 180.0
_RESUME_TRIES = 5


class Report(Struct, kw_only=True):
    """What came of it. ``lost``: acknowledged messages that are in no conversation and in no queue (each
    once); ``cut``: messages that were heard and whose work did not come to its end; ``unclear``: those
    told as such; ``doubled``: effects that are there twice; ``vanished``: work that had been committed and
    is gone; ``leaked``: what ``doctor --leaks`` found; ``kills``: processes that died, by victim;
    ``receipts``: how messages were acknowledged; ``recovery_ms``: by victim, for each thopter of
    its own, from its kill to an agent that is back (all are brought back at once)."""

    trials: int = 0
    acknowledged: int = 0
    kills: dict[str, int] = field(default_factory=dict)
    receipts: dict[str, int] = field(default_factory=dict)
    lost: list[str] = field(default_factory=list)
    cut: list[str] = field(default_factory=list)
    unclear: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    vanished: list[str] = field(default_factory=list)
    leaked: list[str] = field(default_factory=list)
    recovery_ms: dict[str, list[float]] = field(default_factory=dict)

    @property
    def clean(self) -> bool:
        """Nothing lost, doubled, vanished or leaked."""
        return not (self.lost or self.doubled or self.vanished or self.leaked)


class Survival:
    """One state folder with thopters that are there already (made with :data:`SCENARIO`, in a
    repository). ``env`` is what ``thopter`` is called with; ``seed`` makes the choices repeatable.
    Where the state folder is a disk of its own, the disk gets full too."""

    def __init__(self, env: Mapping[str, str], names: Sequence[str], seed: int) -> None:
        self._env = dict(env)
        self._names = list(names)
        self._random = random.Random(seed)
        paths = find_paths(env)
        self._victims = Victims(paths)
        own_disk = os.path.ismount(paths.state)
        self._shared = [*HUB_VICTIMS, *([DISK_VICTIM] if own_disk else [])]
        self._said: dict[str, dict[int, str]] = {name: {} for name in names}  # number -> how acknowledged
        self._victim: dict[int, str] = {}  # what was killed while this was said
        self._seen: dict[str, set[int]] = {name: set() for name in names}
        self._number = 0
        self._turns: list[str] = []  # of the hub's victims, those whose turn is to come
        self.report = Report()

    def round(self) -> None:
        """One round: as many trials as there are thopters."""
        boxes = {v["name"]: v["id"] for v in self._json("status")}
        tells = [(name, *self._tell(name)) for name in self._names]
        time.sleep(self._random.uniform(0.0, 2.5))
        if self._random.random() < 0.5:  # one more for each, which finds most of them at work
            tells += [(name, *self._tell(name)) for name in self._names]
            time.sleep(self._random.uniform(0.0, 2.0))
        plan = self._plan()
        began: dict[str, float] = {}
        for victim, name in plan:
            began[name] = time.monotonic()
            self._victim |= {number: victim for told, number, _call in tells if told == name}
            died = self._victims.kill(victim, boxes[name])
            self.report.kills[victim] = self.report.kills.get(victim, 0) + died
        for name, number, call in tells:
            told = call.communicate(timeout=_PATIENCE)[0]
            how = _receipt(told) if call.returncode == 0 else ""
            self._said[name][number] = how
            self.report.acknowledged += bool(how)
            self.report.receipts[how or "none"] = self.report.receipts.get(how or "none", 0) + 1
        self._cli("hub", "start")
        with ThreadPoolExecutor(len(plan)) as pool:
            back = list(pool.map(lambda one: self._back(one[1]), plan))
        for (victim, name), now in zip(plan, back, strict=True):
            self.report.recovery_ms.setdefault(victim, []).append((now - began[name]) * 1000)
        self.report.trials += len(plan)
        for name in self._names:
            self._settle(name)
            self._count(name)
        self.report.leaked += [str(leak) for leak in self._json("doctor", "--leaks")]

    def _plan(self) -> list[tuple[str, str]]:
        """Who dies for whom; in two of three rounds one of them is something of the hub's, each kind
        as often as the others."""
        plan = [(self._random.choice(BOX_VICTIMS), name) for name in self._names]
        if self._random.random() < 0.67:
            at = self._random.randrange(len(plan))
            self._turns = self._turns or self._random.sample(self._shared, len(self._shared))
            plan[at] = (self._turns.pop(), self._names[at])
        self._random.shuffle(plan)
        return plan

    def _tell(self, name: str) -> tuple[int, subprocess.Popen[bytes]]:
        self._number += 1
        how = ["--when-idle"] if self._random.random() < 0.4 else ["--no-tail"]
        argv = [
            sys.executable,
            "-m",
            "thopter.cli.main",
            "tell",
            *how,
            "--json",
            name,
            f"note {self._number}",
        ]
        call = subprocess.Popen(
            argv,
            env=self._env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        return self._number, call

    def _back(self, name: str) -> float:
        """Bring a thopter back as a person would; when it was back."""
        for attempt in range(_RESUME_TRIES):
            done = self._cli("resume", name, check=False)
            if done.returncode == 0 and self._until(name, ("waiting", "working")):
                return time.monotonic()
            time.sleep(0.5 * (attempt + 1))
        raise AssertionError(f"{name} does not come back: {done.stderr}\n{self._cli('status', name).stdout}")

    def _until(self, name: str, states: tuple[str, ...]) -> bool:
        end = time.monotonic() + 60
        while time.monotonic() < end:
            view = self._view(name)
            if view.get("state") in states and view.get("agent_running"):
                return True
            time.sleep(0.1)
        return False

    def _settle(self, name: str) -> None:
        """Wait until it rests and everything kept for it was delivered."""
        end = time.monotonic() + _PATIENCE
        while time.monotonic() < end:
            kept = [m for m in self._queue(name) if m.get("state") in ("queued", "sending")]
            if not kept and self._view(name).get("state") == "waiting":
                return
            time.sleep(0.2)
        raise AssertionError(f"{name} does not rest\n{self._cli('status', name).stdout}\n{self._queue(name)}")

    def _count(self, name: str) -> None:
        tail = self._cli("tail", name, "-n", "5000", "--json").stdout.splitlines()
        users = [e["text"] for e in map(json.loads, tail) if e["role"] == "user"]
        notes = self._cli("exec", name, "--", "sh", "-c", "cat notes.txt 2>/dev/null || true").stdout.split()
        log = self._cli("exec", name, "--", "git", "log", "--format=%s").stdout.splitlines()
        queue = self._json("queue", name, "--all")
        written = Counter(int(n) for n in notes)
        committed = Counter(int(s.split()[1]) for s in log if s.startswith("note "))
        for number, acknowledged in self._said[name].items():
            heard = sum(f"note {number}" in u.splitlines() for u in users)
            what = f"{name}: note {number} ({acknowledged or 'no receipt'}, {self._victim[number]} killed)"
            unclear = any(f"note {number}" == m["text"] and m["state"] == "unclear" for m in queue)
            if acknowledged and not heard:
                self._once(self.report.unclear if unclear else self.report.lost, what, name)
            if heard and not committed[number]:
                self._once(self.report.cut, what, "")
            elif what in self.report.cut:
                self.report.cut.remove(what)
            if heard > 1 or written[number] > 1 or committed[number] > 1:
                self._once(self.report.doubled, f"{what}: heard {heard}, written {written[number]}", name)
        for number in self._seen[name] - set(committed):
            self._once(self.report.vanished, f"{name}: commit of note {number}", name)
        self._seen[name] |= set(committed)

    def _once(self, found: list[str], what: str, name: str) -> None:
        """Count ``what`` once; with ``name``, print the history that explains it."""
        if what in found:
            return
        found.append(what)
        if name:
            for argv in (("queue", name, "--all"), ("tail", name, "-n", "25"), ("status", name)):
                done = self._cli(*argv, check=False)
                print(f"--- {what}: thopter {' '.join(argv)}\n{done.stdout}{done.stderr}", file=sys.stderr)

    # -------------------------------------------------------------------------------- inside

    def _cli(self, *argv: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-m", "thopter.cli.main", *argv],
            env=self._env, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_PATIENCE,
            check=False,
        )  # fmt: skip
        if check and done.returncode:
            raise AssertionError(f"thopter {argv}: exit {done.returncode}\n{done.stdout}\n{done.stderr}")
        return done

    def _json(self, *argv: str) -> Any:
        return json.loads(self._cli(*argv, "--json").stdout)

    def _view(self, name: str) -> dict[str, Any]:
        return next((v for v in self._json("status") if v["name"] == name), {})

    def _queue(self, name: str) -> list[dict[str, Any]]:
        found = self._json("queue", name)
        return list(found["messages"] if isinstance(found, dict) else found)


def _receipt(told: bytes) -> str:
    """How a message was acknowledged: taken, queued, or kept by the hub."""
    found = json.loads(told)
    return str(found.get("receipt") or "kept")


def repository(folder: Path, env: Mapping[str, str]) -> Path:
    """A small git repository for the thopters to work in."""
    folder.mkdir(parents=True)
    (folder / "README.md").write_text("# notes\n")
    who = ["-c", "user.name=Tess", "-c", "user.email=tess@example.invalid"]
    for argv in (["init", "-q", "-b", "main"], ["add", "-A"], ["commit", "-q", "-m", "first"]):
        subprocess.run(["git", *who, *argv], cwd=folder, env=dict(env), check=True)
    return folder
