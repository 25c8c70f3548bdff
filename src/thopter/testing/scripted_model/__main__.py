"""``python -m thopter.testing.scripted_model``: serve a scenario until interrupted."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import signal
import sys
from pathlib import Path

from thopter.model.errors import ThopterError
from thopter.testing.scripted_model import ScriptedModel, load_scenario
from thopter.testing.scripted_model.scenario import BUILT_IN


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m thopter.testing.scripted_model",
        description="Serve the Anthropic Messages API from a scenario file. No language model is involved.",
    )
    parser.add_argument("--scenario", required=True, metavar="FILE",
                        help=f"a .toml or .json file, or a built-in one: {', '.join(BUILT_IN)}")  # fmt: skip
    parser.add_argument("--port", type=int, required=True, help="0 takes any free port")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--ready-file", type=Path, metavar="F", help="gets the URL once it listens")
    parser.add_argument("--log", type=Path, metavar="F", help="one JSON line for each request")
    return parser


async def _serve(args: argparse.Namespace) -> None:
    stop = asyncio.Event()
    for sig in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(sig, stop.set)
    async with ScriptedModel(
        load_scenario(args.scenario), host=args.host, port=args.port, log=args.log
    ) as model:
        if args.ready_file:
            part = args.ready_file.with_name(f".{args.ready_file.name}.{os.getpid()}")
            part.write_text(model.url + "\n")
            part.replace(args.ready_file)
        print(model.url, flush=True)
        try:
            await stop.wait()
        finally:
            if args.ready_file:
                with contextlib.suppress(FileNotFoundError):
                    args.ready_file.unlink()


def main(argv: list[str] | None = None) -> int:
    """Run; the exit code is the error's own."""
    args = _arguments().parse_args(argv)
    try:
        asyncio.run(_serve(args))
    except ThopterError as e:
        print(f"error: {e.message}" + (f"\n  hint: {e.hint}" if e.hint else ""), file=sys.stderr)
        return e.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
