"""What virtual machines of a hub boot and go on from: ``vm/<kit>/`` with a kernel, its archive and saved
states, and ``vm/facts.json`` with what was found out about this host.

A kit is named by all it is made of, a state by the machine and the QEMU that it is of; nothing in them is a
box's or a secret. What is there is only ever replaced by rename. Blocking.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import mmap
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import msgspec
from msgspec import Struct

from thopter.boxd import init
from thopter.kit import boxd_bundle
from thopter.kit.linux import calls, caps, procs, seccomp
from thopter.model.errors import ProviderError
from thopter.providers.local import opening, vm_command, vm_guest, vm_init, vm_mux, walls
from thopter.providers.local.trees import remove_tree
from thopter.providers.local.vm_command import KVM, Machine
from thopter.providers.local.way import box_python

HOW = "docs/how-to/use-virtual-machines.md"
_FRESH_S = 24 * 3600.0
_STATES = 4  # saved states that are kept: one for each size of machine
_RDTSC = b"\x0f\x31\x48\xc1\xe2\x20\x48\x09\xd0\xc3"  # rdtsc; shl rdx, 32; or rax, rdx; ret
_COMPILE = """\
import importlib._bootstrap_external as b, sys, zipfile
with zipfile.ZipFile(sys.argv[1]) as z, zipfile.ZipFile(sys.argv[2], "w") as out:
    for n in z.namelist():
        out.writestr(zipfile.ZipInfo(n), z.read(n))
        code = compile(z.read(n), n, "exec", dont_inherit=True)
        out.writestr(zipfile.ZipInfo(n + "c"), bytes(b._code_to_hash_pyc(code, bytes(8), False)))
"""


class Kernel(Struct, frozen=True):
    """Where a kernel is: its image, the folder of its modules, and a busybox that needs no libraries."""

    image: Path
    modules: Path
    busybox: Path


class Facts(Struct, frozen=True, kw_only=True):
    """``facts.json``. ``host``: what they hold for; ``khz``: of the clock counter in that ``boot``;
    ``kvm``: why KVM can't be used, empty when it can, null when nobody has tried since ``at``."""

    host: str = ""
    boot: str = ""
    khz: int = 0
    kvm: str | None = None
    at: float = 0.0


