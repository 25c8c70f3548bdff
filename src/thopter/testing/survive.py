"""Random kills while agents work and people talk to them; afterwards everything is counted.

Each round tells every thopter something, kills one thing for each at a random moment, brings all
back by ``hub start`` and ``resume`` alone, and compares what was acknowledged with what is there.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from msgspec import Struct, field

from thopter.kit.paths import find_paths
from thopter.testing.scripted_model import Scenario, Script, Tool, Turn
from thopter.testing.victims import BOX_VICTIMS, HUB_VICTIMS, Victims

_NOTE = "echo ${n} >> notes.txt && git add -A && git commit -qm 'note ${n}'"
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
    )
)
_PATIENCE = 180.0
_RESUME_TRIES = 5


class Report(Struct, kw_only=True):
    """What came of it. ``lost``: acknowledged messages that are in no conversation and in no queue;
    ``doubled``: effects that are there twice; ``vanished``: work that had been committed and is gone;
    ``leaked``: what ``doctor --leaks`` found; ``kills``: processes that died, by
    victim; ``recovery_ms``: by victim, from the kill to an agent that is back at its prompt."""

    trials: int = 0
    acknowledged: int = 0
    kills: dict[str, int] = field(default_factory=dict)
    lost: list[str] = field(default_factory=list)
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
    repository). ``env`` is what ``thopter`` is called with; ``seed`` makes the choices repeatable."""

    def __init__(self, env: Mapping[str, str], names: Sequence[str], seed: int) -> None:
        self._env = dict(env)
        self._names = list(names)
        self._random = random.Random(seed)
        self._victims = Victims(find_paths(env))
        self._said: dict[str, dict[int, bool]] = {name: {} for name in names}  # number -> acknowledged
        self._seen: dict[str, set[int]] = {name: set() for name in names}
        self._number = 0
        self.report = Report()

    def round(self) -> None:
        """One round: as many trials as there are thopters."""
        boxes = {v["name"]: v["id"] for v in self._json("status")}
        tells = {name: self._tell(name) for name in self._names}
        time.sleep(self._random.uniform(0.0, 2.5))
        plan = self._plan()
        began = time.monotonic()
        for victim, name in plan:
            died = self._victims.kill(victim, boxes[name])
            self.report.kills[victim] = self.report.kills.get(victim, 0) + died
        for name, (number, call) in tells.items():
            call.communicate(timeout=_PATIENCE)
            self._said[name][number] = call.returncode == 0
            self.report.acknowledged += call.returncode == 0
        self._cli("hub", "start")
        for victim, name in plan:
            self._back(name)
            took = (time.monotonic() - began) * 1000
            self.report.recovery_ms.setdefault(victim, []).append(took)
        self.report.trials += len(plan)
        for name in self._names:
            self._settle(name)
            self._count(name)
        self.report.leaked += [str(leak) for leak in self._json("doctor", "--leaks")]

    def _plan(self) -> list[tuple[str, str]]:
        """Who dies for whom; something of the hub's dies in half of the rounds, once."""
        plan = [(self._random.choice(BOX_VICTIMS), name) for name in self._names]
        if self._random.random() < 0.5:
            at = self._random.randrange(len(plan))
            plan[at] = (self._random.choice(HUB_VICTIMS), self._names[at])
        self._random.shuffle(plan)
        return plan

    def _tell(self, name: str) -> tuple[int, subprocess.Popen[bytes]]:
        self._number += 1
        how = ["--when-idle"] if self._random.random() < 0.4 else ["--no-tail"]
        argv = [sys.executable, "-m", "thopter.cli.main", "tell", *how, name, f"note {self._number}"]
        call = subprocess.Popen(
            argv,
            env=self._env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        return self._number, call

    def _back(self, name: str) -> None:
        """Bring a thopter back as a person would."""
        for attempt in range(_RESUME_TRIES):
            done = self._cli("resume", name, check=False)
            if done.returncode == 0 and self._until(name, ("waiting", "working")):
                return
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
        written = Counter(int(n) for n in notes)
        committed = Counter(int(s.split()[1]) for s in log if s.startswith("note "))
        for number, acknowledged in self._said[name].items():
            heard = sum(f"note {number}" in u.splitlines() for u in users)
            unclear = any(f"note {number}" == m.get("text") for m in self._queue(name))
            if acknowledged and not heard and not unclear:
                self.report.lost.append(f"{name}: note {number}")
            if heard > 1 or written[number] > 1 or committed[number] > 1:
                self.report.doubled.append(f"{name}: note {number} heard {heard}, written {written[number]}")
        for number in self._seen[name] - set(committed):
            self.report.vanished.append(f"{name}: commit of note {number}")
        self._seen[name] |= set(committed)

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


def repository(folder: Path, env: Mapping[str, str]) -> Path:
    """A small git repository for the thopters to work in."""
    folder.mkdir(parents=True)
    (folder / "README.md").write_text("# notes\n")
    who = ["-c", "user.name=Tess", "-c", "user.email=tess@example.invalid"]
    for argv in (["init", "-q", "-b", "main"], ["add", "-A"], ["commit", "-q", "-m", "first"]):
        subprocess.run(["git", *who, *argv], cwd=folder, env=dict(env), check=True)
    return folder
