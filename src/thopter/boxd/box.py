"""What all ops of one boxd share: its loop, configuration, ledger of processes, default environment."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Dict, List

from thopter.boxd import spawn, wire
from thopter.boxd.config import Config
from thopter.boxd.inotify import Inotify
from thopter.boxd.journal import Journal
from thopter.boxd.loop import Loop
from thopter.boxd.task import Lock
from thopter.boxd.tools import Tool, ToolResult

if TYPE_CHECKING:  # they need the Box themselves
    from thopter.boxd.hooks import Hooks
    from thopter.boxd.runs import Runs
    from thopter.boxd.said import Said
    from thopter.boxd.speakers import Speakers
    from thopter.boxd.tmux import Tmux


class Box:
    """The world of one boxd process; made once, lives as long as it."""

    def __init__(self, config: Config) -> None:
        """Make the folders (0700) and end what an earlier boxd left running."""
        self.config = config
        for folder in (config.run_dir, config.var_dir):
            os.makedirs(folder, mode=0o700, exist_ok=True)
        self.loop = Loop()
        self.ledger = spawn.Ledger(config.run_dir + "/ledger")
        self.env: Dict[bytes, bytes] = config.box_env()
        self.home = wire.to_bytes(config.home)
        self.boot = os.urandom(8).hex()
        self.journal = Journal(config.var_dir + "/journal", config.journal_segment, config.journal_segments)
        self.inotify = Inotify(self.loop, config.inotify)
        self.keyboard = Lock()  # held while a message is typed into a terminal
        self.pastes = 0
        self.tmux: Tmux
        self.hooks: Hooks
        self.runs: Runs
        self.said: Said
        self.speakers: Speakers

    async def tool(self, argv: List[bytes], stdin: bytes = b"") -> ToolResult:
        """Run a helper program with the box's own environment; killed when we are cancelled."""
        tool = Tool(self.loop, self.ledger, argv, self.env, stdin)
        try:
            return await tool.promise
        except GeneratorExit:
            tool.kill()
            raise

    def facts(self) -> Dict[str, Any]:
        """What ``hello`` tells about this boxd."""
        return {
            "boot": self.boot,
            "pid": os.getpid(),
            "name": self.config.name,
            "key": self.config.key,
            "hook_port": self.hooks.port,
            "journal": {"first": self.journal.first, "last": self.journal.last},
        }
