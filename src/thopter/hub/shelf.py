"""The policies of this hub: ``policy.toml`` in the config folder, read again whenever it changes.

A file that can't be used changes nothing: the last good one stays in force, also over a restart (a copy is
kept in the state folder), and ``problem`` says so. With no good one ever, everything is closed.
"""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import logging
import os
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import msgspec
from msgspec import structs, to_builtins

from thopter.fleet.ports import Chosen
from thopter.gateway.policy import commands
from thopter.gateway.policy.commands import Wish
from thopter.gateway.policy.explain import try_url
from thopter.gateway.policy.hosts import BadHost, canonical_host
from thopter.gateway.policy.model import Allow, Commands, Deny, Policy, Rule
from thopter.gateway.policy.read import Book, PolicyError, read_book
from thopter.gateway.policy.shipped import SHIPPED
from thopter.hub.bindings import binding_of, bindings_of, with_binding, without_bindings
from thopter.hub.shelf_edit import with_host
from thopter.kit import github_app
from thopter.kit.durable import write_private
from thopter.kit.paths import Paths, private_dir
from thopter.kit.secrets import SecretStore
from thopter.model.api import Check
from thopter.model.api.egress import Finding, Findings, PolicyInfo, Verdict
from thopter.model.api.egress import PolicyBook as BookView
from thopter.model.api.secrets import Binding, BindRequest, UnbindRequest
from thopter.model.errors import BadInput, NotFound, Refused, ThopterError

log = logging.getLogger(__name__)
_CLOSED = Policy(
    name="closed",
    doc="Nothing: the policy file can't be used and there was no good one before.",
    commands=Commands(mode="none", admins=False),  # who may mend the file may look into the box
)
_MAX = 1 << 20
_TRIES = 5


class _Kept(NamedTuple):
    """The text of the policies in force, which is to be kept."""

    text: str


