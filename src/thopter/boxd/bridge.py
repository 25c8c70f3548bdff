"""``serve --stdio``: joins standard input and output to the box's boxd, starting it when needed.

For providers whose channel is an exec: each channel is a bridge of its own, all of them reach the
one boxd of the box, and what it keeps (journal, runs) outlives every channel.
"""

from __future__ import annotations

import _thread
import fcntl
import os
import socket
from typing import Any, Mapping, Optional

from thopter.boxd.init import run_init
from thopter.boxd.main import own_descriptors

_CHUNK = 64 << 10


def bridge(config: Mapping[str, Any]) -> int:
    """Carry bytes between stdin/stdout and boxd until boxd or the reader of our output ends the
    connection; return the exit code."""
    sock = _connect_or_start(config)
    # A thread per direction: a stalled direction must never hold up the other one.
    _thread.start_new_thread(_inward, (sock,))
    while True:
        chunk = sock.recv(_CHUNK)
        if not chunk:
            return 0
        try:
            while chunk:
                chunk = chunk[os.write(1, chunk) :]
        except BrokenPipeError:
            return 0


def _inward(sock: socket.socket) -> None:
    try:
        while True:
            chunk = os.read(0, _CHUNK)
            if not chunk:
                break
            sock.sendall(chunk)
        sock.shutdown(socket.SHUT_WR)
    except OSError:
        return  # the connection is over; the other direction sees that too


def _connect_or_start(config: Mapping[str, Any]) -> socket.socket:
    folder = str(config.get("run_dir", "/run/thopter"))
    os.makedirs(folder, mode=0o700, exist_ok=True)
    path = folder + "/boxd.sock"
    sock = _connect(path)
    if sock is not None:
        return sock
    lock = os.open(folder + "/start.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    sock = _connect(path)  # another bridge may have started it meanwhile
    if sock is None:
        _start(path, folder + "/boxd.log", config, lock)
        sock = _connect(path)
    os.close(lock)
    if sock is None:
        raise OSError(f"boxd was started but does not listen on {path}")
    return sock


def _connect(path: str) -> Optional[socket.socket]:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        sock.connect(path)
    except (FileNotFoundError, ConnectionRefusedError):
        sock.close()
        return None
    return sock


def listen(path: str) -> socket.socket:
    """Return a listening unix socket at ``path`` (0600), replacing a dead one."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    old = os.umask(0o177)
    try:
        listener.bind(path)
    finally:
        os.umask(old)
    listener.listen(128)
    return listener


def _start(path: str, log_path: str, config: Mapping[str, Any], lock: int) -> None:
    listener = listen(path)
    child = os.fork()
    if child:
        listener.close()
        os.waitpid(child, 0)
        return
    os.setsid()
    if os.fork():
        os._exit(0)
    os.close(lock)
    null = os.open("/dev/null", os.O_RDWR)
    log = os.open(log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for fd, target in ((null, 0), (null, 1), (log, 2)):
        os.dup2(fd, target)
    own_descriptors()
    run_init(config, listener)
