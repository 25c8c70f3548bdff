"""From checked tables to policies: names become rules, contradictions become problems."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from thopter.gateway.http1 import safe_value
from thopter.gateway.policy import keys
from thopter.gateway.policy.commands import read_commands
from thopter.gateway.policy.globs import bad_glob
from thopter.gateway.policy.hosts import BadHost, canonical_host, canonical_pattern
from thopter.gateway.policy.model import Credential, GitRights, Policy, Rule
from thopter.gateway.policy.paths import check_pattern
from thopter.gateway.policy.read import NAME, Checker
from thopter.gateway.policy.registries import METHODS, QUERY_MAX, REGISTRIES

_METHOD = re.compile(r"[A-Z]{1,16}")
_HEADER = re.compile(r"[a-z][a-z0-9-]{0,63}")
_SECRET = re.compile(r"[a-z0-9][a-z0-9._-]{0,99}")
_ENV = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
_ENV_OURS = frozenset(
    {"HOME", "PATH", "SHELL", "USER", "TERM", "PWD", "IFS", "BASH_ENV", "ENV", "LD_PRELOAD",
     "LD_LIBRARY_PATH", "ANTHROPIC_BASE_URL", "ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN",
     "CLAUDE_CODE_OAUTH_TOKEN"}
)  # fmt: skip
_FRAMING = frozenset(
    {"host", "content-length", "transfer-encoding", "connection", "upgrade", "te", "trailer", "expect"}
)
Where = tuple[str | int, ...]


def registry_rules(names: Iterable[str], addresses: tuple[str, ...] = ()) -> tuple[Rule, ...]:
    """The rules behind ``registries``: reading only, no long queries, nobody's credentials."""
    return tuple(
        Rule(
            name=f"registry {name}",
            hosts=REGISTRIES[name].hosts,
            ports=(80, 443) if REGISTRIES[name].plain else (443,),
            methods=METHODS,
            inspect=True,
            plain=REGISTRIES[name].plain,
            query_max=QUERY_MAX,
            addresses=addresses,
        )
        for name in names
    )


def build_policies(
    check: Checker, raw: Mapping[str, Any], shipped: Mapping[str, Policy]
) -> dict[str, Policy]:
    """Every policy of the file and every shipped one that it does not replace."""
    done: dict[str, Policy] = {}

    def get(name: str, chain: tuple[str, ...]) -> Policy | None:
        if name in done:
            return done[name]
        where: Where = ("policies", chain[-1] if chain else name, "extends")
        if name in chain:
            # A policy that extends its own name means the shipped one of that name.
            if name in shipped and name == chain[-1]:
                return shipped[name]
            check.bad(where, f"{' extends '.join((*chain, name))}: a circle")
            return None
        if name not in raw:
            if name not in shipped:
                check.bad(where, f"there is no policy {name!r}")
                return None
            return shipped[name]
        table = check.table(("policies", name), raw[name], keys.POLICY)
        base = get(table["extends"], (*chain, name)) if table.get("extends") else Policy(name=name)
        if base is None:
            return None
        done[name] = _policy(check, name, table, base)
        return done[name]

    for name in raw:
        if not NAME.fullmatch(name):
            check.bad(("policies", name), "a policy's name has small letters, digits, '-' and '_'")
            continue
        get(name, ())
    return {**shipped, **done}


def _policy(check: Checker, name: str, table: Mapping[str, Any], base: Policy) -> Policy:
    where: Where = ("policies", name)
    read = (_credential(check, where, n, v) for n, v in table.get("credentials", {}).items())
    own = [_over(check, where, c, base) for c in read if c]
    new = {c.name for c in own}
    credentials = (*(c for c in base.credentials if c.name not in new), *own)
    registries = tuple(dict.fromkeys((*base.registries, *table.get("registries", ()))))
    nets = _networks(check, (*where, "registry_addresses"), table.get("registry_addresses", ()))
    nets = nets or base.registry_addresses
    rules = [
        rule
        for at, item in enumerate(table.get("hosts", ()))
        if (rule := _rule(check, (*where, "hosts", at), at, item, credentials))
    ]
    kept = tuple(r for r in base.rules if not r.name.startswith("registry "))
    deny = (*base.deny, *_patterns(check, (*where, "deny"), table.get("deny", ())))
    simple = {k: table[k] for k in ("doc", "unknown", "isolation") if k in table}
    if "ask_seconds" in table:
        simple["ask_seconds"] = int(table["ask_seconds"])
    policy = msgspec.structs.replace(
        base,
        name=name,
        rules=(*kept, *registry_rules(registries, nets), *rules),
        deny=deny,
        registries=registries,
        registry_addresses=nets,
        credentials=credentials,
        git=_git_rights(check, (*where, "git"), table, base, credentials),
        budgets=_group(check, (*where, "budgets"), table, base.budgets, keys.BUDGETS),
        limits=_group(check, (*where, "limits"), table, base.limits, keys.LIMITS),
        box=_group(check, (*where, "box"), table, base.box, keys.BOX),
        commands=read_commands(check, (*where, "commands"), table.get("commands", {}), base.commands),
        **simple,
    )
    _contradictions(check, where, policy, rules)
    return policy


