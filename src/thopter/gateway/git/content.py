"""What a push brings, as git in quarantine tells it: new commits, changed paths, objects. For the hook.

Standard library only. "New" is what the box could not have had from the mirror: commits that only other
boxes pushed are new too, so that nobody's work is smuggled past the rules that hold for this box.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator

_GITLINK, _LINK = "160000", "120000"
_SECONDS = 300.0


class Change:
    """One path that a commit leaves otherwise than it was in all of its parents."""

    def __init__(self, path: str, mode: str, oid: str) -> None:
        self.path = path
        self.mode = mode
        self.oid = oid

    @property
    def gone(self) -> bool:
        """Whether nothing is there any more."""
        return self.mode == "000000"

    @property
    def gitlink(self) -> bool:
        """Whether it is a submodule."""
        return self.mode == _GITLINK

    @property
    def link(self) -> bool:
        """Whether it is a symbolic link."""
        return self.mode == _LINK


class Object:
    """An object of the push: its id, type, size in bytes, and a path it is seen at ("" for commits)."""

    def __init__(self, oid: str, kind: str, size: int, path: str) -> None:
        self.oid = oid
        self.kind = kind
        self.size = size
        self.path = path


def git(*argv: str, stdin: bytes = b"", env: dict[str, str] | None = None) -> tuple[int, bytes]:
    """Run git in the mirror; exit code and stdout."""
    done = subprocess.run(
        ["git", *argv],
        input=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        timeout=_SECONDS,
        env=env,
        check=False,
    )
    return done.returncode, done.stdout


class GitSaidNo(Exception):
    """A question that must have an answer had none: the push can't be judged."""


def must(*argv: str, stdin: bytes = b"", env: dict[str, str] | None = None) -> bytes:
    """As :func:`git`; raises GitSaidNo when git failed."""
    code, out = git(*argv, stdin=stdin, env=env)
    if code:
        raise GitSaidNo(argv[0])
    return out


def limits_of(own: str, base: str) -> list[str]:
    """Arguments for rev-list: without what the box sees in the mirror. Others' branches are not left out."""
    found = ["--not", "--exclude=refs/heads/thopter/*", "--glob=refs/heads/*", "--glob=refs/tags/*"]
    found += ["--exclude=refs/upstream/heads/thopter/*", "--glob=refs/upstream/*"]
    return found + [oid for oid in (own, base) if oid.strip("0")]


def new_commits(new: str, limits: list[str], most: int) -> list[str]:
    """The push's commits, newest first; at most ``most`` + 1 of them."""
    out = must("rev-list", f"--max-count={most + 1}", new, *limits)
    return out.decode("ascii").split()


def changes(commits: list[str]) -> Iterator[Change]:
    """What each commit changes against all of its parents: a merge that only brings together what both
    sides had changes nothing."""
    if commits:
        argv = ("diff-tree", "--stdin", "-r", "-c", "--root", "--raw", "-z", "--no-renames", "--no-commit-id")
        yield from parse_raw(must(*argv, stdin="".join(f"{c}\n" for c in commits).encode()))


def between(old: str, new: str) -> list[Change]:
    """What ``new`` has otherwise than ``old``, as trees."""
    return list(parse_raw(must("diff-tree", "-r", "--raw", "-z", "--no-renames", old, new)))


def parse_raw(raw: bytes) -> Iterator[Change]:
    """Read the raw format, of one parent (``:``) or several (``::…``)."""
    fields = iter(raw.split(b"\0"))
    for head in fields:
        if not head:
            continue
        parents = len(head) - len(head.lstrip(b":"))
        words = head[parents:].decode("ascii").split(" ")
        path = next(fields).decode("utf-8", "surrogateescape")
        yield Change(path, words[parents], words[2 * parents + 1])


def objects(new: str, limits: list[str]) -> list[Object]:
    """Every object that the push's commits reach and the rest does not (and perhaps some more)."""
    paths: dict[str, str] = {}
    for raw in must("rev-list", "--objects", new, *limits).split(b"\n"):
        oid, _, path = raw.decode("utf-8", "surrogateescape").partition(" ")
        if oid:
            paths.setdefault(oid, path)
    asked = "".join(f"{oid}\n" for oid in paths).encode()
    found = []
    for line in must("cat-file", "--batch-check", stdin=asked).decode("ascii").splitlines():
        words = line.split(" ")
        if len(words) == 3:
            found.append(Object(words[0], words[1], int(words[2]), paths[words[0]]))
    return found


def contents(oids: list[str]) -> Iterator[tuple[str, bytes]]:
    """The bytes of each object, one after the other (never all at once in memory)."""
    process = subprocess.Popen(
        ["git", "cat-file", "--batch"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert process.stdin is not None and process.stdout is not None
    try:
        for oid in oids:
            process.stdin.write(oid.encode() + b"\n")
            process.stdin.flush()
            head = process.stdout.readline().decode("ascii").split(" ")
            if len(head) != 3:
                raise GitSaidNo("cat-file")
            size = int(head[2])
            data = process.stdout.read(size)
            if len(data) != size or process.stdout.read(1) != b"\n":
                raise GitSaidNo("cat-file")
            yield oid, data
    finally:
        process.stdin.close()
        process.kill()
        process.wait()


def blob(spec: str) -> bytes:
    """The contents at ``COMMIT:path`` (or of an id), b"" when there is nothing."""
    code, out = git("cat-file", "blob", spec)
    return b"" if code else out


def moved(base: str, new: str, branch: str) -> list[Change]:
    """What the tip has otherwise than where the box started, and also otherwise than the newest commit of the
    source's ``branch`` that it has merged. A merge can bring what no single commit of the push changes."""
    if not base:
        return []
    found = between(base, new)
    code, out = git("merge-base", new, f"refs/heads/{branch}") if branch else (1, b"")
    merged = out.decode("ascii").strip()
    if not code and merged and merged != base:
        also = {change.path for change in between(merged, new)}
        return [change for change in found if change.path in also]
    return found


def hidden(reached: set[str], env: dict[str, str]) -> list[str]:
    """Objects of the quarantine that no pushed commit reaches and the mirror does not have otherwise."""
    quarantine = env.get("GIT_QUARANTINE_PATH") or env.get("GIT_OBJECT_DIRECTORY")
    if not quarantine:
        return []
    alone = {k: v for k, v in env.items() if k != "GIT_ALTERNATE_OBJECT_DIRECTORIES"}
    alone["GIT_OBJECT_DIRECTORY"] = quarantine
    listed = must("cat-file", "--batch-all-objects", "--batch-check=%(objectname)", "--unordered", env=alone)
    brought = set(listed.decode("ascii").split()) - reached
    if not brought:
        return []
    mirror = {
        k: v for k, v in env.items() if not k.startswith(("GIT_OBJECT", "GIT_ALTERNATE", "GIT_QUARANTINE"))
    }
    asked = "".join(f"{oid}\n" for oid in sorted(brought)).encode()
    lines = must("cat-file", "--batch-check", stdin=asked, env=mirror).decode("ascii").splitlines()
    return [line.split(" ")[0] for line in lines if line.endswith(" missing")]


_FILTER = re.compile(rb"(?:^|\s)filter=(\S+)", re.MULTILINE)


def filters(text: bytes) -> set[str]:
    """The filter programs that a ``.gitattributes`` names."""
    return {name.decode("utf-8", "replace") for name in _FILTER.findall(text)}
