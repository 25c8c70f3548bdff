"""The composition root: puts store, flows, providers, agents, gateways and the fleet together.

Drivers are found by module name (``thopter.providers.*``, ``thopter.agents.*``: each module has one
class that satisfies the socket) and by entry points of the same group names for other people's.
"""

from __future__ import annotations

import asyncio
import contextlib
import getpass
import importlib
import importlib.metadata
import logging
import os
import pkgutil
import subprocess
from collections.abc import Iterator
from typing import Any

from thopter.fleet.deps import Deps, RequestMark, request_mark
from thopter.fleet.fleet import Fleet
from thopter.flow.engine import FlowEngine
from thopter.gateway.mirror import Mirrors
from thopter.gateway.upstream import Upstreams
from thopter.hub.gateways import HubGateways
from thopter.hub.logins import Logins
from thopter.hub.postman import Postman
from thopter.hub.shelf import Shelf
from thopter.kit import oauth
from thopter.kit.clock import SystemClock
from thopter.kit.paths import Paths
from thopter.kit.secrets import SecretStore, claude_credential
from thopter.kit.settings import Settings
from thopter.model.api import FlowView, Step
from thopter.model.errors import ThopterError
from thopter.model.events import Event
from thopter.model.sockets import Agent, Provider
from thopter.store.audit import Wanted
from thopter.store.audit_chain import bounded
from thopter.store.events import Events
from thopter.store.idempotency import Idempotency
from thopter.store.store import Store

log = logging.getLogger(__name__)

_PUBLIC_ENDPOINT = "https://api.anthropic.com"


def compose(paths: Paths, settings: Settings) -> Inside:
    """Make the inside of a hub; nothing is opened before ``start``."""
    return Inside(paths, settings)


class Inside:
    """See ``ports.Composition``."""

    def __init__(self, paths: Paths, settings: Settings) -> None:
        self.paths = paths
        self.settings = settings
        self.clock = SystemClock()
        self.secrets = SecretStore(paths)
        self._recovery: asyncio.Task[None] | None = None
        self._policies: dict[str, Any] | None = None
        self.fleet: Fleet
        self.events: Events
        self.idempotency: Idempotency

    async def start(self) -> None:
        """Open the store; recovery goes on in the background (``fleet.ready``)."""
        await asyncio.to_thread(self._learn_credential)
        self.store = await Store.open(self.paths.state / "hub.db")
        self.events, self.idempotency = self.store.events, self.store.idempotency
        setting = str(self.settings.get("policy"))
        self._shelf = await asyncio.to_thread(Shelf, self.paths, self.secrets, setting)
        logins = Logins(self._shelf, self.secrets)
        engine = FlowEngine(self.paths.state / "flows.db", on_step=self._on_step, on_done=self._on_done)
        deps = Deps(
            paths=self.paths,
            settings=self.settings,
            clock=self.clock,
            store=self.store,
            engine=engine,
            providers=self._providers(),
            agents=_agents(),
            gateways=HubGateways(self.paths, self.secrets, self._shelf, self._on_policies),
            policies=self._shelf,
            mirrors=Mirrors(self.paths.state / "mirrors", None, logins.password, logins.refused),
            upstreams=Upstreams(
                self.paths.state / "mirrors",
                self.paths.state / "gateway" / "git-outbox",
                logins.password,
                None,
                logins.refused,
            ),
            postman=Postman(self.secrets, lambda: self.settings),
            owner=await asyncio.to_thread(_owner, self.settings),
            identity=await asyncio.to_thread(_identity, self.settings),
            credential_problem=self._credential_problem,
        )
        self.fleet = Fleet(deps)
        self._stop = asyncio.Event()
        self._ended = asyncio.Event()
        loop = asyncio.get_running_loop()
        self._recovery = loop.create_task(self._live(), name="fleet")  # one owner for its task group

    async def _live(self) -> None:
        """The fleet's whole life in one task, as structured concurrency wants it."""
        try:
            await self.fleet.start()
            await self._stop.wait()
        except ThopterError as e:
            log.error("recovery failed: %s", e.message)
            self.fleet.problem = f"recovery failed: {e.message}"
            await self._stop.wait()
        except Exception:
            log.exception("recovery failed")
            self.fleet.problem = "recovery failed; see 'thopter hub logs'"
            await self._stop.wait()
        finally:
            try:
                await self.fleet.stop()
            finally:
                self._ended.set()

    async def stop(self) -> None:
        """Let go of everything in good order; boxes go on."""
        if self._recovery is not None:
            self._stop.set()
            await self._ended.wait()
            await self._recovery
            await self.store.close()

    async def reload(self, settings: Settings) -> None:
        """New runs use the new settings; boxes keep what they were made with."""
        self.settings = settings
        self.fleet.deps.settings = settings
        self.fleet.deps.owner = await asyncio.to_thread(_owner, settings)
        self.fleet.deps.identity = await asyncio.to_thread(_identity, settings)
        self._shelf.setting = str(settings.get("policy"))

    @contextlib.contextmanager
    def mark(self, token: str, again: bool) -> Iterator[None]:
        """See the port: ids are derived from the mark, so a repeated creation is the same creation;
        what can't be repeated safely looks at ``again`` and refuses."""
        before = request_mark.set(RequestMark(token=token, again=again))
        try:
            yield
        finally:
            request_mark.reset(before)

    # ---------------------------------------------------------------------------------- parts

    def _providers(self) -> dict[str, Provider]:
        found: dict[str, Provider] = {}
        for cls in _drivers("providers", Provider):
            provider = cls(self.paths, self.settings)
            found[provider.name] = provider
        return found

    def _learn_credential(self) -> None:
        """Take a credential from the environment once; afterwards the environment holds none."""
        found = claude_credential(os.environ)
        if found is not None:
            value, variable = found
            if self.secrets.get("agents.claude.credential") != value:
                where = self.secrets.set("agents.claude.credential", value)
                log.info("the credential in %s was taken into the secret store (%s)", variable, where)
            os.environ.pop(variable, None)

    def _credential_problem(self, agent: str) -> str:
        base = str(self.settings.get(f"agents.{agent}.base_url"))
        found = self.secrets.get(f"agents.{agent}.credential")
        if found is not None and found.kind == oauth.KIND and (ended := oauth.from_secret(found).ended):
            return f"{ended}; log in again, then: thopter reauth --login-file FILE"
        if base.rstrip("/") != _PUBLIC_ENDPOINT or found:
            return ""
        return f"there is no credential for {base}"

    async def _on_policies(self) -> None:
        """Record which policies are in force when they are others than recorded last, also when they were
        changed while no hub ran, or when the file can't be used any more."""
        now = bounded(self._shelf.in_force())
        if self._policies is None:
            last = await self.store.audit.read(Wanted(kind="policy.in_force"), limit=1, last=True)
            self._policies = last[0].data if last else {}
        if now != self._policies:
            event = Event(kind="policy.in_force", at_ms=self.clock.now_ms(), data=now)
            await self.store.events.append([event])
            self._policies = now

    async def _on_step(self, flow: str, step: Step) -> None:
        data: dict[str, Any] = {"name": step.name, "status": step.status, "title": step.title, "ms": step.ms}
        if step.error is not None:
            data["error"] = step.error
        await self.store.events.append(
            [Event(kind="flow.step", at_ms=self.clock.now_ms(), flow=flow, box=_box_of(flow), data=data)]
        )

    async def _on_done(self, flow: str, view: FlowView) -> None:
        data = {"name": view.name, "status": view.status, "error": view.error, "result": view.result}
        await self.store.events.append(
            [Event(kind="flow.done", at_ms=self.clock.now_ms(), flow=flow, box=_box_of(flow), data=data)]
        )


