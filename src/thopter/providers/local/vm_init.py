"""What a virtual machine boots: the archive with its first programs, made here byte for byte.

It holds a static busybox, the kernel's modules that are needed, the script below and boxd. The script
gets as far as nothing in it is about a box, says so on the pipe and waits: there the machine is saved.
What it hears next makes it one box's: its root is what the keeper shows (read-only, by 9p) below a disk of
its own, and vm_guest.py takes over. No network, no other device.
"""

from __future__ import annotations

import gzip
import lzma
import struct
import zlib
from collections.abc import Iterable
from pathlib import Path

from thopter.model.errors import ProviderError
from thopter.providers.local.rootfs import HIDDEN_PROC, READ_ONLY_PROC

READY = "ready"
TAG, PORT = "tree", "thopter"
_FOLDERS = ("bin", "dev", "proc", "sys", "mod", "lower", "disk", "new", "run")
_WANTED_FIRST = ("virtio_mmio", "virtio_console")
_WANTED = ("ext4", "crc32c_generic", "9p", "9pnet_virtio", "overlay")
_LATER = ("virtio_blk",)  # it looks at the disk when it comes, and each box has one of its own

_SCRIPT = """\
#!/bin/busybox sh
b=/bin/busybox
stop() { echo "this machine stops: $1"; $b sync; $b poweroff -f; }
$b mount -t proc proc /proc
$b mount -t sysfs sys /sys
$b mount -t devtmpfs dev /dev
for m in @MODULES@; do $b insmod /mod/$m.ko || echo "no $m"; done
exec 3<>/dev/vport0p1 || $b poweroff -f
echo @READY@ >&3
read -r go now name python <&3
[ "$go" = go ] || stop "what was heard was no order"
$b date -u -s "@$now" >/dev/null
for m in @LATER@; do $b insmod /mod/$m.ko || stop "no $m"; done
how=trans=virtio,version=9p2000.L,cache=loose,msize=512000
$b mount -t 9p -o ro,nosuid,nodev,$how @TAG@ /lower || stop "no root"
$b mount -t ext4 -o noatime,nosuid,nodev /dev/vda /disk || stop "no disk"
$b mkdir -p /disk/upper /disk/work
$b mount -t overlay -o lowerdir=/lower,upperdir=/disk/upper,workdir=/disk/work box /new || stop "no overlay"
cd /new
$b mount -t proc -o nosuid,nodev,noexec proc proc
for p in @READ_ONLY@; do
  [ -e proc/$p ] && $b mount -o bind proc/$p proc/$p && $b mount -o remount,bind,ro proc/$p
done
: >/run/empty
for p in @HIDDEN@; do [ -e proc/$p ] && $b mount -o bind /run/empty proc/$p; done
$b mount -t sysfs -o ro,nosuid,nodev,noexec sys sys
$b mount -t tmpfs -o nosuid,noexec,mode=755,size=1m dev dev
for n in "null 1 3" "zero 1 5" "full 1 7" "random 1 8" "urandom 1 9" "tty 5 0"; do
  set -- $n; $b mknod -m 666 dev/$1 c $2 $3
done
$b ln -s /proc/self/fd dev/fd; $b ln -s /proc/self/fd/0 dev/stdin
$b ln -s /proc/self/fd/1 dev/stdout; $b ln -s /proc/self/fd/2 dev/stderr; $b ln -s pts/ptmx dev/ptmx
$b mkdir dev/pts dev/shm
$b mount -t devpts -o nosuid,noexec,newinstance,gid=5,mode=620,ptmxmode=666,max=1024 devpts dev/pts
$b mount -t tmpfs -o nosuid,nodev,mode=1777 shm dev/shm
$b mount -t tmpfs -o nosuid,nodev,mode=755,size=64m run run
$b mkdir -m 700 run/thopter run/thopter-groups; $b mkdir -m 1777 run/lock
$b mount -t cgroup2 groups run/thopter-groups || stop "no control groups"
$b hostname "$name"
$b cp /first.pyz run/.first.pyz
for m in lower disk sys dev proc; do $b umount -l /$m; done
exec $b switch_root /new $python -S -E -I -B /run/.first.pyz 3 /run/.first.pyz
"""


