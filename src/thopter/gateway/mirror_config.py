"""How a mirror is configured: the second wall behind the pre-receive hook, in git's own words."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from thopter.gateway.gitrun import Git

ZERO = "0" * 64

#: A mirror on its own accepts nothing and serves nothing; the gateway's environment opens what it opens.
_RULES = """\
# Written by thopter; changes are overwritten.
[core]
\trepositoryformatversion = {version}
\tfilemode = true
\tbare = true
\thooksPath = /dev/null
\tlogAllRefUpdates = false
\tbigFileThreshold = 32m
\tpackedGitWindowSize = 32m
\tpackedGitLimit = 512m
\tfilesRefLockTimeout = 10000
\tpackedRefsTimeout = 10000
\tfsync = all
\tfsyncMethod = batch
{extension}[http]
\treceivepack = false
\tuploadpack = true
\tgetanyfile = false
[receive]
\tfsckObjects = true
\tmaxInputSize = {max_input}
\tshallowUpdate = false
\tadvertisePushOptions = false
\tdenyDeletes = true
\tdenyCurrentBranch = refuse
\tautogc = false
\tupdateServerInfo = false
\tunpackLimit = 100
\tkeepAlive = 5
[receive "fsck"]
\tzeroPaddedFilemode = ignore
\tmissingSpaceBeforeDate = ignore
\tbadTimezone = ignore
[transfer]
\tfsckObjects = true
\tadvertiseBundleURIs = false
\tbundleURI = false
[fetch]
\tfsckObjects = false
\tunpackLimit = 100
\twriteCommitGraph = false
[uploadpack]
\tallowFilter = true
\tallowAnySHA1InWant = false
\tallowRefInWant = false
\tkeepAlive = 5
[uploadarchive]
\tallowUnreachable = false
[gc]
\tauto = 0
[maintenance]
\tauto = false
[pack]
\twindowMemory = 256m
"""

MAX_INPUT = 512 << 20


async def init_mirror(path: Path, object_format: str) -> None:
    """Make an empty mirror at ``path`` (which must not exist)."""
    await Git(None).run(
        "init", "--quiet", "--bare", "--template=", f"--object-format={object_format}", str(path)
    )
    await asyncio.to_thread(path.chmod, 0o700)
    await asyncio.to_thread(mirror_config, path)


def mirror_config(path: Path) -> None:
    """Write the mirror's configuration, whole and atomically; its object format stays."""
    old = (path / "config").read_text(encoding="utf-8")
    sha256 = "objectformat = sha256" in old.lower()
    text = _RULES.format(
        version=1 if sha256 else 0,
        extension="[extensions]\n\tobjectFormat = sha256\n" if sha256 else "",
        max_input=MAX_INPUT,
    )
    if text == old:
        return
    fresh = path / f"config.new-{os.getpid()}"
    fresh.write_text(text, encoding="utf-8")
    fresh.rename(path / "config")
