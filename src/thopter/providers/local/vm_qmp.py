"""The little of QEMU's control protocol that we speak: one request at a time over a socket.

Python 3.9, standard library only.
"""

from __future__ import annotations

import json
import socket
import time
from typing import Any


class QmpError(Exception):
    """QEMU refused, said nonsense, or is gone."""


def request(command: str, arguments: dict[str, Any]) -> bytes:
    """One request as it goes over the line."""
    body: dict[str, Any] = {"execute": command}
    if arguments:
        body["arguments"] = arguments
    return json.dumps(body).encode() + b"\r\n"


def answer(line: bytes) -> Any | None:
    """What an answer returns; None for what is no answer (a greeting, an event). Raises QmpError."""
    try:
        body = json.loads(line)
    except ValueError:
        raise QmpError("QEMU said nonsense") from None
    if not isinstance(body, dict):
        raise QmpError("QEMU said nonsense")
    if "error" in body:
        error = body["error"]
        text = error.get("desc", "") if isinstance(error, dict) else error
        raise QmpError(f"QEMU refused: {str(text)[:300]}")
    return body.get("return", None)


class Qmp:
    """One connection; every wait is bounded by ``patience`` seconds."""

    def __init__(self, sock: socket.socket, patience: float) -> None:
        self._sock, self._patience, self._data = sock, patience, b""

    def greet(self) -> None:
        """Take the greeting and begin."""
        self._line(time.monotonic() + self._patience)
        self.ask("qmp_capabilities")

    def ask(self, command: str, fds: list[int] | None = None, **arguments: Any) -> Any:
        """One request and its answer. Raises QmpError."""
        due = time.monotonic() + self._patience
        raw = request(command, arguments)
        try:
            if fds:
                socket.send_fds(self._sock, [raw], fds)
            else:
                self._sock.sendall(raw)
        except OSError as e:
            raise QmpError(f"QEMU is gone: {e}") from None
        while True:
            found = answer(self._line(due))
            if found is not None:
                return found

    def fileno(self) -> int:
        """Its descriptor."""
        return self._sock.fileno()

    def drain(self) -> None:
        """Take in, and throw away, what QEMU said without being asked: it keeps what is not taken. Raises
        QmpError when it is gone."""
        self._sock.setblocking(False)
        try:
            if not self._sock.recv(65536):
                raise QmpError("QEMU is gone")
        except BlockingIOError:
            return
        except OSError as e:
            raise QmpError(f"QEMU is gone: {e}") from None

    def wait(self, command: str, field: str, until: list[str], meanwhile: list[str]) -> str:
        """Ask again and again until ``field`` of the answer is one of ``until``. QmpError when it is
        neither that nor one of ``meanwhile``, or stays it for too long."""
        due = time.monotonic() + self._patience
        while True:
            found = self.ask(command)
            now = str(found.get(field, "none"))
            if now in until:
                return now
            if now not in meanwhile or time.monotonic() > due:
                raise QmpError(f"{command}: {now} {found.get('error-desc', '')}".strip())
            time.sleep(0.005)

    def _line(self, due: float) -> bytes:
        while b"\n" not in self._data:
            left = due - time.monotonic()
            if left <= 0:
                raise QmpError(f"QEMU did not answer within {self._patience:.0f} s")
            self._sock.settimeout(left)
            try:
                part = self._sock.recv(65536)
            except OSError as e:
                raise QmpError(f"QEMU did not answer: {e}") from None
            if not part or len(self._data) > 1 << 22:
                raise QmpError("QEMU is gone")
            self._data += part
        line, _, self._data = self._data.partition(b"\n")
        return line
