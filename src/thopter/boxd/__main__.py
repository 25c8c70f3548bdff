"""``python boxd.pyz``: ``serve --stdio`` or ``serve --socket PATH``, with ``--config FILE`` (JSON)."""

from __future__ import annotations

import sys
from typing import Any, Dict, List

from thopter.boxd import bridge, init, wire
from thopter.boxd.config import Config

USAGE = "usage: boxd.pyz serve (--stdio | --socket PATH) [--config FILE]\n"


def main(args: List[str]) -> int:
    """Run the command; return the exit code (2 for a wrong command line or configuration)."""
    try:
        options = _options(args)
        config = _config(options.get("--config", ""))
    except ValueError as e:
        sys.stderr.write(f"boxd: {e}\n{USAGE}")
        return 2
    if "--stdio" in options:
        return bridge.bridge(config)
    init.run_init(config, bridge.listen(options["--socket"]))


def _options(args: List[str]) -> Dict[str, str]:
    options: Dict[str, str] = {}
    if args[:1] != ["serve"]:
        raise ValueError("say what to do")
    rest = args[1:]
    while rest:
        name = rest.pop(0)
        if name == "--stdio":
            options[name] = ""
        elif name in ("--socket", "--config") and rest:
            options[name] = rest.pop(0)
        else:
            raise ValueError(f"{name!r} is not understood here")
    if ("--stdio" in options) == ("--socket" in options):
        raise ValueError("say either --stdio or --socket PATH")
    return options


def _config(path: str) -> Dict[str, Any]:
    if not path:
        return {}
    try:
        with open(path, "rb") as file:
            config = wire.loads(file.read())
    except OSError as e:
        raise ValueError(f"{path} can't be read: {e.strerror}") from None
    except ValueError as e:
        raise ValueError(f"{path} is not JSON: {e}") from None
    if not isinstance(config, dict):
        raise ValueError(f"{path} holds no JSON object")
    Config(config)
    return config


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