class Kits:
    """See the module docstring. ``wish`` is the setting ``local.vm_kernel``."""

    def __init__(self, folder: Path, wish: str) -> None:
        self.folder = folder
        self._wish = wish
        self._qemu: tuple[float, str] = (0.0, "")
        self._kit: tuple[object, str] = (None, "")

    def check(self) -> None:
        """Raise ProviderError, with what to do, when no virtual machine can be had here."""
        if platform.machine() != "x86_64":
            raise ProviderError(f"virtual machines are made on x86-64 only, this is {platform.machine()}")
        self.qemu()
        find_kernel(self._wish)
        box_python()

    def qemu(self) -> str:
        """The version of QEMU. ProviderError when there is none, or one that is too old."""
        try:
            changed = os.stat(vm_command.PROGRAM).st_mtime
        except OSError:
            raise ProviderError(
                f"QEMU is not installed ({vm_command.PROGRAM}): 'apt install qemu-system-x86'",
                hint=f"see {HOW}",
            ) from None
        if self._qemu[0] != changed:
            argv = [vm_command.PROGRAM, "--version"]
            said = subprocess.run(argv, capture_output=True, text=True, timeout=30, check=False).stdout
            match = re.match(r"QEMU emulator version (\d+\.\d+\S*)( \(.*\))?", said)
            if match is None or int(match.group(1).split(".")[0]) < 7:
                raise ProviderError(
                    f"QEMU 7 or newer is needed, this is {said[:60].strip() or 'none that starts'}"
                )
            self._qemu = (changed, match.group(0))
        return self._qemu[1]

    # --------------------------------------------------------------------------------- kits

    def kit(self) -> str:
        """The name of the kit to use, made when it is not there (a few seconds). ProviderError."""
        kernel = find_kernel(self._wish)
        stamp = [(str(p), s.st_size, s.st_mtime_ns) for p in kernel_paths(kernel) for s in (p.stat(),)]
        if self._kit[0] == stamp and (self.folder / self._kit[1] / "initrd").exists():
            return self._kit[1]
        content = _content()
        digest = hashlib.sha256(repr((stamp, sys.version, vm_init.script((), ()))).encode())
        for name, raw in content:
            digest.update(name.encode() + raw)
        kit = digest.hexdigest()[:16]
        if not (self.folder / kit / "initrd").exists():
            self._make(kernel, kit, content)
        self._kit = (stamp, kit)
        return kit

    def _make(self, kernel: Kernel, kit: str, content: tuple[tuple[str, bytes], ...]) -> None:
        new = self.folder / ".new"
        remove_tree(new)
        self.folder.mkdir(mode=0o755, exist_ok=True)
        new.mkdir(mode=0o755)
        try:
            app = _compiled(new, content)
            (new / "kernel").write_bytes(vm_init.vmlinux(kernel.image.read_bytes()))
            archive = vm_init.archive(kernel.modules, kernel.busybox.read_bytes(), app)
            (new / "initrd").write_bytes(archive)
            for path in new.iterdir():
                path.chmod(0o644)
            remove_tree(self.folder / kit)
            new.chmod(0o755)  # whatever our own mask is: those who read it are somebody else
            new.rename(self.folder / kit)
        except OSError as e:
            raise ProviderError(f"the kernel for virtual machines can't be prepared: {e}") from None
        finally:
            remove_tree(new)
        for old in self.folder.iterdir():  # machines that run do not need theirs any more
            if old.is_dir() and old.name != kit:
                remove_tree(old)

    # ------------------------------------------------------------------------------- states

    def state(self, machine: Machine) -> str:
        """What the saved state of that machine is called in a kit."""
        of = repr((self.qemu(), machine.raw(), vm_command.argv(machine, 3, 4, -1)))
        if machine.accel == KVM:
            of += platform.release() + _processor()
        return "state-" + hashlib.sha256(of.encode()).hexdigest()[:16]

    def has(self, kit: str, machine: Machine) -> bool:
        """True when it is there."""
        return (self.folder / kit / self.state(machine)).is_file()

    def keep(self, kit: str, machine: Machine, saved: Path) -> None:
        """Take it in; the oldest of too many goes."""
        name = self.state(machine)
        new = self.folder / kit / f".{name}"
        shutil.copyfile(saved, new)
        new.chmod(0o644)
        new.rename(self.folder / kit / name)
        states = sorted((self.folder / kit).glob("state-*"), key=lambda p: p.stat().st_mtime)
        for old in states[:-_STATES]:
            old.unlink()

    # -------------------------------------------------------------------------------- facts

    def untried(self) -> bool:
        """True when nobody has tried KVM in a day, with this kernel and QEMU."""
        return self._facts().kvm is None

    def tried(self, why: str) -> None:
        """Note why KVM can't be used here; empty: a machine came up with it."""
        self._note(msgspec.structs.replace(self._facts(), kvm=why, at=time.time()))

    def why_no_kvm(self) -> str:
        """The last word on that; empty when it works, or nobody has tried."""
        return self._facts().kvm or ""

    def khz(self) -> int:
        """How fast this host's clock counter runs, measured once after each start of the host."""
        facts = self._facts()
        if not facts.khz:
            facts = msgspec.structs.replace(facts, khz=measure_khz(), boot=procs.boot_id())
            self._note(facts)
        return facts.khz

    def _facts(self) -> Facts:
        host = f"{platform.release()} {self.qemu()} {_processor()}"
        try:
            found = msgspec.json.decode((self.folder / "facts.json").read_bytes(), type=Facts)
        except (OSError, msgspec.DecodeError):
            found = Facts()
        if found.host != host:
            found = Facts(host=host)
        if found.boot != procs.boot_id():
            found = msgspec.structs.replace(found, khz=0)
        if not 0 <= time.time() - found.at < _FRESH_S:
            found = msgspec.structs.replace(found, kvm=None)
        return found

    def _note(self, facts: Facts) -> None:
        self.folder.mkdir(mode=0o755, exist_ok=True)
        new = self.folder / "facts.new"
        new.write_bytes(msgspec.json.encode(facts))
        new.rename(self.folder / "facts.json")