def archive(modules: Path, busybox: bytes, app: bytes) -> bytes:
    """The archive, always the same bytes for the same parts. ``modules`` is the folder of one kernel's.
    ProviderError when a module is not there."""
    first, rest = _closure(modules, (*_WANTED_FIRST, *_WANTED)), _closure(modules, _LATER)
    later = [name for name in rest if name not in first]
    cpio = Cpio()
    for folder in _FOLDERS:
        cpio.folder(folder)
    cpio.device("dev/console", 5, 1)
    cpio.device("dev/null", 1, 3)
    cpio.file("bin/busybox", busybox, 0o755)
    for name, content in {**first, **rest}.items():
        cpio.file(f"mod/{name}.ko", content)
    cpio.file("init", script([*first], later).encode(), 0o755)
    cpio.file("first.pyz", app)
    return cpio.end()


def script(first: Iterable[str], later: Iterable[str]) -> str:
    """The machine's first program."""
    words = {
        "MODULES": " ".join(first), "LATER": " ".join(later), "READY": READY, "TAG": TAG,
        "READ_ONLY": " ".join(READ_ONLY_PROC), "HIDDEN": " ".join(HIDDEN_PROC),
    }  # fmt: skip
    text = _SCRIPT
    for word, value in words.items():
        text = text.replace(f"@{word}@", value)
    return text


def _closure(folder: Path, names: Iterable[str]) -> dict[str, bytes]:
    """The modules and what they need, in the order in which they can be loaded. One that the kernel has
    built in is left out: nobody can tell it from one that is missing, but for its being listed."""
    builtin = _builtin(folder)
    found: dict[str, bytes] = {}

    def add(name: str) -> None:
        if name in found or name in builtin:
            return
        files = [p for form in (name, name.replace("_", "-")) for p in folder.rglob(f"{form}.ko*")]
        if not files:
            raise ProviderError(
                f"this kernel has no module {name}",
                hint="Debian's linux-image-amd64 has all (not the cloud one)",
            )
        content = _unpacked(files[0])
        for needed in depends(content):
            add(needed)
        found[name] = content

    for name in names:
        add(name.replace("-", "_"))
    return found


def _builtin(folder: Path) -> set[str]:
    try:
        lines = (folder / "modules.builtin").read_text().splitlines()
    except OSError:
        return set()
    return {Path(line).name.split(".")[0].replace("-", "_") for line in lines}


def _unpacked(path: Path) -> bytes:
    raw = path.read_bytes()
    if path.suffix == ".xz":
        return lzma.decompress(raw)
    if path.suffix == ".gz":
        return gzip.decompress(raw)
    if path.suffix != ".ko":
        raise ProviderError(f"{path.name} is packed in a way that can't be unpacked here")
    return raw


def depends(module: bytes) -> list[str]:
    """Which modules this one says it needs."""
    at = module.find(b"\0depends=")
    if at < 0:
        return []
    text = module[at + 9 : module.index(b"\0", at + 1)].decode("ascii", "replace")
    return [name.replace("-", "_") for name in text.split(",") if name]


class Cpio:
    """An archive in the form that kernels unpack ("newc"), without times, owners and real inodes."""

    def __init__(self) -> None:
        self._out = bytearray()
        self._count = 0

    def folder(self, name: str) -> None:
        """An empty folder."""
        self._entry(name, 0o040755, b"")

    def device(self, name: str, major: int, minor: int) -> None:
        """A character device."""
        self._entry(name, 0o020600, b"", (major, minor))

    def file(self, name: str, content: bytes, mode: int = 0o644) -> None:
        """A file."""
        self._entry(name, 0o100000 | mode, content)

    def end(self) -> bytes:
        """All of it."""
        self._entry("TRAILER!!!", 0, b"")
        return bytes(self._out)

    def _entry(self, name: str, mode: int, content: bytes, device: tuple[int, int] = (0, 0)) -> None:
        self._count += 1
        raw = name.encode() + b"\0"
        numbers = (self._count, mode, 0, 0, 1, 0, len(content), 0, 0, *device, len(raw), 0)
        self._out += b"070701" + b"".join(b"%08x" % n for n in numbers) + raw
        self._out += bytes(-len(self._out) % 4) + content
        self._out += bytes(-len(self._out) % 4)


def vmlinux(image: bytes) -> bytes:
    """The kernel inside of a compressed image as it is linked, which a slow machine need not unpack;
    the image itself where that is packed in a way that is not known here."""
    if image[0x202:0x206] != b"HdrS":
        return image
    setup = (image[0x1F1] or 4) + 1
    offset, length = struct.unpack_from("<II", image, 0x248)
    packed = image[setup * 512 + offset :][:length]
    if packed.startswith(b"\xfd7zXZ\0"):
        out = lzma.LZMADecompressor().decompress(packed)
    elif packed.startswith(b"\x1f\x8b"):
        out = zlib.decompressobj(31).decompress(packed)
    else:
        return image
    return out if out.startswith(b"\x7fELF") else image
