"""Package registries that a policy can name in a word; read-only, whatever a tool asks.

Hosts are written from the top level down (``org/example/www``), since no file of this repository may
name a registry's address: an address in a file sooner or later becomes a default that nobody chose.
"""

from __future__ import annotations

from msgspec import Struct


class Registry(Struct, frozen=True, kw_only=True):
    """One kind of registry. ``plain``: its tools use ``http`` and check signatures themselves."""

    reversed_hosts: tuple[str, ...]
    doc: str
    plain: bool = False

    @property
    def hosts(self) -> tuple[str, ...]:
        """The hosts in the usual order."""
        return tuple(".".join(reversed(h.split("/"))) for h in self.reversed_hosts)


REGISTRIES: dict[str, Registry] = {
    "npm": Registry(reversed_hosts=("org/npmjs/registry",), doc="npm, pnpm, yarn"),
    "pypi": Registry(reversed_hosts=("org/pypi", "org/pythonhosted/files"), doc="pip, uv, poetry"),
    "crates": Registry(
        reversed_hosts=("io/crates/index", "io/crates/static", "io/crates"), doc="cargo (sparse index)"
    ),
    "go": Registry(reversed_hosts=("org/golang/proxy", "org/golang/sum"), doc="go modules and checksums"),
    "debian": Registry(
        reversed_hosts=("org/debian/deb", "org/debian/security"), doc="apt on Debian", plain=True
    ),
    "ubuntu": Registry(
        reversed_hosts=("com/ubuntu/archive", "com/ubuntu/security", "com/ubuntu/ports"),
        doc="apt on Ubuntu",
        plain=True,
    ),
    "alpine": Registry(reversed_hosts=("org/alpinelinux/dl-cdn",), doc="apk", plain=True),
    "rubygems": Registry(reversed_hosts=("org/rubygems", "org/rubygems/index"), doc="gem, bundler"),
    "maven": Registry(
        reversed_hosts=("org/maven/repo1", "org/apache/maven/repo", "org/gradle/plugins"),
        doc="maven, gradle",
    ),
    "nuget": Registry(reversed_hosts=("org/nuget/api",), doc="dotnet"),
}

#: What a package manager never needs to say when it only reads.
QUERY_MAX = 1024
METHODS = ("GET", "HEAD")
