"""The hub's API: one table of routes, put together from one file for each noun."""

from __future__ import annotations

from thopter.hub.api import (
    approvals,
    audit,
    doctor,
    egress,
    events,
    flows,
    hub,
    log,
    notes,
    pool,
    ports,
    secrets,
    sleep,
    snapshots,
    talk,
    thopters,
    tokens,
    usage,
    variables,
    work,
)

ROUTES = (
    *hub.ROUTES,
    *thopters.ROUTES,
    *talk.ROUTES,
    *work.ROUTES,
    *approvals.ROUTES,
    *usage.ROUTES,
    *ports.ROUTES,
    *snapshots.ROUTES,
    *sleep.ROUTES,
    *variables.ROUTES,
    *flows.ROUTES,
    *events.ROUTES,
    *doctor.ROUTES,
    *notes.ROUTES,
    *log.ROUTES,
    *egress.ROUTES,
    *secrets.ROUTES,
    *tokens.ROUTES,
    *pool.ROUTES,
    *audit.ROUTES,
)
