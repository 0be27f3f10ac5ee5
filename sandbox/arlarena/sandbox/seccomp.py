"""Restricts the system calls of a program with seccomp.

A forbidden call fails with EPERM. A system call in the form of another architecture (32 bits, x32) kills the program.
libseccomp compiles the filter once for this machine. Each execution loads the compiled filter.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import tempfile
from typing import Any

from arlarena.sandbox.execution import SandboxUnavailable
from arlarena.sandbox.kernel import MACHINE, NUMBERS, call

SET_MODE_FILTER = 1
MAP_TYPE = 0x0F  # mask of the bits in mmap's flags that say whether a mapping is private or shared (linux/mman.h)
# Calls that are harmless with any arguments: they allocate memory, read and write open descriptors, read the time, …
ALLOWED = """
    read readv pread64 write writev lseek close dup dup2 dup3 fstat stat lstat newfstatat statx access faccessat
    faccessat2 getdents64 getcwd munmap mremap brk madvise mincore membarrier rseq set_robust_list futex sched_yield
    sched_getaffinity getpid getppid gettid getuid geteuid getgid getegid getgroups getrusage getrlimit times
    sysinfo uname getrandom clock_gettime clock_getres clock_nanosleep nanosleep gettimeofday time poll ppoll select
    pselect6 alarm setitimer getitimer pause rt_sigaction rt_sigprocmask rt_sigreturn rt_sigpending sigaltstack
    restart_syscall exit exit_group
"""
# Forbidden calls with an error other than EPERM. C libraries and Python handle only the given error.
FALLBACK_ERRORS = {"clone3": errno.ENOSYS, "ioctl": errno.ENOTTY, "readlink": errno.EINVAL, "readlinkat": errno.EINVAL}
# The allowed commands of `fcntl`: F_DUPFD, F_GETFD, F_SETFD, F_GETFL and F_DUPFD_CLOEXEC. Other commands can request
# signals or lock files.
FCNTL = (0, 1, 2, 3, 1030)
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND | (os.O_TMPFILE & ~os.O_DIRECTORY)


class _Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_void_p)]


def compile_filter(*, may_open: bool) -> bytes:
    """Return the seccomp filter for this machine, as BPF instructions.

    `may_open`: whether the filter permits opening files for reading. Pass True only if Landlock restricts the files.

    Raises:
        SandboxUnavailable: libseccomp or pyseccomp is not installed.
    """
    try:
        import pyseccomp as scmp
    except (ImportError, RuntimeError) as error:
        raise SandboxUnavailable(
            f"the sandbox needs libseccomp ({error}): apt install libseccomp2, and pip install pyseccomp"
        ) from error
    rules = scmp.SyscallFilter(scmp.ERRNO(errno.EPERM))
    rules.set_attr(scmp.Attr.ACT_BADARCH, scmp.KILL_PROCESS)

    def rule(action: int, name: str, *arguments: Any) -> None:
        if scmp.resolve_syscall(scmp.Arch.NATIVE, name) >= 0:  # this machine has a call with this name
            rules.add_rule(action, name, *arguments)

    for name in ALLOWED.split():
        rule(scmp.ALLOW, name)
    for name, number in FALLBACK_ERRORS.items():
        rule(scmp.ERRNO(number), name)
    for command in FCNTL:
        rule(scmp.ALLOW, "fcntl", scmp.Arg(1, scmp.EQ, command))
    # A program can read its own limits, but cannot change them.
    rule(scmp.ALLOW, "prlimit64", scmp.Arg(0, scmp.EQ, 0), scmp.Arg(2, scmp.EQ, 0))
    # `mprotect` cannot make memory executable. An executable mapping must be a private, read-only mapping of a file.
    rule(scmp.ALLOW, "mprotect", scmp.Arg(2, scmp.MASKED_EQ, mmap.PROT_EXEC, 0))
    rule(scmp.ALLOW, "mmap", scmp.Arg(2, scmp.MASKED_EQ, mmap.PROT_EXEC, 0))
    rule(
        scmp.ALLOW,
        "mmap",
        scmp.Arg(2, scmp.MASKED_EQ, mmap.PROT_WRITE | mmap.PROT_EXEC, mmap.PROT_EXEC),
        scmp.Arg(3, scmp.MASKED_EQ, MAP_TYPE | mmap.MAP_ANONYMOUS, mmap.MAP_PRIVATE),
    )
    if may_open:
        rule(scmp.ALLOW, "openat", scmp.Arg(2, scmp.MASKED_EQ, WRITING, 0))
        rule(scmp.ALLOW, "open", scmp.Arg(1, scmp.MASKED_EQ, WRITING, 0))
    with tempfile.TemporaryFile() as file:
        rules.export_bpf(file)
        file.seek(0)
        return file.read()


def load(program: bytes) -> None:
    """Apply a filter from `compile_filter` to this process irrevocably. The caller must set no_new_privs first.

    Raises:
        OSError: the kernel refuses the filter.
    """
    instructions = ctypes.create_string_buffer(program, len(program))
    description = _Program(len(program) // 8, ctypes.cast(instructions, ctypes.c_void_p))
    call(NUMBERS[MACHINE]["seccomp"], SET_MODE_FILTER, 0, ctypes.byref(description))  # type: ignore[arg-type]
