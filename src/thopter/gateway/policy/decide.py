"""May this box do that? One pure function, the only place where it is decided."""

from __future__ import annotations

from thopter.gateway.policy.hosts import BadHost, canonical_host, matches, specificity
from thopter.gateway.policy.model import Allow, Ask, Decision, Deny, Policy, Request, Rule
from thopter.gateway.policy.paths import ambiguous, bad_path, path_matches, split_target


def decide(request: Request, policy: Policy) -> Decision:
    """Hold one wish against a policy. Everything not allowed is denied, with the reason.

    The most specific host pattern decides: an exact host before ``*.suffix``, a longer suffix before a
    shorter one; rules of equal rank add up, those with a credential first.
    """
    try:
        host = canonical_host(request.host)
    except BadHost as e:
        return Deny(code="bad_host", reason=str(e), host=request.host[:100])
    port = request.port
    if not 0 < port < 65536:
        return Deny(code="bad_port", reason="there is no such port", host=host)
    for pattern in policy.deny:
        if matches(pattern, host):
            return Deny(code="host_denied", reason=f"policy {policy.name} denies {pattern}", host=host)
    rules = _rules_for(host, policy)
    if not rules:
        if policy.unknown == "ask":
            return Ask(host=host, port=port, reason=f"policy {policy.name} asks about {host}")
        return Deny(code="host_unknown", reason=f"policy {policy.name} does not allow {host}", host=host)
    rules = [r for r in rules if port in r.ports]
    if not rules:
        return Deny(
            code="port", reason=f"policy {policy.name} does not allow port {port} of {host}", host=host
        )
    if request.scheme == "connect":
        return Allow(host=host, port=port, rule=_tunnel(rules), inspect=any(r.inspect for r in rules))
    return _request(request, host, rules)


def _rules_for(host: str, policy: Policy) -> list[Rule]:
    """The rules whose best pattern for ``host`` is as specific as any."""
    ranked = [
        (max((specificity(p) for p in rule.hosts if matches(p, host)), default=0), rule)
        for rule in policy.rules
    ]
    best = max((rank for rank, _ in ranked), default=0)
    found = [rule for rank, rule in ranked if rank == best and best > 0]
    return sorted(found, key=lambda rule: not rule.credential)


def _tunnel(rules: list[Rule]) -> Rule:
    """The strictest of the rules that a tunnel may be opened by."""
    return min(rules, key=lambda r: (not r.inspect, not r.tls, r.ech))


def _request(request: Request, host: str, rules: list[Rule]) -> Decision:
    path, query = split_target(request.target)
    why = bad_path(path)
    if why:
        return Deny(code="bad_path", reason=why, host=host)
    denied: Deny | None = None
    for rule in rules:
        verdict = _by_rule(request, host, rule, path, query)
        if isinstance(verdict, Allow):
            return verdict
        denied = denied or verdict
    assert denied is not None  # there is at least one rule
    return denied


def _by_rule(request: Request, host: str, rule: Rule, path: str, query: str) -> Allow | Deny:
    if request.scheme == "http" and not rule.plain:
        return Deny(code="plain_http", reason=f"{host} may be reached by https only", host=host)
    if rule.methods and request.method not in rule.methods:
        allowed = ", ".join(rule.methods)
        return Deny(code="method", reason=f"{request.method} is not allowed on {host}: {allowed}", host=host)
    if rule.paths:
        why = ambiguous(path)
        if why:
            return Deny(code="bad_path", reason=why, host=host)
        if not any(path_matches(p, path) for p in rule.paths):
            return Deny(code="path", reason=f"that path of {host} is not allowed", host=host)
    if len(query) > rule.query_max:
        return Deny(code="query", reason=f"the query is over {rule.query_max} bytes", host=host)
    if rule.read_only and request.has_body:
        return Deny(code="body", reason=f"a request to {host} may have no body", host=host)
    return Allow(host=host, port=request.port, rule=rule)
