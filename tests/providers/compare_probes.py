"""The same attacks in boxes of ours, in plain bubblewrap, in sandbox-runtime, and in nothing.

Run as a program by whoever the operator is to be: prints as JSON how many ways each let through, of how
many were tried. No denial counts by itself: the same probe in nothing shows that it works.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import termios
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from local_lab import Lab
from test_local_walls import SYSCALLS

from thopter.model.nouns import Limits

MIB = 1 << 20
LIMITS = Limits(pids=200, memory_bytes=200 * MIB, disk_bytes=32 * MIB)
_HEAD = """
import ctypes, errno, fcntl, json, os, socket, sys, termios
told = json.loads(sys.argv[1])
def tries(do):
    try:
        return bool(do())
    except (OSError, ValueError, OverflowError):
        return False
def tell(found):
    print("FOUND " + json.dumps([sum(found), len(found)]))
"""
_KERNEL = """
paths = ["/proc/sysrq-trigger", "/proc/kcore", "/proc/kmsg"]
for top in ("/proc/sys", "/sys/fs/cgroup", "/sys/kernel/mm"):
    for folder, _, names in os.walk(top):
        paths += [folder + "/" + name for name in names]
def opens(path):
    os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK))
    return True
tell([tries(lambda: opens(p)) for p in paths if p.count("/") < 8])
"""
_TTY = """
def types(path):
    fd = os.open(path, os.O_RDWR | os.O_NOCTTY) if path else 0
    fcntl.ioctl(fd, termios.TIOCSTI, b"x")
    return True
tell([tries(lambda: types("")), tries(lambda: types("/dev/tty"))])
"""
_CALLS = (
    SYSCALLS.rpartition("print")[0].replace("\n    ", "\n")
    + """
tell([result not in ("EPERM", "ENOSYS") for result in got.values()])
"""
)
_SOCKETS = """
def reaches(family, where):
    s = socket.socket(family, 1)
    s.settimeout(5)
    s.connect(tuple(where) if isinstance(where, list) else where)
    return True
tell([tries(lambda: reaches(1, w)) for w in told["unix"]] + [tries(lambda: reaches(2, told["loopback"]))])
"""
_PROCESSES = """
pid = told["pid"]
def environ():
    return told["canary"] in open(f"/proc/{pid}/environ").read()
def root():
    return os.path.exists(f"/proc/{pid}/root/bin")
mine = tries(lambda: told["canary"] in open(f"/proc/{pid}/cmdline").read())
tell([mine, tries(environ), tries(root), mine and tries(lambda: os.kill(pid, 0) is None)])
"""
_SECRETS = """
tell([tries(lambda: told["canary"] in open(p).read()) for p in told["planted"]])
"""
_DESCRIPTORS = """
tell([any(tries(lambda: told["canary"].encode() in os.pread(n, 100, 0)) for n in range(3, 64))])
"""
_LIMITS = """
import signal, time
def child(do):
    pid = os.fork()
    if pid == 0:
        try:
            do()
        except BaseException:
            os._exit(1)
        os._exit(0)
    return os.waitpid(pid, 0)[1] == 0
def forks():
    made = []
    try:
        for _ in range(300):
            pid = os.fork()
            if pid == 0:
                time.sleep(60)
                os._exit(0)
            made.append(pid)
        return True
    finally:
        for pid in made:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
def memory():
    whole = bytearray(300 << 20)
    whole[::4096] = b"x" * len(whole[::4096])
def disk():
    try:
        with open(told["work"] + "/big", "wb") as f:
            for _ in range(64):
                f.write(os.urandom(1 << 20))
                f.flush()
                os.fsync(f.fileno())
    finally:
        os.unlink(told["work"] + "/big")
tell([tries(forks), child(memory), child(disk)])
"""
_NETWORK = """
host, port = told["outer"]
def tcp(where):
    socket.create_connection(where, 5).sendall(told["canary"].encode())
    return True
def udp(where):
    s = socket.socket(2, 2)
    s.sendto(told["canary"].encode(), tuple(where))
    return True
def raw():
    socket.socket(2, 3, 1).sendto(b"\\x08\\0\\xf7\\xff\\0\\0\\0\\0", (host, 0))
    return True
