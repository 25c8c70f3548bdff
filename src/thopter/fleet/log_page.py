"""Makes one page of transcripts by claude-code-log: a program of its own, for what it reads is hostile.

``python -m thopter.fleet.log_page INPUT OUTPUT TITLE REFRESH``. The library is written for one's own
transcripts: it runs git in the folder that a transcript names and reads files next to it. Here every
attempt to run a program, to open a connection, or to touch a file outside its own folders is refused
by an audit hook, and the page is cleaned of all that a browser would fetch or run
(:mod:`thopter.kit.html_clean`). Limits on time and memory are set by whoever starts it.
"""

from __future__ import annotations

import json
import os
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

from thopter.fleet.transcripts import files_of
from thopter.kit.html_clean import blocks, clean_page

_REFUSED = re.compile(
    r"subprocess\.Popen|os\.(system|exec|fork|forkpty|posix_spawn|spawn|startfile)"
    r"|socket\.(connect|bind|getaddrinfo|gethostbyname|sendto|sendmsg)|pty\.spawn|webbrowser\.open"
    r"|ctypes\.dlopen"
)
_WRITES = re.compile(r"os\.(remove|rename|rmdir|mkdir|link|symlink|truncate|chmod|chown|utime)|shutil\.\w+")
# Buttons that want what this page has not: a library of others, a server, your own sessions.
_STYLE = "#toggleTimeline,#followUpdates,#resumeSession{display:none!important}"
_HARMLESS = {
    "type": "user", "uuid": "u", "parentUuid": None, "sessionId": "s", "timestamp": "2026-01-01T00:00:00Z",
    "cwd": "/", "version": "2", "isSidechain": False, "userType": "external",
    "message": {"role": "user", "content": "hello"},
}  # fmt: skip


def guard(readable: list[str], writable: list[str]) -> None:
    """From now on this process reads and writes only there, and runs and connects to nothing."""
    reads = tuple(os.path.realpath(p) for p in [*readable, *writable])
    writes = tuple(os.path.realpath(p) for p in writable)

    def within(path: Any, folders: tuple[str, ...]) -> bool:
        if isinstance(path, int):
            return True  # opened before
        real = os.path.realpath(os.fsdecode(path))
        return any(real == f or real.startswith(f + os.sep) for f in folders)

    def hook(event: str, args: tuple[Any, ...]) -> None:
        if event == "open" and args[0] is not None:
            flags = args[2] if len(args) > 2 and isinstance(args[2], int) else 0
            writing = bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC))
            if not within(args[0], writes if writing else reads):
                raise PermissionError(f"this page may not be made with {args[0]!r}")
        elif event in ("os.listdir", "os.scandir") and args and args[0] is not None:
            if not within(args[0], reads):
                raise PermissionError(f"this page may not be made with {args[0]!r}")
        elif _REFUSED.fullmatch(event) or (_WRITES.fullmatch(event) and args and not within(args[0], writes)):
            raise PermissionError(f"making a page needs no {event}")

    sys.addaudithook(hook)


def main(argv: list[str]) -> int:
    """Read INPUT (a folder of transcripts), write OUTPUT; exit 1 when there is nothing to show."""
    source, output = Path(argv[0]).resolve(), Path(argv[1]).resolve()
    title, refresh = argv[2], int(argv[3])
    from claude_code_log import cli  # heavy, and it looks around when it is loaded

    with tempfile.TemporaryDirectory(dir=output.parent) as work:
        tempfile.tempdir = work
        os.chdir(work)
        code = [p for p in {*sys.path, sys.prefix, sys.base_prefix, "/usr/share/zoneinfo"} if p]
        guard([*code, str(source), os.devnull], [str(output.parent)])
        pattern = Path(work, "pattern")
        pattern.mkdir()
        pattern.joinpath("s.jsonl").write_text(json.dumps(_HARMLESS) + "\n")
        trusted = blocks(_render(cli, pattern, Path(work, "pattern.html")))
        ready = Path(work, re.sub(r"[^A-Za-z0-9-]", "-", title)[:60] or "log")  # the page's heading
        _prepare(source, ready)
        page = _render(cli, ready, Path(work, "page.html"))
        made = clean_page(page, trusted, title, refresh, _STYLE)
        Path(work, "clean.html").write_text(made, "utf-8", "replace")
        os.replace(Path(work, "clean.html"), output)
    return 0


def _prepare(source: Path, ready: Path) -> None:
    """Lay the transcripts out as the library wants them (sessions in one folder, agents below), with
    only the lines that are JSON objects in them."""
    for path in files_of(source):
        below = path.relative_to(source).parts
        # <cwd>/<session>.jsonl, <cwd>/<session>/subagents/….jsonl
        target = ready.joinpath(*(below[1:] if len(below) > 1 else below))
        target.parent.mkdir(parents=True, exist_ok=True)
        with path.open("rb") as file, target.open("a") as out:
            out.writelines(f"{line}\n" for raw in file if (line := _line(raw)))


def _line(raw: bytes) -> str:
    text = raw.decode("utf-8", "replace").strip("\0 \r\n")
    try:
        whole = json.loads(text)
    except (ValueError, RecursionError):
        return ""
    return text if isinstance(whole, dict) else ""


def _render(cli: Any, source: Path, output: Path) -> str:
    arguments = [str(source), "--no-cache", "--combined", "only", "--page-size", "1000000", "-o", str(output)]
    cli.convert.main(args=arguments, standalone_mode=False)
    return output.read_text("utf-8", "replace")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
