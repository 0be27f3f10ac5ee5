"""System calls that Python's standard library lacks, for Linux on x86-64 and aarch64."""

from __future__ import annotations

import ctypes
import mmap
import os
import platform
import sys

PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_NO_NEW_PRIVS, PR_CAP_AMBIENT, PR_SET_MDWE = 1, 4, 38, 47, 65
PR_CAP_AMBIENT_CLEAR_ALL = 4
PR_MDWE_REFUSE_EXEC_GAIN = 1
CLONE_NEWUTS, CLONE_NEWIPC, CLONE_NEWNET = 0x04000000, 0x08000000, 0x40000000

MADV_HUGEPAGE, MADV_COLLAPSE, HUGE = 14, 25, 2 << 20

# These newer system calls have the same numbers on both architectures. `NUMBERS` contains older system calls.
LANDLOCK_CREATE_RULESET, LANDLOCK_ADD_RULE, LANDLOCK_RESTRICT_SELF, CLOSE_RANGE = 444, 445, 446, 436
NUMBERS = {
    "x86_64": {"seccomp": 317, "capset": 126},
    "aarch64": {"seccomp": 277, "capset": 91},
}
MACHINE = platform.machine()

_libc = ctypes.CDLL(None, use_errno=True)


def supported() -> bool:
    """Return True if this machine runs Linux on x86-64 or aarch64."""
    return sys.platform == "linux" and MACHINE in NUMBERS


def call(number: int, *arguments: ctypes._SimpleCData | ctypes._Pointer | int | None) -> int:  # type: ignore[type-arg]
    """Make the system call with this number. Return its result.

    Raises:
        OSError: the call failed.
    """
    words = [ctypes.c_long(argument) if isinstance(argument, int) else argument for argument in arguments]
    return _checked(_libc.syscall(ctypes.c_long(number), *words))


def prctl(option: int, *arguments: int) -> int:
    """Call `prctl(2)`. Raises the errors of `call`."""
    words = [ctypes.c_ulong(argument) for argument in (*arguments, 0, 0, 0, 0)[:4]]
    return _checked(_libc.prctl(ctypes.c_int(option), *words))


def unshare(flags: int) -> None:
    """Call `unshare(2)`. Raises the errors of `call`."""
    _checked(_libc.unshare(ctypes.c_int(flags)))


def close_from(first: int) -> None:
    """Close all file descriptors with the number `first` or a higher number."""
    try:
        call(CLOSE_RANGE, first, 0x7FFFFFFF, 0)
    except OSError:  # Linux before 5.9
        os.closerange(first, 1 << 16)


def cpu_wait_s(pid: int) -> float:
    """Return how many seconds a single-threaded process was ready to run but waited for a CPU.

    Return 0 if the kernel does not report this time.
    """
    try:
        with open(f"/proc/{pid}/schedstat") as file:
            return int(file.read().split()[1]) / 1e9
    except (OSError, ValueError, IndexError):
        return 0.0


def protect_code() -> None:
    """Make all writable memory of this process non-executable. Raises the errors of `call`.

    A process can write to memory in two cases: if the mapping permits it, or if the file of the mapping also has a
    shared mapping. Old versions of libffi leave such memory executable.
    """
    with open("/proc/self/maps") as file:
        regions = [line.split() for line in file]
    shared = {(device, inode) for _, rights, _, device, inode, *_ in regions if rights[3] == "s" and inode != "0"}
    for bounds, rights, _, device, inode, *_ in regions:
        if rights[2] == "x" and (rights[1] == "w" or (device, inode) in shared):
            first, last = (int(bound, 16) for bound in bounds.split("-"))
            remaining = (mmap.PROT_READ if rights[0] == "r" else 0) | (mmap.PROT_WRITE if rights[1] == "w" else 0)
            _checked(_libc.mprotect(ctypes.c_void_p(first), ctypes.c_size_t(last - first), ctypes.c_int(remaining)))


def use_huge_pages() -> None:
    """Move this process's memory to pages of 2 MiB, if the kernel supports this size.

    Large pages make forks faster. With small pages, copying the page table takes half of a fork's time.
    """
    with open("/proc/self/maps") as file:
        regions = [line.split() for line in file]
    for bounds, rights, _, _, inode, *name in regions:
        if rights != "rw-p" or inode != "0" or name not in ([], ["[heap]"]):
            continue
        first, last = (int(bound, 16) for bound in bounds.split("-"))
        first, last = -(-first // HUGE) * HUGE, last // HUGE * HUGE
        for advice in (MADV_HUGEPAGE, MADV_COLLAPSE):
            if first < last:
                _libc.madvise(ctypes.c_void_p(first), ctypes.c_size_t(last - first), advice)


class _CapHeader(ctypes.Structure):
    _fields_ = [("version", ctypes.c_uint32), ("pid", ctypes.c_int)]


class _CapData(ctypes.Structure):
    _fields_ = [("effective", ctypes.c_uint32), ("permitted", ctypes.c_uint32), ("inheritable", ctypes.c_uint32)]


_NO_CAPABILITIES = _CapHeader(0x20080522, 0), (_CapData * 2)()


def drop_capabilities() -> None:
    """Drop all capabilities. Raises the errors of `call`."""
    header, data = _NO_CAPABILITIES
    call(NUMBERS[MACHINE]["capset"], ctypes.byref(header), ctypes.byref(data))  # type: ignore[arg-type]
    prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL)


def _checked(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result
