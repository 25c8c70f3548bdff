"""How anyone talks to a hub: one method a call of its API (docs/reference/api.md), typed, bounded, light.

Mutating calls carry an idempotency key: one that died before any answer is sent once more with the
same key, so it happens once. Errors of the hub come out as the classes of ``model.errors``. Texts in
the answers may come from a box: they are hostile until sanitized for where they go.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeVar

import msgspec

from thopter.kit.paths import Paths
from thopter.mesh.http import Answer, Died, Silent, Wire, query, quote
from thopter.model import api
from thopter.model.errors import BadInput, HubUnreachable, ThopterError, TimedOut, from_dict
from thopter.model.events import Event
from thopter.model.nouns import Leak

if TYPE_CHECKING:
    from thopter.mesh.execs import Exec
    from thopter.mesh.saved import Saved
    from thopter.model.api.variables import VariableView

T = TypeVar("T")

_PATIENCE = 30.0  # seconds for an ordinary answer
_TIER_PATIENCE = 360.0  # the first wish for a stronger kind of box makes one, by emulation perhaps
_CHANGE_PATIENCE = 75.0  # a hub that has just started recovers first (up to 50 s)
_ERROR_BODY_MAX = 1 << 20


class HubClient:
    """A caller of one hub, on its unix socket. Not for several threads at once.

    Connects when first used and again whenever needed; holds nothing that a hub's restart breaks.
    """

    def __init__(self, socket_path: Path | str, timeout: float = _PATIENCE) -> None:
        self.path = Path(socket_path)
        self.timeout = timeout
        self._wire: Wire | None = None

    def __enter__(self) -> HubClient:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; a later call opens a new one."""
        if self._wire is not None:
            self._wire.close()
            self._wire = None

    def connect(self) -> None:
        """Open the connection now, or raise HubUnreachable."""
        if self._wire is None or not self._wire.idle:
            self.close()
            self._wire = Wire(self.path, min(self.timeout, 10.0))

    # ------------------------------------------------------------------------------------ the hub

    def hub(self) -> api.HubInfo:
        """Who answers."""
        return self._get("/v1/hub", api.HubInfo)

    def stop(self) -> None:
        """Ask the hub to end; boxes go on."""
        self._do("POST", "/v1/hub/stop")

    def doctor(self) -> list[api.Check]:
        """The hub's own checks."""
        return self._get("/v1/doctor", api.Checks, timeout=_TIER_PATIENCE).checks

    def leaks(self) -> list[Leak]:
        """What is on the machine that no box accounts for."""
        return self._get("/v1/doctor/leaks", api.Leaks, timeout=60.0).leaks

    def flow(self, flow: str) -> api.FlowView:
        """A flow's state and steps so far."""
        return self._get(f"/v1/flows/{quote(flow)}", api.FlowView)

    def events(
        self,
        *,
        after: int | None = None,
        box: str = "",
        flow: str = "",
        kinds: str = "",
        tick: float = 1.0,
        patience: float | None = None,
    ) -> Iterator[Event | None]:
        """Yield events as they come; see :func:`thopter.mesh.sse.events`."""
        from thopter.mesh.sse import events

        return events(self.path, after=after, box=box, flow=flow, kinds=kinds, tick=tick, patience=patience)

    # ------------------------------------------------------------------------------------ variables

    def variables(self) -> list[VariableView]:
        """What new boxes get in their environment, masked."""
        from thopter.model.api.variables import VariableList

        return self._get("/v1/variables", VariableList).variables

    def set_variables(self, values: dict[str, str]) -> None:
        """Set all of them, or none."""
        from thopter.model.api.variables import SetVariables

        self._post("/v1/variables", SetVariables(values=values), api.Nothing)

    def delete_variable(self, name: str) -> bool:
        """Forget one; False when there was none."""
        from thopter.model.api.variables import Deleted, DeleteVariable

        return self._post("/v1/variables/delete", DeleteVariable(name=name), Deleted).found

    def renew_credentials(self) -> list[str]:
        """Let gateways use the credentials that are stored now; returns the thopters that use one."""
        from thopter.model.api.variables import Renewed

        return self._post("/v1/credentials/renew", api.Nothing(), Renewed, timeout=120.0).thopters

    # ----------------------------------------------------------------------------------- thopters

    def run(self, request: api.RunRequest) -> api.Accepted:
        """Start a box with an agent at work; durable when this returns."""
        return self._post("/v1/runs", request, api.Accepted, timeout=_TIER_PATIENCE)

    def create(self, request: api.CreateRequest) -> api.Accepted:
        """Start a box with an agent that waits; durable when this returns."""
        return self._post("/v1/thopters", request, api.Accepted, timeout=_TIER_PATIENCE)

    def thopters(self, gone: bool = False) -> list[api.ThopterView]:
        """All of them; ``gone``: also those that were destroyed."""
        return self._get("/v1/thopters" + query(gone=gone), api.Thopters).thopters

    def thopter(self, name: str) -> api.ThopterDetail:
        """One, with the evidence its state rests on."""
        return self._get(self._of(name), api.ThopterDetail)

    def destroy(self, name: str) -> api.Accepted:
        """Remove it for good; durable when this returns, done when its flow is."""
        return self._decode(self._call("DELETE", self._of(name)), api.Accepted)

    def tell(self, name: str, request: api.TellRequest) -> api.TellResult:
        """Say something to its agent; returns with a receipt or raises."""
        patience = request.receipt_timeout_ms / 1000 + self.timeout
        return self._post(self._of(name, "tell"), request, api.TellResult, timeout=patience)

    def interrupt(self, name: str) -> None:
        """Stop the agent's present turn."""
        self._do("POST", self._of(name, "interrupt"))

    def freeze(self, name: str) -> None:
        """Stop every process of the box; idempotent."""
        self._do("POST", self._of(name, "freeze"))

    def thaw(self, name: str) -> None:
        """Let them go on; idempotent."""
        self._do("POST", self._of(name, "thaw"))

    def transcript(
        self, name: str, *, after: int | None = None, limit: int | None = None, last: int | None = None
    ) -> api.TranscriptPage:
        """A page of its conversation; ``last`` counts from the end."""
        target = self._of(name, "transcript") + query(after=after, limit=limit, last=last)
        return self._get(target, api.TranscriptPage)

    def check(self, name: str) -> api.CheckResult:
        """Is there a tmux server, an agent, a box?"""
        return self._get(self._of(name, "check"), api.CheckResult)

    def screen(self, name: str) -> str:
        """What its agent's screen shows, as text."""
        return self._get(self._of(name, "screen"), api.ScreenText).screen

    def diff(self, name: str, checkout: str = "") -> api.DiffResult:
        """Its work so far, in its main repository or in ``checkout``."""
        return self._get(self._of(name, "diff") + query(checkout=checkout), api.DiffResult, timeout=120.0)

    def pull(self, name: str, wip: bool = False, checkout: str = "") -> api.PullInfo:
        """Bring its commits into the hub's mirror; the bundle is then at :meth:`bundle`."""
        request = api.PullRequest(wip=wip, checkout=checkout)
        return self._post(self._of(name, "pull"), request, api.PullInfo, timeout=300.0)

    def bundle(self, name: str, out: IO[bytes], checkout: str = "") -> int:
        """Write the git bundle of its work to ``out``; returns its size."""
        target = self._of(name, "bundle") + query(checkout=checkout)
        return self._stream(self._call("GET", target, timeout=300.0), out)

    def put(self, name: str, path: str, data: bytes) -> int:
        """Write a file of the box, atomically; returns its size."""
        answer = self._call("POST", self._of(name, "put") + query(path=path), data, timeout=300.0)
        return self._decode(answer, api.Written).size

    def fetch(self, name: str, path: str, out: IO[bytes]) -> int:
        """Copy a file of the box to ``out``; returns its size."""
        return self._stream(self._call("GET", self._of(name, "fetch") + query(path=path), timeout=60.0), out)

    def exec(self, name: str, request: api.ExecRequest) -> Exec:
        """Run a command in the box; see :class:`thopter.mesh.execs.Exec`."""
        from thopter.mesh.execs import Exec

        return Exec(self.path, self._of(name, "exec"), request)

    def dial(self, name: str, port: int) -> Exec:
        """Connect to a port on the box's loopback; what comes from it is stream 1."""
        from thopter.mesh.execs import Exec
        from thopter.model.api.ports import DialRequest

        return Exec(self.path, self._of(name, "dial"), DialRequest(port=port))

    @property
    def saved(self) -> Saved:
        """The calls about saved boxes and sleep."""
        from thopter.mesh.saved import Saved

        return Saved(self)

    # --------------------------------------------------------- for the other files of calls in mesh

    def of(self, name: str, verb: str) -> str:
        """The address of a thopter's ``verb``."""
        return self._of(name, verb)

    def get(self, target: str, kind: type[T], timeout: float = 0.0) -> T:
        """Read."""
        return self._get(target, kind, timeout)

    def post(self, target: str, body: msgspec.Struct, kind: type[T], timeout: float = 0.0) -> T:
        """Change, once."""
        return self._post(target, body, kind, timeout)

    def delete(self, target: str, kind: type[T]) -> T:
        """Remove, once."""
        return self._decode(self._call("DELETE", target), kind)

    def download(self, target: str, out: IO[bytes]) -> int:
        """Write what is at ``target`` to ``out``; returns its size."""
        return self._stream(self._call("GET", target, timeout=300.0), out)

    def upload(self, target: str, pieces: Iterable[bytes], kind: type[T], timeout: float) -> T:
        """Send a body of any length; not sent again when the connection breaks."""
        self.connect()
        assert self._wire is not None
        headers = {"Accept": "application/json", "Content-Type": "application/octet-stream"}
        answer = self._wire.upload("POST", target, headers, pieces, timeout)
        if answer.status >= 300:
            raise to_error(answer)
        return self._decode(answer, kind)

    # ------------------------------------------------------------------------------------ plumbing

    def _of(self, name: str, verb: str = "") -> str:
        if not name or name in (".", ".."):  # a path segment of this kind means another address
            raise BadInput(f"{name!r} does not name a thopter", hint="see 'thopter status'")
        return f"/v1/thopters/{quote(name)}" + (f"/{verb}" if verb else "")

    def _get(self, target: str, kind: type[T], timeout: float = 0.0) -> T:
        return self._decode(self._call("GET", target, timeout=timeout), kind)

    def _post(self, target: str, body: msgspec.Struct, kind: type[T], timeout: float = 0.0) -> T:
        try:
            data = msgspec.json.encode(body)
        except (UnicodeEncodeError, ValueError):
            raise BadInput("that is not UTF-8 text") from None
        return self._decode(self._call("POST", target, data, timeout), kind)

    def _do(self, method: str, target: str) -> None:
        self._call(method, target, b"{}").read()

    def _decode(self, answer: Answer, kind: type[T]) -> T:
        raw = answer.read()
        try:
            return msgspec.json.decode(raw, type=kind)
        except (msgspec.MsgspecError, UnicodeDecodeError) as e:
            self.close()
            raise HubUnreachable(
                f"the hub's answer is no {kind.__name__}: {e}",
                hint="it may be of another version: 'thopter hub restart'",
            ) from None

    def _stream(self, answer: Answer, out: IO[bytes]) -> int:
        size = 0
        for piece in answer.pieces(60.0):
            out.write(piece)
            size += len(piece)
        return size

    def _call(self, method: str, target: str, body: bytes | None = None, timeout: float = 0.0) -> Answer:
        timeout = timeout or (self.timeout if method == "GET" else max(self.timeout, _CHANGE_PATIENCE))
        headers = {"Accept": "application/json"}
        if method != "GET":
            headers["Idempotency-Key"] = new_key()
            body = body or b""
            if body:
                raw = "/put?" in target
                headers["Content-Type"] = "application/octet-stream" if raw else "application/json"
        try:
            answer = self._once(method, target, headers, body, timeout)
        except Died:
            try:
                answer = self._once(method, target, headers, body, timeout)
            except Died:
                raise HubUnreachable("the hub closes the connection without an answer") from None
        if answer.status >= 300:
            raise to_error(answer)
        return answer

    def _once(
        self, method: str, target: str, headers: Mapping[str, str], body: bytes | None, timeout: float
    ) -> Answer:
        self.connect()
        assert self._wire is not None
        try:
            return self._wire.request(method, target, headers, body, timeout)
        except Silent:
            self.close()
            if method == "GET":
                raise HubUnreachable(f"the hub did not answer within {timeout:.0f} s") from None
            raise TimedOut(
                f"the hub did not answer within {timeout:.0f} s; what was asked may still happen",
                hint="see 'thopter status' and 'thopter hub status'",
            ) from None
        except BaseException:
            self.close()
            raise


