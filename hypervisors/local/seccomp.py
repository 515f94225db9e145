"""The system call filter of a sandbox, as the BPF program that bwrap loads.

A list of what is refused (EPERM), not of what is allowed: compilers, debuggers and language runtimes must work.
Namespaces are closed by `--disable-userns` and empty capabilities; this takes away kernel surface that no goal needs
and that most kernel escapes went through.
"""

import platform
import struct

_LOAD, _JUMP_EQUAL, _JUMP_GE, _RETURN = 0x20, 0x15, 0x35, 0x06
_ALLOW, _KILL, _EPERM, _ENOSYS = 0x7FFF0000, 0x80000000, 0x00050001, 0x00050026
_ARGUMENT = 16
"""Where the first argument's low half is in what the filter sees, on a little-endian processor."""
_X32 = 0x40000000
"""Calls of the x32 ABI have this bit; they would pass a filter by number."""

_SOCKET = {"x86_64": 41, "aarch64": 198}
_FAMILIES = {"AF_UNIX": 1, "AF_INET": 2, "AF_INET6": 10, "AF_NETLINK": 16}
"""The socket families that are left. No network namespace confines AF_VSOCK, which reaches the hypervisor below."""

_ARCHITECTURES: dict[str, tuple[int, dict[str, int]]] = {
    "x86_64": (
        0xC000003E,
        {
            "acct": 163, "add_key": 248, "bpf": 321, "delete_module": 176, "finit_module": 313, "fsconfig": 431,
            "fsmount": 432, "fsopen": 430, "fspick": 433, "init_module": 175, "io_uring_enter": 426,
            "io_uring_register": 427, "io_uring_setup": 425, "ioperm": 173, "iopl": 172, "kexec_file_load": 320,
            "kexec_load": 246, "keyctl": 250, "lookup_dcookie": 212, "mount": 165, "mount_setattr": 442,
            "move_mount": 429, "name_to_handle_at": 303, "open_by_handle_at": 304, "open_tree": 428,
            "perf_event_open": 298, "pivot_root": 155, "quotactl": 179, "quotactl_fd": 443, "reboot": 169,
            "request_key": 249, "setns": 308, "swapoff": 168, "swapon": 167, "syslog": 103, "umount2": 166,
            "unshare": 272, "userfaultfd": 323, "vhangup": 153,
        },
    ),
    "aarch64": (
        0xC00000B7,
        {
            "acct": 89, "add_key": 217, "bpf": 280, "delete_module": 106, "finit_module": 273, "fsconfig": 431,
            "fsmount": 432, "fsopen": 430, "fspick": 433, "init_module": 105, "io_uring_enter": 426,
            "io_uring_register": 427, "io_uring_setup": 425, "kexec_file_load": 294, "kexec_load": 104,
            "keyctl": 219, "lookup_dcookie": 18, "mount": 40, "mount_setattr": 442, "move_mount": 429,
            "name_to_handle_at": 264, "open_by_handle_at": 265, "open_tree": 428, "perf_event_open": 241,
            "pivot_root": 41, "quotactl": 60, "quotactl_fd": 443, "reboot": 142, "request_key": 218, "setns": 268,
            "swapoff": 225, "swapon": 224, "syslog": 116, "umount2": 39, "unshare": 97, "userfaultfd": 282,
            "vhangup": 58,
        },
    ),
}  # fmt: skip


def program(machine: str = "") -> bytes | None:
    """Return the filter for this processor, or None where its call numbers are not known."""
    known = _ARCHITECTURES.get(machine or platform.machine())
    if known is None:
        return None
    architecture, calls = known
    body = [
        (_LOAD, 0, 0, 4),
        (_JUMP_EQUAL, 1, 0, architecture),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, 0),
        (_JUMP_GE, 0, 1, _X32),
        (_RETURN, 0, 0, _ENOSYS),
    ]
    for number in sorted(set(calls.values())):
        body += [(_JUMP_EQUAL, 0, 1, number), (_RETURN, 0, 0, _EPERM)]
    families = sorted(_FAMILIES.values())
    body += [(_JUMP_EQUAL, 0, len(families) + 2, _SOCKET[machine or platform.machine()]), (_LOAD, 0, 0, _ARGUMENT)]
    body += [(_JUMP_EQUAL, len(families) - nth, 0, family) for nth, family in enumerate(families)]
    body += [(_RETURN, 0, 0, _EPERM), (_RETURN, 0, 0, _ALLOW)]
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in body)
