"""Mutation testing of the guards: every small change of a guard's code must turn a test red.

``python -m bench.mutate [MODULE…]``: each mutant runs in a process of its own with the module's code
replaced as it is imported; first by the quick tests, and survivors by all of them. Prints the survivors
and the score; exit 1 below 95 %.
"""

from __future__ import annotations

import ast
import contextlib
import copy
import importlib.abc
import importlib.util
import itertools
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
GUARDS = {
    "thopter.gateway.policy.decide": ("test_policy_decide.py", "test_policy_parts.py"),
    "thopter.gateway.policy.hosts": ("test_policy_decide.py", "test_policy_parts.py"),
    "thopter.gateway.policy.addresses": ("test_policy_parts.py",),
    "thopter.gateway.policy.paths": ("test_policy_parts.py",),
    "thopter.gateway.policy.commands": ("test_policy_commands.py",),
    "thopter.gateway.egress.hello": ("test_egress_hello.py",),
}
WANTED = 95.0
_SWAPS: dict[type[ast.AST], type[ast.AST]] = {
    ast.Eq: ast.NotEq, ast.NotEq: ast.Eq, ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt,
    ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.And: ast.Or,
    ast.Or: ast.And, ast.Add: ast.Sub, ast.Sub: ast.Add, ast.LShift: ast.RShift, ast.Mult: ast.Add,
    ast.Pow: ast.Mult, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd, ast.RShift: ast.LShift,
}  # fmt: skip


def mutants(source: str) -> Iterator[tuple[int, str, str]]:
    """Yield (line, what was changed, new source) for every mutant."""
    tree = ast.parse(source)
    docs = {
        id(n.value) for n in ast.walk(tree) if isinstance(n, ast.Expr) and isinstance(n.value, ast.Constant)
    }
    hints = {
        id(n)
        for t in ast.walk(tree)
        for a in ("annotation", "returns")
        if (x := getattr(t, a, None))
        for n in ast.walk(x)
    }
    count = sum(1 for _ in ast.walk(tree))
    for at in range(count):
        fresh = ast.parse(source)
        node = list(ast.walk(fresh))[at]
        original = list(ast.walk(tree))[at]
        if id(original) in hints or id(original) in docs:
            continue
        for what, change in _changes(original, node):
            changed = copy.deepcopy(fresh)
            target = list(ast.walk(changed))[at]
            change(target)
            yield getattr(original, "lineno", 0), what, ast.unparse(ast.fix_missing_locations(changed))


def _changes(original: ast.AST, _node: ast.AST) -> Iterator[tuple[str, object]]:
    if isinstance(original, ast.Compare):
        for i, op in enumerate(original.ops):
            if type(op) in _SWAPS:
                new = _SWAPS[type(op)]
                yield f"{ast.unparse(original)}: {type(op).__name__} -> {new.__name__}", _set_op(i, new)
    elif isinstance(original, ast.BoolOp | ast.BinOp) and type(original.op) in _SWAPS:
        if isinstance(original, ast.BinOp) and _is_type_union(original):
            return
        new = _SWAPS[type(original.op)]
        yield f"{ast.unparse(original)}: -> {new.__name__}", lambda n: setattr(n, "op", new())
    elif isinstance(original, ast.UnaryOp) and isinstance(original.op, ast.Not):
        yield f"{ast.unparse(original)}: not dropped", lambda n: setattr(n, "op", ast.UAdd()) or _bool(n)
    elif isinstance(original, ast.Constant):
        value = original.value
        if isinstance(value, bool):
            yield f"{value} -> {not value}", lambda n: setattr(n, "value", not value)
        elif isinstance(value, int):
            yield f"{value} -> {value + 1}", lambda n: setattr(n, "value", value + 1)
        elif isinstance(value, str) and value:
            yield f"{value[:40]!r} -> 'XX…'", lambda n: setattr(n, "value", "XX" + value)
    elif isinstance(original, ast.If | ast.IfExp):
        yield f"if {ast.unparse(original.test)[:60]}: negated", _negate
    elif isinstance(original, ast.Return) and original.value is not None and not _is_none(original.value):
        yield f"{ast.unparse(original)[:60]}: -> None", lambda n: setattr(n, "value", ast.Constant(None))


