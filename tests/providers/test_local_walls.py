"""What a box can't do to the machine and to its neighbours: battery S of the security reference.

Every denial has a positive control in the same test, so that none passes because nothing works.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from local_lab import Lab, outside

from battery_plugin import Count
from thopter.kit.linux import caps
from thopter.model.nouns import Isolation
from thopter.model.sockets import BoxHandle
from thopter.providers.local import mask, modes, walls

CAN_WRITE = """
import json, os
def tries(path):
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK)); return True
    except OSError:
        return False
"""
WRITE_EVERYTHING = """
open("/tmp/control", "w").close()
seen, found = 0, []
paths = ["/tmp/control", "/proc/sysrq-trigger", "/proc/kcore", "/proc/kmsg"]
for top in ("/proc/sys", "/sys", "/proc/irq", "/proc/bus", "/proc/fs", "/proc/acpi"):
    for folder, _, names in os.walk(top):
        paths += [folder + "/" + name for name in names]
for path in paths:
    seen += os.path.exists(path)
    if tries(path):
        found.append(path)
print(json.dumps([seen, found]))
"""
SYSCALLS = """
    import ctypes, errno, json
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    nobody = 2**31 - 7
    calls = {
        "unshare user": (272, 0x10000000), "unshare mount": (272, 0x20000), "setns": (308, -1, 0),
        "mount": (165, 0, 0, 0, 0, 0), "umount2": (166, 0, 0), "pivot_root": (155, 0, 0),
        "open_tree": (428, -1, 0, 0), "move_mount": (429, -1, 0, -1, 0, 0), "fsopen": (430, 0, 0),
        "fsconfig": (431, -1, 0, 0, 0, 0), "fsmount": (432, -1, 0, 0), "mount_setattr": (442, -1, 0, 0, 0, 0),
        "bpf": (321, -1, 0, 0), "perf_event_open": (298, 0, 0, 0, -1, 0), "keyctl": (250, 0, -4, 0, 0, 0),
        "add_key": (248, 0, 0, 0, 0, 0), "request_key": (249, 0, 0, 0, 0), "userfaultfd": (323, 0x7fffffff),
        "io_uring_setup": (425, 0, 0), "io_uring_enter": (426, -1, 0, 0, 0, 0, 0),
        "io_uring_register": (427, -1, 0, 0, 0), "kexec_load": (246, -1, 99, 0, 99),
        "init_module": (175, 0, 0, 0), "finit_module": (313, -1, 0, 0), "delete_module": (176, 0, 0),
        "open_by_handle_at": (304, -1, 0, 0), "acct": (163, 8), "swapon": (167, 0, 0), "swapoff": (168, 0),
        "settimeofday": (164, 8, 0), "clock_settime": (227, 99, 0), "quotactl": (179, -1, 0, 0, 0),
        "iopl": (172, 9), "ioperm": (173, 99999999, 99, 1), "syslog": (103, 99, 0, 0),
        "fanotify_init": (300, 0x7fffffff, 0), "personality": (135, 0x0800000), "clone3": (435, 0, 0),
        "clone user": (56, 0x10000000 | 0x200 | 0x800000, 0, 0, 0, 0),
    }
    got = {}
    for name, (number, *args) in calls.items():
        r = libc.syscall(ctypes.c_long(number), *[ctypes.c_long(a) for a in args])
        if name == "clone user" and r == 0:
            libc._exit(0)
        got[name] = "ok" if r >= 0 else errno.errorcode[ctypes.get_errno()]
    print(json.dumps(got))
