"""Programs that run other programs: who may give one of them a word of their own may run anything."""

from __future__ import annotations

RUNNERS = frozenset(
    {
        "ash", "awk", "bash", "busybox", "csh", "dash", "env", "ex", "find", "fish", "gawk", "gdb", "git",
        "irb", "ksh", "less", "lua", "make", "man", "more", "nano", "node", "nohup", "npm", "npx", "perl",
        "php", "pip", "python", "python3", "ruby", "script", "sed", "setsid", "sh", "ssh", "strace", "sudo",
        "tar", "tclsh", "time", "timeout", "tmux", "unshare", "vi", "view", "vim", "watch", "xargs", "zsh",
    }
)  # fmt: skip