def find_kernel(wish: str) -> Kernel:
    """The kernel that the setting ``local.vm_kernel`` means: a folder into which Debian's packages were
    unpacked, or (auto) the newest of this machine. ProviderError, with what to do, when there is none."""
    root = Path("/" if wish == "auto" else wish)
    busybox = next((p for p in (root / "bin/busybox", root / "usr/bin/busybox") if _static(p)), None)
    images = sorted(root.glob("boot/vmlinuz-*"), key=lambda p: _version(p.name), reverse=True)
    for image in images:
        release = image.name.removeprefix("vmlinuz-")
        for lib in ("lib/modules", "usr/lib/modules"):
            modules = root / lib / release
            if any(modules.rglob("9pnet_virtio.ko*")) and os.access(image, os.R_OK):
                if busybox is None:
                    raise ProviderError(
                        f"no static busybox below {root}: 'apt install busybox-static'", hint=f"see {HOW}"
                    )
                return Kernel(image, modules, busybox)
    raise ProviderError(
        f"no kernel for virtual machines (with virtio and 9p modules) is below {root}",
        hint=f"local.vm_kernel names a folder with one; how to get it: {HOW}",
    )


def kernel_paths(kernel: Kernel) -> tuple[Path, ...]:
    """What of it a kit depends on."""
    return (kernel.image, kernel.modules, kernel.busybox)


def _version(name: str) -> list[int]:
    return [int(n) for n in re.findall(r"\d+", name)]


def _static(path: Path) -> bool:
    """True for a program that needs no loader."""
    try:
        return b"ld-linux" not in path.read_bytes()[:4096] and path.is_file()
    except OSError:
        return False


def _content() -> tuple[tuple[str, bytes], ...]:
    """What runs inside the machine besides boxd itself."""
    packages = ("kit", "kit/linux", "providers", "providers/local")
    files = [(f"thopter/{name}/__init__.py", b"") for name in packages]
    for module in (calls, caps, seccomp, walls, opening, vm_mux, vm_guest):
        path = module.__name__.replace(".", "/") + ".py"
        files.append((path, Path(module.__file__ or "").read_bytes()))
    boxd = Path(init.__file__ or "").parent
    files += [(f"thopter/boxd/{p.name}", p.read_bytes()) for p in sorted(boxd.glob("*.py"))]
    start = b"import sys\nfrom thopter.providers.local.vm_guest import main\nmain(sys.argv[1:])\n"
    return (*files, ("__main__.py", start))


def _compiled(folder: Path, content: tuple[tuple[str, bytes], ...]) -> bytes:
    """The program for the machine as one file, compiled by the Python that will run it."""
    plain, ready = folder / "plain.pyz", folder / "first.pyz"
    boxd_bundle.build_zipapp(str(plain), content)
    argv = [box_python(), "-I", "-S", "-c", _COMPILE, str(plain), str(ready)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=120, check=False)
    if done.returncode:
        raise ProviderError(f"what runs in virtual machines can't be compiled: {done.stderr.strip()[-300:]}")
    raw = ready.read_bytes()
    plain.unlink()
    ready.unlink()
    return raw


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return ""


def measure_khz() -> int:
    """How fast the processor's clock counter runs, in kHz. The instruction that reads it
    is run from a page of our own. ProviderError where that is not allowed."""
    try:
        page = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    except OSError as e:
        raise ProviderError(f"the processor's clock can't be measured here: {e}") from None
    page.write(_RDTSC)
    read = ctypes.CFUNCTYPE(ctypes.c_uint64)(ctypes.addressof(ctypes.c_char.from_buffer(page)))

    def both() -> tuple[int, int]:
        """The counter and the time at one moment: of some tries the one with the least in between."""
        tries = []
        for _ in range(20):
            begun, count, ended = time.monotonic_ns(), int(read()), time.monotonic_ns()
            tries.append((ended - begun, count, (begun + ended) // 2))
        _, count, at = min(tries)
        return count, at

    count, at = both()
    time.sleep(0.05)
    later, then = both()
    return round((later - count) * 1_000_000 / (then - at))
