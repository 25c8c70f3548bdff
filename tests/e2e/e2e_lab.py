"""A whole thopter of its own for a test: state, hub, scripted model, driven by the real command line."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from thopter.kit.paths import find_paths
from thopter.testing.scripted_model import ScriptedModel, load_scenario, running
from thopter.testing.small_disk import small_disk

PATIENCE = 120.0
SECRET = "sk-canary-4f9d1c7be2a84c6fa0b1"
CACHE = Path(
    os.environ.get("THOPTER_TEST_CACHE") or Path(tempfile.gettempdir()) / f"thopter-e2e-{os.getuid()}"
)


class Lab:
    """One state folder and what belongs to it."""

    def __init__(self, folder: Path, model: ScriptedModel) -> None:
        self.folder = folder
        self.model = model
        self.home = folder / "home"
        self.home.mkdir(parents=True)
        keep = {k: v for k, v in os.environ.items() if not k.startswith(("THOPTER_", "ANTHROPIC_", "XDG_"))}
        self.env = keep | {
            "HOME": str(self.home),
            "THOPTER_STATE_DIR": str(folder / "state"),
            "THOPTER_CONFIG_DIR": str(folder / "config"),
            "THOPTER_AGENTS_CLAUDE_BASE_URL": model.url,
            "ANTHROPIC_AUTH_TOKEN": SECRET,
            "NO_COLOR": "1",
        }
        self.paths = find_paths(self.env)

    def run(
        self,
        *argv: str,
        check: bool = True,
        stdin: str | bytes = "",
        cwd: Path | None = None,
        env: dict[str, str] | None = None,
        timeout: float = PATIENCE,
    ) -> subprocess.CompletedProcess[str]:
        """Run ``thopter argv``; with ``check`` a non-zero exit fails the test with what was said."""
        done = subprocess.run(
            [sys.executable, "-m", "thopter.cli.main", *argv],
            input=stdin if isinstance(stdin, bytes) else stdin.encode(),
            capture_output=True,
            cwd=cwd or self.folder,
            env=self.env | (env or {}),
            timeout=timeout,
            check=False,
        )
        out = subprocess.CompletedProcess(
            argv, done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace")
        )
        if check and out.returncode:
            log = self.paths.hub_log
            tail = log.read_text(errors="replace")[-3000:] if log.exists() else ""
            raise AssertionError(f"thopter {argv}: exit {out.returncode}\n{out.stdout}\n{out.stderr}\n{tail}")
        return out

    def json(self, *argv: str) -> Any:
        """Run a reading command with ``--json``."""
        return json.loads(self.run(*argv, "--json").stdout)

    def view(self, name: str) -> dict[str, Any]:
        """One thopter as ``status --json`` tells it, or an empty dict."""
        return next((v for v in self.json("status") if v["name"] == name), {})

    def until(self, what: str, test: Callable[[], Any], patience: float = PATIENCE) -> Any:
        """Wait until ``test()`` is true; fail with ``what`` and the present state otherwise."""
        end = time.monotonic() + patience
        while time.monotonic() < end:
            found = test()
            if found:
                return found
            time.sleep(0.2)
        raise AssertionError(f"not within {patience:.0f} s: {what}\n{self.run('status', check=False).stdout}")

    def rest(self, *names: str) -> None:
        """Wait until these have come to rest (their turn is over)."""
        for name in names:
            self.until(f"{name} waits", lambda n=name: self.view(n).get("state") in ("waiting", "failed"))

    def hub_pid(self) -> int:
        """The hub's process, 0 when none runs."""
        done = self.run("hub", "status", "--json", check=False)
        return int(json.loads(done.stdout)["pid"]) if done.returncode == 0 else 0

    def kill_hub(self) -> None:
        """kill -9, and wait until it is gone."""
        pid = self.hub_pid()
        os.kill(pid, signal.SIGKILL)
        self.until("the hub is gone", lambda: not Path(f"/proc/{pid}").exists())

    def dies_at(self, point: str, *argv: str, ready: Callable[[], Any] = lambda: True) -> None:
        """Run ``argv`` (once ``ready()`` is true) against a hub that kills itself at ``point``; no hub
        runs afterwards. The command is ended with the hub: how long it hopes for another is its own."""
        self.run("hub", "stop", check=False)
        self.run("hub", "start", env={"THOPTER_FAILPOINT": point})
        pid = self.hub_pid()
        self.until("the hub is ready to die", ready)
        with (self.folder / "dying.out").open("wb") as said:
            command = subprocess.Popen(
                [sys.executable, "-m", "thopter.cli.main", "--no-start", *argv],
                cwd=self.folder, env=self.env, stdin=subprocess.DEVNULL, stdout=said, stderr=said,
            )  # fmt: skip
        try:
            end = time.monotonic() + PATIENCE
            while Path(f"/proc/{pid}").exists():
                if time.monotonic() > end:
                    words = (self.folder / "dying.out").read_text(errors="replace")
                    raise AssertionError(f"the hub does not die at {point}; {argv} said: {words}")
                time.sleep(0.02)
        finally:
            command.kill()
            command.wait()

    def leaks(self) -> list[Any]:
        """What ``thopter doctor --leaks`` finds."""
        return list(self.json("doctor", "--leaks"))

    def repo(self, name: str = "proj", files: dict[str, str] | None = None) -> Path:
        """A small git repository with one commit."""
        path = self.folder / name
        path.mkdir()
        for file, text in (files or {"README.md": "# proj\n"}).items():
            (path / file).parent.mkdir(parents=True, exist_ok=True)
            (path / file).write_text(text)
        self.git(path, "init", "-q", "-b", "main")
        self.git(path, "add", "-A")
        self.git(path, "commit", "-q", "-m", "first")
        return path

    def git(self, path: Path, *argv: str) -> str:
        """Run git in ``path`` as a test author."""
        who = ["-c", "user.name=Tess", "-c", "user.email=tess@example.invalid"]
        done = subprocess.run(
            ["git", *who, *argv], cwd=path, capture_output=True, text=True, check=True, env=self.env
        )
        return done.stdout.strip()

    def end(self) -> None:
        """Destroy everything; nothing of it is left."""
        names = [v["name"] for v in self.json("status")] if self.hub_pid() else []
        if names:
            self.run("destroy", "--yes", *names, check=False)
        self.run("hub", "stop", check=False)
        dismantle(self)


