"""``thopter doctor``: what works on this machine and what to change, with and without a hub."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import click

from thopter.cli.app import App, json_option, pass_app
from thopter.cli.text import paint, plural, wrap
from thopter.kit.sanitize import one_line
from thopter.model.api import Check
from thopter.model.errors import ThopterError

_GIB = 1 << 30
_MARKS = {"ok": ("ok  ", "green"), "warn": ("warn", "yellow"), "fail": ("FAIL", "red")}


@click.command()
@click.option(
    "--leaks", is_flag=True, help="Only list what thopters left on this machine; exit 1 when there is any."
)
@json_option()
@pass_app
def doctor(app: App, leaks: bool, as_json: bool) -> None:
    """Check this machine: first what needs no hub, then what the hub itself finds.

    Exit 1 when something fails. Every line that is not ok says what to change.
    """
    if leaks:
        return _leaks(app, as_json)
    ours, hubs = local_checks(app), _hub_checks(app)
    # What a hub that answers finds itself counts: it may have been started with other settings than ours.
    judged = {"credential" if c.name.startswith("model endpoint") else c.name for c in hubs}
    checks = [c for c in ours if c.name not in judged] + hubs
    if as_json:
        app.json(checks)
    else:
        for check in checks:
            _print(app, check)
    if any(check.level == "fail" for check in checks):
        app.exit(1)


def _print(app: App, check: Check) -> None:
    mark, colour = _MARKS.get(check.level, ("?   ", "magenta"))
    app.out(f"{paint(mark, colour, on=app.colour)}  {one_line(check.name, 40)}: {one_line(check.text, 1000)}")
    if check.fix and check.level != "ok":
        for line in wrap(one_line(check.fix, 2000), 100, "        "):
            app.out(line)


def _leaks(app: App, as_json: bool) -> None:
    found = app.hub.leaks()
    if as_json:
        app.json(found)
    else:
        for leak in found:
            app.out(
                f"{one_line(leak.kind, 20):<10} {one_line(leak.what, 500)}  {one_line(leak.key, 60)}".rstrip()
            )
        app.out(plural(len(found), "leak"))
    if found:
        app.exit(1)


def _hub_checks(app: App) -> list[Check]:
    """The hub's own checks; that it can't be reached or started is one of the findings."""
    try:
        return app.hub.doctor()
    except ThopterError as error:
        return [Check(name="hub", level="fail", text=error.message, fix=error.hint)]


def local_checks(app: App) -> list[Check]:
    """What can be known without a hub."""
    return [check for probe in _PROBES for check in probe(app)]


def _python(app: App) -> list[Check]:
    version = ".".join(map(str, sys.version_info[:3]))
    level = "ok" if sys.version_info >= (3, 11) else "fail"
    return [
        Check(
            name="python",
            level=level,
            text=f"{version} at {sys.executable}",
            fix="Python 3.11 or newer is needed",
        )
    ]


def _programs(app: App) -> list[Check]:
    found = []
    for name, ask, level, why in (
        ("git", "--version", "fail", "clones, diffs and branches are git's work"),
        ("tmux", "-V", "fail", "agents run in tmux"),
        ("node", "--version", "fail", "Claude Code runs on it"),
        ("npm", "--version", "fail", "it installs Claude Code into boxes"),
        ("ssh", "-V", "warn", "only for repositories with ssh:// addresses"),
    ):
        path = shutil.which(name)
        if path is None:
            text = f"not installed; {why}"
            found.append(
                Check(name=name, level=level, text=text, fix=f"install {name} with your system's packages")
            )
            continue
        said = _first_line([path, ask])
        text = f"{said} at {path}" if said else f"{path} does not run"
        found.append(Check(name=name, level="ok" if said else level, text=text, fix=f"install {name} again"))
    return found


def _ssh_server(app: App) -> list[Check]:
    """Boxes see this machine's programs: what is here is there."""
    folders = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin", "/usr/local/sbin"))
    found = shutil.which("sshd", path=folders) or shutil.which("dropbear", path=folders)
    text = f"{found} serves 'ssh NAME.thopter' in boxes" if found else "no ssh server for boxes"
    fix = (
        "for ssh NAME.thopter, scp, rsync and editors: install dropbear-bin and openssh-sftp-server (nothing "
    )
    return [
        Check(
            name="ssh server",
            level="ok" if found else "warn",
            text=text,
            fix=fix + "of them listens on this machine)",
        )
    ]


def _first_line(argv: list[str]) -> str:
    try:
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=20.0)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    lines = (done.stdout or done.stderr).decode("utf-8", "replace").splitlines()
    return lines[0].strip() if done.returncode == 0 and lines else ""


