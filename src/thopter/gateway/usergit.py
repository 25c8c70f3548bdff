"""The user's own git settings, as far as reading the user's own repositories needs them.

Git run by the hub has no user configuration: nothing in it may start a program or bend an address. Two
things are let through on purpose, copied key by key into a private file that exists for one operation:
where the user's passwords come from (credential helpers, ssh command, proxies and certificates), for
addresses the user typed; and which foreign folders the user told git to trust (``safe.directory``).
"""

from __future__ import annotations

import asyncio
import os
import re
import shlex
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from thopter.gateway.gitrun import Git, GitFailed

_FOR_REMOTES = re.compile(r"credential\..+|http\..+|core\.sshcommand|ssh\.variant|url\..+\.insteadof")
_ENV_FOR_REMOTES = re.compile(
    r"HOME|USER|LOGNAME|SSH_AUTH_SOCK|XDG_.*|DBUS_SESSION_BUS_ADDRESS|(?i:https?_proxy|all_proxy|no_proxy)"
    r"|SSL_CERT_(?:FILE|DIR)|GIT_SSL_CAINFO|GH_TOKEN|GITHUB_TOKEN|GH_CONFIG_DIR|GH_HOST"
)
_TRANSPORT = re.compile(r"http\.(?:.+\.)?(?:proxy|noproxy|sslcainfo|sslcapath|sslversion)")
_ENV_FOR_LOGIN = re.compile(r"(?i:https?_proxy|all_proxy|no_proxy)|SSL_CERT_(?:FILE|DIR)|GIT_SSL_CAINFO")
#: Servers that take tokens as passwords want some name, or this one.
LOGIN_NAME = "x-access-token"


class UserGit:
    """Made by :func:`user_git` for one operation. ``env`` is the user's environment (read only)."""

    def __init__(self, env: Mapping[str, str], folder: Path) -> None:
        self._env = env
        self._file = folder / "config"
        self._file.touch(mode=0o600)
        self._settings: list[tuple[str, str]] | None = None

    def git(
        self,
        directory: Path | None,
        extra: Mapping[str, str] | None = None,
        config: Sequence[tuple[str, str]] = (),
        fds: Sequence[int] = (),
    ) -> Git:
        """git in ``directory``: only what the private file says is in force."""
        env = {"GIT_CONFIG_GLOBAL": str(self._file), **(extra or {})}
        return Git(directory, env=env, config=config, fds=fds)

    async def trust(self, path: Path) -> bool:
        """Trust ``path`` (owned by somebody else) if the user's ``safe.directory`` says so."""
        places = [str(path), str(path.resolve()), *map(str, path.resolve().parents)]
        for key, value in await self._read():
            inside = value.endswith("/*") and any(p == value[:-2] for p in places[1:])
            if key == "safe.directory" and (value == "*" or value.rstrip("/") in places or inside):
                await self._write([("safe.directory", "*")])
                return True
        return False

    async def for_remote(self, protocol: str) -> dict[str, str]:
        """Put the user's ways of logging in into force; returns the environment for the command."""
        settings = [(k, v) for k, v in await self._read() if _FOR_REMOTES.fullmatch(k)]
        await self._write(settings)
        env = {k: v for k, v in self._env.items() if _ENV_FOR_REMOTES.fullmatch(k)}
        env["GIT_ALLOW_PROTOCOL"] = protocol
        if protocol == "ssh":
            command = dict(settings).get("core.sshcommand") or "ssh"
            program = os.path.basename((shlex.split(command) or ["ssh"])[0])
            batch = " -oBatchMode=yes -oConnectTimeout=20" if program == "ssh" else ""
            env["GIT_SSH_COMMAND"] = command + batch
        return env

    async def for_login(self, fd: int) -> dict[str, str]:
        """Let git by https log in with the password that can be read (once) from descriptor ``fd``, and with
        nothing else; of the user's settings only proxies and certificates are in force. Returns the
        environment for the command."""
        settings = [(k, v) for k, v in await self._read() if _TRANSPORT.fullmatch(k)]
        await self._write([*settings, ("credential.username", LOGIN_NAME)])
        script = self._file.with_name("askpass")
        await asyncio.to_thread(script.write_text, f"#!/bin/sh\nexec cat /dev/fd/{fd}\n", encoding="ascii")
        await asyncio.to_thread(script.chmod, 0o700)
        env = {k: v for k, v in self._env.items() if _ENV_FOR_LOGIN.fullmatch(k)}
        return env | {"GIT_ALLOW_PROTOCOL": "https", "GIT_ASKPASS": str(script)}

    async def _read(self) -> list[tuple[str, str]]:
        """The user's global and system settings (not those of any repository)."""
        if self._settings is None:
            names = ("HOME", "XDG_CONFIG_HOME", "GIT_CONFIG_GLOBAL")
            env = {name: self._env.get(name) for name in names} | {"GIT_CONFIG_NOSYSTEM": None}
            self._settings = []
            for scope in ("--system", "--global"):  # the later one is the stronger one
                self._settings += await _list(Git(None, env=env), scope)
        return self._settings

    async def _write(self, settings: Sequence[tuple[str, str]]) -> None:
        text = "".join(_entry(key, value) for key, value in settings)
        await asyncio.to_thread(self._file.write_text, text, encoding="utf-8")


async def _list(git: Git, scope: str) -> list[tuple[str, str]]:
    """Settings of one scope. ``git config --list`` starts no program."""
    try:
        done = await git.run("config", scope, "--includes", "--list", "-z")
    except GitFailed:
        return []  # no such file, or one the user's own git can't read either
    items = (item.partition("\n") for item in done.stdout.decode("utf-8", "replace").split("\0"))
    return [(key, value if newline else "true") for key, newline, value in items if key]


def _entry(key: str, value: str) -> str:
    """One setting in the syntax of a git configuration file."""
    section, _, rest = key.partition(".")
    subsection, _, name = rest.rpartition(".")
    quoted = subsection.replace("\\", "\\\\").replace('"', '\\"')
    head = f'[{section} "{quoted}"]' if subsection else f"[{section}]"
    text = value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\t", "\\t")
    return f'{head}\n\t{name} = "{text}"\n'


@asynccontextmanager
async def user_git(env: Mapping[str, str], scratch: Path) -> AsyncIterator[UserGit]:
    """Give a UserGit whose private file lives in ``scratch`` and goes away with it."""
    with tempfile.TemporaryDirectory(prefix=".git-", dir=scratch) as folder:
        yield UserGit(env, Path(folder))