def new_key() -> str:
    """Return a fresh idempotency key: time-ordered, 80 random bits."""
    return f"{time.time_ns() // 1_000_000:012x}-{os.urandom(10).hex()}"


def to_error(answer: Answer) -> ThopterError:
    """Read an answer that is no success into the error it carries."""
    raw = answer.read(_ERROR_BODY_MAX)
    try:
        found = msgspec.json.decode(raw, type=dict[str, Any]).get("error")
    except (msgspec.MsgspecError, UnicodeDecodeError):
        found = None
    if isinstance(found, dict) and "code" in found:
        return from_dict(found)
    if answer.status in (502, 503, 504):
        return HubUnreachable(f"the hub is not able to answer now (HTTP {answer.status})")
    return ThopterError(
        f"the hub answered HTTP {answer.status} without a reason", hint="see 'thopter hub logs'"
    )


def ensure_hub(paths: Paths, *, start: bool = True, say: Callable[[str], None] | None = None) -> HubClient:
    """Return a client of this user's hub, connected; starts one when there is none.

    ``start`` False: HubUnreachable instead. ``say`` is told, once, that a hub is being started. See
    :mod:`thopter.mesh.start` for how long it waits and what it shows when the hub dies.
    """
    client = HubClient(paths.hub_socket)
    try:
        client.connect()
    except HubUnreachable:
        if not start:
            raise
        from thopter.mesh.start import start_hub

        start_hub(paths, say)
        client.connect()
    return client
