"""Adds a host to a policy file as a careful person would: everything else stays as it was written."""

from __future__ import annotations

from typing import Any

from thopter.model.errors import Refused


def spelt(host: str) -> str:
    """A canonical host as a policy file has it."""
    return f"[{host}]" if ":" in host else host


def with_host(text: str, policy: str, host: str, port: int) -> str:
    """Return ``text`` with one more host in ``policy`` (made, on top of the shipped one, when it is not in
    the text). Twice is once. Raises Refused when the text is not what can be added to."""
    host = spelt(host)
    import tomlkit  # dear, and seldom needed
    from tomlkit.exceptions import TOMLKitError

    try:
        document = tomlkit.parse(text)
        policies = document.setdefault("policies", tomlkit.table(is_super_table=True))
        if policy not in policies:
            fresh = tomlkit.table()
            fresh["extends"] = policy
            policies[policy] = fresh
        table: Any = policies[policy]
        hosts = table.get("hosts")
        if any(h.get("host") == host and list(h.get("ports", [])) == [port] for h in hosts or []):
            return text
        if hosts is not None and not isinstance(hosts, tomlkit.items.AoT):
            item: Any = tomlkit.inline_table()
        else:
            item = tomlkit.table()
            if hosts is None:
                hosts = table["hosts"] = tomlkit.aot()
                hosts = table["hosts"]
        item["host"], item["ports"] = host, [port]
        if port == 80:
            item["plain"] = True
        elif port != 443:
            item["tls"] = False
        hosts.append(item)
        return tomlkit.dumps(document)
    except (TOMLKitError, TypeError, AttributeError, KeyError) as e:
        raise Refused(f"policy.toml can't be changed: {e}", hint="mend it by hand") from None
