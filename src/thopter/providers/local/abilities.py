"""What the local provider can do here, in words: names of limits, and what to change for the rest."""

from __future__ import annotations

from thopter.kit.linux import cgroups
from thopter.model.nouns import Isolation
from thopter.model.sockets import Caps
from thopter.providers.local.maker import Maker
from thopter.providers.local.modes import Mode

# What a kind of box lacks for good, and where it is to be had.
_LACKING = {
    Isolation.NAMESPACES_USER: {
        "packages": "apt and su do not work in boxes of an ordinary user; a root hub's boxes have both",
    },
    Isolation.BUBBLEWRAP: {
        "packages": "/usr is read-only in boxes made by bubblewrap, so apt does not work there",
        "user namespaces": "boxes are made by bubblewrap: slower to make, each with a copy of the golden",
    },
    Isolation.CONTAINER: {
        "packages": "/usr is read-only in boxes made by a container engine, so apt does not work there",
        "user namespaces": "boxes are made by a container engine: a second or more each",
    },
    Isolation.NONE: {
        "isolation": "agents run as you, on your files and your network: set local.isolation to auto",
    },
}
_LIMITS = {"memory": "memory_bytes", "pids": "pids", "cpu": "cpus"}
_NO_USERNS = (
    "user namespaces are refused here: allow them (sysctl user.max_user_namespaces, "
    "kernel.unprivileged_userns_clone=1, kernel.apparmor_restrict_unprivileged_userns=0; in a container "
    "run it with seccomp=unconfined)"
)
# (what the failed step says, what to change)
_ADVICE = (
    ("unshare(0x10000000)", _NO_USERNS),
    ("uid_map", _NO_USERNS),
    ("setgroups", _NO_USERNS),
    ("unshare(", "namespaces are refused here: run the hub outside of a container, or as root"),
    ("mount_setattr", "that filesystem can't be idmapped: it takes Linux 5.19 with ext4, xfs or btrfs"),
    ("mount proc", "a fresh /proc is refused, as inside most containers: run the hub outside of one"),
    ("mount overlay", "overlayfs is refused: it takes Linux 5.11 and a state folder not on an overlay"),
    ("mknod", "making device nodes is refused: run the hub with CAP_MKNOD"),
    ("cgroup.procs", "joining a control group is refused: /sys/fs/cgroup must be writable for the hub"),
    ("seccomp", "seccomp filters are refused by this kernel"),
)  # fmt: skip


def advice(problem: str) -> str:
    """One sentence: what went wrong, and what to change where that is known."""
    for sign, change in _ADVICE:
        if sign in problem:
            return f"{change} ({problem})"
    return problem


def caps(maker: Maker, mode: Mode | None, problems: dict[str, str], no_live: str) -> Caps:
    """Put it together. ``mode`` None: no way works; ``problems``: isolation → why it does not; ``no_live``:
    why processes can't be forked."""
    missing = {name: advice(text) for name, text in problems.items()}
    if mode is None:
        weakest = Isolation(next(reversed(problems))) if problems else Isolation.NONE
        return Caps(isolation=weakest, missing=missing)
    limits = {_LIMITS[name] for name in maker.groups.limits}
    if mode.isolation in (Isolation.NAMESPACES_USER, Isolation.BUBBLEWRAP):
        limits.add("pids")  # by rlimit, which counts per user namespace
    if mode.isolation is Isolation.CONTAINER and not maker.root:
        limits.clear()  # an engine's processes can't be brought into our groups
    for name, field in _LIMITS.items():
        if field not in limits:
            whose = "here" if maker.root else "to this user (run the hub as a systemd user service)"
            missing[field] = f"no {name} limit: the cgroup controller {name} is not available {whose}"
    if mode.isolation is Isolation.CONTAINER:
        missing["disk_bytes"] = "boxes' disk use is not limited: they write into the engine's storage"
    elif maker.pool.limits_disk:
        limits.add("disk_bytes")
    else:
        missing["disk_bytes"] = maker.pool.missing or "boxes' disk use is not limited"
    if not maker.groups.can_freeze:
        missing["freezer"] = (
            "no cgroup freezer is available: boxes are frozen by signals, which they can notice"
        )
    missing |= _LACKING.get(mode.isolation, {})
    facets = {"suspends", "goldens"} | (set() if mode.isolation is Isolation.NONE else {"confines"})
    if mode.ours:
        facets |= {"snapshots", "stops"}
        if "memory" not in maker.groups.limits:
            missing["swap"] = "suspended boxes keep their memory: there is no cgroup controller for it"
        elif not cgroups.any_swap():
            missing["swap"] = (
                "suspended boxes keep their memory: no swap; make some (mkswap, swapon), or 'suspend --disk'"
            )
        if not maker.pool.subvolumes:
            missing["sharing"] = (
                "snapshots and boxes made from them are whole copies: the pool is not on btrfs"
            )
    else:
        missing["snapshots"] = f"boxes of isolation {mode.isolation} can't be saved, stopped or forked"
    if not no_live:
        facets.add("forks live")
    elif mode.ours:
        missing["forks live"] = f"'fork --live' can't be had: {no_live}"
    return Caps(
        isolation=mode.isolation, facets=frozenset(facets), limits=frozenset(limits), missing=missing
    )  # fmt: skip