class Shelf:
    """See ``fleet.ports.Policies``. ``setting``: the value of the setting ``policy`` as it is now."""

    def __init__(self, paths: Paths, secrets: SecretStore, setting: str = "") -> None:
        self.setting = setting
        self.file = paths.config / "policy.toml"
        self.problem = ""
        self._good = paths.state / "policy.good.toml"
        self._ca_folder = paths.state / "egress-ca"
        self._secrets = secrets
        self._seen: object = None
        self._unkept: _Kept | None = None
        self._ca: tuple[str, str] | None = None
        self.source = "shipped"
        self.book = Book(policies=dict(SHIPPED))
        self._load(first=True)

    # ------------------------------------------------------------------------------ the file

    def poll(self) -> bool:
        """Look at the file; True when other policies are in force now. Blocking."""
        if self._unkept:
            self._keep(self._unkept)
        if self._stamp() == self._seen:
            return False
        before = self.book
        self._load(first=False)
        return before != self.book

    def _stamp(self) -> object:
        try:
            found = self.file.stat()
        except OSError as e:
            return e.errno
        return found.st_ino, found.st_mtime_ns, found.st_size

    def _load(self, first: bool) -> None:
        self._seen = self._stamp()
        try:
            text = _read(self.file)
            self.book = read_book(text, SHIPPED) if text is not None else Book(policies=dict(SHIPPED))
        except (PolicyError, Refused) as e:
            problem = e.message if isinstance(e, Refused) else str(e)
            if problem != self.problem:
                log.error("%s can't be used: %s", self.file, problem)
            self.problem = problem
            if first:
                self._fall_back()
            elif self.source == "file":
                self.source = "last good"
            return
        self.problem, self.source = "", "file" if text is not None else "shipped"
        if text is not None or self._good.exists():
            self._keep(_Kept(text or ""))

    def _keep(self, kept: _Kept) -> None:
        """Keep a copy of what is in force for a hub that finds the file broken when it starts. When there
        is no room for it the policies hold all the same, and it is tried again."""
        try:
            private_dir(self._good.parent)
            write_private(self._good, kept.text.encode())
            self._unkept = None
        except (OSError, ThopterError) as e:
            if self._unkept is None:
                log.error("%s can't be written: %s", self._good, e)
            self._unkept = kept

    def _fall_back(self) -> None:
        try:
            text = _read(self._good)
            if text is None:
                raise Refused("there is none")
            self.book, self.source = read_book(text, SHIPPED), "last good"
        except (PolicyError, Refused):
            closed = {n: structs.replace(_CLOSED, name=n, isolation=p.isolation) for n, p in SHIPPED.items()}
            self.book, self.source = Book(policies=closed, default="closed"), "closed"

    # ------------------------------------------------------------------------------ choosing

    def get(self, name: str) -> Policy:
        """The policy of that name; one that allows nothing when it is no longer there."""
        return self.book.policies.get(name) or structs.replace(_CLOSED, name=name)

    def choose(self, wanted: str, repo: str, trust: str = "") -> Chosen:
        """See the port."""
        by_trust = {"outsider": "outsider", **self.book.trust}
        ways = (
            (wanted, "asked for"),
            (by_trust.get(trust, ""), f"its text is by a person trusted as {trust}"),
            (self.book.for_repo(repo) if repo else "", f"policy.toml says so for {repo}"),
            (self.setting, "setting policy"),
            (self.book.default, "the default"),
        )
        name, why = next((n, w) for n, w in ways if n)
        if name not in self.book.policies:
            known = ", ".join(sorted(self.book.policies))
            raise NotFound(f"there is no policy {name!r} ({why})", hint=f"known: {known}")
        policy = self.book.policies[name]
        most = {k: float(v) for k, v in to_builtins(policy.box).items()}
        env = {c.env: c.placeholder for c in policy.credentials if c.env}
        return Chosen(name=name, why=why, ca=policy.inspects, isolation=policy.isolation, most=most, env=env)

    def may_run(
        self,
        policy: str,
        argv: Sequence[str],
        env: Sequence[str],
        cwd: str,
        home: str,
        terminal: bool,
        admin: bool,
    ) -> str:
        """See the port."""
        wish = Wish(argv=tuple(argv), env=tuple(env), cwd=cwd, home=home, terminal=terminal, admin=admin)
        return commands.may_run(wish, self.get(policy))

    def may_carry(self, policy: str, admin: bool) -> str:
        """See the port."""
        return commands.may_carry(admin, self.get(policy))

    def push_right(self, name: str) -> str:
        """See the port."""
        return self.get(name).git.push

    def canonical(self, host: str) -> str:
        """See the port."""
        try:
            return canonical_host(host)
        except BadHost as e:
            raise BadInput(f"{host[:100]!r} is no host: {e}") from None

    # ------------------------------------------------------------------------------ telling

    def view(self) -> BookView:
        """See the port."""
        return BookView(
            file=str(self.file),
            source=self.source,
            default=self.setting or self.book.default,
            problem=self.problem,
            warnings=[Finding(line=w.line, text=w.text) for w in self.book.warnings],
            repos=dict(self.book.repos),
            policies=[self.info(n) for n in self.book.policies],
        )

    def in_force(self) -> dict[str, object]:
        """What is in force now, for the audit: equal exactly when nothing about it has changed."""
        digests = {
            n: hashlib.sha256(msgspec.json.encode(p, order="sorted")).hexdigest()[:16]
            for n, p in sorted(self.book.policies.items())
        }
        return {
            "source": self.source, "default": self.setting or self.book.default, "problem": self.problem,
            "repos": dict(self.book.repos), "policies": digests,
        }  # fmt: skip

    def info(self, name: str) -> PolicyInfo:
        """See the port."""
        policy = self.get(name)
        origin = "shipped" if SHIPPED.get(name) == policy else "file"
        return PolicyInfo(name=name, origin=origin, doc=policy.doc, policy=to_builtins(policy))

    def check(self, text: str) -> Findings:
        """See the port."""
        try:
            book = read_book(text, SHIPPED)
        except PolicyError as e:
            return Findings(problems=[Finding(line=p.line, text=p.text) for p in e.problems], warnings=[])
        return Findings(problems=[], warnings=[Finding(line=w.line, text=w.text) for w in book.warnings])

    def test(self, name: str, url: str, method: str, grants: tuple[tuple[str, int], ...]) -> Verdict:
        """See the port."""
        policy = self.get(name)
        rules = tuple(
            Rule(name="granted", hosts=(h,), ports=(p,), plain=p == 80, tls=p == 443) for h, p in grants
        )
        found = try_url(url, method, structs.replace(policy, rules=(*policy.rules, *rules)))
        if isinstance(found, Allow):
            rule = found.rule
            opaque = "" if found.inspect or rule.plain else "method and path can't be seen in this tunnel; "
            return Verdict(
                verdict="allow", policy=name, host=found.host, port=found.port, rule=rule.name,
                inspect=found.inspect, credential=rule.credential,
                note=opaque + "its address is looked at when it is connected to",
            )  # fmt: skip
        if isinstance(found, Deny):
            return Verdict(verdict="deny", policy=name, host=found.host, code=found.code, reason=found.reason)
        return Verdict(verdict="ask", policy=name, host=found.host, port=found.port, reason=found.reason)

    async def checks(self) -> list[Check]:
        """See the port."""
        found = []
        if self.problem:
            now = {"closed": "nothing is allowed", "last good": "the last good one stays in force"}
            text = (
                f"{self.file.name}: {self.problem}; {now.get(self.source, 'the shipped ones are in force')}"
            )
            found.append(
                Check(name="policy", level="fail", text=text, fix=f"thopter policy check {self.file}")
            )
        else:
            text = f"{self.source} policies; default: {self.setting or self.book.default}"
            found.append(Check(name="policy", level="ok", text=text))
        if self._unkept:
            text = (
                f"{self._good.name} can't be written: a hub that starts now would not know the last good ones"
            )
            found.append(Check(name="policy copy", level="warn", text=text, fix="free some space"))
        if self.setting and self.setting not in self.book.policies:
            text = f"the setting policy names {self.setting}, and there is none: new thopters are refused"
            found.append(Check(name="policy setting", level="fail", text=text, fix="thopter policy show"))
        wanted = {c.secret for p in self.book.policies.values() for c in p.credentials}
        have = set(await asyncio.to_thread(self._secrets.names)) if wanted else set()
        for name in sorted(wanted - have):
            text = f"policies use the secret {name}, and there is none"
            found.append(Check(name=f"secret {name}", level="warn", text=text))
        return found

    # ------------------------------------------------------------------------------ changing

    async def allow_always(self, policy: str, host: str, port: int) -> None:
        """See the port."""
        await asyncio.to_thread(self._edit, lambda text: with_host(text, policy, host, port))

    async def secret_names(self) -> list[str]:
        """See the port."""
        return await asyncio.to_thread(self._secrets.names)

    def bindings(self) -> list[Binding]:
        """See the port."""
        return [b for policy in self.book.policies.values() for b in bindings_of(policy)]

    async def bind(self, req: BindRequest) -> Binding:
        """See the port."""
        name = self.setting or self.book.default
        name = str(self.choose(req.policy or name, "")["name"])
        binding = binding_of(req, name, self.canonical(req.host))
        found = await asyncio.to_thread(self._secrets.get, req.name)
        if found is not None and found.kind == github_app.KIND:
            raise BadInput(
                f"{req.name} is the key of a GitHub App, which is never sent anywhere",
                hint="name it in a policy's git.credential",
            )
        await asyncio.to_thread(self._edit, lambda text: with_binding(text, binding))
        return binding

    async def unbind(self, req: UnbindRequest) -> list[Binding]:
        """See the port."""
        removed: list[Binding] = []
        host = self.canonical(req.host) if req.host else ""
        wanted = [
            b for b in self.bindings()
            if b.name == req.name and req.policy in ("", b.policy) and host in ("", b.host)
        ]  # fmt: skip

        def change(text: str) -> str:
            text, places = without_bindings(text, req.name, host, req.policy)
            removed[:] = [b for b in wanted if (b.policy, b.host) in places]
            return text

        if wanted:
            await asyncio.to_thread(self._edit, change)
        return removed

    def _edit(self, change: Callable[[str], str]) -> None:
        """Replace the file by what ``change`` makes of it, if that can be used."""
        private_dir(self.file.parent)
        lock = os.open(self.file.parent / "policy.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            target = self.file.resolve()  # a symlink of a dotfile manager stays one
            for _ in range(_TRIES):
                before = _read(target)
                text = change(before or "")
                try:
                    read_book(text, SHIPPED)
                except PolicyError as e:
                    raise Refused(f"{target.name} can't be changed: {e}", hint="mend it by hand") from None
                if write_private(target, text.encode(), partial(_is, target, before)):
                    return
            raise Refused(f"{target.name} is being changed by somebody else", hint="try it again")
        finally:
            os.close(lock)

    def authority(self) -> tuple[str, str]:
        """Certificate and key of this hub's authority, made when first needed; the key is in a file of mode
        0600 and goes to the gateway's process only. Blocking."""
        if self._ca is None:
            from thopter.gateway.egress.authority import make_authority

            folder = private_dir(self._ca_folder)
            cert, key = folder / "ca.pem", folder / "ca.key"
            if not (cert.exists() and key.exists()):
                made = make_authority(f"thopter hub {os.uname().nodename}"[:60], time.time())
                write_private(key, made[1].encode())
                write_private(cert, made[0].encode())
            self._ca = cert.read_text(), key.read_text()
        return self._ca

    def ca_cert(self) -> str:
        """See the port."""
        return self.authority()[0]


def _is(path: Path, text: str | None) -> bool:
    """Whether the file is still as it was read: an editor takes no lock."""
    return _read(path) == text


def _read(path: Path) -> str | None:
    """The text of a file, None when there is none; raises Refused."""
    try:
        with path.open("rb") as file:
            raw = file.read(_MAX + 1)
        if len(raw) > _MAX:
            raise Refused(f"{path} is over 1 MiB")
        return raw.decode()
    except FileNotFoundError:
        return None
    except OSError as e:
        raise Refused(f"{path} can't be read: {e.strerror}") from None
    except UnicodeDecodeError:
        raise Refused(f"{path} is not UTF-8 text") from None