def _group(
    check: Checker, where: Where, table: Mapping[str, Any], base: Any, known: Mapping[str, keys.Key]
) -> Any:
    """One of the small tables: its values over those of the policy it starts from."""
    found = check.table(where, table.get(str(where[-1]), {}), known)
    kinds: dict[str, Any] = {f.name: f.type for f in msgspec.structs.fields(type(base))}
    for key, value in found.items():
        if kinds[key] in (int, "int") and value != int(value):
            check.bad((*where, key), f"{key}: a whole number is needed")  # 0.5 would become 0: no bound
    if found.get("connections") == 0:
        check.bad((*where, "connections"), "connections: at least one is needed")
    if found.get("push_mb") == 0:
        check.bad((*where, "push_mb"), 'push_mb: to forbid pushes, say push = "none"')
    clean = {k: tuple(str(i) for i in v) if isinstance(v, list) else v for k, v in found.items()}
    return msgspec.structs.replace(base, **{k: _as(kinds[k], v) for k, v in clean.items()})


def _as(kind: Any, value: Any) -> Any:
    return kind(value) if kind in (int, float, bool) else value


def _git_rights(check: Checker, where: Where, table: Mapping[str, Any], base: Policy, own: Any) -> GitRights:
    """The table ``git``: its patterns can be matched, and its credential is one of the policy's."""
    rights: GitRights = _group(check, where, table, base.git, keys.GIT)
    for key in ("protected", "secrets_in"):
        for pattern in getattr(rights, key):
            why = bad_glob(pattern)
            if why:
                check.bad((*where, key), f"{pattern[:60]!r}: {why}")
    if rights.credential and rights.credential not in {c.name for c in own}:
        check.bad((*where, "credential"), f"there is no credential {rights.credential[:40]!r}")
    return rights


def _patterns(check: Checker, where: Where, raw: Iterable[Any]) -> tuple[str, ...]:
    found = []
    for item in raw:
        try:
            found.append(canonical_pattern(str(item)))
        except BadHost as e:
            check.bad(where, f"{str(item)[:60]!r}: {e}{_ascii(str(item))}")
    return tuple(found)


def _ascii(host: str) -> str:
    """The form in which an international name must be written, when there is one."""
    if host.isascii():
        return ""
    try:
        return f"; that is {host.encode('idna').decode()!r}"
    except UnicodeError:
        return ""


def _credential(check: Checker, where: Where, name: str, raw: Any) -> Credential | None:
    here: Where = (*where, "credentials", name)
    before = len(check.problems)
    table = check.table(here, raw, keys.CREDENTIAL)
    hosts = []
    for item in table.get("hosts", ()):
        try:
            hosts.append(canonical_host(str(item)))
        except BadHost as e:
            check.bad((*here, "hosts"), f"{str(item)[:60]!r}: {e} (a credential has exact hosts)")
    header = table.get("header", "authorization").lower()
    form = table.get("format", "Bearer {}")
    if not table.get("secret") or not _SECRET.fullmatch(table["secret"]):
        check.bad((*here, "secret"), "secret: the name of a secret is needed")
    if not hosts:
        check.bad((*here, "hosts"), "hosts: say where this may be used")
    if not _HEADER.fullmatch(header) or header in _FRAMING:
        check.bad((*here, "header"), f"{header[:40]!r} can't carry a credential")
    env = table.get("env", "")
    if env and (not _ENV.fullmatch(env) or env in _ENV_OURS):
        check.bad((*here, "env"), f"env: {env[:40]!r} can't be such a variable")
    if form.count("{}") != 1 or not safe_value(form) or form != form.strip():
        check.bad((*here, "format"), "format: plain text with exactly one {}")
    if len(check.problems) > before:
        return None
    return Credential(
        name=name, secret=table["secret"], hosts=tuple(hosts), header=header, format=form, env=env
    )


def _over(check: Checker, where: Where, own: Credential, base: Policy) -> Credential:
    """A credential over one of its name that is inherited: the same secret in the same words keeps its
    hosts. Another one must have them, or rules that are inherited would be left without."""
    old = next((c for c in base.credentials if c.name == own.name), None)
    if old is None:
        return own
    if (old.secret, old.header, old.format) == (own.secret, own.header, own.format):
        return msgspec.structs.replace(own, hosts=tuple(dict.fromkeys((*old.hosts, *own.hosts))))
    used = {h for rule in base.rules if rule.credential == own.name for h in rule.hosts}
    for host in sorted(used - set(own.hosts)):
        check.bad((*where, "credentials", own.name), f"what this policy extends uses {own.name} on {host}")
    return own