def proxied(connect):
    where = os.environ.get("HTTP_PROXY") or os.environ.get("http_proxy") or ""
    address, _, at = where.rpartition("@")[2].removeprefix("http://").rstrip("/").rpartition(":")
    import base64
    word = where.removeprefix("http://").rpartition("@")[0]
    s = socket.create_connection((address, int(at)), 5)
    line = f"CONNECT {host}:{port}" if connect else f"GET http://{host}:{port}/"
    known = f"Proxy-Authorization: Basic {base64.b64encode(word.encode()).decode()}\\r\\n" if word else ""
    s.sendall(f"{line} HTTP/1.1\\r\\nHost: {host}:{port}\\r\\n{known}\\r\\n".encode())
    answer = s.recv(100)
    s.sendall(told["canary"].encode())
    return b" 200 " in answer.partition(b"\\r\\n")[0] + b" "
tell([tries(lambda: tcp((host, port))), tries(lambda: udp(told["udp"])),
      tries(lambda: tcp(tuple(told["loopback"]))), tries(raw),
      tries(lambda: proxied(True)), tries(lambda: proxied(False))])
"""
_NAMES = """
import struct
ask = struct.pack("!6H", 7, 0x100, 1, 0, 0, 0) + b"\\x06canary\\x04test\\0\\0\\1\\0\\1"
def query(where):
    s = socket.socket(2, 2)
    s.settimeout(2)
    s.sendto(ask, tuple(where))
    return True
servers = [line.split()[1] for line in open("/etc/resolv.conf") if line.startswith("nameserver")] \\
    if os.path.exists("/etc/resolv.conf") else []
tell([tries(lambda: query(told["udp"])), any(tries(lambda: query((s, 53))) for s in servers if ":" not in s),
      tries(lambda: query(("224.0.0.251", 5353)))])
"""
PROBES = {
    "S2: files of the kernel opened for writing": _KERNEL,
    "S3: typing into the caller's terminal": _TTY,
    "S4: dangerous system calls that reach the kernel": _CALLS,
    "S5: unix sockets of the operator and the machine's loopback": _SOCKETS,
    "S6: a process of the operator seen, read, signalled": _PROCESSES,
    "S7: planted secrets read": _SECRETS,
    "S8: a descriptor of the caller": _DESCRIPTORS,
    "S12, S13, S16: 300 processes, 300 MiB of memory, 64 MiB of disk": _LIMITS,
    "E3: ways out without asking": _NETWORK,
    "E4: names asked for directly": _NAMES,
}


@contextlib.contextmanager
def operator() -> Iterator[dict[str, Any]]:
    """What an operator's machine has: secrets, sockets, servers, a process; gone afterwards."""
    canary = "canary-" + secrets.token_hex(12)
    name = f".thopter-{canary[7:19]}"
    with contextlib.ExitStack() as stack:
        work = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="thopter-t-", dir="/tmp")))
        for folder in ("work", "neighbour", "run"):
            (work / folder).mkdir()
        planted = [Path.home() / name, Path("/tmp") / name, Path("/dev/shm") / name, Path("/var/tmp") / name]
        planted.append(work / "neighbour/canary")
        for path in planted:
            stack.callback(path.unlink, missing_ok=True)
            path.touch(0o600)
            path.write_text(canary)
        unix = [str(work / "run/hub.sock"), f"\0{canary}"]
        for where in unix:
            listening = stack.enter_context(socket.socket(socket.AF_UNIX))
            listening.bind(where)
            listening.listen(64)
        loopback = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=64))
        outer = stack.enter_context(socket.create_server((_outer(), 0), backlog=64))
        udp = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        udp.bind((_outer(), 0))
        sleeper = subprocess.Popen(["sh", "-c", "read x", canary], stdin=subprocess.PIPE, env={"X": canary})
        stack.callback(sleeper.wait)
        stack.callback(sleeper.kill)
        yield {
            "canary": canary, "planted": [str(p) for p in planted], "unix": unix, "pid": sleeper.pid,
            "loopback": loopback.getsockname(), "outer": outer.getsockname(), "udp": udp.getsockname(),
            "work": str(work / "work"), "top": str(work),
        }  # fmt: skip
        if sleeper.stdin:
            sleeper.stdin.close()


