"""Every key that a policy file may have, with its type, its sentence, and what enforces it."""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from thopter.gateway.policy.registries import REGISTRIES


class Key(Struct, frozen=True, kw_only=True):
    """``kind``: text, number, bool, list (of texts), lists (of lists), table, tables (an array).
    ``enforced`` false: read and checked, but nothing acts on it yet, which ``policy check`` says."""

    kind: str
    doc: str
    choices: tuple[str, ...] = ()
    enforced: bool = True
    most: float = 1e12
    bools: tuple[str, str] | None = None  # of a text: what false and true mean


def _(kind: str, doc: str, **more: Any) -> Key:
    return Key(kind=kind, doc=doc, **more)


FILE = {
    "default": _("text", "Policy of every run for which nothing else is chosen; empty means `default`."),
    "repos": _("table", "Policy by repository: a source as given to `--repo`, exact or ending in `*`."),
    "trust": _("table", "Policy by who wrote the text that a run works on; see the keys of trust."),
    "policies": _("table", "The policies, by name."),
}
POLICY = {
    "doc": _("text", "One sentence for people."),
    "extends": _("text", "A policy whose hosts, denials, credentials and values this one starts from."),
    "registries": _("list", "Package registries, read-only.", choices=tuple(REGISTRIES)),
    "registry_addresses": _(
        "list", "Networks that are not public in which those may be: a mirror here that has their names."
    ),
    "hosts": _("tables", "What else may be reached; see the keys of a host."),
    "deny": _("list", "Hosts (exact or `*.suffix`) that stay closed whatever else is said."),
    "credentials": _("table", "Secrets that the gateway adds, by name; see the keys of a credential."),
    "unknown": _(
        "text", "What happens to hosts that nothing mentions: `ask` holds the connection until a person "
        "answers or `ask_seconds` are over.", choices=("deny", "ask"),
    ),
    "ask_seconds": _("number", "How long a connection is held for an answer.", most=600),
    "isolation": _(
        "text", "The weakest kind of box that a run may have.",
        choices=("any", "namespaces", "gvisor", "vm"),
    ),
    "git": _("table", "Rights on the repository; see the keys of git."),
    "budgets": _("table", "What a thopter may spend; see the keys of budgets."),
    "limits": _("table", "Bounds of a box's traffic; see the keys of limits."),
    "commands": _("table", "What may be run in the box by hand; see the keys of commands."),
    "box": _("table", "The most that a box may have; see the keys of box."),
}  # fmt: skip
HOST = {
    "host": _("list", "One host or several: `api.example.com`, `*.example.com`, an address."),
    "ports": _("list", "Ports; by default 443, and 80 with `plain`."),
    "methods": _("list", "HTTP methods; none means any. Only reading ones also forbid bodies. Opens TLS."),
    "paths": _("list", "Paths: exact, `*` for a segment, `/*` at the end for all below. Opens TLS."),
    "credential": _("text", "The credential to add; what the box sent itself is taken off. Opens TLS."),
    "inspect": _("bool", "Open TLS though no other key needs it (the box's own credentials are taken off)."),
    "client_credentials": _("bool", "Let the box's own credential headers through where they can be seen."),
    "plain": _("bool", "Allow `http://` as well."),
    "tls": _("bool", "`false`: a tunnel may carry what is not TLS (ssh, a database). Nothing is looked at."),
    "ech": _("bool", "Allow encrypted client hellos, whose real name can't be seen."),
    "addresses": _("list", "Networks that are not public (`10.1.0.0/16`) in which these hosts may be."),
    "query_max": _("number", "The longest query of a request that can be seen, in bytes.", most=4096),
}
CREDENTIAL = {
    "secret": _("text", "Name of the secret in the hub's secret store."),
    "hosts": _("list", "The only hosts it may be sent to (exact names), always by https."),
    "header": _("text", "The header it goes into; by default `authorization`."),
    "format": _(
        "text", "The header's value; `{}` is the secret. By default `Bearer {}`. `Basic USER:{}` is encoded."
    ),
    "env": _("text", "A variable of new boxes in which tools look for it; it holds a placeholder."),
}
GIT = {
    "push": _(
        "text",
        "Where its own branch may go: nowhere, into the hub's mirror (`thopter pull` fetches it), or "
        "from there on to the repository it came from. `true` is `mirror`, `false` is `none`.",
        choices=("none", "mirror", "upstream"),
        bools=("none", "mirror"),
    ),
    "force": _("bool", "Whether it may rewrite that branch."),
    "workflows": _(
        "bool", "Whether it may change what CI and tools run: the shipped list of protected paths."
    ),
    "protected": _(
        "list", "More paths it may not change: `deploy/**`, `*.lock`; small and big letters alike."
    ),
    "blob_mb": _("number", "The biggest file a push may bring, in MiB; 0 means no bound.", most=512),
    "push_mb": _("number", "The biggest push, in MiB.", most=512),
    "secrets": _(
        "text", "What happens to a push that brings what looks like a secret.", choices=("refuse", "allow")
    ),
    "secrets_in": _("list", "Paths that are not searched for secrets (fixtures of tests): `tests/keys/**`."),
    "submodules": _("bool", "Whether it may add or move submodules and change `.gitmodules`."),
    "lfs": _("bool", "Whether pointers of git LFS may be pushed (their contents don't travel this way)."),
    "filters": _("bool", "Whether `.gitattributes` may name new filter programs."),
    "links": _("bool", "Whether symbolic links may lead out of the repository."),
    "credential": _(
        "text",
        "The credential of this policy for fetches and pushes upstream by https; default: your own login.",
    ),
}
BUDGETS = {
    "usd": _("number", "Money for a thopter's model calls, in US dollars, by list prices."),
    "tokens": _("number", "Tokens of a thopter's model calls, of every kind."),
    "hours": _("number", "Hours of a thopter's work: model calls, and the tools between them."),
    "turns": _("number", "Answers of the model to a thopter."),
    "usd_per_day": _("number", "Money of all thopters of this policy together, a day (UTC)."),
    "tokens_per_day": _("number", "Tokens of all thopters of this policy together, a day (UTC)."),
}
LIMITS = {
    "connections": _("number", "Open connections at once; more wait.", most=4096),
    "bytes_per_second": _("number", "Bytes a second, both ways together; 0 means no bound."),
    "sent_mb": _("number", "MiB the box may send in the life of a gateway process; 0 means no bound."),
    "received_mb": _("number", "MiB the box may receive in the life of a gateway process; 0: no bound."),
    "requests_per_minute": _("number", "Requests and tunnels a minute; 0 means no bound."),
    "idle_seconds": _("number", "A connection on which nothing moves for so long is closed.", most=86400),
}

