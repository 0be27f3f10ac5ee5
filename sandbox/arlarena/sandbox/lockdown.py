"""The lockdown: irrevocable restrictions that a fork of the zygote applies to itself before it runs a program.

The zygote is the process that the sandbox forks for each program. The lockdown has these layers. Each layer alone stops
most attacks:
* resource limits;
* another user, if the server runs as root;
* no capabilities;
* Landlock (files, TCP, signals);
* no executable memory except libraries (MDWE, Linux 6.3);
* seccomp (system calls).

Only the change of user needs privileges. The layer `namespaces` is not a part of the lockdown: the zygote enters new
namespaces at its start (`isolate`), and all its forks are in them.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
from collections.abc import Callable
from dataclasses import dataclass

from arlarena.sandbox import kernel, landlock, seccomp
from arlarena.sandbox.identity import Identity

NICENESS = 5  # gives the server and the zygote priority over programs
# At the CPU limit, the kernel sends SIGXCPU to the program. SIGXCPU has no other cause. If the program blocks or
# handles this signal, the kernel kills the program after GRACE_S more seconds of CPU time.
GRACE_S = 1
LAYERS = ("rlimits", "user", "capabilities", "no_new_privs", "landlock", "mdwe", "seccomp", "namespaces")
# The layers that are required by default. The others depend on the kernel's version and the server's privileges.
REQUIRED = ("rlimits", "capabilities", "no_new_privs", "landlock", "seccomp")


@dataclass(frozen=True, slots=True)
class LockdownPlan:
    """The values that the zygote (the process that forks for each program) prepares for the lockdown of its forks.

    Attributes:
        filter: the seccomp program.
        rules: file descriptor of the Landlock rules, or -1 if the kernel has no Landlock.
        identity: the user that runs the forks.
        address_space: bytes of address space that the zygote has mapped. The limit of a fork's address space is this
            number plus the program's memory limit.
        zygote: process id of the zygote. A fork compares its parent's id with this id, to check that the zygote runs.
        required: names of the required layers. If one of them fails, the fork runs no program.
    """

    filter: bytes
    rules: int
    identity: Identity
    address_space: int
    zygote: int
    required: frozenset[str]


def lock_down(plan: LockdownPlan, cpu_s: int, memory_bytes: int) -> list[str]:
    """Apply all layers of the lockdown to this process. Also close all file descriptors except 0, 1 and 2.

    A layer that fails is left out if `plan.required` does not contain it. `cpu_s`: limit of CPU time in seconds.
    `memory_bytes`: the memory limit, which is added to `plan.address_space`.

    Returns:
        the names of the active layers.

    Raises:
        OSError: a required layer or the change of user failed, or the zygote has ended.
    """
    os.environ.clear()
    os.umask(0o777)
    os.nice(NICENESS)
    layers: list[str] = []

    def apply(name: str, work: Callable[[], object]) -> None:
        try:
            work()
        except OSError:
            if name in plan.required:
                raise
        else:
            layers.append(name)

    apply("rlimits", lambda: _set_limits(cpu_s, plan.address_space + memory_bytes))
    if plan.identity.uid != os.geteuid():
        # If the change of user fails, the fork raises an error and runs no program, even if "user" is not required. The
        # zygote has tested the change in an earlier fork.
        plan.identity.assume()
        layers.append("user")
    else:
        with contextlib.suppress(OSError):  # an ordinary user cannot leave its groups
            os.setgroups([])
    # The change of user would reset the parent-death signal, so the signal is set after the change.
    kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != plan.zygote:
        raise OSError("the zygote has ended")
    apply("capabilities", kernel.drop_capabilities)
    kernel.prctl(kernel.PR_SET_DUMPABLE, 0)
    apply("no_new_privs", lambda: kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1))
    if plan.rules >= 0:
        apply("landlock", lambda: landlock.restrict(plan.rules))
    kernel.close_from(3)
    apply("mdwe", lambda: kernel.prctl(kernel.PR_SET_MDWE, kernel.PR_MDWE_REFUSE_EXEC_GAIN))
    apply("seccomp", lambda: seccomp.load(plan.filter))
    return layers


def _set_limits(cpu_s: int, address_space: int) -> None:
    for name, limit in (
        (resource.RLIMIT_CPU, cpu_s + GRACE_S),
        (resource.RLIMIT_AS, address_space),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NPROC, 0),
        (resource.RLIMIT_NOFILE, 32),  # imports must open files
        (resource.RLIMIT_MEMLOCK, 0),
        (resource.RLIMIT_MSGQUEUE, 0),
        (resource.RLIMIT_SIGPENDING, 0),
    ):
        hard = resource.getrlimit(name)[1]
        limit = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
        soft = min(limit, cpu_s) if name == resource.RLIMIT_CPU else limit
        resource.setrlimit(name, (soft, limit))
    # With this score, the kernel kills programs before the server if the machine runs out of memory.
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write("1000")


def isolate() -> bool:
    """Move this process (the zygote) into a new network, IPC and UTS namespace. Return False if the kernel refuses."""
    try:
        kernel.unshare(kernel.CLONE_NEWNET | kernel.CLONE_NEWIPC | kernel.CLONE_NEWUTS)
    except OSError:
        return False
    return True


def address_space() -> int:
    """Return the size of this process's mapped address space in bytes."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
