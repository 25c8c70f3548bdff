"""Where boxes write: one folder a box under ``pool/``, holding the upper layers of its overlays.

On btrfs each is a subvolume with a quota of its own: the state folder's own btrfs, or as root an
image file ``boxes.btrfs`` mounted at ``pool/``. Elsewhere it is a plain folder without a limit.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import subprocess
import time
from pathlib import Path

from thopter.kit.linux import btrfs, calls, loop
from thopter.model.errors import NotNow, ProviderError
from thopter.model.nouns import Limits
from thopter.providers.local import copying
from thopter.providers.local.trees import remove_tree

LAYERS = ("root", "usr")
_WORK = frozenset(f"{layer}/work" for layer in LAYERS)  # the overlays' own
_SAVED = ".saved"  # the folder of snapshots, beside those of boxes
_SMALLEST_IMAGE = 2 << 30
_SPARE_BYTES = 256 << 20
# What a power cut or a full disk can cost: the last seconds, instead of btrfs's usual thirty.
_OPTIONS = "discard=async,commit=5"
_SUPERBLOCK = 256  # inode number of a subvolume's root


class Pool:
    """See the module docstring. Blocking. ``choice`` is the setting ``local.pool``.

    After :meth:`start`, ``subvolumes`` and ``limits_disk`` say what can be had, ``missing`` why not.
    After a reboot :meth:`start` mounts the image again.
    """

    def __init__(self, state: Path, choice: str, root: bool) -> None:
        self.folder = state / "pool"
        self.saved = self.folder / _SAVED
        self._image = state / "boxes.btrfs"
        self._choice = choice
        self._root = root
        self.subvolumes = False
        self.limits_disk = False
        self.missing = ""

    def start(self, new: bool = True) -> None:
        """Make ready; ``new`` says whether an image may be made where there is none yet. Idempotent.
        ProviderError when ``local.pool = btrfs`` can't be had."""
        self.folder.mkdir(mode=0o711, exist_ok=True)
        if not new and not self._image.exists():
            return
        try:
            self._prepare_btrfs()
        except (OSError, subprocess.SubprocessError, ProviderError) as e:
            self.missing = f"boxes' disk use is not limited: {e}"
            if self._choice == "btrfs" or self._image.exists():
                raise ProviderError(f"the btrfs image for boxes can't be used: {e}") from None

    def _prepare_btrfs(self) -> None:
        if self._choice == "plain" and not self._image.exists():
            raise ProviderError("local.pool is 'plain'")
        if not os.path.ismount(self.folder) and not btrfs.is_btrfs(str(self.folder)):
            if not self._image.exists():
                self._make_image()
            self._mount()
        if self.broken():
            raise ProviderError("it is read-only: the disk below it was full or failed")
        self.subvolumes = btrfs.is_btrfs(str(self.folder))
        if not self.subvolumes:
            raise ProviderError(f"{self.folder} is not btrfs")
        self._try_quota()

    def _make_image(self) -> None:
        if not self._root:
            raise ProviderError("only root can mount a btrfs image; put the state folder on btrfs")
        if self.names() or self._any_saved():
            raise ProviderError("boxes in plain folders exist; destroy them to change over to btrfs")
        tool = shutil.which("mkfs.btrfs", path=os.defpath + ":/usr/sbin:/sbin")
        if tool is None:
            raise ProviderError("mkfs.btrfs is missing; install btrfs-progs")
        size = shutil.disk_usage(self.folder).free * 8 // 10 & ~0xFFFFF
        if size < _SMALLEST_IMAGE:
            raise ProviderError(f"only {size >> 20} MiB are free for a btrfs image")
        temp = self._image.with_suffix(".new")
        temp.unlink(missing_ok=True)
        with open(temp, "xb") as f:
            os.fchmod(f.fileno(), 0o600)
            f.truncate(size)
        subprocess.run(
            [tool, "-q", "-m", "single", "-d", "single", "-K", str(temp)],
            check=True, capture_output=True, timeout=120,
        )  # fmt: skip
        temp.rename(self._image)

    def _mount(self) -> None:
        self._wait_loop_free()
        flags = calls.MS_NOATIME | calls.MS_NODEV | calls.MS_NOSUID
        with loop.attached(self._image) as device:
            calls.mount(device, str(self.folder), "btrfs", flags, _OPTIONS)

    def broken(self) -> bool:
        """True when the image is mounted and the kernel made it read-only: the disk below it was full, or
        failed."""
        if not self._image.exists() or not os.path.ismount(self.folder):
            return False
        return bool(os.statvfs(self.folder).f_flag & os.ST_RDONLY)

    def remount(self) -> None:
        """Unmount the image, in which no box may live, and mount it again, with all that was on the disk.
        ProviderError while there is no room to write, OSError."""
        self._has_room()
        self.unmount()
        self._mount()

    def _wait_loop_free(self) -> None:
        """Two loops over one file would be two filesystems over one disk."""
        deadline = time.monotonic() + 10
        while loop.over(self._image):
            if time.monotonic() > deadline:
                raise OSError(errno.EBUSY, f"{self._image} is in use by {loop.over(self._image)}")
            time.sleep(0.02)

    def _try_quota(self) -> None:
        if self._image.exists():
            try:
                btrfs.enable_simple_quota(str(self.folder))
            except OSError as e:
                raise ProviderError(
                    f"btrfs without simple quotas, Linux 6.7 has them ({e.strerror})"
                ) from None
            self.limits_disk = True
            return
        # Somebody else's filesystem: quotas are used where they are on, but not switched on.
        probe = f".probe-{os.getpid()}"
        btrfs.create(str(self.folder), probe)
        try:
            btrfs.limit(str(self.folder / probe), 1 << 30)
            self.limits_disk = True
        except OSError:
            self.missing = (
                "boxes' disk use is not limited: quotas are off on this btrfs ('btrfs quota enable')"
            )
        finally:
            _destroy(self.folder, probe)

    def _subvolume(self, key: str, source: Path | None, limits: Limits) -> None:
        """A new subvolume for ``key``, empty or as ``source`` is, with its quota."""
        try:
            if source is None:
                btrfs.create(str(self.folder), key)
            else:
                btrfs.snapshot(str(source), str(self.folder), key)
        except OSError as e:
            if e.errno == errno.EROFS:
                raise NotNow(
                    "the boxes' btrfs image went read-only (its disk was full or failed)",
                    hint="free some disk space; it is mounted again by itself",
                ) from None
            raise
        top = str(self.folder / key)
        os.chmod(top, 0o711)
        if self.limits_disk and limits.disk_bytes:
            btrfs.limit(top, limits.disk_bytes)

    def _has_room(self) -> None:
        if shutil.disk_usage(self.folder.parent).free < _SPARE_BYTES:
            raise ProviderError("the disk is full: no box is made", hint="free some disk space")

    def save(self, key: str, snap: str) -> int:
        """Keep what ``key`` has written as the saved box ``snap``, on the disk when this returns; nobody
        may be writing. Returns how much disk that took (-1: it is shared)."""
        self.saved.mkdir(mode=0o711, exist_ok=True)
        self._has_room()
        if self.subvolumes and self._is_subvolume(self.folder / key):
            btrfs.snapshot(str(self.folder / key), str(self.saved), snap, read_only=True)
            return -1
        taken = copying.copy_tree(self.folder / key, self.saved / snap, _WORK)
        calls.syncfs(str(self.saved))
        return taken

    def start_from(self, snap: str, key: str, limits: Limits) -> Path:
        """Make the folder of ``key`` with what the saved box ``snap`` holds."""
        self._has_room()
        if self.subvolumes:
            self._subvolume(key, self.saved / snap, limits)
        else:
            copying.copy_tree(self.saved / snap, self.folder / key)
        return self.folder / key

    def has(self, key: str) -> bool:
        """True when ``key`` has its folder with both layers."""
        return all((self.folder / key / layer / "upper").is_dir() for layer in LAYERS)

    def flush(self) -> None:
        """All that was written in the image is on the disk when this returns."""
        if self._image.exists() and os.path.ismount(self.folder):
            with contextlib.suppress(OSError):  # read-only by now: that is mended elsewhere
                calls.syncfs(str(self.folder))

    def settle(self) -> None:
        """What was just made is to be on the disk soon; waits for nothing."""
        if self.subvolumes:
            with contextlib.suppress(OSError):  # it is there in five seconds all the same
                btrfs.start_sync(str(self.folder))

    def make(self, key: str, owner: int, limits: Limits) -> Path:
        """Make the folder of ``key`` with its empty layers, owned by id ``owner`` (0: by us)."""
        self._has_room()
        top = self.folder / key
        if self.subvolumes:
            self._subvolume(key, None, limits)
        else:
            top.mkdir(mode=0o711)
        _layers(top, owner)
        return top

    def make_saved(self, snap: str, owner: int) -> Path:
        """Make the folder of the saved box ``snap``, its layers empty."""
        self._has_room()
        self.saved.mkdir(mode=0o711, exist_ok=True)
        top = self.saved / snap
        if self.subvolumes:
            btrfs.create(str(self.saved), snap)
            top.chmod(0o711)
        else:
            top.mkdir(mode=0o711)
        _layers(top, owner)
        return top

    def remove(self, key: str) -> None:
        """Remove the folder of ``key`` and all in it. Gone already = success."""
        self._remove(self.folder, key)

    def remove_saved(self, snap: str) -> None:
        """Remove the saved box ``snap``; what was made from it is not touched. Gone already = success."""
        self._remove(self.saved, snap)

    def _remove(self, parent: Path, name: str) -> None:
        if self._is_subvolume(parent / name):
            _destroy(parent, name)
        else:
            remove_tree(parent / name)

    def _is_subvolume(self, top: Path) -> bool:
        try:
            return top.lstat().st_ino == _SUPERBLOCK and btrfs.is_btrfs(str(top.parent))
        except FileNotFoundError:
            return False

    def names(self) -> set[str]:
        """Keys that have a folder."""
        try:
            found = {e.name for e in os.scandir(self.folder) if e.is_dir(follow_symlinks=False)}
            return found - {_SAVED}
        except FileNotFoundError:
            return set()

    def _any_saved(self) -> bool:
        try:
            return bool(os.listdir(self.saved))
        except FileNotFoundError:
            return False

    def stray_loops(self) -> list[str]:
        """Loop devices over the image that is not mounted (one goes by itself a moment after)."""
        if self._image.exists() and not os.path.ismount(self.folder):
            return loop.over(self._image)
        return []

    def close(self) -> None:
        """Unmount and remove the image when no box is left in it; otherwise leave all as it is."""
        if self.names() or self._any_saved():
            return
        if self._image.exists() and os.path.ismount(self.folder):
            self.unmount()
        self._image.unlink(missing_ok=True)

    def unmount(self) -> None:
        """Unmount the image. OSError while a box lives in it."""
        deadline = time.monotonic() + 10
        while True:
            try:
                return calls.umount(str(self.folder))
            except OSError as e:
                if e.errno != errno.EBUSY or time.monotonic() > deadline:
                    raise
                time.sleep(0.02)  # the last mounts of a dead box go a moment after it


def _destroy(parent: Path, name: str) -> None:
    """Remove a subvolume. An ordinary user may not (but with the mount option user_subvol_rm_allowed):
    then file by file, and the empty one as a folder, which Linux 4.18 allows its owner."""
    try:
        btrfs.destroy(str(parent), name)
    except PermissionError:
        btrfs.make_writable(str(parent / name))
        remove_tree(parent / name)


def _layers(top: Path, owner: int) -> None:
    for layer in LAYERS:
        (top / layer).mkdir(mode=0o711)
        for part, mode in (("upper", 0o755), ("work", 0o700)):
            path = top / layer / part
            path.mkdir()
            os.chmod(path, mode)
            if owner:
                os.chown(path, owner, owner)
