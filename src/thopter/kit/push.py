"""Sends one message to one address by apprise, in a process of its own.

apprise is heavy (tens of MB), blocking, and waits as long as the other side likes; a process can be
ended and gives its memory back. The address, which holds secrets, goes through a pipe: it is in no
argument and no environment, and what is said of a failure has its secrets taken out.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import sys
from urllib.parse import parse_qsl, unquote, urlsplit

from msgspec import Struct

TIMEOUT = 60.0
_WHY_MAX = 300
_KEPT = re.compile(r"(?i)^(PATH|HOME|LANG|LC_.*|TMPDIR|PYTHON.*|.*_proxy|SSL_CERT_.*|REQUESTS_CA_BUNDLE)$")
_KINDS = ("info", "success", "warning", "failure")


class Message(Struct, frozen=True, kw_only=True):
    """What is sent where. ``kind``: info, success, warning, failure (some services show it)."""

    url: str
    title: str
    body: str = ""
    kind: str = "info"


async def push(message: Message, timeout: float = TIMEOUT) -> str:
    """Send it; returns "" when the other side took it, else why not, in one sentence.

    Bounded by ``timeout``; cancelling ends the process. It may have arrived although this says no.
    """
    order = {"url": message.url, "title": message.title, "body": message.body, "kind": message.kind}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "thopter.kit.push",
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
        env={k: v for k, v in os.environ.items() if _KEPT.match(k)}, start_new_session=True,
    )  # fmt: skip
    try:
        async with asyncio.timeout(timeout):
            out, _ = await process.communicate(json.dumps(order).encode())
    except TimeoutError:
        return f"no answer within {timeout:.0f} s"
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    try:
        return str(json.loads(out)["why"])[:_WHY_MAX]
    except (ValueError, KeyError, TypeError):
        return f"the sender ended with status {process.returncode}"


def shown(url: str) -> str:
    """Return the address without anything that could be a secret: its scheme, and its host when it is
    that of a server of one's own (elsewhere the host itself may be a token)."""
    parts = urlsplit(url)
    try:
        host, port = parts.hostname or "", parts.port
    except ValueError:
        host, port = "", None
    if "." not in host and host != "localhost":
        host = "…"
    return f"{parts.scheme}://{host}{f':{port}' if port else ''}/…"


def secrets_in(url: str) -> list[str]:
    """Return the parts of an address that may be secrets, longest first."""
    try:
        parts = urlsplit(url)
        found = [parts.username or "", parts.password or "", *parts.path.split("/")]
        found += [value for _, value in parse_qsl(parts.query)]
    except ValueError:
        found = []
    both = {url, *found, *(unquote(f) for f in found)}
    return sorted((f for f in both if len(f) >= 6), key=len, reverse=True)


def _send(order: dict[str, str]) -> str:
    """The process's work: apprise, and the last thing that it said when it failed."""
    from apprise import Apprise, NotifyType

    said: list[str] = []

    class Last(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            said.append(record.getMessage())

    logger = logging.getLogger("apprise")
    logger.handlers = [Last(level=logging.WARNING)]
    logger.setLevel(logging.WARNING)
    logger.propagate = False
    box = Apprise()
    if not box.add(order["url"]):
        return _without(order["url"], said, "that is no address that apprise can send to")
    kind = NotifyType(order["kind"] if order["kind"] in _KINDS else "info")
    taken = box.notify(title=order["title"], body=order["body"] or order["title"], notify_type=kind)
    return "" if taken else _without(order["url"], said, "it was not taken")


def _without(url: str, said: list[str], otherwise: str) -> str:
    why = " ".join((said or [otherwise])[-1].split())
    for secret in secrets_in(url):
        why = why.replace(secret, "…")
    return why[:_WHY_MAX]


def _main() -> int:
    order = json.loads(sys.stdin.buffer.read())
    out = os.dup(1)
    os.dup2(2, 1)  # whatever a plug-in prints is not our answer
    try:
        why = _send({k: str(v) for k, v in order.items()})
    except Exception as e:  # noqa: BLE001 - a plug-in's bug is a failed sending, told without its text
        why = f"the sender failed: {type(e).__name__}"
    os.write(out, json.dumps({"why": why}).encode())
    return 0


if __name__ == "__main__":
    sys.exit(_main())
