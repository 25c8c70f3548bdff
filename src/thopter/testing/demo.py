"""``./dev demo``: three real agents at work on a real repository, left there to play with."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import click

from thopter.kit.paths import Paths, find_paths, private_dir
from thopter.kit.secrets import SecretStore, claude_credential
from thopter.mesh.client import HubClient, ensure_hub
from thopter.model.api import ThopterView
from thopter.model.errors import ThopterError
from thopter.testing.demo_repo import PROMPTS, create_demo_repo

BASE_URL = "THOPTER_AGENTS_CLAUDE_BASE_URL"
_NAMES = ("fix", "flag", "docs")
_PATIENCE_S = 900.0
_NEXT = (
    "status flag                            what it is doing, and the evidence",
    "tail flag -n 50                        its conversation",
    'tell flag "also update the README"     say something to it',
    "attach flag                            its own screen (C-b d leaves)",
    "dashboard --open                       all of them on a page (--qr for a phone)",
    "destroy fix flag docs                  the end",
)


def _say(text: str = "") -> None:
    click.echo(text, err=False)


def _thopter(*argv: str, quiet: bool = False) -> int:
    if not quiet:
        shown = " ".join(f'"{a}"' if " " in a else a for a in argv)
        click.secho(f"$ thopter {shown}", bold=True)
    return subprocess.run([sys.executable, "-m", "thopter.cli.main", *argv], check=False).returncode


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _scripted_model(folder: Path) -> str:
    """Start the scripted model (once) and return its address."""
    note = folder / "scripted-model.url"
    if note.exists():
        url = note.read_text().strip()
        host, _, old = url.removeprefix("http://").partition(":")
        with socket.socket() as probe:
            probe.settimeout(1)
            if old.isdecimal() and probe.connect_ex((host, int(old))) == 0:
                return url
    port, ready = _free_port(), folder / "scripted-model.ready"
    ready.unlink(missing_ok=True)
    with (folder / "scripted-model.log").open("ab") as log:
        child = subprocess.Popen(
            [sys.executable, "-m", "thopter.testing.scripted_model", "--scenario", "demo",
             "--port", str(port), "--ready-file", str(ready)],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, cwd="/",
        )  # fmt: skip
    for _ in range(200):
        if ready.exists():
            break
        if child.poll() is not None:
            raise ThopterError("the scripted model ended at once", hint=f"see {log.name}")
        time.sleep(0.05)
    url = f"http://127.0.0.1:{port}"
    note.write_text(url)
    return url


def _choose_model(paths: Paths, folder: Path) -> None:
    """Use the user's own key when there is one, else the scripted model, and say which."""
    if (
        os.environ.get(BASE_URL)
        or claude_credential(os.environ)
        or SecretStore(paths).get("agents.claude.credential")
    ):
        _say("Model: the endpoint and key you have configured.")
        return
    os.environ[BASE_URL] = _scripted_model(folder)
    _say("Model: no key found, so a scripted model plays the model's part; everything else is real.")
    _say("       For a real one: export ANTHROPIC_API_KEY=…  (or './dev thopter setup'), then './dev demo'.")


def _hub(paths: Paths) -> HubClient:
    """A running hub that uses the endpoint chosen above."""
    hub = ensure_hub(paths)
    wanted = os.environ.get(BASE_URL, "")
    if wanted and not any(wanted in c.text for c in hub.doctor() if c.name.startswith("model endpoint")):
        _thopter("hub", "restart", quiet=True)
        hub = ensure_hub(paths)
    return hub


def _settled(views: list[ThopterView]) -> bool:
    mine = [v for v in views if v.name in _NAMES]
    return bool(mine) and all(v.state in ("waiting", "done", "failed", "stopped") for v in mine)


def _watch(hub: HubClient) -> list[ThopterView]:
    """Show what each is doing whenever something changes, until all have come to rest."""
    said: dict[str, str] = {}
    end = time.monotonic() + _PATIENCE_S
    while time.monotonic() < end:
        views = hub.thopters()
        for v in views:
            line = f"{v.state}{' (' + v.reason + ')' if v.reason else '':<13} {v.last_message[:90]}"
            if v.name in _NAMES and said.get(v.name) != line:
                said[v.name] = line
                click.echo(f"  {time.strftime('%H:%M:%S')}  {v.name:<5} {line}")
        if _settled(views):
            return views
        time.sleep(0.5)
    raise ThopterError("the three did not come to rest in time", hint="look: ./dev thopter status")


@click.command()
def main() -> None:
    """Set the stage, start three thopters, show them working, leave them there."""
    began = time.monotonic()
    paths = find_paths()
    folder = private_dir(private_dir(paths.state) / "demo")
    repo = folder / "report"
    try:
        _choose_model(paths, folder)
        hub = _hub(paths)
        present = {v.name for v in hub.thopters()}
        old = [n for n in _NAMES if n in present]
        if old:
            _thopter("destroy", "--yes", *old)
        shutil.rmtree(repo, ignore_errors=True)
        create_demo_repo(repo)
        _say(f"A small real git repository with an issue to fix: {repo}\n")
        os.chdir(repo)
        for name, prompt in zip(_NAMES, PROMPTS, strict=True):
            code = _thopter("run", "--detach", "--repo", ".", "--name", name, prompt)
            if code:
                sys.exit(code)
        _say("\nAll three at work, each alone in its own box:")
        views = _watch(hub)
        _say()
        _thopter("status")
        for name in _NAMES:
            _say()
            _thopter("diff", name, "--stat")
    except ThopterError as e:
        click.echo(f"demo: {e.message}\n  {e.hint}", err=True)
        sys.exit(e.exit_code)
    bad = [v.name for v in views if v.name in _NAMES and v.state == "failed"]
    _say(f"\nThat took {time.monotonic() - began:.0f} s. They are still there; go on with:")
    for line in _NEXT:
        _say("  ./dev thopter " + line)
    _say(f"  ./dev thopter pull flag --repo {repo}    its work as branch thopter/flag there")
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
