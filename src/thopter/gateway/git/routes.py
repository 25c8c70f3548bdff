"""What a box may ask of the git gateway, decided before a byte of a body is read: pure functions."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Literal

import msgspec
from msgspec import Struct, structs, to_builtins

from thopter.gateway.connection import Limits
from thopter.gateway.gitrun import config_env
from thopter.gateway.http1 import BadRequest, Head
from thopter.gateway.mirror import box_ref
from thopter.gateway.mirror_config import MAX_INPUT
from thopter.gateway.policy.model import GitRights
from thopter.gateway.source import SLUG, check_branch
from thopter.model.errors import BadInput

Service = Literal["git-upload-pack", "git-receive-pack"]

#: A fetch's request is a list of commits; http-backend itself takes 10 MiB at most.
FETCH_BODY_MAX = 8 << 20
PUSH_BODY_MAX = MAX_INPUT + (1 << 20)
LFS_TYPE = "application/vnd.git-lfs+json"
NO_LFS = (
    "contents of git LFS don't travel through this hub; "
    "commit the file itself (git lfs untrack), or leave it out"
)
_VERSIONS = ("version=0", "version=1", "version=2")


class GitLimits(Limits, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Limits with the defaults of a git client: few connections, big bodies."""

    connections: int = 16
    body_bytes: int = PUSH_BODY_MAX
    body_idle_seconds: float = 60.0


