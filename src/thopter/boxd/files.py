"""The file ops: put (all or nothing), fetch, stat, read_files."""

from __future__ import annotations

import _thread
import os
import stat
from typing import Any, Dict, Optional

from thopter.boxd import fields, globs, wire
from thopter.boxd.box import Box
from thopter.boxd.conn import Channel, Handler, as_op_error
from thopter.boxd.fields import OpError, Request, bad
from thopter.boxd.loop import READ, Loop
from thopter.boxd.task import Promise, Task

_READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
_CONTENT = 256 << 10  # of a file's content in read_files


def sync(loop: Loop, fd: int) -> Promise[None]:
    """fsync in a thread that lives just for it: on a busy disk it can block for seconds, and
    nothing else here may wait for that. ``fd`` must stay open until the promise is kept."""
    promise: Promise[None] = Promise()
    here, there = os.pipe2(os.O_CLOEXEC)
    failure: list[OSError] = []

    def work() -> None:
        try:
            os.fsync(fd)
        except OSError as e:
            failure.append(e)
        os.write(there, b"x")

    def done(_events: int) -> None:
        loop.forget(here)
        os.close(here)
        os.close(there)
        if failure:
            promise.fail(failure[0])
        else:
            promise.keep(None)

    loop.watch(here, READ, done)
    _thread.start_new_thread(work, ())
    return promise


class Put(Handler):
    """Receives a file into a temporary one beside it; at the end of the data it is synced and
    renamed. Until then the old file is untouched; afterwards no temporary file is left."""

    def __init__(self, box: Box, channel: Channel, request: Request) -> None:
        self._box, self._channel = box, channel
        self._path = fields.path(request)
        self._mode = fields.integer(request, "mode", 0o644, 0, 0o7777)
        self._expected = fields.integer(request, "size", -1, -1, 1 << 62)
        self._size = 0
        self._task: Optional[Task] = None
        self._folder = os.path.dirname(self._path)
        if not os.path.basename(self._path) or os.path.isdir(self._path):
            raise bad(f"{wire.to_text(self._path)} is a folder")
        try:
            if fields.flag(request, "mkdirs", True):
                _make_folder(self._folder)
            self._temp = os.path.join(self._folder, b".thopter-" + os.urandom(8).hex().encode())
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
            self._fd = os.open(self._temp, flags, 0o600)
        except OSError as e:
            raise fields.from_os(e, wire.to_text(self._path)) from None

    def on_data(self, channel: Channel, stream: int, data: bytes) -> None:
        """See :class:`Handler`."""
        channel.consumed(stream, len(data))
        if self._fd < 0 or self._task is not None:
            return
        self._size += len(data)
        try:
            rest = memoryview(data)
            while rest:
                rest = rest[os.write(self._fd, rest) :]
        except OSError as e:
            self._abandon(fields.from_os(e, wire.to_text(self._path)))

    def on_message(self, body: Request) -> None:
        """``{"eof": 0}`` completes the file."""
        if body.get("eof") != 0 or self._fd < 0 or self._task is not None:
            return
        if self._expected not in (-1, self._size):
            self._abandon(bad(f"{self._size} bytes came, {self._expected} were announced"))
            return
        self._task = Task(self._complete(), self._completed)

    def on_cancel(self) -> None:
        """Remove the temporary file; a rename already begun is completed."""
        if self._task is None:
            self._abandon(OpError("cancelled", "cancelled"))

    def on_lost(self) -> None:
        """See :meth:`on_cancel`."""
        self.on_cancel()

    async def _complete(self) -> Dict[str, Any]:
        os.fchmod(self._fd, self._mode)
        await sync(self._box.loop, self._fd)
        os.rename(self._temp, self._path)
        folder = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            await sync(self._box.loop, folder)
        finally:
            os.close(folder)
        return {"size": self._size}

    def _completed(self, result: Optional[Dict[str, Any]], error: Optional[Exception]) -> None:
        if error is not None:
            failure = fields.from_os(error, wire.to_text(self._path)) if isinstance(error, OSError) else None
            self._abandon(failure or as_op_error(error))
            return
        self._close()
        self._channel.end(result or {})

    def _abandon(self, error: OpError) -> None:
        if self._fd >= 0:
            self._close()
            try:
                os.unlink(self._temp)
            except FileNotFoundError:
                pass  # it was renamed already
        self._channel.fail(error)

    def _close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _make_folder(folder: bytes) -> None:
    try:
        os.makedirs(folder, exist_ok=True)
    except FileExistsError:
        raise bad(f"{wire.to_text(folder)} is not a folder") from None


