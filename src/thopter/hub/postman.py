"""Where notes go: the addresses (settings and the secret store) and the sending itself."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from urllib.parse import quote, urlencode, urlsplit

from thopter.hub.pushing import Pusher
from thopter.kit.push import Message, push, shown
from thopter.kit.secrets import SecretStore
from thopter.kit.settings import Settings
from thopter.model.api.notes import Target
from thopter.model.errors import BadInput, ThopterError
from thopter.model.notes import Letter, NoteKind, Pushed, PushOrder

NTFY = "ntfy"
NTFY_TOKEN = "notify.ntfy.token"
PREFIX = "notify.target."
_TOPIC = re.compile(r"[-_A-Za-z0-9]{1,64}")
_KINDS = {NoteKind.FAILED: "failure", NoteKind.DONE: "success", NoteKind.STUCK: "warning"}


class Postman:
    """See ``fleet.ports.Postman``. Reads settings and secrets anew for every letter."""

    def __init__(self, secrets: SecretStore, settings: Callable[[], Settings]) -> None:
        self._secrets = secrets
        self._settings = settings
        self._pusher = Pusher(secrets, settings)

    async def names(self) -> list[str]:
        """Targets by name; the ntfy topic of the settings first."""
        return await asyncio.to_thread(self._names)

    def _names(self) -> list[str]:
        others = [n.removeprefix(PREFIX) for n in self._secrets.names() if n.startswith(PREFIX)]
        return ([NTFY] if self._settings().get("notify.ntfy_topic") else []) + others

    async def targets(self) -> list[Target]:
        """The same with their addresses, no secret in them."""
        return await asyncio.to_thread(lambda: [self._target(n) for n in self._names()])

    def _target(self, name: str) -> Target:
        try:
            address = self._address(name, Letter(title=""))
            if name == NTFY:
                settings = self._settings()
                server = str(settings.get("notify.ntfy_server")).rstrip("/")
                return Target(name=name, address=f"{server}/{settings.get('notify.ntfy_topic')}")
            return Target(name=name, address=shown(address))
        except ThopterError as e:
            return Target(name=name, problem=e.message)

    async def post(self, target: str, kind: NoteKind, letter: Letter) -> str:
        """See the port."""
        try:
            url = await asyncio.to_thread(self._address, target, letter)
        except ThopterError as e:
            return e.message
        return await push(
            Message(url=url, title=letter.title, body=letter.body, kind=_KINDS.get(kind, "info"))
        )

    async def push(self, order: PushOrder) -> Pushed:
        """See the port."""
        return await self._pusher.send(order)

    async def push_key(self) -> str:
        """See the port."""
        return await self._pusher.public()

    async def vet(self, endpoint: str) -> None:
        """See the port."""
        await self._pusher.vet(endpoint)

    def _address(self, name: str, letter: Letter) -> str:
        if name == NTFY:
            token = self._secrets.get(NTFY_TOKEN)
            return ntfy_url(self._settings(), token.secret if token else "", letter)
        found = self._secrets.get(PREFIX + name)
        if found is None:
            raise BadInput(f"there is no target {name!r} any more", hint="see 'thopter notify targets'")
        return found.secret


def ntfy_url(settings: Settings, token: str, letter: Letter) -> str:
    """Return the address of the topic as apprise writes it, with all that belongs to this letter."""
    server, topic = str(settings.get("notify.ntfy_server")), str(settings.get("notify.ntfy_topic"))
    if not _TOPIC.fullmatch(topic):
        raise BadInput(f"notify.ntfy_topic = {topic!r} is no topic", hint="up to 64 of A-Z a-z 0-9 - _")
    try:
        parts = urlsplit(server)
        port = parts.port
    except ValueError:
        raise BadInput(f"notify.ntfy_server = {server!r} is no address") from None
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.path.strip("/") or parts.username:
        raise BadInput(
            f"notify.ntfy_server = {server!r} is no address of an ntfy server", hint="like https://ntfy.sh"
        )
    options = {"mode": "private", "image": "no", "priority": letter.priority}
    if letter.tags:
        options["xtags"] = letter.tags
    if letter.click:
        options["click"] = letter.click
    if token:
        options |= {"auth": "token", "token": token}
    scheme = "ntfys" if parts.scheme == "https" else "ntfy"
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    where = f"{host}{f':{port}' if port else ''}"
    return f"{scheme}://{where}/{quote(topic)}?{urlencode(options)}"