"""


@pytest.fixture(scope="module")
def one(lab: Lab) -> BoxHandle:
    """A box."""
    return lab.box()


@pytest.fixture(scope="module")
def two(lab: Lab) -> BoxHandle:
    """Its neighbour."""
    return lab.box()


@pytest.mark.battery("S2")
def test_nothing_of_the_kernel_can_be_opened_for_writing(lab: Lab, one: BoxHandle, battery: Count) -> None:
    seen, writable = lab.py(one.key, CAN_WRITE + WRITE_EVERYTHING)
    battery.tried(seen - 1, seen - len(writable), controls=1)
    assert seen > 500
    assert writable == ["/tmp/control"]


@pytest.mark.battery("S1")
@pytest.mark.root
def test_root_of_a_box_is_not_root_of_the_machine(lab: Lab, one: BoxHandle) -> None:
    lab.sh(one.key, "setsid sleep 1000 > /dev/null 2>&1 &")
    uids = set()
    for pid in lab.pids(one):
        status = Path(f"/proc/{pid}/status").read_text()
        uids |= {int(word) for word in status.split("Uid:")[1].split("\n")[0].split()}
    assert lab.sh(one.key, "id -u") == "0"
    assert len(uids) == 1 and uids.pop() >= 0x10000000
    writes = CAN_WRITE + 'print(json.dumps(tries("/proc/sys/kernel/core_pattern")))'
    assert outside(writes) is True
    assert lab.py(one.key, writes) is False


@pytest.mark.battery("S23")
@pytest.mark.root
def test_each_box_has_ids_of_its_own(lab: Lab, one: BoxHandle, two: BoxHandle) -> None:
    first, second = (int(lab.sh(b.key, "cat /proc/self/uid_map").split()[1]) for b in (one, two))
    assert abs(first - second) >= 65536


@pytest.mark.battery("S4")
def test_a_box_keeps_few_capabilities_and_can_gain_none(lab: Lab, one: BoxHandle) -> None:
    status = lab.sh(one.key, "cat /proc/self/status")
    fields = dict(line.split(":\t") for line in status.splitlines() if ":\t" in line)
    allowed = caps.mask(walls.KEPT_CAPABILITIES)
    assert int(fields["CapBnd"], 16) == allowed
    assert int(fields["CapEff"], 16) | allowed == allowed
    assert (fields["NoNewPrivs"], fields["Seccomp"]) == ("1", "2")
    assert int(fields["CapAmb"], 16) == int(fields["CapInh"], 16) == 0


@pytest.mark.battery("S4")
@pytest.mark.skipif(os.uname().machine != "x86_64", reason="numbers of x86_64")
def test_dangerous_system_calls_are_refused(lab: Lab, one: BoxHandle, battery: Count) -> None:
    inside, control = lab.py(one.key, SYSCALLS), outside(SYSCALLS)
    allowed = {name for name, result in inside.items() if result not in ("EPERM", "ENOSYS")}
    assert allowed == set()
    # The same calls with the same nonsense arguments get past the door outside.
    reached = {name for name, result in control.items() if result not in ("EPERM", "ENOSYS")}
    battery.tried(len(inside), len(inside) - len(allowed), controls=len(reached))
    assert len(reached) > (25 if os.geteuid() == 0 else 10), control


@pytest.mark.battery("S4", "E3")
def test_odd_sockets_are_refused_and_usual_ones_work(lab: Lab, one: BoxHandle, battery: Count) -> None:
    probe = """
    import errno, json, socket
    def tries(*a):
        try:
            socket.socket(*a).close(); return "ok"
        except OSError as e:
            return errno.errorcode[e.errno]
    usual = [tries(f, t) for f in (1, 2, 10) for t in (1, 2)] + [tries(16, 3, 0)]
    odd = {f: tries(f, 2) for f in (3, 4, 5, 9, 15, 17, 21, 29, 31, 38, 40, 44)}
    odd["sctp"], odd["mptcp"], odd["raw"] = tries(2, 1, 132), tries(2, 1, 262), tries(2, 3, 1)
    odd["netfilter"], odd["audit"] = tries(16, 3, 12), tries(16, 3, 9)
    print(json.dumps([usual, sorted(odd.values())]))
    """
    usual, odd = lab.py(one.key, probe)
    battery.tried(len(odd), len(odd) - odd.count("ok"), controls=usual.count("ok"))
    assert usual == ["ok"] * 7
    assert "ok" not in odd, odd


@pytest.mark.battery("S3")
def test_nothing_can_be_typed_into_a_terminal_from_inside(lab: Lab, one: BoxHandle, battery: Count) -> None:
    probe = """
    import errno, fcntl, json, os, struct, termios
    main, sub = os.openpty()
    def tries(fd, request, arg):
        try:
            fcntl.ioctl(fd, request, arg); return "ok"
        except OSError as e:
            return errno.errorcode[e.errno]
    size = tries(sub, termios.TIOCGWINSZ, b"\\0" * 8)
    print(json.dumps([size, tries(sub, termios.TIOCSTI, b"x"), tries(sub, 0x541C, b"\\3"),
                      tries(sub, 0x5423, struct.pack("i", 2))]))
    """
    got = lab.py(one.key, probe)
    battery.tried(3, got.count("EPERM"), controls=got.count("ok"))
    assert got == ["ok", "EPERM", "EPERM", "EPERM"]


@pytest.mark.battery("S5")
def test_no_socket_of_the_machine_can_be_reached(lab: Lab, one: BoxHandle, battery: Count) -> None:
    name = "thopter-canary-" + secrets.token_hex(6)
    with contextlib.ExitStack() as stack:
        path = stack.enter_context(_listening(f"/tmp/{name}.sock"))
        abstract = stack.enter_context(_listening("\0" + name))
        tcp = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        targets = [path, abstract, str(lab.place.paths.runtime / "zygote.sock"),
                   str(lab.place.paths.runtime / "b" / f"{one.key}.sock"), "/run/docker.sock"]  # fmt: skip
        probe = f"""
        import json, socket
        def tries(family, where):
            s = socket.socket(family, 1); s.settimeout(5)
            try:
                s.connect(where); return True
            except OSError:
                return False
        mine = socket.socket(1, 1); mine.bind("\\0mine"); mine.listen()
        local = socket.create_server(("127.0.0.1", 0))
        control = [tries(1, "\\0mine"), tries(2, local.getsockname())]
        found = [w for w in {targets!r} if tries(1, w)]
        print(json.dumps([control, found, tries(2, ("127.0.0.1", {tcp.getsockname()[1]}))]))
        """
        control, found, by_net = lab.py(one.key, probe)
        for where in (path, abstract):
            with socket.socket(socket.AF_UNIX) as s:
                s.connect(where)  # the control: they are there
        battery.tried(6, 6 - len(found) - by_net, controls=4, canary=len(found) + by_net)
        assert [control, found, by_net] == [[True, True], [], False]


@contextlib.contextmanager
def _listening(where: str) -> Iterator[str]:
    with socket.socket(socket.AF_UNIX) as s:
        s.bind(where)
        s.listen()
        try:
            yield where
        finally:
            if not where.startswith("\0"):
                os.unlink(where)


@pytest.mark.battery("S6")
def test_a_box_sees_its_own_processes_only(lab: Lab, one: BoxHandle) -> None:
    probe = f"""
    import json, os
    pids = [int(n) for n in os.listdir("/proc") if n.isdigit()]
    names = [open(f"/proc/{{p}}/comm").read().strip() for p in pids]
    def signals(pid):
        try:
            os.kill(pid, 0); return True
        except ProcessLookupError:
            return False
    print(json.dumps([len(pids), "python3" in names, signals(os.getpid()), signals({os.getpid()})]))
    """
    count, sees_itself, can_signal_itself, can_signal_us = lab.py(one.key, probe)
    assert count < 12
    assert (sees_itself, can_signal_itself, can_signal_us) == (True, True, False)


@pytest.mark.battery("S4", "S6")
@pytest.mark.root  # an ordinary user's box must stay enterable from outside, so it is dumpable
def test_boxd_is_out_of_reach_of_a_debugger_though_debuggers_work(lab: Lab, one: BoxHandle) -> None:
    if one.isolation not in modes.OURS:
        pytest.skip(f"boxd was started inside by {one.isolation}, so the box's root may debug it")
    probe = """
    import ctypes, errno, json, os, subprocess
    libc = ctypes.CDLL(None, use_errno=True)
    def seize(pid):
        r = libc.ptrace(0x4206, pid, 0, 0)
        return "ok" if r == 0 else errno.errorcode[ctypes.get_errno()]
    def reads(path):
        try:
            open(path, "rb").read(64); return True
        except OSError:
            return False
    child = subprocess.Popen(["sleep", "60"])
    boxd = os.getppid()
    assert b"thopter" in open(f"/proc/{boxd}/cmdline", "rb").read()
    got = [seize(child.pid), seize(1), seize(boxd), reads(f"/proc/{child.pid}/environ"),
           reads("/proc/1/environ"), reads(f"/proc/{boxd}/mem"), os.path.exists("/proc/1/root/bin")]
    child.kill()
    print(json.dumps(got))
    """
    assert lab.py(one.key, probe) == ["ok", "EPERM", "EPERM", True, False, False, False]


@pytest.mark.battery("S7")
def test_no_secret_of_the_machine_is_readable(
    lab: Lab, one: BoxHandle, two: BoxHandle, tmp_path: Path, battery: Count
) -> None:
    canary = "canary-" + secrets.token_hex(16)
    home = Path.home() if os.access(Path.home(), os.W_OK) else tmp_path
    state = lab.place.paths.state
    folders = [home, Path("/tmp"), Path("/dev/shm"), Path("/var/tmp"), state]
    planted = [folder / f".thopter-{canary[7:19]}" for folder in folders]
    neighbour = state / "pool" / two.key / "root/upper/canary"
    try:
        for path in planted:
            path.write_text(canary)
        lab.sh(two.key, f"echo {canary} | tee /canary /root/canary /tmp/canary /dev/shm/canary")
        assert neighbour.exists() or one.isolation is Isolation.CONTAINER  # which keeps it elsewhere
        lab.sh(one.key, f"echo {canary} > /var/tmp/own")
        everywhere = f"grep -rlsI {canary} / --exclude-dir=proc --exclude-dir=sys --exclude-dir=usr"
        by_name = f"cat {' '.join(map(str, [*planted, neighbour]))} 2>/dev/null"
        found = lab.exec(one.key, "sh", "-c", f"{everywhere}; {by_name}")
        hits = [word for word in found.stdout.decode().split() if word != "/var/tmp/own"]
        tried = len(planted) + 5
        battery.tried(tried, tried - len(hits), controls=1, canary=len(hits))
        assert found.stdout.decode().split() == ["/var/tmp/own"]
    finally:
        lab.sh(one.key, "rm -f /var/tmp/own")
        for path in planted:
            path.unlink(missing_ok=True)


@pytest.mark.battery("S7")
def test_what_not_everybody_may_read_is_not_in_the_usr_of_a_box(lab: Lab, one: BoxHandle) -> None:
    hidden = ["/usr/" + path for path in mask.hidden()]
    assert hidden or not os.path.exists("/usr/local/etc")
    for path in hidden:
        assert os.path.lexists(path)
        # Covered by a layer it is not there at all, covered by a mount it is empty.
        there = lab.exec(one.key, "test", "-e", path).exit == 0
        assert not there or one.isolation not in modes.OURS
        assert lab.sh(one.key, f"find {path} -mindepth 1 2> /dev/null; cat {path} 2> /dev/null || true") == ""
    assert lab.exec(one.key, "test", "-x", "/usr/bin/env").exit == 0
    assert lab.sh(one.key, "ls /home /media /mnt /srv").split() == ["/home:", "/media:", "/mnt:", "/srv:"]


@pytest.mark.battery("S8")
def test_a_process_of_a_box_starts_with_three_descriptors(lab: Lab, one: BoxHandle) -> None:
    probe = """
    import json, os
    left = []
    for number in os.listdir("/proc/self/fd"):
        try:
            left.append([int(number), os.readlink(f"/proc/self/fd/{number}")])
        except OSError:
            pass  # the one that listed them
    print(json.dumps(sorted(n for n, _ in left)))
    """
    assert lab.py(one.key, probe) == [0, 1, 2]


@pytest.mark.battery("S8")
@pytest.mark.root
def test_the_first_process_of_a_box_holds_nothing_of_the_machine_but_one_socket(
    lab: Lab, one: BoxHandle
) -> None:
    pid = int(one.memory["pid"])
    opened = [os.readlink(f"/proc/{pid}/fd/{n}") for n in os.listdir(f"/proc/{pid}/fd")]
    ours = Path("/proc/net/unix").read_text() + Path("/proc/net/tcp").read_text()
    outer = [name for name in opened if name.startswith("socket:") and f" {name[8:-1]} " in ours]
    files = {name for name in opened if not name.startswith("socket:")}
    assert files == {"/dev/null", "/run/thopter/boxd.log"}
    assert len(outer) == 1  # where boxd listens for the hub


def test_a_box_does_not_learn_where_it_is(lab: Lab, one: BoxHandle) -> None:
    if one.isolation not in modes.OURS:
        pytest.skip(f"what {one.isolation} mounts tells in /proc where it comes from")
    look = "cat /proc/mounts /proc/self/mountinfo /proc/*/cmdline /proc/*/cgroup | tr '\\0' ' '; env"
    said = lab.sh(one.key, look)
    assert "overlay" in said and "PATH=" in said
    for secret in (str(lab.place.paths.state), str(lab.place.paths.runtime), "/tmp/", os.uname().nodename):
        assert secret not in said


@pytest.mark.battery("S23")
def test_boxes_do_not_reach_one_another(lab: Lab, one: BoxHandle, two: BoxHandle) -> None:
    dial = """
    import json, socket
    try:
        socket.create_connection(("127.0.0.1", 9999), 5).close(); print("true")
    except OSError:
        print("false")
    """
    lab.sh(one.key, "setsid python3 -m http.server 9999 --bind 127.0.0.1 > /dev/null 2>&1 &")
    deadline = time.monotonic() + 30
    while not lab.py(one.key, dial):
        assert time.monotonic() < deadline
    assert lab.py(two.key, dial) is False


@pytest.mark.battery("S25")
def test_name_clock_and_limits_of_the_machine_stay_as_they_are(lab: Lab, one: BoxHandle) -> None:
    probe = """
    import json, os, resource, socket, time
    def tries(f):
        try:
            f(); return True
        except (OSError, ValueError):
            return False
    print(json.dumps([tries(lambda: os.nice(1)), tries(lambda: socket.sethostname("x")),
        tries(lambda: time.clock_settime(0, 1e9)), tries(lambda: os.nice(-5)),
        tries(lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (10**6, 10**6))),
        resource.getrlimit(resource.RLIMIT_CORE)]))
    """
    assert lab.py(one.key, probe) == [True, False, False, False, False, [1, 1]]
