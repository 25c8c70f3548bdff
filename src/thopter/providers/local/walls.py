"""What every process of a box may not do: the seccomp policy, capabilities, rlimits.

Runs in the box's first process, after its namespaces are made and before any code of the box.
"""

from __future__ import annotations

import resource

from thopter.kit.linux import calls, caps, seccomp

_ANY_NAMESPACE = (
    calls.CLONE_NEWNS | calls.CLONE_NEWCGROUP | calls.CLONE_NEWUTS | calls.CLONE_NEWIPC
    | calls.CLONE_NEWUSER | calls.CLONE_NEWPID | calls.CLONE_NEWNET
)  # fmt: skip
_NEWTIME = 0x80  # for unshare; in clone this bit is part of the exit signal
_TIOCSTI, _TIOCLINUX, _TIOCSETD, _TIOCCONS = 0x5412, 0x541C, 0x5423, 0x541D
_NO_RANDOMIZE = 0x0040000  # gdb asks for it; harmless where nothing is setuid

# All of these act inside the box's own user namespace only. No SYS_ADMIN, NET_ADMIN, SYS_MODULE,
# MKNOD, SYS_BOOT, SYSLOG, BPF, …: chown, su, dpkg and gdb work, nothing about the kernel does.
KEPT_CAPABILITIES = frozenset(
    {"CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID", "SETPCAP",
     "NET_BIND_SERVICE", "SYS_CHROOT", "SYS_PTRACE", "SETFCAP", "AUDIT_WRITE"}
)  # fmt: skip

_NEVER = (
    "mount", "umount2", "pivot_root", "open_tree", "move_mount", "fsopen", "fsconfig", "fsmount", "fspick",
    "mount_setattr", "setns", "bpf", "perf_event_open", "keyctl", "add_key", "request_key", "userfaultfd",
    "io_uring_setup", "io_uring_enter", "io_uring_register", "kexec_load", "kexec_file_load",
    "init_module", "finit_module", "delete_module", "open_by_handle_at", "acct", "swapon", "swapoff",
    "reboot", "settimeofday", "clock_settime", "quotactl", "quotactl_fd", "nfsservctl", "lookup_dcookie",
    "vhangup", "iopl", "ioperm", "syslog", "sysfs", "ustat", "uselib", "fanotify_init", "modify_ldt",
    "migrate_pages", "move_pages", "mbind", "set_mempolicy", "set_mempolicy_home_node",
)  # fmt: skip

_INET_PROTOCOLS = (0, 6, 17, 1, 58)  # any of TCP, UDP, ping; no SCTP, DCCP, MPTCP, raw
_ROUTE_ONLY = (0,)  # NETLINK_ROUTE: getifaddrs needs it


def rules() -> list[seccomp.Rule]:
    """The policy. ptrace stays: debuggers need it, it cannot pass the filter, and boxd is out of its
    reach because boxd is not dumpable."""
    return [
        seccomp.deny_values("ioctl", 1, (_TIOCSTI, _TIOCLINUX, _TIOCSETD, _TIOCCONS)),
        seccomp.deny_bits("clone", 0, _ANY_NAMESPACE),
        seccomp.deny("clone3", seccomp.ENOSYS),  # its flags lie in memory: libc falls back to clone
        seccomp.deny_bits("unshare", 0, _ANY_NAMESPACE | _NEWTIME),
        seccomp.sockets({1: (), 2: _INET_PROTOCOLS, 10: _INET_PROTOCOLS, 16: _ROUTE_ONLY}),
        seccomp.only_values("personality", 0, (0, 0xFFFFFFFF, 8, _NO_RANDOMIZE)),
        *(seccomp.deny(name) for name in _NEVER),
    ]


def program() -> bytes:
    """The assembled filter for this machine (the zygote does this once)."""
    return seccomp.assemble(rules())


def lower_rlimits() -> None:
    """No core dumps; as many open files as allowed, at most 65,536.

    Of 0 the kernel would still start the machine's ``core_pattern`` program, as the host's root, with
    the dump; 1 is its word for: none at all. Where we were started with 0 it stays 0.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_CORE)
    none = 0 if hard == 0 else 1
    resource.setrlimit(resource.RLIMIT_CORE, (none, none))
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = 65536 if hard == resource.RLIM_INFINITY else min(hard, 65536)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def limit_processes(most: int) -> None:
    """Let the box have at most ``most`` processes (0: no limit here). The kernel counts them per user
    namespace, so boxes of one user do not count together."""
    if most:
        resource.setrlimit(resource.RLIMIT_NPROC, (most, most))


def close_the_door(filter_code: bytes) -> None:
    """Put all of it into force for this process and everything after it; cannot be undone.

    no_new_privs is set: all work in a box starts as the box's root, so nothing needs to gain
    anything by a setuid file, and that whole class of kernel defects falls away.
    """
    lower_rlimits()
    calls.prctl(calls.PR_SET_NO_NEW_PRIVS, 1)
    caps.drop_all_but(KEPT_CAPABILITIES)
    bar_calls(filter_code)


def bar_calls(filter_code: bytes) -> None:
    """Put the seccomp policy into force; no_new_privs must be set."""
    seccomp.enforce(filter_code)
