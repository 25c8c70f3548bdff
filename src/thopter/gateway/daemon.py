"""How a gateway process starts, stays alone on its socket, survives its hub, and ends."""

from __future__ import annotations

import argparse
import asyncio
import fcntl
import json
import logging
import logging.handlers
import os
import pwd
import resource
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from thopter.gateway.confine import confine, own_uid
from thopter.gateway.service import Service
from thopter.kit.paths import private_dir
from thopter.model.errors import ThopterError

log = logging.getLogger("thopter.gateway")


class Options(argparse.Namespace):
    """Command line of a gateway process; nothing secret is ever on it."""

    socket: Path
    state: Path
    idle_exit: float
    foreground: bool


Build = Callable[[Options, tuple[str, ...]], Service[Any]]


class _JsonLines(logging.Formatter):
    """One JSON object a line: text of others can't forge a second record."""

    def format(self, record: logging.LogRecord) -> str:
        text = record.getMessage()
        if record.exc_info:
            text += "\n" + self.formatException(record.exc_info)
        at_ms = int(record.created * 1000)
        return json.dumps({"at_ms": at_ms, "level": record.levelname.lower(), "text": text[:8000]})


def main(
    name: str,
    build: Build,
    *,
    network: bool,
    preload: Callable[[], None] | None = None,
    before: Callable[[Options], None] = lambda _options: None,
    argv: list[str] | None = None,
) -> int:
    """Run gateway ``name``; ``build`` makes its service after the process has confined itself, ``before``
    clears up (as the one that holds the lock) what the process won't be able to see afterwards.
    ``preload``: started by root it becomes a user of its own, who writes nothing but its log and may not
    be able to read the program: this loads what will be needed.

    Says one JSON line on stdout (``{"ready": pid}``, ``{"busy": true}`` or ``{"error": …}``) and then
    leaves the terminal, unless ``--foreground``. Exit code 0, or 1 when it could not start.
    """
    parser = argparse.ArgumentParser(prog=f"thopter-gateway-{name}", description=f"The {name} gateway.")
    parser.add_argument("--socket", type=Path, required=True, help="control socket")
    parser.add_argument("--state", type=Path, required=True, help="state folder of the hub")
    parser.add_argument("--idle-exit", type=float, default=0.0, help="end after so many idle seconds")
    parser.add_argument("--foreground", action="store_true", help="do not leave the terminal")
    options = parser.parse_args(argv, namespace=Options())
    options.socket, options.state = options.socket.absolute(), options.state.absolute()
    if not options.foreground:
        _detach()
    try:
        lock, control, folder = _claim(options)
    except ThopterError as e:
        _say({"error": e.to_dict()})
        return 1
    except OSError as e:
        _say({"error": ThopterError(f"the {name} gateway can't start: {e}").to_dict()})
        return 1
    if lock < 0 or control is None:
        _say({"busy": True})
        return 0
    _log_to(folder / f"{name}.log", stays_open=preload is not None)
    writable = [folder, options.state / "mirrors"] if not network else [folder]
    _more_descriptors()
    before(options)
    errors = _errors_file(folder / f"{name}.err")
    uid = 0
    if preload is not None:
        preload()
        uid, writable = own_uid(options.state), []
    private = [options.state, *_home()]
    service = build(options, confine(writable=writable, network=network, uid=uid, private=private))
    log.info("%s gateway up, pid %d, confined: %s", name, os.getpid(), ", ".join(service.confined))
    _say({"ready": os.getpid()})
    if not options.foreground:
        _leave_terminal(errors)
    os.close(errors)
    asyncio.run(_run(service, control))
    log.info("%s gateway down", name)
    return 0


def _home() -> list[Path]:
    """The user's home folder; none for a user without a name."""
    try:
        return [Path(pwd.getpwuid(os.getuid()).pw_dir)]
    except KeyError:
        return []


async def _run(service: Service[Any], control: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, service.stopping.set)
    await service.run(control)


def _detach() -> None:
    """Become nobody's child and nobody's terminal's: whoever started us may end without ending us."""
    if os.fork():
        os._exit(0)
    os.setsid()
    os.chdir("/")
    os.closerange(3, 65536)


def _claim(options: Options) -> tuple[int, socket.socket | None, Path]:
    """Take the lock of the control socket (fd -1 when another process has it) and listen on it.

    The lock goes with the process, however it ends; a socket file left behind is replaced.
    """
    os.umask(0o077)
    private_dir(options.socket.parent)
    private_dir(options.state)
    folder = private_dir(options.state / "gateway")
    private_dir(options.state / "mirrors")
    lock = os.open(f"{options.socket}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    if not _locked(lock):
        os.close(lock)
        return -1, None, folder
    control = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    fresh = options.socket.with_name(f".{options.socket.name}.{os.getpid()}")
    fresh.unlink(missing_ok=True)
    control.bind(str(fresh))
    fresh.chmod(0o600)
    control.listen(64)
    control.setblocking(False)
    fresh.rename(options.socket)
    return lock, control, folder


def _locked(fd: int) -> bool:
    """Try for two seconds: a predecessor that is just ending must not make us give up."""
    deadline = time.monotonic() + 2.0
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.02)


def _more_descriptors() -> None:
    """A thousand boxes need more than the usual 1,024 descriptors."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 65536 if hard == resource.RLIM_INFINITY else min(hard, 65536)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


class _OpenLog(logging.StreamHandler[IO[str]]):
    """A bounded log in two files that are opened once: a process that gives up its rights can't rename.
    When it is full, what it holds goes to ``.1`` and it begins again."""

    def __init__(self, path: Path, most: int) -> None:
        self._old = open(f"{path}.1", "a+b", opener=_private)  # noqa: SIM115 - as long as the process
        self._file = open(path, "a+", encoding="utf-8", opener=_private)  # noqa: SIM115
        self._most = most
        super().__init__(self._file)

    def emit(self, record: logging.LogRecord) -> None:
        """See StreamHandler."""
        super().emit(record)
        if self._file.tell() > self._most:
            self._file.seek(0)
            self._old.truncate(0)
            self._old.write(self._file.read().encode())
            self._old.flush()
            self._file.truncate(0)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC, 0o600)


def _log_to(path: Path, stays_open: bool) -> None:
    handler: logging.Handler
    if stays_open:
        handler = _OpenLog(path, 1 << 20)
    else:
        handler = logging.handlers.RotatingFileHandler(path, maxBytes=1 << 20, backupCount=2)
    handler.setFormatter(_JsonLines())
    ours = logging.getLogger("thopter")
    ours.addHandler(handler)
    ours.setLevel(logging.INFO)
    ours.propagate = False


def _say(message: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


def _errors_file(path: Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)


def _leave_terminal(errors: int) -> None:
    null = os.open("/dev/null", os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)
    os.dup2(errors, 2)
    os.close(null)
