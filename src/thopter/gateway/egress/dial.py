"""From a name to a connection: resolved once, every address vetted, and that address dialled."""

from __future__ import annotations

import asyncio
import ipaddress
import os
import socket
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from thopter.gateway.connection import Wire
from thopter.gateway.policy.addresses import Address, Network, forbidden
from thopter.gateway.policy.hosts import is_address
from thopter.gateway.policy.model import Rule

_LOOKUPS = 32
_LOOKUPS_PER_BOX = 8
_LOOKUP_SECONDS = 10.0
# A lost answer costs a second, not the five of the resolver's default (resolv.conf(5)).
_RESOLVER = "timeout:1 attempts:5"
_TRIES = 4


class CantDial(Exception):
    """No connection; ``code`` for programs, ``status`` for the client, the message for people."""

    def __init__(self, code: str, status: int, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.status = status
        self.message = message


class Dialler:
    """Resolves in threads of its own (the system's resolver has no other way) and connects."""

    def __init__(self) -> None:
        os.environ.setdefault("RES_OPTIONS", _RESOLVER)
        self._pool = ThreadPoolExecutor(_LOOKUPS, thread_name_prefix="resolve")

    def close(self) -> None:
        """Start no more look-ups."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def dial(
        self, host: str, port: int, rule: Rule, turns: asyncio.Semaphore, seconds: float
    ) -> tuple[Wire, str]:
        """Connect to canonical ``host``; returns the connection and the address. Raises CantDial.

        One look-up; when any address it gives is forbidden nothing is dialled: such an answer is either
        an attack or a mistake in a name service that should be seen."""
        addresses = await self._resolve(host, port, turns)
        networks = [ipaddress.ip_network(n) for n in rule.addresses]
        for address in addresses:
            why = _refusal(address, networks)
            if why:
                what = host if str(address) == host else f"{host} ({address})"
                raise CantDial("address", 403, f"{what} is {why}: boxes are not connected to such addresses")
        problem = "no answer"
        for address in addresses[:_TRIES]:
            try:
                async with asyncio.timeout(seconds):
                    return await _connect(address, port), str(address)
            except TimeoutError:
                problem = "no answer in time"
            except OSError as e:
                problem = (e.strerror or str(e)).lower()
        raise CantDial("connect", 502, f"{host} port {port} can't be reached: {problem}")

    async def _resolve(self, host: str, port: int, turns: asyncio.Semaphore) -> list[Address]:
        if is_address(host):
            return [ipaddress.ip_address(host)]
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(_LOOKUP_SECONDS), turns:
                found = await loop.run_in_executor(self._pool, _look_up, host, port)
        except TimeoutError:
            raise CantDial("resolve", 504, f"the name {host} was not resolved in time") from None
        except OSError as e:
            why = e.strerror or "no address"
            raise CantDial("resolve", 502, f"the name {host} can't be resolved: {why}") from None
        if not found:
            raise CantDial("resolve", 502, f"the name {host} has no address")
        return found


def turns_of_a_box() -> asyncio.Semaphore:
    """How many look-ups one box may have under way."""
    return asyncio.Semaphore(_LOOKUPS_PER_BOX)


def _look_up(host: str, port: int) -> list[Address]:
    try:
        # Names of /etc/hosts, which have no final dot, come first. With the dot no search list of this
        # machine is tried.
        rows: list[Any] = _hosts(host) or socket.getaddrinfo(f"{host}.", port, type=socket.SOCK_STREAM)
    except UnicodeError:
        raise OSError(None, "that is no name") from None
    except socket.gaierror:
        if "." in host:
            raise
        rows = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [ipaddress.ip_address(str(row[4][0]).partition("%")[0]) for row in rows]


def _hosts(host: str) -> list[Any]:
    try:
        with open("/etc/hosts", encoding="utf-8", errors="replace") as file:
            lines = [line.partition("#")[0].split() for line in file]
    except OSError:
        lines = []
    return [(0, 0, 0, "", (line[0], 0)) for line in lines if host in (n.lower() for n in line[1:])]


def _refusal(address: Address, networks: list[Network]) -> str:
    why = forbidden(address, networks)
    if why:
        return f"{'an' if why[0] in 'aeiou' else 'a'} {why} address" if " " not in why else why
    if any(address in n for n in networks):
        return ""
    return "an address of the hub's own machine" if _is_own(address) else ""


def _is_own(address: Address) -> bool:
    """Whether this machine itself has ``address``: then the way to it begins and ends there."""
    family = socket.AF_INET6 if address.version == 6 else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((str(address), 9))  # sends nothing
            return ipaddress.ip_address(probe.getsockname()[0].partition("%")[0]) == address
    except OSError:
        return False  # there is no way to it at all; the connection will say so


async def _connect(address: Address, port: int) -> Wire:
    loop = asyncio.get_running_loop()
    family = socket.AF_INET6 if address.version == 6 else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await loop.sock_connect(sock, (str(address), port))
        _, wire = await loop.create_connection(Wire, sock=sock)
    except BaseException:
        sock.close()
        raise
    return wire
