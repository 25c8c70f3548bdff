"""The parts of the local provider each on its own: filter, trees, layers, masks, id ranges, groups."""

from __future__ import annotations

import errno
import os
import stat
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from thopter.kit import failpoint
from thopter.kit.linux import btrfs, calls, cgroups, loop, procs, seccomp
from thopter.model.errors import BadInput, ProviderError, Refused
from thopter.model.nouns import Limits
from thopter.model.sockets import BoxSpec
from thopter.providers.local import abilities, curated, flatten, mask, record, uids, walls
from thopter.providers.local.pool import Pool
from thopter.providers.local.trees import remove_tree

ALLOW, KILL = "allow", "kill"
NUMBERS = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}


def judge(machine: str, number: int, *args: int, arch: int | None = None) -> str:
    """Run the filter on one system call, as the kernel would: allow, kill, or the name of the error."""
    program = seccomp.assemble(walls.rules(), machine)
    code = [struct.unpack_from("<HBBI", program, at) for at in range(0, len(program), 8)]
    words = [number, NUMBERS[machine][0] if arch is None else arch, 0, 0]
    for value in (*args, *[0] * (6 - len(args))):
        words += [value & 0xFFFFFFFF, value >> 32 & 0xFFFFFFFF]
    at = accumulator = 0
    while True:
        op, yes, no, k = code[at]
        at += 1
        if op == 0x20:
            accumulator = words[k // 4]
        elif op == 0x06:
            if k == 0x7FFF0000:
                return ALLOW
            return KILL if k == 0x80000000 else errno.errorcode[k & 0xFFFF]
        else:
            hit = {0x15: accumulator == k, 0x35: accumulator >= k, 0x45: accumulator & k != 0}[op]
            at += yes if hit else no


@pytest.mark.battery("S4", "S22")
@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_the_filter_judges_every_call_it_names(machine: str) -> None:
    column = NUMBERS[machine][1]
    for rule in walls.rules():
        number = seccomp.TABLE[rule.name][column]
        if number is not None and len(rule.block) == 1:
            assert judge(machine, number) == ("ENOSYS" if rule.name == "clone3" else "EPERM"), rule.name

    def call(name: str, *args: int) -> str:
        number = seccomp.TABLE[name][column]
        assert number is not None
        return judge(machine, number, *args)

    assert call("clone", 0x00010F00 | 17) == ALLOW  # a thread
    assert call("clone", 17) == ALLOW  # a fork
    for flag in (0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000):
        assert call("clone", flag | 17) == call("unshare", flag) == "EPERM"
    assert call("unshare", 0x400) == ALLOW  # its own table of files
    assert call("unshare", 0x80) == "EPERM"  # time
    assert call("ioctl", 0, 0x5413) == ALLOW  # window size
    assert call("ioctl", 0, 0x5412) == "EPERM"
    assert call("ioctl", 0, (7 << 32) | 0x5412) == "EPERM"  # the kernel looks at the low half only
    assert [call("socket", f, 1, 0) for f in (1, 2, 10)] == [ALLOW] * 3
    assert [call("socket", 2, 1, p) for p in (6, 17, 1)] == [ALLOW] * 3
    assert [call("socket", 2, 1, p) for p in (132, 262, 255)] == ["EPROTONOSUPPORT"] * 3
    assert (call("socket", 16, 3, 0), call("socket", 16, 3, 12)) == (ALLOW, "EPROTONOSUPPORT")
    assert call("socket", 40, 1, 0) == "EAFNOSUPPORT"
    assert [call("personality", p) for p in (0, 0xFFFFFFFF, 0x40000)] == [ALLOW] * 3
    assert call("personality", 0x0008 | 0x0400000) == "EPERM"
    assert judge(machine, 9999) == judge(machine, seccomp.NEWEST + 1) == "ENOSYS"
    assert judge(machine, 0, arch=0x40000003) == KILL  # i386
    if machine == "x86_64":
        assert judge(machine, 0x40000000 | 165) == KILL  # x32
        assert judge(machine, 0) == judge(machine, 59) == judge(machine, 101) == ALLOW  # read, execve, ptrace


def test_the_numbers_of_the_filter_are_the_kernel_s_own() -> None:
    header = Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h")
    if not header.exists():
        pytest.skip("no kernel headers")
    lines = [line.split() for line in header.read_text().splitlines() if line.startswith("#define __NR_")]
    theirs = {words[1][5:]: int(words[2]) for words in lines}
    assert {n: v[0] for n, v in seccomp.TABLE.items() if v[0] is not None and n in theirs} == {
        n: theirs[n] for n, v in seccomp.TABLE.items() if v[0] is not None and n in theirs
    }


def test_an_unknown_machine_is_refused_rather_than_left_open() -> None:
    with pytest.raises(OSError, match="no seccomp table"):
        seccomp.assemble(walls.rules(), "sparc")


@pytest.mark.battery("S10", "P1")
def test_a_tree_of_any_depth_is_removed_and_no_link_is_followed(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").write_text("x")
    top = tmp_path / "top"
    top.mkdir()
    (top / "link").symlink_to(outside)
    (top / "name\n\x1b").write_text("x")
    os.mkfifo(top / "pipe")
    for start in ("a", "b"):
        fd = os.open(top, os.O_RDONLY)
        for _ in range(3000):  # deeper than Python's stack, longer than any path may be
            os.mkdir(start, dir_fd=fd)
            deeper = os.open(start, os.O_RDONLY, dir_fd=fd)
            os.close(fd)
            fd = deeper
        os.symlink(outside, "link", dir_fd=fd)
        os.close(fd)
    locked = top / "locked"
    (locked / "in").mkdir(parents=True)
    (locked / "in/f").write_text("x")
    (locked / "in").chmod(0)
    locked.chmod(0o500)
    remove_tree(top)
    assert not top.exists() and (outside / "kept").read_text() == "x"
    remove_tree(top)  # gone already
    (tmp_path / "l").symlink_to(outside)
    remove_tree(tmp_path / "l")
    assert (outside / "kept").exists() and not (tmp_path / "l").is_symlink()


@pytest.mark.battery("S11", "P1")
def test_a_layer_is_applied_without_following_or_keeping_anything_dangerous(tmp_path: Path) -> None:
    upper, target, outside = tmp_path / "upper", tmp_path / "target", tmp_path / "outside"
    for folder in (upper / "dir", target / "dir", target / "gone", outside, upper / "was-link"):
        folder.mkdir(parents=True)
    (outside / "f").write_text("untouched")
    (target / "dir/old").write_text("old")
    (target / "file").write_text("old")
    (target / "was-link").symlink_to(outside)
    (upper / "was-link/f").write_text("new")  # must not land in what the link pointed to
    (upper / "file").write_text("new")
    (upper / "file").chmod(0o4755)
    (upper / "dir/one").write_text("same")
    os.link(upper / "dir/one", upper / "dir/two")
    (upper / "evil").symlink_to("/etc/shadow")
    flatten.apply_upper(upper, target)
    assert (outside / "f").read_text() == "untouched"
    assert (target / "was-link/f").read_text() == "new"
    assert stat.S_IMODE((target / "file").stat().st_mode) == 0o755
    assert (target / "dir/old").read_text() == "old"
    assert (target / "dir/one").stat().st_ino == (target / "dir/two").stat().st_ino
    assert os.readlink(target / "evil") == "/etc/shadow"
    os.mkfifo(upper / "pipe")
    with pytest.raises(ProviderError, match="neither a file"):
        flatten.apply_upper(upper, target)


@pytest.mark.root
def test_whiteouts_of_a_layer_remove_and_opaque_folders_replace(tmp_path: Path) -> None:
    upper, target = tmp_path / "upper", tmp_path / "target"
    for folder in (upper / "replaced", target / "replaced", target / "gone/deep"):
        folder.mkdir(parents=True)
    (target / "replaced/old").write_text("x")
    (upper / "replaced/new").write_text("x")
    os.setxattr(upper / "replaced", "trusted.overlay.opaque", b"y")
    os.mknod(upper / "gone", stat.S_IFCHR, 0)
    flatten.apply_upper(upper, target)
    assert sorted(p.name for p in target.rglob("*")) == ["new", "replaced"]
    os.mknod(upper / "device", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    with pytest.raises(ProviderError, match="neither a file"):
        flatten.apply_upper(upper, target)


def test_the_mask_hides_what_others_may_not_read(tmp_path: Path) -> None:
    top = tmp_path / "usr"
    for folder in ("bin", "local/etc", "share/closed", "share/open", "share/half"):
        (top / folder).mkdir(parents=True)
    files = {"bin/all": 0o755, "bin/some": 0o750, "share/closed/f": 0o644, "share/open/f": 0o600}
    for name, mode in files.items():
        (top / name).write_text("x")
        (top / name).chmod(mode)
    (top / "share/closed").chmod(0o700)
    (top / "share/half").chmod(0o754)
    os.mkfifo(top / "bin/pipe")
    (top / "bin/link").symlink_to("some")
    hidden = mask.hidden(str(top))
    assert hidden == ["bin/pipe", "bin/some", "local/etc", "share/closed", "share/half", "share/open/f"]
    assert mask.digest(hidden) != mask.digest(hidden[1:])
    mask.make(tmp_path / "mask", hidden, str(top))
    assert stat.S_ISCHR((tmp_path / "mask/share/open/f").lstat().st_mode)
    modes = [stat.S_IMODE(p.stat().st_mode) for p in (tmp_path / "mask/share", top / "share")]
    assert modes[0] == modes[1]


def test_ranges_of_ids_are_never_shared(tmp_path: Path) -> None:
    registry = tmp_path / "registry"
    hubs = [tmp_path / f"hub{n}" for n in range(3)]
    for hub in hubs:
        hub.mkdir()
    taken: list[int] = []
    threads = []
    for hub in hubs:
        ranges = uids.Ranges(hub, registry)

        def take(ranges: uids.Ranges = ranges) -> None:
            taken.extend(ranges.take() for _ in range(300))

        threads.append(threading.Thread(target=take))
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert len(taken) == len(set(taken)) == 900
    assert all(base % 65536 == 0 and 0x10000000 <= base < 2**31 - 65536 for base in taken)
    again = uids.Ranges(hubs[0], registry)  # after a restart it knows from its records what is used
    mine = taken[:1]
    again.know(mine)
    assert again.take() not in mine


def test_the_ranges_of_a_vanished_hub_are_free_again(tmp_path: Path) -> None:
    registry, old, new = tmp_path / "registry", tmp_path / "old", tmp_path / "new"
    old.mkdir()
    new.mkdir()
    first = uids.Ranges(old, registry).take()
    assert uids.Ranges(new, registry).take() != first
    uids.Ranges(new, registry).release()
    old.rmdir()
    assert uids.Ranges(new, registry).take() == first


def test_control_groups_are_found_per_controller(tmp_path: Path) -> None:
    info = tmp_path / "mountinfo"
    v1, v2 = tmp_path / "memory", tmp_path / "unified"
    for folder in (v1, v2):
        folder.mkdir()
    info.write_text(
        f"1 0 0:1 / {v1} rw - cgroup cgroup rw,memory\n2 0 0:2 / {tmp_path}/none rw - cgroup cgroup rw,pids\n"
        f"3 0 0:3 / {v2} rw - cgroup2 cgroup2 rw\n4 0 0:4 / {tmp_path}/n rw - cgroup cgroup rw,name=systemd\n"
    )
    (v2 / "cgroup.controllers").write_text("")
    found = cgroups.find("f", True, str(info))
    assert found.limits == {"memory"}  # pids can't be written here, v2 has no controllers here
    assert not (v1 / "f").exists(), "finding leaves nothing behind"


@pytest.mark.root
def test_a_group_kills_also_what_joins_while_it_is_being_destroyed() -> None:
    family = f"thopter-test-{os.getpid()}"
    groups = cgroups.find(family, True)
    if not groups.hierarchies:
        pytest.skip("no control groups can be made here")
    joined = groups.make("g", 64 << 20, 50, 0.5)
    script = "".join(f"echo $$ > {path}/cgroup.procs; " for path in joined)
    bomb = subprocess.Popen(["sh", "-c", script + "while :; do (while :; do :; done) & sleep 0.01; done"])
    try:
        deadline = time.monotonic() + 30
        while len(groups.pids("g")) < 5:
            assert time.monotonic() < deadline
        if groups.can_freeze:
            groups.freeze("g")
            assert groups.frozen("g")
        groups.destroy("g")
        assert bomb.wait(30) == -9
        assert groups.names() == set()
        groups.destroy("g")
    finally:
        groups.remove_family()
    assert not any(os.path.exists(os.path.dirname(path)) for path in joined)


@pytest.mark.root
def test_the_btrfs_image_limits_survives_a_restart_and_goes_without_a_trace(tmp_path: Path) -> None:
    pool = Pool(tmp_path, "auto", True)
    pool.start(new=False)
    assert list((tmp_path / "pool").iterdir()) == [] and not (tmp_path / "boxes.btrfs").exists()
    pool.start()
    if not pool.limits_disk:
        pytest.skip(pool.missing)
    try:
        top = pool.make("one", 0x10000000, Limits(disk_bytes=8 << 20))
        assert (top / "root/upper").stat().st_uid == 0x10000000
        with pytest.raises(OSError, match="quota"), open(top / "root/upper/f", "wb", buffering=0) as f:
            for _ in range(32):
                f.write(b"x" * (1 << 20))
        calls.umount(str(pool.folder))  # as a reboot would
        again = Pool(tmp_path, "auto", True)
        again.start(new=False)
        assert again.names() == {"one"} and again.limits_disk
        assert again.stray_loops() == []
        again.remove("one")
        again.remove("one")
        again.start()  # idempotent
    finally:
        pool.close()
    assert not os.path.ismount(pool.folder) and not (tmp_path / "boxes.btrfs").exists()
    deadline = time.monotonic() + 30
    while loop.over(tmp_path / "boxes.btrfs"):
        assert time.monotonic() < deadline


def test_a_plain_pool_says_what_it_lacks(tmp_path: Path) -> None:
    pool = Pool(tmp_path, "plain", False)
    pool.start()
    assert not pool.limits_disk or btrfs.is_btrfs(str(tmp_path))
    if not btrfs.is_btrfs(str(tmp_path)):
        assert "not limited" in pool.missing
        with pytest.raises(ProviderError, match="can't be used"):
            Pool(tmp_path, "btrfs", False).start()


def test_specs_that_can_not_be_meant_are_refused() -> None:
    good = {"key": "k", "name": "n"}
    record.check_spec(BoxSpec(**good))
    for wrong in (
        {"ports": (0,)}, {"ports": (1, 1)}, {"ports": (70000,)}, {"limits": Limits(pids=-1)},
        {"native": {"x": object()}}, {"key": "a/b"}, {"key": ".."}, {"name": "A"},
    ):  # fmt: skip
        with pytest.raises(BadInput):
            record.check_spec(BoxSpec(**(good | wrong)))


@pytest.mark.parametrize("sign", ["unshare(0x10000000): x", "mount proc on proc (): x", "mount_setattr: x"])
def test_what_the_kernel_refuses_comes_with_what_to_change(sign: str) -> None:
    said = abilities.advice(sign)
    assert said.endswith(f"({sign})") and len(said) > len(sign) + 30
    assert abilities.advice("something else") == "something else"


def test_a_process_is_named_by_its_start_too() -> None:
    child = subprocess.Popen(["sleep", "100"])
    start = procs.start_time(child.pid)
    assert procs.alive(child.pid, start) and not procs.alive(child.pid, start + 1)
    procs.kill(child.pid, start + 1)  # another process with that number: not ours to kill
    assert child.poll() is None
    assert os.getpid() in procs.ancestors(child.pid) and child.pid in procs.tree(os.getpid())
    procs.stop_tree(child.pid, True)
    assert procs.stopped(child.pid)
    procs.stop_tree(child.pid, False)
    procs.kill(child.pid, start)
    assert not procs.alive(child.pid, start)
    child.wait()


def test_a_failpoint_kills_at_the_time_it_is_asked_to() -> None:
    code = "from thopter.kit import failpoint\nfor n in range(3): print(n, flush=True); failpoint.hit('x')"
    env = {**os.environ, failpoint.ENV: "x:2"}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (-9, "0\n1\n")
    failpoint.hit("x")  # not asked here


def test_a_machine_without_merged_usr_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os.path, "islink", lambda path: False)
    with pytest.raises(Refused, match="merged"):
        curated.check_machine()
