"""A small assembler for seccomp filters (classic BPF), and putting one into force.

A filter is a list of :class:`Rule`; a system call that no rule names is allowed, one that is newer
than this table answers ENOSYS, one of a foreign architecture kills the process.
"""

from __future__ import annotations

import ctypes
import struct

from thopter.kit.linux import calls

EPERM, ENOSYS, EAFNOSUPPORT, EPROTONOSUPPORT = 1, 38, 97, 93
NEWEST = 466  # removexattrat (Linux 6.13); anything after it has not been judged, so it is ENOSYS

_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_LD, _JEQ, _JGE, _JSET, _RET = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _ERRNO, _KILL = 0x7FFF0000, 0x00050000, 0x80000000
_NR_AT, _ARCH_AT, _ARGS_AT = 0, 4, 16
_X32_BIT = 0x40000000

# name: (x86_64, aarch64); None where that architecture has no such call
TABLE: dict[str, tuple[int | None, int | None]] = {
    "acct": (163, 89), "add_key": (248, 217), "bpf": (321, 280), "clock_settime": (227, 112),
    "clone": (56, 220), "clone3": (435, 435), "delete_module": (176, 106), "fanotify_init": (300, 262),
    "finit_module": (313, 273), "fsconfig": (431, 431), "fsmount": (432, 432), "fsopen": (430, 430),
    "fspick": (433, 433), "init_module": (175, 105), "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427), "io_uring_setup": (425, 425), "ioctl": (16, 29),
    "ioperm": (173, None), "iopl": (172, None), "kexec_file_load": (320, 294), "kexec_load": (246, 104),
    "keyctl": (250, 219), "lookup_dcookie": (212, 18), "mbind": (237, 235), "migrate_pages": (256, 238),
    "modify_ldt": (154, None), "mount": (165, 40), "mount_setattr": (442, 442), "move_mount": (429, 429),
    "move_pages": (279, 239), "nfsservctl": (180, 42), "open_by_handle_at": (304, 265),
    "open_tree": (428, 428), "perf_event_open": (298, 241), "personality": (135, 92),
    "pivot_root": (155, 41), "quotactl": (179, 60), "quotactl_fd": (443, 443), "reboot": (169, 142),
    "request_key": (249, 218), "set_mempolicy": (238, 237), "set_mempolicy_home_node": (450, 450),
    "setns": (308, 268), "settimeofday": (164, 170), "socket": (41, 198), "swapoff": (168, 225),
    "swapon": (167, 224), "sysfs": (139, None), "syslog": (103, 116), "umount2": (166, 39),
    "unshare": (272, 97), "uselib": (134, None), "userfaultfd": (323, 282), "ustat": (136, None),
    "vhangup": (153, 58),
}  # fmt: skip

Code = list[tuple[int, int, int, int]]  # (opcode, jump if true, jump if false, constant)


class Rule:
    """What one system call gets: a block of code that ends in a verdict on every path."""

    def __init__(self, name: str, block: Code) -> None:
        self.name = name
        self.block = block


def _arg(index: int) -> tuple[int, int, int, int]:
    return (_LD, 0, 0, _ARGS_AT + 8 * index)  # low half: both architectures are little-endian


def _verdict(error: int) -> tuple[int, int, int, int]:
    return (_RET, 0, 0, _ERRNO | error if error else _ALLOW)


def deny(name: str, error: int = EPERM) -> Rule:
    """Refuse the call always."""
    return Rule(name, [_verdict(error)])


def deny_bits(name: str, arg: int, bits: int, error: int = EPERM) -> Rule:
    """Refuse the call when argument ``arg`` has any of ``bits``."""
    return Rule(name, [_arg(arg), (_JSET, 0, 1, bits), _verdict(error), _verdict(0)])


def deny_values(name: str, arg: int, values: tuple[int, ...], error: int = EPERM) -> Rule:
    """Refuse the call when argument ``arg`` (its low 32 bits) is one of ``values``."""
    tests: Code = [(_JEQ, len(values) - i, 0, v) for i, v in enumerate(values)]
    return Rule(name, [_arg(arg), *tests, _verdict(0), _verdict(error)])


def only_values(name: str, arg: int, values: tuple[int, ...], error: int = EPERM) -> Rule:
    """Refuse the call unless argument ``arg`` is one of ``values``."""
    return Rule(name, _only(arg, values, error))


def _only(arg: int, values: tuple[int, ...], error: int) -> Code:
    tests: Code = [(_JEQ, len(values) - i, 0, v) for i, v in enumerate(values)]
    return [_arg(arg), *tests, _verdict(error), _verdict(0)]


def sockets(families: dict[int, tuple[int, ...]]) -> Rule:
    """Allow socket(2) only for ``families``; each maps to its allowed protocols (none = any)."""
    block: Code = [_arg(0)]
    for family, protocols in families.items():
        inner = _only(2, protocols, EPROTONOSUPPORT) if protocols else [_verdict(0)]
        block += [(_JEQ, 0, len(inner), family), *inner]
    return Rule("socket", [*block, _verdict(EAFNOSUPPORT)])


def assemble(rules: list[Rule], machine: str = calls.MACHINE) -> bytes:
    """Return the filter as an array of ``struct sock_filter`` for ``machine``."""
    if machine not in _ARCH:
        raise OSError(ENOSYS, f"no seccomp table for {machine}")
    column = 0 if machine == "x86_64" else 1
    code: Code = [
        (_LD, 0, 0, _ARCH_AT),
        (_JEQ, 1, 0, _ARCH[machine]),
        (_RET, 0, 0, _KILL),
        (_LD, 0, 0, _NR_AT),
    ]
    if machine == "x86_64":
        code += [(_JGE, 0, 1, _X32_BIT), (_RET, 0, 0, _KILL)]
    code += [(_JGE, 0, 1, NEWEST + 1), _verdict(ENOSYS)]
    for rule in rules:
        number = TABLE[rule.name][column]
        if number is not None:
            # A block may load an argument: it always ends in a verdict, so the number stays loaded.
            code += [(_JEQ, 0, len(rule.block), number), *rule.block]
    code.append(_verdict(0))
    return b"".join(struct.pack("<HBBI", *op) for op in code)


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("code", ctypes.c_char_p))


def enforce(program: bytes) -> None:
    """Put an assembled filter into force for this process and all it will ever start."""
    prog = _Program(len(program) // 8, program)
    calls.syscall("seccomp", 1, 0, ctypes.pointer(prog))  # SECCOMP_SET_MODE_FILTER