class Beside(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One more mirror of the same box; see :class:`Attach`."""

    repo: str
    branch: str
    base: str = ""
    source_branch: str = ""


class Attach(Struct, frozen=True, kw_only=True):
    """The ``attach`` request. ``base``: commit the box started from (its pushes must descend from it;
    empty = not checked). ``source_branch``: the branch it was read from. ``force``: whether the box may
    rewrite its own branch, where ``rights`` allow it. ``known``: marks of the operator's secrets. ``beside``:
    further mirrors, each with the box's one branch in it."""

    box: str
    repo: str
    branch: str
    base: str = ""
    source_branch: str = ""
    force: bool = True
    run: str = ""
    rights: GitRights = GitRights()
    known: tuple[str, ...] = ()
    limits: GitLimits = GitLimits()
    beside: tuple[Beside, ...] = ()

    @property
    def every(self) -> tuple[Attach | Beside, ...]:
        """Itself and what is beside it."""
        return (self, *self.beside)

    @property
    def ref(self) -> str:
        """The one ref this box may push."""
        return "refs/heads/" + self.branch


class Wish(Struct, frozen=True):
    """One of the four requests: what git program serves it, and whether it is its advertisement."""

    service: Service
    advertisement: bool


def parse_attach(request: Mapping[str, Any]) -> Attach:
    """Check an ``attach`` request; raises BadInput or BadName."""
    try:
        attach = msgspec.convert(request, Attach)
    except msgspec.ValidationError as e:
        raise BadInput(f"attach: {e}") from None
    for one in attach.every:
        _check(one)
    names = [one.repo for one in attach.every]
    if len(set(names)) != len(names):
        raise BadInput("a mirror is named twice")
    return attach


def _check(one: Attach | Beside) -> None:
    if not SLUG.fullmatch(one.repo):
        raise BadInput(f"{one.repo[:80]!r} can't name a mirror")
    prefix, _, name = one.branch.partition("/")
    if prefix != "thopter":
        raise BadInput("a box's branch is thopter/<name>")
    box_ref(name)  # raises BadName
    if one.base and (len(one.base) not in (40, 64) or set(one.base) - set("0123456789abcdef")):
        raise BadInput("base must be a full commit id")
    if one.source_branch:
        check_branch(one.source_branch)


def narrowed(attach: Attach, target: str) -> Attach:
    """The attachment as if it had only the mirror that ``target`` is about; the first when it is about
    none, which :func:`decide` then refuses."""
    for one in attach.beside:
        if target.startswith(f"/r/{one.repo}.git/"):
            fields = {"repo": one.repo, "branch": one.branch, "base": one.base}
            return structs.replace(attach, **fields, source_branch=one.source_branch, beside=())
    return structs.replace(attach, beside=())


def decide(head: Head, attach: Attach) -> Wish | BadRequest:
    """Return what is wished, or the refusal. Targets are compared whole: nothing is decoded, so there
    is no other spelling of an allowed one."""
    root = f"/r/{attach.repo}.git"
    pushing = head.target in (f"{root}/info/refs?service=git-receive-pack", f"{root}/git-receive-pack")
    if pushing and attach.rights.push == "none":
        return BadRequest(403, "this box's policy lets it push nothing; leave the work in the box")
    for service in ("git-upload-pack", "git-receive-pack"):
        if head.target == f"{root}/info/refs?service={service}":
            if head.method != "GET" or head.has_body:
                return BadRequest(405, "that is asked with GET and without a body")
            return Wish(service, advertisement=True)
        if head.target == f"{root}/{service}":
            if head.method != "POST":
                return BadRequest(405, "that is asked with POST")
            if head.header("content-type") != f"application/x-{service}-request":
                return BadRequest(415, f"the content type must be application/x-{service}-request")
            if head.header("content-encoding") not in (None, "gzip", "x-gzip"):
                return BadRequest(415, "the only content encoding served here is gzip")
            return Wish(service, advertisement=False)
    if head.target.startswith(f"{root}/info/lfs/"):
        return BadRequest(501, NO_LFS)
    return BadRequest(403, f"only {root} can be reached here, by git's smart HTTP protocol")


def body_limit(wish: Wish) -> int:
    """The most bytes (after unpacking) that are taken."""
    return PUSH_BODY_MAX if wish.service == "git-receive-pack" else FETCH_BODY_MAX


def git_config(attach: Attach, hooks: str) -> list[tuple[str, str]]:
    """The configuration for one request: a box sees the source's branches and tags and its own branch,
    and what it pushes goes through our hooks."""
    pairs = _hide("uploadpack", attach)
    pairs += [("core.hooksPath", hooks), ("http.receivepack", "true"), ("http.uploadpack", "true")]
    force = attach.force and attach.rights.force
    pairs += [("receive.denyNonFastForwards", "false" if force else "true")]
    pairs += [("receive.maxInputSize", str(min(int(attach.rights.push_mb * (1 << 20)), MAX_INPUT)))]
    pairs += [("gc.auto", "0"), ("maintenance.auto", "false")]
    return pairs


def advertised_config(attach: Attach) -> list[tuple[str, str]]:
    """What is added when refs are advertised for a push: other boxes' branches are not shown. Not for
    the push itself: there the hook refuses, which can say what to push instead."""
    return _hide("receive", attach)


def _hide(section: str, attach: Attach) -> list[tuple[str, str]]:
    """All refs are hidden, then shown or hidden again: the last that matches decides."""
    order = ("refs", "!refs/heads", "!refs/tags", "refs/heads/thopter", "!" + attach.ref)
    return [(f"{section}.hideRefs", ref) for ref in order]


def hook_env(attach: Attach, outbox: str) -> dict[str, str]:
    """What the hooks must know. ``outbox``: the folder for notes to the hub, of all mirrors."""
    rights = to_builtins(attach.rights) | {"force": attach.force and attach.rights.force}
    env = {
        "THOPTER_REF": attach.ref,
        "THOPTER_BASE": attach.base,
        "THOPTER_FROM": attach.source_branch,
        "THOPTER_BOX": attach.box,
        "THOPTER_RIGHTS": json.dumps(rights),
        "THOPTER_KNOWN": json.dumps(attach.known),
    }
    if attach.rights.push == "upstream":
        env["THOPTER_OUTBOX"] = f"{outbox}/{attach.repo}"
    return env


def cgi_env(head: Head, attach: Attach, wish: Wish, mirrors: str, hooks: str) -> dict[str, str]:
    """The environment of ``git http-backend`` for this request. Of the client's headers only the
    protocol version gets in, and only if it is one of three known texts."""
    target, _, query = head.target.partition("?")
    config = git_config(attach, hooks)
    if wish.advertisement and wish.service == "git-receive-pack":
        config += advertised_config(attach)
    env = {
        "GATEWAY_INTERFACE": "CGI/1.1",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "REQUEST_METHOD": head.method,
        "GIT_PROJECT_ROOT": mirrors,
        "PATH_INFO": target.removeprefix("/r"),
        "QUERY_STRING": query,
        "GIT_HTTP_EXPORT_ALL": "1",
        "REMOTE_USER": "box",
        "REMOTE_ADDR": "127.0.0.1",
        **config_env(config),
    }
    if not wish.advertisement:
        env["CONTENT_TYPE"] = f"application/x-{wish.service}-request"
    version = head.header("git-protocol")
    if version in _VERSIONS:
        env["GIT_PROTOCOL"] = version
    return env
