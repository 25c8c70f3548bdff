"""The pre-receive hook: all policy on pushes, decided on what git itself parsed, objects in quarantine.

Runs alone (``python -I -S``, standard library only) in the mirror, started by git. Reads one line per ref on
stdin; exit code 0 takes the push, 1 refuses it whole. What it writes to stderr is shown to the pusher; what
it decided goes to the gateway by the descriptor that ``THOPTER_REPORT`` names.
"""

from __future__ import annotations

import json
import os
import re
import resource
import subprocess
import sys
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.append(str(Path(__file__).resolve().parents[3]))  # last: it can't stand for anything of Python

from thopter.gateway.git import content, outbox
from thopter.gateway.git.content import GitSaidNo, git
from thopter.gateway.git.judge import COMMITS_MAX, CONTENT_RULES, Refusal

_ID = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_ODD = re.compile(r"[^\x20-\x7e]")
_MEMORY = 1 << 30  # a few hundred bytes of trees can name more paths than any memory holds


class Push:
    """One ref update as git parsed it, and what the gateway said about the box."""

    def __init__(self, old: str, new: str, ref: str, env: Mapping[str, str]) -> None:
        self.old = old
        self.new = new
        self.ref = ref
        self.allowed = env["THOPTER_REF"]
        self.base = env.get("THOPTER_BASE", "")
        self.branch = env.get("THOPTER_FROM", "")
        self.rights: dict[str, Any] = json.loads(env.get("THOPTER_RIGHTS", "{}"))
        self.known: list[str] = json.loads(env.get("THOPTER_KNOWN", "[]"))
        self.force = bool(self.rights.get("force", True))
        self.limits = content.limits_of(old, self.base)

    @cached_property
    def commits(self) -> list[str]:
        """What is new to the box's mirror, at most one more than a push may have."""
        return content.new_commits(self.new, self.limits, COMMITS_MAX)

    @cached_property
    def objects(self) -> list[content.Object]:
        """All that the new commits bring."""
        return content.objects(self.new, self.limits)

    @cached_property
    def changes(self) -> list[content.Change]:
        """What the new commits change, each against all of its parents."""
        return list(content.changes(self.commits))

    @cached_property
    def moved(self) -> list[content.Change]:
        """What is otherwise in the end; see :func:`content.moved`."""
        return content.moved(self.base, self.new, self.branch)

    @property
    def creates(self) -> bool:
        """Whether the ref is new."""
        return not self.old.strip("0")

    @property
    def deletes(self) -> bool:
        """Whether the ref is to go."""
        return not self.new.strip("0")


def parse(text: str, env: Mapping[str, str]) -> Push:
    """Read git's list of commands: exactly one, well formed, no push certificate and no push options."""
    if any(name.startswith("GIT_PUSH_CERT") for name in env):
        raise Refusal("certificate", "signed pushes are not taken", "push without --signed")
    if env.get("GIT_PUSH_OPTION_COUNT", "0") != "0":
        raise Refusal("options", "push options are not taken", "push without -o")
    lines = text.split("\n")
    if lines and not lines[-1]:
        lines.pop()
    if len(lines) != 1:
        raise Refusal("many_refs", "push one branch at a time")
    parts = lines[0].split(" ")
    if len(parts) != 3 or not _ID.fullmatch(parts[0]) or not _ID.fullmatch(parts[1]):
        raise Refusal("malformed", "the push is malformed")
    return Push(parts[0], parts[1], parts[2], env)


def may_push(push: Push) -> None:
    """Whether the policy lets the box push at all."""
    if push.rights.get("push", "mirror") == "none":
        raise Refusal("no_push", "this box's policy lets it push nothing", "leave the work in the box")


def own_branch(push: Push) -> None:
    """Exactly the box's own branch; a prefix would let one box block or take another's."""
    if push.ref != push.allowed:
        name = push.ref if len(push.ref) <= 100 and push.ref.isprintable() else "that ref"
        raise Refusal("foreign_ref", f"{name} is not this box's branch")


def no_delete(push: Push) -> None:
    """The branch stays: it is the record of the work."""
    if push.deletes:
        raise Refusal("delete", "the branch can't be deleted from here")


def a_commit(push: Push) -> None:
    """A branch is a commit."""
    code, kind = git("cat-file", "-t", push.new)
    if code or kind.strip() != b"commit":
        raise Refusal("no_commit", "only commits can be pushed to a branch")


def from_base(push: Push) -> None:
    """No history that doesn't start where the box started."""
    if push.base and git("merge-base", "--is-ancestor", push.base, push.new)[0]:
        raise Refusal(
            "unrelated", f"the pushed commits don't descend from {push.base[:12]}, where this box started"
        )


def no_rewrite(push: Push) -> None:
    """Rewriting the own branch is allowed unless the policy says otherwise."""
    if push.force or push.creates:
        return
    if git("merge-base", "--is-ancestor", push.old, push.new)[0]:
        raise Refusal("rewrite", "this box may not rewrite its branch; add commits on top of what was pushed")


#: In this order: about the ref, then about what it brings.
RULES: tuple[Callable[[Any], None], ...] = (
    may_push, own_branch, no_delete, a_commit, from_base, no_rewrite, *CONTENT_RULES,
)  # fmt: skip


def main(stdin: str, env: Mapping[str, str]) -> int:
    """Judge one push."""
    push = None
    try:
        push = parse(stdin, env)
        for rule in RULES:
            rule(push)
        if env.get("THOPTER_OUTBOX"):
            outbox.put(env["THOPTER_OUTBOX"], env["THOPTER_BOX"], push.ref, push.new)
    except Refusal as why:
        refuse(why, push, env)
        return 1
    except (GitSaidNo, subprocess.TimeoutExpired, MemoryError) as e:
        refuse(Refusal("unclear", f"what the push brings can't be judged ({type(e).__name__})"), push, env)
        return 1
    except OSError as e:
        refuse(
            Refusal("outbox", f"the hub's disk can't take it ({e.strerror})", "push again later"), push, env
        )
        return 1
    return 0


def refuse(why: Refusal, push: Push | None, env: Mapping[str, str]) -> None:
    """Tell the pusher what to do, and the gateway what was refused."""
    branch = env["THOPTER_REF"][len("refs/heads/") :]
    say(f"refused: {why.text}.")
    if why.hint:
        say(why.hint)
    if why.code in ("foreign_ref", "delete", "many_refs", "malformed"):
        say(f"this box pushes only to {branch}:  git push origin HEAD:refs/heads/{branch}")
    what = {"ref": push.ref, "old": push.old, "new": push.new} if push is not None else {"ref": ""}
    report(env, {"ok": False, "code": why.code, "reason": why.text, **what})


def say(text: str) -> None:
    """One line for the pusher; nothing that came from it can move a cursor or forge a line."""
    sys.stderr.write(f"thopter: {_ODD.sub('?', text)[:500]}\n")


def report(env: Mapping[str, str], what: dict[str, Any]) -> None:
    """One line for the gateway, short enough to be written whole; without a gateway nothing happens."""
    fd = env.get("THOPTER_REPORT", "")
    if fd.isdecimal():
        short = {k: v[:600] if isinstance(v, str) else v for k, v in what.items()}
        os.write(int(fd), json.dumps(short).encode() + b"\n")


if __name__ == "__main__":
    # git, started from here, has it too; packs that are mapped do not count (setrlimit(2), RLIMIT_DATA).
    resource.setrlimit(resource.RLIMIT_DATA, (_MEMORY, _MEMORY))
    sys.exit(main(sys.stdin.buffer.read(1 << 20).decode("utf-8", "surrogateescape"), os.environ))
