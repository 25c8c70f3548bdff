"""An exact copy of what a box wrote, for pools that can't share: owners, modes, times, attributes, hard
links, holes, devices, pipes and sockets are kept; nothing is followed.

The tree was written by a box: names are opened one folder at a time, never through a link, whatever
its depth. Files share their blocks with the original where the filesystem can (FICLONE).
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import subprocess
import sys
from pathlib import Path

from thopter.kit.linux import calls
from thopter.providers.local import outer

_FICLONE = 0x40049409
_CHUNK = 8 << 20
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_LONGEST = 2048  # bytes of a path that is opened in one go; PATH_MAX is 4096
_CANT_CLONE = (errno.EOPNOTSUPP, errno.EXDEV, errno.EINVAL, errno.ENOTTY, errno.ENOSYS)


def copy_tree(source: Path, target: Path, skip: frozenset[str] = frozenset()) -> int:
    """Make ``target`` (new) the same tree as ``source``; returns the bytes of disk its files take when
    nothing is shared. The folders ``skip`` (paths in the tree) are left empty.

    An ordinary user may be kept out of folders that it owns itself, so for it the work is done in a
    user namespace of its own. Blocking. Raises OSError; the caller removes what was made then.
    """
    if os.geteuid() != 0:
        return _copy_in_namespace(source, target, skip)
    os.mkdir(target, 0o700)
    ours, theirs = os.open(source, _FOLDER), os.open(target, _FOLDER)
    try:
        return _Copy(ours, theirs, skip).run()
    finally:
        os.close(ours)
        os.close(theirs)


def _copy_in_namespace(source: Path, target: Path, skip: frozenset[str]) -> int:
    here = Path(__file__).parents[3]
    code = (
        "import sys; sys.path.append(sys.argv[1]); from thopter.providers.local.copying import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-S", "-E", "-I", "-c", code, here, source, target, *sorted(skip)],
        env={}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode != 0:
        number, _, words = done.stderr.strip().rpartition("\n")[2].partition(" ")
        raise OSError(int(number) if number.isdigit() else errno.EIO, words or "the copy failed")
    return int(done.stdout)


def main() -> None:
    """What runs for an ordinary user: argv is the source folder of this package, then source, target
    and what to skip. The last line of stderr tells of an error: its number and its words."""
    try:
        outer.enter({"uid": os.getuid(), "gid": os.getgid()})
        _, _, source, target, *skip = sys.argv
        sys.stdout.write(str(copy_tree(Path(source), Path(target), frozenset(skip))))
    except OSError as e:
        sys.exit(f"{e.errno} {e}")


def open_deep(top: int, path: str) -> int:
    """Open the folder ``path`` below ``top``, as long as the path may be; no link is followed."""
    fd = os.dup(top)
    parts = path.split("/") if path else []
    while parts:
        piece = parts.pop(0)
        while parts and len(os.fsencode(piece)) + len(os.fsencode(parts[0])) < _LONGEST:
            piece += "/" + parts.pop(0)
        try:
            deeper = calls.open_beneath(fd, piece, _FOLDER)
        finally:
            os.close(fd)
        fd = deeper
    return fd


class _Copy:
    def __init__(self, source: int, target: int, skip: frozenset[str]) -> None:
        self._source, self._target, self._skip = source, target, skip
        self._links: dict[tuple[int, int], str] = {}  # inode → path of its first copy
        self._bytes = 0

    def run(self) -> int:
        todo = [""]
        folders: list[str] = []
        while todo:
            path = todo.pop()
            folders.append(path)
            here, there = open_deep(self._source, path), open_deep(self._target, path)
            try:
                if path not in self._skip:
                    todo += [f"{path}/{name}" if path else name for name in self._folder(here, there, path)]
            finally:
                os.close(here)
                os.close(there)
        # Modes and times of folders last, the deepest first: a closed one could not be filled.
        for path in reversed(folders):
            here, there = open_deep(self._source, path), open_deep(self._target, path)
            try:
                _dress_folder(here, there)
            finally:
                os.close(here)
                os.close(there)
        return self._bytes

    def _folder(self, here: int, there: int, path: str) -> list[str]:
        """Copy all that is in one folder; returns the names of those in it."""
        below = []
        for name in os.listdir(here):
            info = os.stat(name, dir_fd=here, follow_symlinks=False)
            if stat.S_ISDIR(info.st_mode):
                os.mkdir(name, 0o700, dir_fd=there)
                below.append(name)
                continue
            known = self._links.get((info.st_dev, info.st_ino))
            if known is not None:
                self._link(known, there, name)
                continue
            self._entry(here, there, name, info)
            if info.st_nlink > 1:
                self._links[info.st_dev, info.st_ino] = f"{path}/{name}" if path else name
        return below

    def _link(self, known: str, there: int, name: str) -> None:
        folder, _, first = known.rpartition("/")
        at = open_deep(self._target, folder)
        try:
            os.link(first, name, src_dir_fd=at, dst_dir_fd=there, follow_symlinks=False)
        finally:
            os.close(at)

    def _entry(self, here: int, there: int, name: str, info: os.stat_result) -> None:
        if stat.S_ISREG(info.st_mode):
            self._bytes += info.st_blocks * 512
            _file(here, there, name, info.st_size)
        elif stat.S_ISLNK(info.st_mode):
            os.symlink(os.readlink(name, dir_fd=here), name, dir_fd=there)
        elif stat.S_ISSOCK(info.st_mode) or stat.S_ISFIFO(info.st_mode):
            os.mknod(name, stat.S_IFMT(info.st_mode) | 0o600, dir_fd=there)
        else:
            os.mknod(name, stat.S_IFMT(info.st_mode) | 0o600, info.st_rdev, dir_fd=there)
        _dress(here, there, name, info)


def _file(here: int, there: int, name: str, size: int) -> None:
    source = calls.open_beneath(here, name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        target = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=there)
        try:
            copy_data(source, target, size)
        finally:
            os.close(target)
    finally:
        os.close(source)


def copy_data(source: int, target: int, size: int) -> None:
    """Make ``target`` (empty) hold what ``source`` holds, holes as holes."""
    if size == 0:
        return
    try:
        fcntl.ioctl(target, _FICLONE, source)
        return
    except OSError as e:
        if e.errno not in _CANT_CLONE:
            raise
    at = 0
    while at < size:
        try:
            at = os.lseek(source, at, os.SEEK_DATA)
            end = os.lseek(source, at, os.SEEK_HOLE)
        except OSError as e:
            if e.errno != errno.ENXIO:  # nothing but a hole from here on
                raise
            break
        at = _range(source, target, at, end)
    os.ftruncate(target, size)


def _range(source: int, target: int, at: int, end: int) -> int:
    os.lseek(source, at, os.SEEK_SET)
    os.lseek(target, at, os.SEEK_SET)
    while at < end:
        data = os.read(source, min(_CHUNK, end - at))
        if not data:
            return end
        view = memoryview(data)
        while view:
            view = view[os.write(target, view) :]
        at += len(data)
    return at


def _dress(here: int, there: int, name: str, info: os.stat_result) -> None:
    """Owner, attributes, mode and times of one that is no folder."""
    ours, theirs = f"/proc/self/fd/{here}/{name}", f"/proc/self/fd/{there}/{name}"
    _own(info, name, there)
    _attributes(ours, theirs)
    if not stat.S_ISLNK(info.st_mode):
        os.chmod(name, stat.S_IMODE(info.st_mode), dir_fd=there)
    os.utime(name, ns=(info.st_atime_ns, info.st_mtime_ns), dir_fd=there, follow_symlinks=False)


def _dress_folder(here: int, there: int) -> None:
    info = os.fstat(here)
    if os.geteuid() == 0:
        os.fchown(there, info.st_uid, info.st_gid)
    _attributes(f"/proc/self/fd/{here}/.", f"/proc/self/fd/{there}/.")
    os.fchmod(there, stat.S_IMODE(info.st_mode))
    os.utime(there, ns=(info.st_atime_ns, info.st_mtime_ns))


def _own(info: os.stat_result, name: str, there: int) -> None:
    if os.geteuid() == 0:  # before the mode: it takes setuid bits away
        os.chown(name, info.st_uid, info.st_gid, dir_fd=there, follow_symlinks=False)


def _attributes(ours: str, theirs: str) -> None:
    for key in os.listxattr(ours, follow_symlinks=False):
        with contextlib.suppress(FileNotFoundError):
            value = os.getxattr(ours, key, follow_symlinks=False)
            os.setxattr(theirs, key, value, follow_symlinks=False)
