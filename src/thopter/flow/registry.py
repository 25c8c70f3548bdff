"""Which flows there are: plain async functions by name, with the type of their arguments."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import msgspec
from msgspec import Struct

from thopter.model.errors import BadInput, NotFound

F = TypeVar("F", bound=Callable[..., Awaitable[Any]])


class FlowKind(Struct, frozen=True):
    """A registered flow: ``await fn(ctx, args)`` with ``args`` of type ``args``."""

    name: str
    fn: Callable[..., Awaitable[Any]]
    args: Any

    def encode(self, args: Any) -> str:
        """Arguments as recorded. BadInput when they are not of the flow's type."""
        try:
            return msgspec.json.encode(msgspec.convert(msgspec.to_builtins(args), self.args)).decode()
        except (msgspec.ValidationError, TypeError, ValueError) as e:
            raise BadInput(f"these are no arguments for the flow {self.name}: {e}") from e

    def decode(self, payload: str) -> Any:
        """Recorded arguments; fields this version doesn't know are ignored. BadInput."""
        try:
            return msgspec.json.decode(payload, type=self.args)
        except msgspec.DecodeError as e:
            raise BadInput(f"the recorded arguments of the flow {self.name} can't be read: {e}") from e


class Registry:
    """The flows of one engine. A flow that has work under way must stay registered under its name."""

    def __init__(self) -> None:
        self._kinds: dict[str, FlowKind] = {}

    def flow(self, name: str) -> Callable[[F], F]:
        """Decorator: register ``async def fn(ctx: FlowContext, args: SomeStruct)`` as ``name``."""

        def decorate(fn: F) -> F:
            self.add(name, fn)
            return fn

        return decorate

    def add(self, name: str, fn: Callable[..., Awaitable[Any]], args: Any = None) -> None:
        """Register ``fn`` as ``name``; ``args`` is found in its annotations when not given."""
        if name in self._kinds:
            raise BadInput(f"there are two flows named {name!r}")
        self._kinds[name] = FlowKind(name, fn, _args_type(fn) if args is None else args)

    def get(self, name: str) -> FlowKind:
        """The flow ``name``; NotFound."""
        kind = self._kinds.get(name)
        if kind is None:
            raise NotFound(f"there is no flow {name!r}", hint="known: " + ", ".join(sorted(self._kinds)))
        return kind


def _args_type(fn: Callable[..., Any]) -> Any:
    names = [p for p in inspect.signature(fn).parameters if p != "self"]
    hints = typing.get_type_hints(fn)
    if len(names) != 2 or names[1] not in hints:
        raise BadInput(f"a flow takes (ctx, args) with args annotated; {fn!r} does not")
    return hints[names[1]]