def _rule(check: Checker, where: Where, at: int, raw: Any, credentials: Iterable[Credential]) -> Rule | None:
    before = len(check.problems)
    table = check.table(where, raw, keys.HOST)
    hosts = _patterns(check, (*where, "host"), table.get("host", ()))
    if "host" not in table:
        check.bad(where, "host: which one?")
    methods = tuple(str(m) for m in table.get("methods", ()))
    if not all(_METHOD.fullmatch(m) for m in methods) or "CONNECT" in methods:
        check.bad((*where, "methods"), "methods are words in capitals, such as GET")
    paths = tuple(str(p) for p in table.get("paths", ()))
    for path in paths:
        why = check_pattern(path)
        if why:
            check.bad((*where, "paths"), f"{path[:60]!r}: {why}")
    plain = table.get("plain", False)
    ports = _ports(check, where, table.get("ports", (80, 443) if plain else (443,)))
    name = table.get("credential", "")
    look = bool(methods or paths or name or table.get("inspect"))
    tls = table.get("tls", True)
    _rule_contradictions(check, where, table, look)
    _uses(check, where, name, hosts, credentials)
    addresses = _networks(check, (*where, "addresses"), table.get("addresses", ()))
    if not tls and tls is not None:
        check.warn((*where, "tls"), "what goes through this tunnel can't be looked at")
    elif not look:
        check.warn(
            (*where, "host"),
            f"{', '.join(hosts)}: an opaque tunnel; the box may log in there as anybody and send anything. "
            "'inspect', 'methods' or 'paths' would narrow it",
        )
    if len(check.problems) > before:
        return None
    return Rule(
        name=f"hosts[{at}]",
        hosts=hosts,
        ports=ports,
        methods=methods,
        paths=paths,
        credential=name,
        inspect=look,
        plain=plain,
        tls=tls,
        ech=table.get("ech", False),
        client_credentials=table.get("client_credentials", False),
        addresses=addresses,
        query_max=int(table.get("query_max", 4096)),
    )


def _rule_contradictions(check: Checker, where: Where, table: Mapping[str, Any], look: bool) -> None:
    if not table.get("tls", True) and (look or table.get("plain")):
        check.bad((*where, "tls"), "tls = false contradicts keys that look into the traffic")
    if table.get("inspect") is False and look:
        check.bad((*where, "inspect"), "inspect = false contradicts methods, paths or a credential")
    if table.get("ech") and look:
        check.bad((*where, "ech"), "ech contradicts keys that open TLS: the gateway is the other end")
    if table.get("credential") and table.get("plain"):
        check.bad((*where, "plain"), "a credential is never sent by http://")
    if table.get("credential") and table.get("client_credentials"):
        check.bad((*where, "client_credentials"), "the box's own credentials contradict an added one")


def _uses(
    check: Checker, where: Where, name: str, hosts: tuple[str, ...], credentials: Iterable[Credential]
) -> None:
    if not name:
        return
    found = next((c for c in credentials if c.name == name), None)
    if found is None:
        check.bad((*where, "credential"), f"there is no credential {name[:40]!r}")
        return
    for host in hosts:
        if host not in found.hosts:
            check.bad((*where, "credential"), f"credential {name} may not be used on {host}")


def _ports(check: Checker, where: Where, raw: Iterable[Any]) -> tuple[int, ...]:
    found = []
    for item in raw:
        if not str(item).isdigit() or not 0 < int(item) < 65536:
            check.bad((*where, "ports"), f"{str(item)[:20]!r} is no port")
            continue
        found.append(int(item))
    return tuple(found)


def _networks(check: Checker, where: Where, raw: Iterable[Any]) -> tuple[str, ...]:
    found = []
    for item in raw:
        try:
            network = ipaddress.ip_network(str(item))
        except ValueError:
            check.bad(where, f"{str(item)[:60]!r} is no network such as 10.1.0.0/16")
            continue
        if network.prefixlen < 8:
            check.bad(where, f"{network} is far too wide")
        if network.is_loopback:
            check.warn(where, f"{network}: services of the hub's own machine are reached")
        found.append(str(network))
    return tuple(found)


def _contradictions(check: Checker, where: Where, policy: Policy, own: list[Rule]) -> None:
    """Rules that say two things about one host."""
    inspected = {h: r for r in policy.rules if r.inspect for h in r.hosts}
    for rule in own:
        here: Where = (*where, "hosts", int(rule.name[6:-1]))
        for host in rule.hosts:
            if host in policy.deny:
                check.bad((*here, "host"), f"{host} is allowed here and denied by 'deny'")
            other = inspected.get(host)
            if not rule.inspect and other is not None and set(other.ports) & set(rule.ports):
                check.bad((*here, "host"), f"{host} is open here and looked into by {other.name}")
