"""A filter for the kernel's seccomp: which system calls a sandbox refuses.

Namespaces and resource limits leave ways to memory that no limit counts (shared memory of System V, anonymous files,
file systems mounted in a user namespace of one's own), to the user's keys, and to much of the kernel's code.
"""

import errno
import platform
import struct

_ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}

# Numbers on x86_64 and aarch64.
_REFUSED = {
    "socket": (41, 198),
    "shmget": (29, 194),
    "semget": (64, 190),
    "msgget": (68, 186),
    "mq_open": (240, 180),
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    "unshare": (272, 97),
    "setns": (308, 268),
    "clone3": (435, 435),  # the C library then takes clone, whose flags the filter can see
    "mount": (165, 40),
    "fsopen": (430, 430),
    "open_tree": (428, 428),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "io_uring_setup": (425, 425),
    "userfaultfd": (323, 282),
    "perf_event_open": (298, 241),
    "bpf": (321, 280),
}
_CLONE = (56, 220)
_NEW_NAMESPACE = 0x7E020000
_X32 = 0x40000000

_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_NUMBER, _ARCHITECTURE, _FIRST_ARGUMENT = 0, 4, 16
_ALLOW, _REFUSE = 0x7FFF0000, 0x00050000 | errno.ENOSYS


def seccomp_filter() -> bytes | None:
    """The filter as `bwrap --seccomp` reads it; a refused call is one that the kernel does not have (ENOSYS).

    Returns:
        The program in classic BPF, or None on a processor whose system calls are not known here.
    """
    machine = platform.machine()
    if machine not in _ARCHITECTURES:
        return None
    column = list(_ARCHITECTURES).index(machine)
    refused = [numbers[column] for numbers in _REFUSED.values()]
    # Operation, operand; where it holds and where not: the call is refused (True), allowed (False), or neither (None).
    steps: list[tuple[int, int, bool | None, bool | None]] = [
        (_LOAD, _ARCHITECTURE, None, None),
        (_EQUAL, _ARCHITECTURES[machine], None, True),
        (_LOAD, _NUMBER, None, None),
        (_AT_LEAST, _X32, True, None),
        *((_EQUAL, number, True, None) for number in refused),
        (_EQUAL, _CLONE[column], None, False),
        (_LOAD, _FIRST_ARGUMENT, None, None),
        (_ANY_BIT, _NEW_NAMESPACE, True, False),
        (_RETURN, _ALLOW, None, None),
        (_RETURN, _REFUSE, None, None),
    ]
    ends = {None: lambda left: 0, False: lambda left: left - 2, True: lambda left: left - 1}
    return b"".join(
        struct.pack("=HBBI", operation, ends[holds](left), ends[fails](left), operand)
        for left, (operation, operand, holds, fails) in zip(range(len(steps) - 1, -1, -1), steps, strict=True)
    )
