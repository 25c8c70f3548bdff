"""The pre-receive hook: all policy on pushes, decided on what git itself parsed, objects in quarantine.

Runs alone (``python -I -S``, standard library only) in the mirror, started by git. Reads one line per ref on
stdin; exit code 0 takes the push, 1 refuses it whole. What it writes to stderr is shown to the pusher.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Mapping

_ID = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")


class Refusal(Exception):
    """The push is refused; the text says why and what to do instead."""


class Push:
    """One ref update as git parsed it, and what the gateway said about the box."""

    def __init__(self, old: str, new: str, ref: str, env: Mapping[str, str]) -> None:
        self.old = old
        self.new = new
        self.ref = ref
        self.allowed = env["THOPTER_REF"]
        self.base = env.get("THOPTER_BASE", "")
        self.force = env.get("THOPTER_FORCE", "0") == "1"

    @property
    def creates(self) -> bool:
        """Whether the ref is new."""
        return not self.old.strip("0")

    @property
    def deletes(self) -> bool:
        """Whether the ref is to go."""
        return not self.new.strip("0")


def git(*argv: str) -> tuple[int, str]:
    """Run git in the mirror (with the quarantined objects in sight); exit code and stdout."""
    done = subprocess.run(
        ["git", *argv],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        timeout=120,
    )
    return done.returncode, done.stdout.decode("utf-8", "replace").strip()


def parse(text: str, env: Mapping[str, str]) -> Push:
    """Read git's list of commands: exactly one, well formed, and no push certificate."""
    if any(name.startswith("GIT_PUSH_CERT") for name in env):
        raise Refusal("signed pushes are not taken")
    lines = text.split("\n")
    if lines and not lines[-1]:
        lines.pop()
    if len(lines) != 1:
        raise Refusal("push one branch at a time")
    parts = lines[0].split(" ")
    if len(parts) != 3 or not _ID.fullmatch(parts[0]) or not _ID.fullmatch(parts[1]):
        raise Refusal("the push is malformed")
    return Push(parts[0], parts[1], parts[2], env)


def own_branch(push: Push) -> None:
    """Exactly the box's own branch; a prefix would let one box block or take another's."""
    if push.ref != push.allowed:
        name = push.ref if len(push.ref) <= 100 and push.ref.isprintable() else "that ref"
        raise Refusal(f"{name} is not this box's branch")


def no_delete(push: Push) -> None:
    """The branch stays: it is the record of the work."""
    if push.deletes:
        raise Refusal("the branch can't be deleted from here")


def a_commit(push: Push) -> None:
    """A branch is a commit."""
    code, kind = git("cat-file", "-t", push.new)
    if code or kind != "commit":
        raise Refusal("only commits can be pushed to a branch")


def from_base(push: Push) -> None:
    """No history that doesn't start where the box started."""
    if push.base and git("merge-base", "--is-ancestor", push.base, push.new)[0]:
        raise Refusal(f"the pushed commits don't descend from {push.base[:12]}, where this box started")


def no_rewrite(push: Push) -> None:
    """Rewriting the own branch is allowed unless the gateway was told otherwise."""
    if push.force or push.creates:
        return
    if git("merge-base", "--is-ancestor", push.old, push.new)[0]:
        raise Refusal("this box may not rewrite its branch; add commits on top of what was pushed")


#: In this order. Rules on content (protected paths, sizes, secrets) are added here: they may use ``git`` on
#: ``push.new --not --all``, which in quarantine is exactly what the push brings.
RULES: tuple[Callable[[Push], None], ...] = (own_branch, no_delete, a_commit, from_base, no_rewrite)


def main(stdin: str, env: Mapping[str, str]) -> int:
    """Judge one push."""
    try:
        push = parse(stdin, env)
        for rule in RULES:
            rule(push)
    except Refusal as why:
        branch = env["THOPTER_REF"][len("refs/heads/") :]
        sys.stderr.write(f"thopter: refused: {why}.\n")
        sys.stderr.write(
            f"thopter: this box pushes only to {branch}:  git push origin HEAD:refs/heads/{branch}\n"
        )
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.stdin.buffer.read(1 << 20).decode("utf-8", "surrogateescape"), os.environ))
