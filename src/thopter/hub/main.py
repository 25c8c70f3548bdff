"""``python -m thopter.hub.main``: start the hub of this state folder, in the background unless told.

Exit codes: 0 it listens (background) or has stopped in good order (foreground); 2 bad settings;
5 another hub has this state folder; others as in ``model.errors``.
"""

from __future__ import annotations

import argparse
import logging
import os
import stat
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from thopter.hub import logs, process
from thopter.hub.auth import ALL_SCOPES, Throttle, Tokens, load_token, token_file
from thopter.hub.doors import Door, UnixDoor, load_certificate, open_tcp, remembered_listen
from thopter.hub.lock import FileLock
from thopter.kit import settings as kit_settings
from thopter.kit.paths import Paths, find_paths, private_dir
from thopter.kit.settings import Settings
from thopter.model.errors import Conflict, Refused, ThopterError

if TYPE_CHECKING:
    import asyncio

    from thopter.hub.ports import Compose

log = logging.getLogger("thopter.hub.main")


def main(argv: Sequence[str] | None = None, load: Callable[[], Compose] | None = None) -> int:
    """Run a hub; ``load`` returns what makes its inside (default: the real one)."""
    options = _parse(argv)
    try:
        paths = find_paths()
        flags = {} if options.listen is None else {"hub.listen": options.listen}
        settings = kit_settings.load(paths.config_file, flags=flags)
        house = House(paths, settings, Path(options.socket) if options.socket else paths.hub_socket)
    except ThopterError as error:
        return _complain(error)
    except OSError as error:
        return _complain(ThopterError(f"{error.filename or 'the state folder'}: {error.strerror}"))
    if not options.foreground:
        process.detach(paths.state / "hub.err")
    return house.run(options.foreground, flags, load)


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m thopter.hub.main", description="The thopter hub.")
    parser.add_argument("--foreground", action="store_true", help="stay, and log to stderr as well")
    parser.add_argument(
        "--socket", metavar="PATH", help="the unix socket (default: hub.sock in the runtime dir)"
    )
    parser.add_argument("--listen", metavar="ADDRESS", help="loopback TCP as well, e.g. 127.0.0.1:8480")
    return parser.parse_args(argv)


def _complain(error: ThopterError) -> int:
    print(f"thopter hub: {error.message}", file=sys.stderr)
    if error.hint:
        print(f"  {error.hint}", file=sys.stderr)
    return error.exit_code


class House:
    """What must be had before serving: private folders, both locks, listening sockets."""

    def __init__(self, paths: Paths, settings: Settings, socket_path: Path) -> None:
        """Take everything, or raise and hold nothing."""
        process.keep_private()
        self.paths = paths
        self.settings = settings
        private_dir(paths.state)
        _socket_dir(paths, socket_path)
        self._locks = [FileLock(paths.hub_lock, f"already has the state folder {paths.state}")]
        try:
            lock = socket_path.with_name(socket_path.name + ".lock")
            self._locks.append(FileLock(lock, f"already has the socket {socket_path}"))
            self._tcp = self._open_tcp(str(settings.get("hub.listen")))
            self._unix = UnixDoor(socket_path)
        except ThopterError:
            for taken in self._locks:
                taken.release()
            raise
        self.doors = [self._unix.door(), *self._tcp]

    def _open_tcp(self, listen: str) -> list[Door]:
        url, tls = str(self.settings.get("page.url")), load_certificate(self.settings)
        again = "" if listen else remembered_listen(self.paths.state)
        if not listen and not again:
            return []
        from thopter.kit.clock import SystemClock

        file = token_file(self.paths.state)
        token = load_token(file)
        logs.redact.hide(token)
        tokens = Tokens({token: ALL_SCOPES}, Throttle(SystemClock()), file)
        try:
            return [open_tcp(listen or again, tokens, url, tls)]
        except Conflict:
            if listen:
                raise
            log.warning("%s, where the page was, is taken: it is opened elsewhere when asked for", again)
            return []

    def run(self, foreground: bool, flags: dict[str, str], load: Callable[[], Compose] | None) -> int:
        """Serve until told to stop; always removes the socket and frees the locks."""
        for lock in self._locks:
            lock.sign()
        process.show_crashes()
        process.raise_file_limit()
        logs.set_up(self.paths.hub_log, str(self.settings.get("hub.log_level")), foreground)
        try:
            return _serve(self, flags, load)
        except BaseException as error:
            log.critical("the hub crashed", exc_info=error)
            raise
        finally:
            self._unix.remove()
            for lock in self._locks:
                lock.release()
            logs.drain()


def _socket_dir(paths: Paths, socket_path: Path) -> None:
    """The folder of the socket: ours is made private; one that somebody named must be so already."""
    folder = socket_path.parent
    if folder == paths.runtime:
        private_dir(folder)
        return
    try:
        found = folder.lstat()
    except OSError as e:
        raise Refused(f"{folder} can't be used for the socket: {e.strerror}") from None
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or stat.S_IMODE(found.st_mode) & 0o077:
        raise Refused(f"others may enter {folder}", hint="put the socket into a folder of mode 0700")


def _serve(house: House, flags: dict[str, str], load: Callable[[], Compose] | None) -> int:
    import asyncio  # all that is slow to import waits until the sockets listen

    from thopter.hub.run import run_hub

    factory = _loop_factory()
    with asyncio.Runner(loop_factory=factory) as runner:
        failure = runner.run(run_hub(house.paths, house.settings, flags, house.doors, load))
    logs.drain()
    return 0 if failure is None else _complain(failure)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:  # not on every platform; asyncio's own loop does it too
        return None
    return uvloop.new_event_loop


if __name__ == "__main__":
    sys.exit(main())
