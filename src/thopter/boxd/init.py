"""The tiny first process of a box: reaps everything, keeps boxd running, ends on SIGTERM."""

from __future__ import annotations

import ctypes
import gc
import os
import signal
import socket
import time
from typing import Any, Mapping, NoReturn, Optional

from thopter.boxd import main, procfs
from thopter.boxd.hooks import bind_hooks
from thopter.boxd.loop import describe, log

_SIGNALS = (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_STEADY = 10.0  # seconds after which a boxd counts as having worked
_LONGEST = 5.0  # seconds between two tries at most
_SUBREAPER = 36
_libc = ctypes.CDLL(None, use_errno=True)


def run_init(config: Mapping[str, Any], listener: Optional[socket.socket] = None) -> NoReturn:
    """Be the first process of a box: never returns, ends the process with code 0 on SIGTERM.

    boxd is forked from this process (imports are there already) and serves ``listener``, or the
    listening socket whose descriptor is ``config["listen_fd"]``. When it dies, a new one serves
    the same socket, with growing pauses when it can't stay up. As pid 1 of a pid namespace the
    kernel ends the rest of the box with us; otherwise (no namespace) we adopt orphans and kill
    every descendant.
    """
    if listener is None:
        listener = socket.socket(fileno=int(config["listen_fd"]))
    hook_listener = _hook_listener(config)
    main.own_signals()
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    if os.getpid() != 1:
        _libc.prctl(_SUBREAPER, 1, 0, 0, 0)
    gc.collect()
    gc.freeze()
    fails = 0
    boxd, born = _fork(config, listener, hook_listener), time.monotonic()
    due = born + 1.0  # when to start boxd again, while there is none
    while True:
        wait = max(0.0, due - time.monotonic()) if boxd == 0 else 3600.0 * 24
        got = signal.sigtimedwait(_SIGNALS, wait)
        if got is not None and got.si_signo in (signal.SIGTERM, signal.SIGINT):
            _end()
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if pid == 0:
                break
            if pid == boxd:
                fails = 0 if time.monotonic() - born > _STEADY else fails + 1
                pause = min(_LONGEST, 0.02 * 2**fails) if fails > 1 else 0.0
                log(f"boxd ended with status {status}, a new one starts in {pause:.2f} s")
                boxd, due = 0, time.monotonic() + pause
        if boxd == 0 and time.monotonic() >= due:
            boxd, born = _fork(config, listener, hook_listener), time.monotonic()
            due = born + 1.0  # counts only if that fork failed


def _hook_listener(config: Mapping[str, Any]) -> Optional[socket.socket]:
    """Bind the hooks' port here, so that no hook is refused while boxd restarts."""
    port = config.get("hook_port", 8400)
    if not isinstance(port, int) or port < 0:
        return None
    try:
        return bind_hooks(port)
    except OSError as e:
        log(f"port {port} for hooks can't be had yet ({e.strerror}); boxd will try again")
        return None


def _fork(config: Mapping[str, Any], listener: socket.socket, hook_listener: Optional[socket.socket]) -> int:
    try:
        pid = os.fork()
    except OSError as e:
        log("boxd can't be forked: " + describe(e))
        return 0
    if pid:
        return pid
    code = 1
    try:
        main.serve(listener, config, hook_listener)
        code = 0
    except BaseException as e:  # noqa: BLE001 - the last line of a forked child
        log("boxd failed: " + describe(e))
    finally:
        os._exit(code)


def _end() -> NoReturn:
    if os.getpid() != 1:
        for _ in range(50):
            below = procfs.descendants([os.getpid()])
            if not below:
                break
            procfs.kill(below, signal.SIGKILL)
            time.sleep(0.01)
            while _reap_one():
                pass
    os._exit(0)


def _reap_one() -> bool:
    try:
        return os.waitpid(-1, os.WNOHANG)[0] != 0
    except ChildProcessError:
        return False