def _box_of(flow: str) -> str:
    """Destroy flows carry their box in their id."""
    return flow.removeprefix("flow_end_").partition(".")[0] if flow.startswith("flow_end_") else ""


def _drivers(group: str, socket: Any) -> list[Any]:
    """Every class of ``thopter.<group>.*`` and of the entry points that satisfies ``socket``."""
    package = importlib.import_module(f"thopter.{group}")
    modules = [
        importlib.import_module(m.name) for m in pkgutil.iter_modules(package.__path__, f"thopter.{group}.")
    ]
    found = [_driver_in(m, socket) for m in modules]
    found += [e.load() for e in importlib.metadata.entry_points(group=f"thopter.{group}")]
    return found


def _driver_in(module: Any, socket: Any) -> Any:
    """The module's one public class named ``…<Socket>``; ``__all__`` lets it be loaded on use."""
    names = getattr(module, "__all__", None) or [k for k in vars(module) if not k.startswith("_")]
    wanted = [n for n in names if n.endswith(socket.__name__) and n != socket.__name__]
    if len(wanted) != 1:
        raise ThopterError(f"{module.__name__} has {len(wanted)} {socket.__name__} classes, not one")
    return getattr(module, wanted[0])


def _agents() -> dict[str, Agent]:
    made = [cls() for cls in _drivers("agents", Agent)]
    return {a.name: a for a in made}


def _git_config(key: str) -> str:
    try:
        done = subprocess.run(
            ["git", "config", "--global", "--get", key],
            capture_output=True,
            text=True,
            timeout=5,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip()


def _owner(settings: Settings) -> str:
    return str(settings.get("owner")) or _git_config("user.name") or _login()


def _login() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # an id without a name, as in many containers
        return f"uid-{os.getuid()}"


def _identity(settings: Settings) -> tuple[str, str]:
    """Who commits in boxes: the operator, marked as by thopter's hand only in the address when git
    knows none."""
    name = _owner(settings)
    return name, str(settings.get("git.email")) or _git_config("user.email") or f"{_login()}@thopter.invalid"
