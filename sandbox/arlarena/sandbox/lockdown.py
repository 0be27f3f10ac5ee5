"""The lockdown: irrevocable restrictions that a fork of the zygote applies to itself before it runs a program.

The lockdown has several layers, and each layer stops most attacks:
* resource limits;
* another user, if the server runs as root;
* no capabilities;
* Landlock (files, TCP, signals);
* no executable memory except libraries (MDWE, Linux 6.3);
* seccomp (system calls).

Only the change of user needs privileges.
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
# At the CPU limit, the kernel sends SIGXCPU to the program. No other event sends this signal. If the program blocks or
# handles the signal, the kernel kills the program after GRACE_S more seconds of CPU time.
GRACE_S = 1
LAYERS = ("rlimits", "user", "capabilities", "no_new_privs", "landlock", "mdwe", "seccomp", "namespaces")
# Default of the required layers. The other layers depend on the kernel's version and on the server's privileges.
REQUIRED = ("rlimits", "capabilities", "no_new_privs", "landlock", "seccomp")


@dataclass(frozen=True, slots=True)
class LockdownPlan:
    """The values that the zygote prepares for the lockdown of its forks.

    Attributes:
        filter: the seccomp program.
        rules: descriptor of the Landlock rules, or -1 if the kernel has no Landlock.
        identity: the user of the forks.
        address_space: bytes of address space that the zygote has mapped. A fork may map this number of bytes plus its
            memory limit.
        zygote: process id of the zygote. With this id, a fork checks that the zygote still runs.
        required: names of the layers that must be active. If one of them fails, the fork runs no program.
    """

    filter: bytes
    rules: int
    identity: Identity
    address_space: int
    zygote: int
    required: frozenset[str]


def lock_down(plan: LockdownPlan, cpu_s: int, memory_bytes: int) -> list[str]:
    """Apply all layers. Close all descriptors except 0, 1 and 2.

    `cpu_s`: limit of CPU time. `memory_bytes`: address space in addition to `plan.address_space`.

    Returns:
        the names of the active layers.

    Raises:
        OSError: a required layer is not available.
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
        plan.identity.assume()  # a test fork has tested this change; if it fails here, the fork runs no program
        layers.append("user")
    else:
        with contextlib.suppress(OSError):  # an ordinary user cannot leave its groups
            os.setgroups([])
    # The change of user resets the parent-death signal, so the signal is set after the change.
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
    # Because of this score, the kernel kills programs before the server if the machine's memory runs out.
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write("1000")


def isolate() -> bool:
    """Move the zygote into new, empty network, IPC and UTS namespaces. Return False if the kernel refuses."""
    try:
        kernel.unshare(kernel.CLONE_NEWNET | kernel.CLONE_NEWIPC | kernel.CLONE_NEWUTS)
    except OSError:
        return False
    return True


def address_space() -> int:
    """Return the size of the address space that this process has mapped, in bytes."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