def dismantle(lab: Lab) -> None:
    """Remove what outlives a hub: zygote, gateways, mounts, folders."""
    code = (
        "import asyncio\n"
        "from thopter.kit.paths import find_paths\n"
        "from thopter.providers.local.provider import LocalProvider\n"
        "asyncio.run(LocalProvider(find_paths()).dismantle())\n"
    )
    subprocess.run([sys.executable, "-c", code], env=lab.env, check=False, timeout=60, capture_output=True)
    code = (
        "import asyncio, pathlib, sys\n"
        "from thopter.gateway.client import GatewayClient\n"
        "name, sock = sys.argv[1:]\n"
        "asyncio.run(GatewayClient(name, pathlib.Path(sock), pathlib.Path('/tmp')).stop())\n"
    )
    for name in ("model", "git", "egress"):
        argv = [
            sys.executable,
            "-c",
            code,
            f"thopter.gateway.{name}",
            str(lab.paths.runtime / f"{name}.sock"),
        ]
        subprocess.run(argv, env=lab.env, check=False, timeout=60, capture_output=True)
    shutil.rmtree(lab.folder, ignore_errors=True)


@contextlib.contextmanager
def lab(scenario: Any = "demo", disk_mb: int = 0) -> Iterator[Lab]:
    """A lab that starts from the golden box of earlier labs, where there is one. With ``disk_mb``
    its state folder is a disk of that size."""
    folder = Path(tempfile.mkdtemp(prefix="thopter-e2e-"))
    with (
        small_disk(folder / "state", disk_mb) if disk_mb else contextlib.nullcontext(),
        running(load_scenario(scenario) if isinstance(scenario, str) else scenario) as model,
    ):
        made = Lab(folder, model)
        _borrow_goldens(made)
        try:
            yield made
            _lend_goldens(made)
        finally:
            made.end()


def _borrow_goldens(made: Lab) -> None:
    if (CACHE / "goldens").exists():
        made.paths.state.mkdir(parents=True, exist_ok=True)
        same = CACHE.stat().st_dev == made.paths.state.stat().st_dev
        how = "-al" if same else "-a"
        subprocess.run(["cp", how, CACHE / "goldens", made.paths.state / "goldens"], check=True)


def _lend_goldens(made: Lab) -> None:
    source = made.paths.state / "goldens"
    if os.path.ismount(made.paths.state):
        return
    if source.exists() and not (CACHE / "goldens").exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        fresh = Path(tempfile.mkdtemp(dir=CACHE))
        subprocess.run(["cp", "-al", source, fresh / "goldens"], check=True)
        with contextlib.suppress(OSError):  # another worker was faster
            (fresh / "goldens").rename(CACHE / "goldens")
        shutil.rmtree(fresh, ignore_errors=True)