def _is_type_union(node: ast.BinOp) -> bool:
    return isinstance(node.op, ast.BitOr)


def _bool(node: ast.UnaryOp) -> None:
    node.operand = ast.Call(func=ast.Name("bool", ast.Load()), args=[node.operand], keywords=[])


def _set_op(i: int, new: type[ast.AST]) -> object:
    def change(node: ast.Compare) -> None:
        node.ops[i] = new()  # type: ignore[call-overload]

    return change


def _negate(node: ast.If | ast.IfExp) -> None:
    node.test = ast.UnaryOp(ast.Not(), node.test)


def _is_none(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and node.value is None


class Swap(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Gives one module other code."""

    def __init__(self, name: str, source: str) -> None:
        self.name, self.source = name, source

    def find_spec(self, fullname: str, path: object = None, target: object = None) -> object:
        """See MetaPathFinder."""
        return importlib.util.spec_from_loader(fullname, self) if fullname == self.name else None

    def exec_module(self, module: ModuleType) -> None:
        """See Loader."""
        exec(compile(self.source, f"<mutant of {self.name}>", "exec"), module.__dict__)


def run_tests(tests: tuple[str, ...], quick: bool) -> None:
    """Call every test function of these files, once for each set of its parameters; raises what they do.

    These files use no fixtures; without pytest's own start a mutant takes a tenth of the time."""
    sys.path.insert(0, str(ROOT / "tests/gateway"))
    for name in tests:
        module = importlib.import_module(name.removesuffix(".py"))
        for test in [v for k, v in vars(module).items() if k.startswith("test_")]:
            marks = getattr(test, "pytestmark", [])
            if quick and any(m.name == "fuzz" for m in marks):
                continue
            for arguments in _cases([m for m in marks if m.name == "parametrize"]):
                test(**arguments)


def _cases(marks: list[Any]) -> Iterator[dict[str, Any]]:
    choices = []
    for mark in marks:
        names = mark.args[0].replace(" ", "").split(",") if isinstance(mark.args[0], str) else mark.args[0]
        choices.append([dict(zip(names, v if len(names) > 1 else (v,), strict=True)) for v in mark.args[1]])
    for chosen in itertools.product(*choices):
        yield {k: v for part in chosen for k, v in part.items()}


def killed(name: str, source: str, tests: tuple[str, ...], quick: bool) -> bool:
    """Run the tests on a mutant in a child process; True when they fail, crash or hang."""
    pid = os.fork()
    if pid == 0:
        null = os.open(os.devnull, os.O_RDWR)
        os.dup2(null, 1)
        os.dup2(null, 2)
        signal.alarm(30 if quick else 300)
        sys.meta_path.insert(0, Swap(name, source))  # type: ignore[arg-type]
        try:
            run_tests(tests, quick)
        except BaseException:  # noqa: BLE001 - whatever it is, the mutant was noticed
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(pid, 0)
    return status != 0


def main(argv: list[str]) -> int:
    """Run all guards or those named; see the module."""
    import hypothesis  # noqa: F401 - loaded before forking: each mutant would pay for it
    import msgspec  # noqa: F401
    import pytest  # noqa: F401

    os.chdir(ROOT)
    total = dead = 0
    for name, tests in GUARDS.items():
        if argv and name not in argv:
            continue
        path = ROOT / "src" / Path(*name.split(".")).with_suffix(".py")
        if not path.exists():
            continue
        source, began, here, alive = path.read_text(), time.monotonic(), 0, 0
        if killed(name, source, tests, quick=True):
            print(f"{name}: its tests fail without any change")
            return 1
        for line, what, changed in mutants(source):
            here += 1
            if not killed(name, changed, tests, quick=True) and not killed(name, changed, tests, quick=False):
                alive += 1
                print(f"  alive  {path.name}:{line}  {what}", flush=True)
        total, dead = total + here, dead + here - alive
        spent = time.monotonic() - began
        print(f"{name}: {here - alive} of {here} killed ({spent:.0f} s)", flush=True)
    score = 100 * dead / max(total, 1)
    print(f"killed {dead} of {total}: {score:.1f} %")
    return 0 if score >= WANTED else 1


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError):
        sys.exit(main(sys.argv[1:]))
