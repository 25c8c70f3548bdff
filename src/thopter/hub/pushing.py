"""Brings a message to a browser's push service: to an address that was looked at, and to no other.

An endpoint is named by whoever is logged in, so it could name a machine of this network. It must be https at
443, its name must lead to public addresses only, and the connection goes to the address that was looked at,
not to one that the name may lead to a moment later. Redirects are not followed. ``page.push_hosts`` names
services of one's own network.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import ssl
import time
from collections.abc import Callable
from urllib.parse import urlsplit

import httpx2

from thopter.gateway.policy.addresses import forbidden
from thopter.kit.sanitize import one_line
from thopter.kit.secrets import SecretStore, secret
from thopter.kit.settings import Settings, split
from thopter.kit.webpush import authorization, b64, encrypt, fresh_key, private_key, public_point
from thopter.model.errors import BadInput, NotAllowed
from thopter.model.notes import Pushed, PushOrder

KEY = "page.push_key"
TIMEOUT = 30.0
_RESOLVE = 10.0
_TTL = "86400"
_ANSWER_MAX = 300


class Pusher:
    """One per hub."""

    def __init__(self, secrets: SecretStore, settings: Callable[[], Settings]) -> None:
        self._secrets = secrets
        self._settings = settings
        self._lock = asyncio.Lock()

    async def public(self) -> str:
        """The hub's public key for subscriptions; made, and kept as other secrets are, at first use."""
        return b64(public_point(private_key(await self._key())))

    async def _key(self) -> str:
        async with self._lock:
            found = await asyncio.to_thread(self._secrets.get, KEY)
            if found is not None:
                return found.secret
            made = fresh_key()
            await asyncio.to_thread(self._secrets.set, KEY, secret("plain", made))
            return made

    async def vet(self, endpoint: str) -> None:
        """BadInput or NotAllowed for an endpoint that notes must not go to; a name that leads nowhere just
        now is let pass, and looked at again whenever something is sent."""
        host, port = self._where(endpoint)
        try:
            await self._address(host, port)
        except OSError:
            return

    def _own(self) -> frozenset[str]:
        return frozenset(split(str(self._settings().get("page.push_hosts")).lower()))

    def _where(self, endpoint: str) -> tuple[str, int]:
        try:
            parts = urlsplit(endpoint)
            host, port = (parts.hostname or "").lower(), parts.port or 443
        except ValueError:
            raise BadInput("that is no address of a push service") from None
        plain = endpoint.isascii() and endpoint.isprintable() and " " not in endpoint
        if not plain or parts.scheme != "https" or not host or parts.username is not None or parts.fragment:
            raise BadInput("a push service is reached by https", hint="send what the browser says")
        if port != 443 and f"{host}:{port}" not in self._own():
            raise NotAllowed("a push service is at port 443", hint="see page.push_hosts")
        return host, port

    async def _address(self, host: str, port: int) -> str:
        """An address of that host to connect to; NotAllowed when any of them is not to be reached."""
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(_RESOLVE):
            found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        addresses = [str(info[4][0]) for info in found]
        if f"{host}:{port}" not in self._own() and host not in self._own():
            for address in addresses:
                why = forbidden(ipaddress.ip_address(address.partition("%")[0]))
                if why:
                    raise NotAllowed(
                        f"{host} is no push service: it leads to an address that is {why}",
                        hint="one of your own network is named in page.push_hosts",
                    )
        return addresses[0]

    async def send(self, order: PushOrder) -> Pushed:
        """Send one message. Bounded in time; never raises for what the other side does."""
        try:
            async with asyncio.timeout(TIMEOUT):
                return await self._send(order)
        except (BadInput, NotAllowed) as e:
            return Pushed(problem=e.message)
        except TimeoutError:
            return Pushed(problem=f"no answer within {TIMEOUT:.0f} s")
        except (OSError, httpx2.HTTPError) as e:
            return Pushed(problem=f"the push service can't be reached: {type(e).__name__}")

    async def _send(self, order: PushOrder) -> Pushed:
        host, port = self._where(order.endpoint)
        address = await self._address(host, port)
        key = private_key(await self._key())
        parts = urlsplit(order.endpoint)
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        at = f"[{address}]" if ":" in address else address
        headers = {
            "Host": parts.netloc,
            "TTL": _TTL,
            "Urgency": "high" if order.urgent else "normal",
            "Topic": order.topic,
            "Content-Encoding": "aes128gcm",
            "Content-Type": "application/octet-stream",
            "Accept-Encoding": "identity",
            "Authorization": authorization(key, order.endpoint, self._subject(), int(time.time())),
        }
        body = encrypt(order.payload, order.p256dh, order.auth)
        context = await asyncio.to_thread(ssl.create_default_context)
        async with (
            httpx2.AsyncClient(verify=context, trust_env=False, timeout=TIMEOUT) as client,
            client.stream(
                "POST", f"https://{at}:{port}{target}", content=body, headers=headers,
                extensions={"sni_hostname": host},
            ) as answer,
        ):  # fmt: skip
            return await _told(answer)

    def _subject(self) -> str:
        """Whom a push service may write to when something is wrong with us."""
        settings = self._settings()
        url, mail = str(settings.get("page.url")), str(settings.get("git.email"))
        if url.startswith("https:"):
            return url.rstrip("/")
        return f"mailto:{mail}" if mail else "https://thopter.invalid"


async def _told(answer: httpx2.Response) -> Pushed:
    if answer.status_code in (200, 201, 202, 204):
        return Pushed()
    if answer.status_code in (404, 410):
        return Pushed(problem="the device does not want notes any more", gone=True)
    said = b""
    async for piece in answer.aiter_raw():  # unpacked, a small answer could be a huge one
        said += piece
        if len(said) >= _ANSWER_MAX:
            break
    words = one_line(said[:_ANSWER_MAX].decode("utf-8", "replace"))
    return Pushed(problem=f"the push service answered {answer.status_code} {words}".strip())