def _outer() -> str:
    """The address of this machine that is not loopback; loopback where there is none."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing
            return str(probe.getsockname()[0])
        except OSError:
            return "127.0.0.1"


def started(argv: list[str], told: dict[str, Any], probe: str) -> list[int]:
    """Run one probe by a program, on a terminal, with a descriptor of ours left open."""
    script = Path(told["work"]) / "probe.py"
    script.write_text(_HEAD + probe)
    main, sub = pty.openpty()
    held = os.open(told["planted"][0], os.O_RDONLY)

    def first() -> None:
        os.setsid()
        fcntl.ioctl(sub, termios.TIOCSCTTY, 0)

    try:
        done = subprocess.run(
            [*argv, "/usr/bin/python3", str(script), json.dumps(told)], stdin=sub, capture_output=True,
            text=True, timeout=120, cwd=told["work"], pass_fds=(held,), preexec_fn=first, check=False,
        )  # fmt: skip
    finally:
        for fd in (main, sub, held):
            os.close(fd)
    return found_in(done.stdout, done.stderr)


def found_in(stdout: str, stderr: str) -> list[int]:
    """What a probe told in its last line."""
    lines = [line for line in stdout.splitlines() if line.startswith("FOUND ")]
    if not lines:
        raise RuntimeError(f"the probe told nothing: {stdout[-500:]} {stderr[-1500:]}")
    return [int(n) for n in json.loads(lines[-1][6:])]


@contextlib.contextmanager
def ours(told: dict[str, Any]) -> Iterator[Callable[[str], list[int]]]:
    """A box, its neighbour with the canary in it."""
    lab = Lab(Path(told["top"]) / "lab")
    try:
        box, neighbour = lab.box(limits=LIMITS), lab.box()
        lab.sh(neighbour.key, f"echo {told['canary']} > /work/canary")
        theirs = str(lab.place.paths.state / "pool" / neighbour.key / "root/upper/work/canary")
        runtime = lab.place.paths.runtime
        more = {
            "planted": [*told["planted"], theirs], "work": "/work",
            "unix": [*told["unix"], str(runtime / "zygote.sock"), str(runtime / "b" / f"{box.key}.sock")],
        }  # fmt: skip

        def run(probe: str) -> list[int]:
            done = lab.exec(box.key, "python3", "-c", _HEAD + probe, json.dumps(told | more))
            return found_in(done.stdout.decode(), done.stderr.decode())

        yield run
    finally:
        lab.end()


def bwrap(told: dict[str, Any]) -> list[str]:
    """Bubblewrap as many use it."""
    work = told["work"]
    return ["bwrap", "--unshare-all", "--die-with-parent", "--ro-bind", "/", "/", "--dev", "/dev",
            "--proc", "/proc", "--bind", work, work, "--chdir", work]  # fmt: skip


def srt(told: dict[str, Any], program: str) -> list[str]:
    """sandbox-runtime with nothing allowed but writing in the folder."""
    settings = Path(told["top"]) / "srt.json"
    settings.write_text(json.dumps({
        "network": {"allowedDomains": [], "deniedDomains": []},
        "filesystem": {"denyRead": [], "allowWrite": [told["work"]], "denyWrite": []},
    }))  # fmt: skip
    return ["node", program, "--settings", str(settings)]


def main() -> None:
    """Every probe in every kind that can be had."""
    found: dict[str, dict[str, list[int]]] = {probe: {} for probe in PROBES}
    with operator() as told:
        kinds = {"nothing": [], "bwrap": bwrap(told)} if shutil.which("bwrap") else {"nothing": []}
        if len(sys.argv) > 1:
            kinds["srt"] = srt(told, sys.argv[1])
        for kind, argv in kinds.items():
            for name, probe in PROBES.items():
                found[name][kind] = started(argv, told, probe)
        with ours(told) as run:
            for name, probe in PROBES.items():
                found[name]["thopter"] = run(probe)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
