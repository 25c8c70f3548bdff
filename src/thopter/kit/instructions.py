"""The operator's own instructions for agents, read before anything is made."""

from __future__ import annotations

from pathlib import Path

from thopter.model.errors import BadInput, NotFound

TEXT_MAX = 256 << 10  # bytes; it goes into every request of the agent


def read_instructions(path: str, setting: str) -> str:
    """The text of the file that ``setting`` names; empty for an empty path.

    NotFound when there is no such file, BadInput for what can't be instructions: not absolute, not a
    file, too long, not UTF-8, nothing in it.
    """
    if not path:
        return ""
    file = Path(path).expanduser()
    hint = f"{setting} names the file that takes the place of thopter's own instructions"
    if not file.is_absolute():
        raise BadInput(f"{setting} = {path[:200]!r} is not an absolute path", hint=hint)
    try:
        with file.open("rb") as stream:
            raw = stream.read(TEXT_MAX + 1)
    except (FileNotFoundError, NotADirectoryError):
        raise NotFound(f"there is no file {path[:200]} ({setting})", hint=hint) from None
    except OSError as e:
        raise BadInput(f"{path[:200]} ({setting}) can't be read: {e.strerror}", hint=hint) from None
    if len(raw) > TEXT_MAX:
        raise BadInput(f"{path[:200]} ({setting}) is over {TEXT_MAX >> 10} KiB", hint=hint)
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        raise BadInput(f"{path[:200]} ({setting}) is not UTF-8 text", hint=hint) from None
    if not text.strip():
        raise BadInput(f"{path[:200]} ({setting}) is empty", hint=hint)
    return text
