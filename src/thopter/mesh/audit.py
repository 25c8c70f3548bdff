"""The calls about the audit; see :class:`thopter.mesh.client.HubClient` for what all promise."""

from __future__ import annotations

from typing import IO

from thopter.mesh.client import HubClient
from thopter.mesh.http import query
from thopter.model.api.audit import AuditPage, AuditVerdict

_PATIENCE_S = 600.0  # for a chain of millions


def page(
    hub: HubClient, *, after: int = 0, last: int = 0, box: str = "", kind: str = "", since_ms: int = 0,
    wait_ms: int = 0,
) -> AuditPage:  # fmt: skip
    """Records after a number, or the ``last`` ones; waits ``wait_ms`` at most for the first."""
    words = query(after=after, last=last, box=box, kind=kind, since_ms=since_ms, wait_ms=wait_ms)
    return hub._get("/v1/audit" + words, AuditPage)


def verify(hub: HubClient, expect: str = "") -> AuditVerdict:
    """Look over the whole chain."""
    return hub._get("/v1/audit/verify" + query(expect=expect), AuditVerdict, timeout=_PATIENCE_S)


def export(hub: HubClient, out: IO[bytes]) -> int:
    """Write all of it, a line each; returns the size."""
    return hub._stream(hub._call("GET", "/v1/audit/export", timeout=60.0), out)
