"""Which password goes upstream with a push or a fetch: the policy's credential, for its own hosts alone.

It is the secret itself, or what its GitHub App gives for the one repository.
"""

from __future__ import annotations

from urllib.parse import urlsplit

from thopter.gateway.login import NotThere
from thopter.gateway.policy.hosts import BadHost, canonical_host
from thopter.hub.github_app import AppTokens
from thopter.hub.shelf import Shelf
from thopter.kit import github_app
from thopter.kit.secrets import SecretStore
from thopter.model.errors import NotAllowed


class Logins:
    """Looked up anew each time, so a rotated secret is used at once."""

    def __init__(self, shelf: Shelf, secrets: SecretStore, apps: AppTokens | None = None) -> None:
        self._shelf = shelf
        self._secrets = secrets
        self._apps = apps or AppTokens()

    def password(self, policy: str, source: str) -> str | None:
        """The password for the https address ``source``; None: the policy names none, so the operator's own
        login counts. NotThere: it may not be used there; NotAllowed: it is not in the store, or is no good;
        LoginLater: its App can't be asked now. Blocking."""
        found = self._shelf.get(policy)
        if not found.git.credential:
            return None
        credential = next(c for c in found.credentials if c.name == found.git.credential)
        try:
            host = canonical_host(urlsplit(source).hostname or "")
        except (BadHost, ValueError):
            host = ""
        if host not in credential.hosts:
            raise NotThere(
                f"policy {policy} lets credential {credential.name} not go to {host or 'there'}",
                hint=f"add the host to [policies.{policy}.credentials.{credential.name}]",
            )
        secret = self._secrets.get(credential.secret)
        if secret is None:
            raise NotAllowed(
                f"there is no secret {credential.secret}", hint=f"thopter secrets set {credential.secret}"
            )
        if secret.kind == github_app.KIND:
            return self._apps.token(github_app.from_secret(secret), source)
        return secret.secret

    def refused(self, policy: str, source: str, password: str) -> bool:
        """``password`` was not taken there: whether there is another one now (the secret was changed, an App
        gives another token). Raises as :meth:`password`. Blocking."""
        self._apps.forget(password)
        return self.password(policy, source) not in (None, password)
