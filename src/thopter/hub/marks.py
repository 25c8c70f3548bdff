"""Marks of the operator's secrets, by which the git gateway recognizes them in pushes without having them."""

from __future__ import annotations

import logging

from thopter.gateway.git.shapes import marks
from thopter.kit.secrets import SecretStore
from thopter.model.errors import ThopterError

log = logging.getLogger(__name__)
_MOST = 1000


class Marks:
    """Of every secret in the store; made anew when the store changes."""

    def __init__(self, secrets: SecretStore) -> None:
        self._secrets = secrets
        self._stamp: object = None
        self._found: list[str] = []

    def all(self) -> list[str]:
        """The marks now; a secret that can't be read (a locked keyring) is left out and tried again.
        Blocking."""
        stamp = self._secrets.stamp()
        if stamp == self._stamp:
            return self._found
        found: dict[str, None] = {}
        whole = True
        try:
            for name in self._secrets.names():
                whole = self._add(name, found) and whole
        except ThopterError as e:
            log.warning("pushes are not searched for the operator's own secrets: %s", e.message)
            whole = False
        self._found = list(found)
        self._stamp = stamp if whole else None
        return self._found

    def _add(self, name: str, found: dict[str, None]) -> bool:
        """False when it has to be tried again. What can't be recognized is said when the store changed."""
        try:
            secret = self._secrets.get(name)
        except ThopterError as e:
            log.warning("pushes are not searched for the secret %s: %s", name, e.message)
            return False
        of_this = marks(secret.secret) if secret is not None else []
        if len(found.keys() | of_this) > _MOST:
            log.warning("pushes are not searched for the secret %s: there are too many secrets", name)
        elif secret is not None and not of_this:
            log.warning("pushes are not searched for the secret %s: it is too short to be known by", name)
        else:
            found.update(dict.fromkeys(of_this))
        return True
