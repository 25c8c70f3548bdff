"""Which password goes upstream with a push or a fetch: the policy's credential, for its own hosts alone."""

from __future__ import annotations

from urllib.parse import urlsplit

from thopter.gateway.policy.hosts import BadHost, canonical_host
from thopter.hub.shelf import Shelf
from thopter.kit.secrets import SecretStore
from thopter.model.errors import NotAllowed


class Logins:
    """Looked up anew each time, so a rotated secret is used at once."""

    def __init__(self, shelf: Shelf, secrets: SecretStore) -> None:
        self._shelf = shelf
        self._secrets = secrets

    def password(self, policy: str, source: str) -> str | None:
        """The password for the https address ``source``; None: the policy names none, so the operator's own
        login counts. NotAllowed: it may not be used there, or is not in the store. Blocking."""
        found = self._shelf.get(policy)
        if not found.git.credential:
            return None
        credential = next(c for c in found.credentials if c.name == found.git.credential)
        try:
            host = canonical_host(urlsplit(source).hostname or "")
        except (BadHost, ValueError):
            host = ""
        if host not in credential.hosts:
            raise NotAllowed(
                f"policy {policy} lets credential {credential.name} not go to {host or 'there'}",
                hint=f"add the host to [policies.{policy}.credentials.{credential.name}]",
            )
        secret = self._secrets.get(credential.secret)
        if secret is None:
            raise NotAllowed(
                f"there is no secret {credential.secret}", hint=f"thopter secrets set {credential.secret}"
            )
        return secret.secret