def _namespaces(app: App) -> list[Check]:
    """Really make a user namespace: kernel switches and security modules all show there."""
    if sys.platform != "linux":
        return [Check(name="namespaces", level="fail", text="boxes of the local provider need Linux",
                      fix="run the hub on a Linux machine")]  # fmt: skip
    unshare = shutil.which("unshare")
    if unshare is None:
        return [
            Check(
                name="namespaces",
                level="warn",
                text="can't be tried without 'unshare'",
                fix="install util-linux",
            )
        ]
    try:
        done = subprocess.run(
            [unshare, "--user", "--map-root-user", "--mount", "--pid", "--fork", "--net", "true"],
            stdin=subprocess.DEVNULL, capture_output=True, timeout=20.0,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as e:
        return [Check(name="namespaces", level="warn", text=f"can't be tried: {e}")]
    if done.returncode == 0:
        return [Check(name="namespaces", level="ok", text="user, mount, pid and net namespaces can be made")]
    why = one_line(done.stderr.decode("utf-8", "replace"), 200) or f"exit {done.returncode}"
    return [
        Check(name="namespaces", level="warn", text=f"user namespaces are refused ({why})", fix=_switches())
    ]


def _switches() -> str:
    """The kernel switches that are known to forbid user namespaces, as commands."""
    fixes = []
    for name, bad, good in (
        ("kernel.unprivileged_userns_clone", "0", "1"),
        ("kernel.apparmor_restrict_unprivileged_userns", "1", "0"),
        ("user.max_user_namespaces", "0", "15000"),
    ):
        with contextlib.suppress(OSError):
            if Path("/proc/sys", *name.split(".")).read_text().strip() == bad:
                fixes.append(f"sysctl -w {name}={good}")
    return (
        "as root: " + "; ".join(fixes)
        if fixes
        else "the hub falls back to bubblewrap or a container: see its lines"
    )


def _folders(app: App) -> list[Check]:
    found = []
    paths = app.paths
    for name, path in (
        ("state folder", paths.state),
        ("runtime folder", paths.runtime),
        ("config folder", paths.config),
    ):
        try:
            text, level = _folder(path), "ok"
        except OSError as e:
            text, level = f"{path}: {e.strerror}", "fail"
        except ThopterError as e:
            text, level = e.message, "fail"
        found.append(
            Check(
                name=name, level=level, text=text, fix="make it a folder of yours, or set THOPTER_STATE_DIR"
            )
        )
    return found


def _folder(path: Path) -> str:
    from thopter.kit.paths import private_dir

    private_dir(path)
    probe = path / f".doctor-{os.getpid()}"
    probe.write_bytes(b"x")
    probe.unlink()
    return f"{path} is private and writable"


def _disk(app: App) -> list[Check]:
    try:
        free = shutil.disk_usage(app.paths.state).free
    except OSError as e:
        return [Check(name="disk", level="fail", text=f"{app.paths.state}: {e.strerror}")]
    level = "ok" if free > 5 * _GIB else "warn" if free > _GIB else "fail"
    return [Check(name="disk", level=level, text=f"{free / _GIB:.1f} GiB free for {app.paths.state}",
                  fix="boxes need some GiB: free some, or set THOPTER_STATE_DIR elsewhere")]  # fmt: skip


def _settings(app: App) -> list[Check]:
    try:
        _ = app.settings
    except ThopterError as e:
        return [Check(name="settings", level="fail", text=e.message, fix=e.hint)]
    return [
        Check(name="settings", level="ok", text=f"{app.paths.config_file} and the environment can be read")
    ]


def _credential(app: App) -> list[Check]:
    from thopter.kit.secrets import CLAUDE, SecretStore, claude_credential

    try:
        stored = CLAUDE in SecretStore(app.paths, app.env).names()
        given = claude_credential(app.env)
    except ThopterError as e:
        return [Check(name="credential", level="fail", text=e.message, fix=e.hint)]
    if stored:
        return [Check(name="credential", level="ok", text="a model credential is stored")]
    if given:
        return [
            Check(
                name="credential",
                level="ok",
                text=f"a model credential is in {given[1]}; a hub takes it when it starts",
            )
        ]
    return [
        Check(
            name="credential",
            level="warn",
            text="no model credential is stored",
            fix="store one: thopter setup",
        )
    ]


_PROBES: tuple[Callable[[App], list[Check]], ...] = (
    _python, _programs, _ssh_server, _namespaces, _folders, _disk, _settings, _credential,
)  # fmt: skip
