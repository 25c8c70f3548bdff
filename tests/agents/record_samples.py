"""Record what a real Claude Code says, for the golden tests: ``python record_samples.py VERSION``.

Run by hand when a new version is taken up, and read what changed. Paths, ids of machines and the
program's own long texts are taken out; what the driver reads stays as it was said.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from claude_lab import SLEEP, Lab, bash, scenario, tool

from thopter.model.evidence import Fact

SAMPLES = Path(__file__).parent / "samples"
_READ = {"user", "assistant", "system", "queue-operation"}
_ASK = {
    "question": "Which colour?", "header": "Colour", "multiSelect": False,
    "options": [{"label": "Red", "description": "r"}, {"label": "Blue", "description": "b"}],
}  # fmt: skip
SCRIPTS: tuple[dict[str, Any], ...] = (
    {"name": "hello", "turns": [
        {"think": "hm", "say": "I write it.",
         "tools": [tool("Write", file_path="${cwd}/a.txt", content="a\n")]},
        {"tools": [bash("git add -A && git commit -qm 'add a' && git log --format=%s"),
                   tool("Read", file_path="${cwd}/a.txt")]},
        {"say": "Done."}]},
    {"name": "tool", "turns": [{"say": "one", "tools": [bash(SLEEP.format(4))]}, {"say": "two"}]},
    {"name": "speech", "turns": [{"say": "word " * 40, "chunk_ms": 250}]},
    {"name": "endless", "turns": [{"say": "word " * 200, "chunk_ms": 250}]},
    {"name": "long", "turns": [{"tools": [bash(SLEEP.format(60))]}, {"say": "x"}]},
    {"name": "fine", "turns": [{"say": "fine"}]},
    {"name": "bg", "turns": [
        {"tools": [bash(SLEEP.format(2) + "; echo over", run_in_background=True)]},
        {"say": "started"}, {"say": "noticed"}]},
    {"name": "ask", "turns": [{"tools": [tool("AskUserQuestion", questions=[_ASK])]}, {"say": "thanks"}]},
    {"name": "sub", "turns": [
        {"tools": [tool("Agent", description="sub work", prompt="script:subwork do it",
                        subagent_type="general-purpose")]},
        {"say": "sub finished"}]},
    {"name": "subwork", "turns": [{"tools": [bash("echo from-sub")]}, {"say": "sub result"}]},
    {"name": "fails", "turns": [
        {"tools": [bash("ls /nonesuch")]}, {"tools": [tool("Read", file_path="/nonesuch")]},
        {"say": "as expected"}]},
    {"name": "limit", "turns": [{"status": 429, "message": "slow down"}]},
    {"name": "key", "turns": [{"status": 401, "message": "invalid x-api-key"}]},
    {"name": "cut", "turns": [{"say": "word " * 40, "drop_after": 2}]},
)  # fmt: skip


def _tidy(text: str, lab: Lab) -> str:
    """Put a box's paths in the place of this machine's."""
    text = text.replace(str(lab.cwd), "/work/report").replace(str(lab.home), "/root")
    dashed = re.sub(r"[^A-Za-z0-9]", "-", str(lab.cwd))
    text = text.replace(dashed, "-work-report").replace(str(lab.folder), "/box")
    return re.sub(r"127\.0\.0\.1:\d+", "127.0.0.1:8400", text)


def _shorten(value: Any, limit: int) -> Any:
    if isinstance(value, str):
        return value if len(value) <= limit else value[:limit] + "…"
    if isinstance(value, list):
        return [_shorten(v, limit) for v in value[:20]]
    if isinstance(value, dict):
        return {k: _shorten(v, limit) for k, v in value.items() if k not in ("pidDomain", "peerFeatures")}
    return value


def _line(raw: str) -> str:
    """A transcript line; what only the program itself needs loses its long texts."""
    data = json.loads(raw)
    queued = data.get("type") == "attachment" and data["attachment"].get("type") == "queued_command"
    whole = data.get("type") in _READ or queued
    return json.dumps(_shorten(data, 4000 if whole else 60), ensure_ascii=False)


class Recorder:
    """One session that goes through everything the driver has to understand."""

    def __init__(self, lab: Lab, target: Path) -> None:
        self.lab, self.target = lab, target

    async def say(self, text: str, sign: str = "UserPromptSubmit") -> None:
        """Say it and wait for a hook that shows that it is at work on it."""
        count = len(self.lab.events(sign))
        await self.lab.say(text)
        await self.lab.until(sign, lambda: len(self.lab.events(sign)) > count)

    async def quiet(self) -> None:
        """Wait until nothing has happened for a while and the agent stands at its prompt."""
        await self.lab.until("quiet", lambda: time.time() * 1000 - self.lab.hooks[-1].at_ms > 2500)
        await self.lab.until("idle", lambda: self.lab.status() is Fact.IDLE)

    def keep(self, name: str) -> None:
        """Keep the screen and the status file under a name."""
        screens, status = self.target / "screens", self.target / "status"
        screens.mkdir(exist_ok=True)
        status.mkdir(exist_ok=True)
        (screens / f"{name}.txt").write_text(_tidy(self.lab.screen().rstrip() + "\n", self.lab))
        for file in self.lab.home.glob(".claude/sessions/*.json"):
            data = _shorten(json.loads(_tidy(file.read_text(), self.lab)), 4000)
            (status / f"{name}.json").write_text(json.dumps(data) + "\n")

    async def run(self) -> None:
        """Record it all."""
        lab = self.lab
        lab.start()
        await lab.up()
        self.keep("fresh")
        for name in ("hello", "fails", "sub"):
            await self.say(f"script:{name} go")
            await self.quiet()
        await self.say("script:tool go", "PreToolUse")
        self.keep("tool")
        await lab.say("queued into the turn")
        await self.quiet()
        await self.say("script:speech go")
        await lab.until("the speech", lambda: "word word" in lab.screen())
        self.keep("speech")
        await lab.say("queued for the next turn")
        await self.quiet()
        for name, sign in (("endless", "UserPromptSubmit"), ("long", "PreToolUse")):
            await self.say(f"script:{name} go", sign)
            await asyncio.sleep(1.5)
            await lab.press(lab.agent.interrupt())
            await lab.until("idle", lambda: lab.status() is Fact.IDLE)
            self.keep(f"interrupted-{name}")
        await self.say("script:bg go")
        await self.quiet()
        await self.say("script:ask go", "PermissionRequest")
        await lab.until("the question", lambda: "Which colour?" in lab.screen())
        await lab.until("the status", lambda: lab.status() not in (Fact.BUSY, Fact.IDLE))
        self.keep("question")
        await asyncio.sleep(2)  # newer versions ignore keys at a dialog that has just opened
        lab.tmux("send-keys", "-t", "agent", "2")
        await self.quiet()
        for name in ("limit", "key", "cut", "fine"):
            await self.say(f"script:{name} go")
            await self.quiet()
        self.keep("idle")
        lab.tmux("send-keys", "-t", "agent", "-l", "--", "/exit")
        await asyncio.sleep(0.5)
        lab.tmux("send-keys", "-t", "agent", "Enter")
        await lab.until("its end", lambda: lab.pane("#{pane_dead}") == "1")

    def write(self) -> None:
        """Write hooks and transcripts."""
        lab = self.lab
        hooks = [{"event": h.event, "body": _shorten(h.body, 4000)} for h in lab.hooks]
        lines = [_tidy(json.dumps(h, ensure_ascii=False), lab) for h in hooks]
        (self.target / "hooks.jsonl").write_text("\n".join(lines) + "\n")
        for file in lab.home.glob(".claude/projects/**/*.jsonl"):
            name = "subagent.jsonl" if "subagents" in file.parts else "transcript.jsonl"
            raw = [_line(line) for line in file.read_text().splitlines()]
            (self.target / name).write_text(_tidy("\n".join(raw) + "\n", lab))


async def _permission(version: str, target: Path) -> None:
    script = {
        "name": "w",
        "turns": [{"tools": [tool("Write", file_path="${cwd}/n.txt", content="x\n")]}, {"say": "o"}],
    }
    async with Lab(
        version, scenario(script), prompt="script:w go", settings={"permission_mode": "default"}
    ) as lab:
        lab.start()
        await lab.until("the dialog", lambda: "Do you want to" in lab.screen())
        await lab.until("the status", lambda: lab.status() is Fact.PERMISSION_ASKED)
        recorder = Recorder(lab, target)
        recorder.keep("permission")
        await asyncio.sleep(2)
        lab.tmux("send-keys", "-t", "agent", "1")
        await lab.rest(1)
        recorder.write()
        (target / "hooks.jsonl").rename(target / "permission-hooks.jsonl")
        (target / "transcript.jsonl").unlink()


async def record(version: str) -> None:
    """Record one version into its folder of samples."""
    target = SAMPLES / f"claude-{version}"
    target.mkdir(parents=True, exist_ok=True)
    await _permission(version, target)
    async with Lab(version, scenario(*SCRIPTS)) as lab:
        recorder = Recorder(lab, target)
        await recorder.run()
        recorder.write()


if __name__ == "__main__":
    for wanted in sys.argv[1:]:
        asyncio.run(record(wanted))