COMMANDS = {
    "mode": _(
        "text", "`any`: whatever is asked for; `listed`: what `allow` has; `none`.",
        choices=("any", "listed", "none"),
    ),
    "allow": _(
        "lists", 'Argument lists, word for word: `["git", "status"]`; `*` is one word that is no option, '
        "a last `**` any number of them.",
    ),
    "admins": _("bool", "Whether it holds for those too who may change the policy; by default it does."),
    "files": _("bool", "Whether files may be put and fetched by hand though not all may be run."),
    "terminal": _("bool", "Whether listed commands may have a terminal (pagers offer a shell there)."),
}  # fmt: skip
BOX = {
    "memory_mb": _("number", "The most memory of a box, in MiB; 0 means that the policy sets no bound."),
    "pids": _("number", "The most processes; 0: no bound of the policy."),
    "cpus": _("number", "The most processors; 0: no bound of the policy."),
    "disk_mb": _("number", "The most disk, in MiB; 0: no bound of the policy."),
}
TRUST = {
    "writer": _("text", "Policy of runs whose text is by people who may write to the repository."),
    "outsider": _("text", "Policy of runs whose text is by others; by default `outsider`."),
}

SECTIONS = {
    "the file": FILE,
    "a policy": POLICY,
    "a host": HOST,
    "a credential": CREDENTIAL,
    "git": GIT,
    "budgets": BUDGETS,
    "limits": LIMITS,
    "commands": COMMANDS,
    "box": BOX,
    "trust": TRUST,
}