class Fetch(Handler):
    """Sends a regular file, or ``limit`` bytes of it from ``offset``, as there is room."""

    def __init__(self, box: Box, channel: Channel, request: Request) -> None:
        self._box, self._channel = box, channel
        path = fields.path(request)
        self._at = fields.integer(request, "offset", 0, 0, 1 << 62)
        self._left = fields.integer(request, "limit", -1, -1, 1 << 62)
        self._shown = wire.to_text(path)
        self._scheduled = False
        try:
            self._fd = os.open(path, _READ)
        except OSError as e:
            raise fields.from_os(e, self._shown) from None
        self._stat = os.fstat(self._fd)
        if not stat.S_ISREG(self._stat.st_mode):
            self._close()
            raise bad(f"{self._shown} is not a regular file")
        self._schedule()

    def on_room(self) -> None:
        """See :class:`Handler`."""
        self._schedule()

    def on_cancel(self) -> None:
        """See :class:`Handler`."""
        self._close()
        self._channel.fail(OpError("cancelled", "cancelled"))

    def on_lost(self) -> None:
        """See :class:`Handler`."""
        self._close()

    def _schedule(self) -> None:
        if not self._scheduled and self._fd >= 0:
            self._scheduled = True
            self._box.loop.soon(self._send)

    def _send(self) -> None:
        # One chunk a turn of the loop: others are served in between.
        self._scheduled = False
        room = self._channel.room(wire.STDOUT) if self._fd >= 0 else 0
        if not room:
            return
        wanted = room if self._left < 0 else min(room, self._left)
        try:
            content = os.pread(self._fd, wanted, self._at) if wanted else b""
        except OSError as e:
            self._close()
            self._channel.fail(fields.from_os(e, self._shown))
            return
        if content:
            self._at += len(content)
            if self._left > 0:
                self._left -= len(content)
            self._channel.send_data(wire.STDOUT, content)
            self._schedule()
            return
        self._close()
        self._channel.end(_facts(self._stat))

    def _close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _facts(found: os.stat_result) -> Dict[str, Any]:
    return {
        "size": found.st_size,
        "mode": stat.S_IMODE(found.st_mode),
        "mtime_ms": found.st_mtime_ns // 1_000_000,
    }


def _kind(mode: int) -> str:
    if stat.S_ISREG(mode):
        return "file"
    if stat.S_ISDIR(mode):
        return "dir"
    return "symlink" if stat.S_ISLNK(mode) else "other"


def open_stat(_box: Box, channel: Channel, request: Request) -> Handler:
    """Serve ``stat``: the thing itself, a symlink is not followed."""
    path = fields.path(request)
    try:
        found = os.lstat(path)
    except OSError as e:
        raise fields.from_os(e, wire.to_text(path)) from None
    channel.end({"kind": _kind(found.st_mode), **_facts(found)})
    return Handler()


class ReadFiles(Handler):
    """Sends up to ``max`` small regular files below ``root`` that match ``glob``, each cut at
    256 KiB (then ``truncated``). A file that goes away or can't be read meanwhile is left out."""

    def __init__(self, box: Box, channel: Channel, request: Request) -> None:
        self._box, self._channel = box, channel
        self._root = fields.path(request, "root")
        glob = globs.Glob(fields.string(request, "glob"))
        most = fields.integer(request, "max", 100, 1, 10_000)
        self._names = globs.find(self._root, glob)[:most]
        self._names.reverse()
        self._count = 0
        self.on_room()

    def on_room(self) -> None:
        """See :class:`Handler`."""
        while self._names:
            if not self._channel.room(wire.MESSAGES):
                return
            message = self._read(self._names.pop())
            if message is not None:
                self._count += 1
                self._channel.send_counted(message)
        self._channel.end({"count": self._count})

    def on_cancel(self) -> None:
        """See :class:`Handler`."""
        self._names = []
        self._channel.fail(OpError("cancelled", "cancelled"))

    def on_lost(self) -> None:
        """See :class:`Handler`."""
        self._names = []

    def _read(self, name: bytes) -> Optional[Dict[str, Any]]:
        try:
            fd = os.open(os.path.join(self._root, name), _READ | os.O_NOFOLLOW)
        except OSError:
            return None
        try:
            found = os.fstat(fd)
            if not stat.S_ISREG(found.st_mode):
                return None
            content = os.read(fd, _CONTENT)
        except OSError:
            return None
        finally:
            os.close(fd)
        text, cut = fields.clip(wire.to_text(content), 900 << 10)
        message = {"file": wire.to_text(name), "content": text, "mtime_ms": found.st_mtime_ns // 1_000_000}
        if cut or len(content) < found.st_size:
            message["truncated"] = True
        return message
