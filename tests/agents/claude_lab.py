"""One real Claude Code at its own tmux, prepared and driven by the driver under test.

It stands where a box would: own HOME and work folder, a scripted model, and a receiver of hooks in
the place of boxd. ``/etc`` is an overlay in a mount namespace, so the managed settings are real
without touching the machine's. Everything ends with the ``async with`` block.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import os
import shlex
import shutil
import signal
import subprocess
import tempfile
import time
import uuid
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from claude_cli import VERSIONS, claude_program
from msgspec import Struct, structs

from thopter.agents.claude import ClaudeAgent
from thopter.model.evidence import Evidence, Fact
from thopter.model.nouns import Entry
from thopter.model.sockets import Keys, Launch, LaunchContext, Reading
from thopter.testing.http1 import Reply, Request, Server
from thopter.testing.scripted_model import Scenario, ScriptedModel, Seen, parse_scenario

PATIENCE = 60.0
TOKEN = "box-token-for-hooks"
versions = pytest.mark.parametrize("version", VERSIONS)
# A wait that no version refuses to run (2.1.329 blocks a plain ``sleep 30``).
SLEEP = "python3 -c 'import time; time.sleep({})'"


def live(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """Let a test be a coroutine."""

    @functools.wraps(test)
    def run(*args: Any, **kw: Any) -> None:
        asyncio.run(test(*args, **kw))

    return run


def tool(name: str, **given: Any) -> dict[str, Any]:
    """A tool call in a turn."""
    return {"name": name, "input": given}


def bash(command: str, **more: Any) -> dict[str, Any]:
    """A call of the Bash tool in a turn."""
    return tool("Bash", command=command, description="run it", **more)


def scenario(*scripts: dict[str, Any], **more: Any) -> Scenario:
    """A scenario of these scripts; what none claims is answered ``ok``."""
    return parse_scenario({"script": list(scripts), "default": [{"say": "ok"}], **more}, "test")


class Hook(Struct, frozen=True):
    """One hook call as it came in, and what the driver makes of it."""

    event: str
    body: dict[str, Any]
    token: str
    query: dict[str, str]
    at_ms: int
    reading: Reading


HookAnswer = Callable[[Hook], Awaitable[bytes]]


class Lab:
    """See the module docstring. ``answers`` maps a hook event to a coroutine that may hold it."""

    def __init__(
        self,
        version: str,
        played: Scenario,
        *,
        prompt: str = "",
        settings: dict[str, Any] | None = None,
        env: dict[str, str] | None = None,
    ) -> None:
        self.program = claude_program(version)
        self.folder = Path(tempfile.mkdtemp(prefix="thopter-claude-"))
        self.home, self.cwd = self.folder / "home", self.folder / "work" / "report"
        self.model = ScriptedModel(played)
        self.receiver = Server(self._hook)
        self.agent = ClaudeAgent()
        self.hooks: list[Hook] = []
        self.answers: dict[str, HookAnswer] = {}
        self._env = {"CLAUDE_CODE_MAX_RETRIES": "1", **(env or {})}
        self._want = (prompt, settings or {})
        self._socket = self.folder / "tmux"
        self._stack = contextlib.AsyncExitStack()

    async def __aenter__(self) -> Lab:
        try:
            return await self._setup()
        except BaseException:
            await self.__aexit__()
            raise

    async def _setup(self) -> Lab:
        self.home.mkdir()
        self.cwd.mkdir(parents=True)
        (self.home / ".gitconfig").write_text("[user]\nname = Lab\nemail = lab@example.org\n")
        subprocess.run(["git", "init", "-q", "-b", "main", str(self.cwd)], check=True, timeout=60)
        await self._stack.enter_async_context(self.model)
        await self._stack.enter_async_context(self.receiver)
        prompt, settings = self._want
        self.ctx = LaunchContext(
            run="run_lab", name="lab", session=str(uuid.uuid4()), home=str(self.home), cwd=str(self.cwd),
            prompt_file="", model_url=self.model.url, hook_url=self.receiver.url, box_token=TOKEN,
            settings=settings, prompt=prompt,
        )  # fmt: skip
        for file in self.agent.prepare(self.ctx):
            inside = file.path.removeprefix("/etc/")
            path = Path(file.path) if inside == file.path else self.folder / "etc" / inside
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(file.content)
            path.chmod(file.mode)
        return self

    async def __aexit__(self, *_error: object) -> None:
        self.tmux("kill-server", check=False)
        await self.until("the end of all that was started", lambda: not self._kill_left())
        await self._stack.aclose()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _kill_left(self) -> list[int]:
        """Kill what has this lab's HOME in its environment (tools outlive an agent that is killed)."""
        mark = f"HOME={self.home}\0".encode()
        left: list[int] = []
        for environ in Path("/proc").glob("[0-9]*/environ"):
            with contextlib.suppress(OSError):
                if mark in environ.read_bytes():
                    left.append(int(environ.parent.name))
                    os.kill(left[-1], signal.SIGKILL)
        return left

    # --------------------------------------------------------------------------------- hooks, model

    async def _hook(self, request: Request, reply: Reply) -> None:
        event = request.path.removeprefix("/hook/")
        now = time.time_ns() // 1_000_000
        hook = Hook(
            event,
            json.loads(request.body),
            request.headers.get("authorization", ""),
            dict(request.query),
            now,
            self.agent.read_hook(event, request.body, now, now),
        )
        self.hooks.append(hook)
        answer = await self.answers[event](hook) if event in self.answers else b""
        await reply.send(200 if answer else 204, answer, {"content-type": "application/json"})

    def events(self, name: str) -> list[Hook]:
        """The calls of one hook event so far."""
        return [h for h in self.hooks if h.event == name]

    def facts(self) -> list[Fact]:
        """The facts that all hooks together told, in order."""
        return [e.fact for h in self.hooks for e in h.reading.evidence]

    def asked(self) -> list[Seen]:
        """The model's requests for the conversation itself."""
        return [s for s in self.model.seen if s.path == "/v1/messages" and not s.side]

    # -------------------------------------------------------------------------------------- terminal

    def tmux(self, *words: str, stdin: str = "", check: bool = True) -> str:
        """Run tmux on this lab's own socket."""
        done = subprocess.run(
            ["tmux", "-S", str(self._socket), *words],
            input=stdin, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        if check and done.returncode:
            raise AssertionError(f"tmux {words[:2]}: {done.stderr}")
        return done.stdout

    def start(self, launch: Launch | None = None) -> None:
        """Start the agent in a pane of 200 by 50, as boxd would."""
        launch = launch or self.agent.launch(self.ctx)
        env = {**launch.env, **self._env}
        argv = ["env", "-i", *(f"{k}={v}" for k, v in env.items()), str(self.program), *launch.argv[1:]]
        script = self.folder / f"launch-{uuid.uuid4().hex[:8]}.sh"
        script.write_text("exec " + shlex.join(argv) + "\n")
        self.tmux("kill-server", check=False)
        self._socket = self.folder / f"tmux-{uuid.uuid4().hex[:8]}"  # the old server may take a while to go
        layer = Path(tempfile.mkdtemp(dir=self.folder))  # an overlay's folders serve one mount only
        etc, work = layer / "upper", layer / "work"
        shutil.copytree(self.folder / "etc", etc)
        work.mkdir()
        begin = (
            f"mount -t overlay overlay -o lowerdir=/etc,upperdir={etc},workdir={work} /etc && "
            f"exec tmux -S {self._socket} -f /dev/null new-session -d -s agent -x 200 -y 50 "
            f"-c {shlex.quote(launch.cwd)} sh {script} ';' set-option -g remain-on-exit on"
        )
        private = (
            ["unshare", "--mount"]
            if os.getuid() == 0
            else ["unshare", "--user", "--map-root-user", "--mount"]
        )
        self.started = time.monotonic()
        subprocess.run([*private, "sh", "-c", begin], check=True, timeout=60, capture_output=True)

    def pane(self, what: str) -> str:
        """A tmux format of the pane, such as ``#{pane_dead}``."""
        return self.tmux("display-message", "-p", "-t", "agent", what).strip()

    def screen(self) -> str:
        """What the pane shows."""
        return self.tmux("capture-pane", "-p", "-t", "agent")

    def input_line(self) -> str:
        """What stands at the prompt."""
        lines = [line for line in self.screen().splitlines() if line.startswith("❯")]
        return lines[-1][1:].strip() if lines else ""

    async def press(self, steps: Sequence[Keys]) -> None:
        """Do what boxd's ``tmux.keys`` does."""
        for step in steps:
            if step.text:
                typed = step.text[:-1] + "\\;" if step.text.endswith(";") else step.text
                self.tmux("send-keys", "-t", "agent", "-l", "--", typed)
            elif step.paste:
                self.tmux("load-buffer", "-b", "said", "-", stdin=step.paste)
                self.tmux("paste-buffer", "-p", "-r", "-d", "-b", "said", "-t", "agent")
            else:
                self.tmux("send-keys", "-t", "agent", "--", *step.keys)
            await asyncio.sleep(step.pause_ms / 1000)

    async def say(self, text: str) -> None:
        """Say something as the driver does."""
        await self.press(self.agent.say(text))

    async def until(self, what: str, test: Callable[[], Any], patience: float = PATIENCE) -> Any:
        """Wait until ``test()`` is true; fail with what is on the screen otherwise."""
        end = time.monotonic() + patience
        while time.monotonic() < end:
            found = test()
            if found:
                return found
            await asyncio.sleep(0.03)
        screen = self.tmux("capture-pane", "-p", "-S", "-60", "-t", "agent", check=False).strip()
        screen = "\n".join(line for line in screen.splitlines() if line.strip(" ─"))
        told = [(h.event, h.body.get("error")) for h in self.hooks][-20:]
        raise AssertionError(f"not within {patience:.0f} s: {what}\n{screen}\nhooks: {told}")

    async def up(self) -> None:
        """Wait until a fresh agent without a task stands at its prompt."""
        await self.until("the prompt", lambda: self.events("SessionStart") and "❯" in self.screen())
        await self.until("idle", lambda: self.status() is Fact.IDLE)

    async def rest(self, turns: int) -> None:
        """Wait for the end of that many turns in all, and until it stands at its prompt again."""
        ended = ("Stop", "StopFailure")
        await self.until(f"{turns} turns", lambda: sum(h.event in ended for h in self.hooks) >= turns)
        await self.until("idle", lambda: self.status() is Fact.IDLE)
        await self.written()

    async def written(self) -> None:
        """Wait until the transcripts have not grown for a second: they lag behind the hooks."""
        root, glob = self.agent.transcript_root(self.ctx)
        size, since = -1, time.monotonic()
        while time.monotonic() - since < 1.0:
            now = sum(path.stat().st_size for path in Path(root).glob(glob))
            if now != size:
                size, since = now, time.monotonic()
            await asyncio.sleep(0.05)

    # ----------------------------------------------------------------------------------------- files

    def readings(self) -> list[Reading]:
        """The transcripts read anew, line by line."""
        root, glob = self.agent.transcript_root(self.ctx)
        now = time.time_ns() // 1_000_000
        return [
            self.agent.read_transcript(str(path.relative_to(root)), line, now)
            for path in sorted(Path(root).glob(glob))
            for line in path.read_bytes().split(b"\n")[:-1]
        ]

    def entries(self) -> list[Entry]:
        """All entries of the transcripts; fails when one could not be read or comes twice."""
        readings = self.readings()
        assert [r.problem for r in readings if r.problem] == []
        entries = [e for r in readings for e in r.entries]
        assert len({(e.session, e.key) for e in entries}) == len(entries)
        return entries

    def told(self, fact: Fact) -> list[Evidence]:
        """Evidence of one fact from the transcripts."""
        return [e for r in self.readings() for e in r.evidence if e.fact is fact]

    def status(self) -> Fact | None:
        """What the agent's status file says now."""
        root, glob = self.agent.status_root(self.ctx)
        for path in Path(root).glob(glob):
            if path.stem == self.pane("#{pane_pid}"):
                with contextlib.suppress(FileNotFoundError):
                    read = self.agent.read_status(path.name, path.read_bytes(), time.time_ns() // 1_000_000)
                    return read.evidence[0].fact if read.evidence else None
        return None

    def git(self, *words: str) -> str:
        """Run git in the work folder."""
        return subprocess.run(
            ["git", "-C", str(self.cwd), *words], capture_output=True, text=True, timeout=60, check=True
        ).stdout.strip()

    def with_prompt(self, prompt: str, **more: Any) -> LaunchContext:
        """The context as it is, with another prompt."""
        return structs.replace(self.ctx, prompt=prompt, **more)
