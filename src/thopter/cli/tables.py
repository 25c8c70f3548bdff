"""The lists in configuration files: ``[[repos]]`` and ``[[uploads]]``, read, checked and written."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from msgspec import Struct

from thopter.kit.paths import Paths
from thopter.kit.settings import read_toml
from thopter.model.errors import BadInput, Conflict, NotFound

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,60}")


class Repo(Struct, frozen=True):
    """A predefined repository; ``branch`` empty: not pinned, its default one counts."""

    name: str
    repo: str
    branch: str = ""


class UploadRule(Struct, frozen=True):
    """A file or folder of this machine and where it goes in every new box; ``origin`` is the file that
    says so."""

    local: str
    remote: str
    origin: Path


def rows(file: Path, table: str, needed: tuple[str, ...], may: tuple[str, ...] = ()) -> list[dict[str, str]]:
    """The entries of a list; BadInput names the entry that is wrong."""
    found = read_toml(file).get(table, [])
    if not isinstance(found, list) or not all(isinstance(entry, dict) for entry in found):
        raise BadInput(f"{table} in {file} is no list of tables", hint=f"write [[{table}]]")
    for number, entry in enumerate(found, 1):
        bad = [k for k in needed if not isinstance(entry.get(k), str) or not entry[k]]
        bad += [k for k, v in entry.items() if k not in (*needed, *may) or not isinstance(v, str)]
        if bad:
            raise BadInput(
                f"entry {number} of {table} in {file}: {', '.join(sorted(set(bad)))} is missing or wrong"
            )
    return [dict(entry) for entry in found]


def repos(paths: Paths) -> list[Repo]:
    """The predefined repositories, in the order of the file."""
    return [
        Repo(r.get("name") or default_name(r["repo"]), r["repo"], r.get("branch", ""))
        for r in rows(paths.config_file, "repos", ("repo",), ("name", "branch"))
    ]


def upload_rules(file: Path) -> list[UploadRule]:
    """What a configuration file uploads into every new box."""
    return [UploadRule(r["local"], r["remote"], file) for r in rows(file, "uploads", ("local", "remote"))]


def default_name(repo: str) -> str:
    """What a repository is called when nobody says otherwise: the last part of its address."""
    last = re.split(r"[/:]", repo.rstrip("/"))[-1].removesuffix(".git")
    return re.sub(r"[^A-Za-z0-9._-]+", "-", last).strip("-._") or "repo"


def check_name(name: str) -> str:
    """A name that can stand for a repository, or BadInput."""
    if not _NAME.fullmatch(name):
        raise BadInput(f"{name[:80]!r} can't name a repository", hint="letters, digits, '.', '_' and '-'")
    return name


def add_repo(paths: Paths, repo: Repo) -> None:
    """Write one more at the end; Conflict when its name is taken."""
    from thopter.cli.config import edit_config

    def change(document: Any) -> None:
        import tomlkit

        if any(r.name == repo.name for r in repos(paths)):
            raise Conflict(f"there is a repository {repo.name} already", hint="give it another --name")
        document.setdefault("repos", tomlkit.aot()).append(_table(repo))

    edit_config(paths, change)


def replace_repo(paths: Paths, name: str, repo: Repo | None) -> None:
    """Put ``repo`` in the place of the one called ``name``, or remove that; NotFound, Conflict."""
    from thopter.cli.config import edit_config

    def change(document: Any) -> None:
        known = [r.name for r in repos(paths)]
        if name not in known:
            raise NotFound(f"there is no repository {name[:80]!r}", hint="see 'thopter repos list'")
        if repo is not None and repo.name != name and repo.name in known:
            raise Conflict(f"there is a repository {repo.name} already")
        at = known.index(name)
        if repo is None:
            del document["repos"][at]
            if not document["repos"]:
                del document["repos"]
        else:
            entry = document["repos"][at]
            for key, value in _table(repo).items():
                entry[key] = value
            if not repo.branch:
                entry.pop("branch", None)

    edit_config(paths, change)


def _table(repo: Repo) -> Mapping[str, Any]:
    import tomlkit

    table = tomlkit.table()
    table["name"], table["repo"] = repo.name, repo.repo
    if repo.branch:
        table["branch"] = repo.branch
    return table
