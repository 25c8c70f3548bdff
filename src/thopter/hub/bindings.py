"""Bindings of secrets as they stand in a policy file: read out of policies, written and taken out by hand
of a careful person (everything else stays as it was written)."""

from __future__ import annotations

from typing import Any

from thopter.gateway.policy.model import Policy
from thopter.hub.shelf_edit import spelt
from thopter.kit.secrets import check_secret_name
from thopter.model.api.secrets import Binding, BindRequest
from thopter.model.errors import BadInput, Refused


def binding_of(req: BindRequest, policy: str, host: str) -> Binding:
    """What a request asks for; BadInput for what the file's reader would not name well."""
    check_secret_name(req.name)
    if not req.header.strip():
        raise BadInput("the header has no name", hint="e.g. --header 'Authorization: Bearer {}'")
    return Binding(
        policy=policy,
        name=req.name,
        host=host,
        port=req.port,
        header=req.header.strip().lower(),
        format=req.format.strip(),
        methods=tuple(m.upper() for m in req.methods),
        paths=tuple(req.paths),
        addresses=tuple(req.addresses),
        env=req.env or "",
    )


def bindings_of(policy: Policy) -> list[Binding]:
    """Every place at which a policy lets a secret be used."""
    known = {c.name: c for c in policy.credentials}
    return [
        Binding(
            policy=policy.name,
            name=known[rule.credential].secret,
            host=host,
            port=port,
            header=known[rule.credential].header,
            format=known[rule.credential].format,
            methods=rule.methods,
            paths=rule.paths,
            addresses=rule.addresses,
            env=known[rule.credential].env,
        )
        for rule in policy.rules
        if rule.credential in known
        for host in rule.hosts
        for port in rule.ports
    ]


def with_binding(text: str, binding: Binding) -> str:
    """Return ``text`` with the binding in its policy (made, on top of the shipped one, when it is not in
    the text). Again on the same host and port: the later one counts. Refused when that can't be done."""
    import tomlkit
    from tomlkit.exceptions import TOMLKitError

    try:
        document = tomlkit.parse(text)
        table = _policy(document, binding.policy)
        credentials: Any = table.setdefault("credentials", tomlkit.table(is_super_table=True))
        known = credentials.get(binding.name)
        if known is not None and known.get("secret") != binding.name:
            raise Refused(f"policy {binding.policy} has another credential of the name {binding.name}")
        fresh = tomlkit.table()
        fresh["secret"] = binding.name
        kept = [str(h) for h in known.get("hosts", [])] if known is not None else []
        fresh["hosts"] = list(dict.fromkeys([*kept, spelt(binding.host)]))
        fresh["header"], fresh["format"] = binding.header, binding.format
        if binding.env:
            fresh["env"] = binding.env
        credentials[binding.name] = fresh
        _drop(table, binding.name, spelt(binding.host), binding.port)
        hosts = table.get("hosts")
        item: Any = tomlkit.table()
        if hosts is None:
            table["hosts"] = tomlkit.aot()
            hosts = table["hosts"]
        elif not isinstance(hosts, tomlkit.items.AoT):
            item = tomlkit.inline_table()
        item["host"], item["ports"], item["credential"] = spelt(binding.host), [binding.port], binding.name
        for key in ("methods", "paths", "addresses"):
            if getattr(binding, key):
                item[key] = list(getattr(binding, key))
        hosts.append(item)
        return tomlkit.dumps(document)
    except (TOMLKitError, TypeError, AttributeError, KeyError) as e:
        raise Refused(f"policy.toml can't be changed: {e}", hint="mend it by hand") from None


def without_bindings(text: str, secret: str, host: str, policy: str) -> tuple[str, set[tuple[str, str]]]:
    """Return ``text`` without the bindings of a secret (on ``host`` and in ``policy``, where given), and
    the (policy, host) they were at. A credential without a host goes too."""
    import tomlkit
    from tomlkit.exceptions import TOMLKitError

    gone: set[tuple[str, str]] = set()
    try:
        document = tomlkit.parse(text)
        for name, table in document.get("policies", {}).items():
            if policy not in ("", name):
                continue
            credentials = table.get("credentials", {})
            for credential in [c for c, v in credentials.items() if v.get("secret") == secret]:
                dropped = _drop(table, credential, host and spelt(host), 0)
                gone |= {(name, h.removeprefix("[").removesuffix("]")) for h in dropped}
                left = [h for rule in table.get("hosts", []) if rule.get("credential") == credential
                        for h in _names(rule)]  # fmt: skip
                if left:
                    credentials[credential]["hosts"] = list(dict.fromkeys(left))
                else:
                    del credentials[credential]
        return tomlkit.dumps(document), gone
    except (TOMLKitError, TypeError, AttributeError, KeyError) as e:
        raise Refused(f"policy.toml can't be changed: {e}", hint="mend it by hand") from None


def _policy(document: Any, name: str) -> Any:
    import tomlkit

    policies = document.setdefault("policies", tomlkit.table(is_super_table=True))
    if name not in policies:
        fresh = tomlkit.table()
        fresh["extends"] = name
        policies[name] = fresh
    return policies[name]


def _names(rule: Any) -> list[str]:
    value = rule.get("host", [])
    return [str(v) for v in value] if isinstance(value, list) else [str(value)]


def _drop(table: Any, credential: str, host: str, port: int) -> list[str]:
    """Take ``host`` (empty: every one) out of the rules that use a credential; returns what went."""
    gone: list[str] = []
    hosts = table.get("hosts")
    for at in reversed(range(len(hosts or []))):
        rule = hosts[at]
        if rule.get("credential") != credential or (port and list(rule.get("ports", [443])) != [port]):
            continue
        names = _names(rule)
        left = [n for n in names if host and n != host]
        gone += [n for n in names if n not in left]
        if not left:
            del hosts[at]
        elif left != names:
            rule["host"] = left
    return gone
