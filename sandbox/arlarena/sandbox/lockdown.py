"""What a fork of the zygote does to itself before it sees a program. Nothing of it can be undone.

Layers, each of which would stop most attacks alone: another user where the server is root; no capabilities; limits;
Landlock (files, TCP, signals); no executable memory but libraries (MDWE, Linux 6.3); seccomp (system calls). None needs
a privilege.
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

# Beside a program that computes, the server and the zygote come first.
NICENESS = 5
# At its limit of computing a program is ended by SIGXCPU, which nothing else sends. One that blocks or handles the
# signal is killed so many seconds of computing later.
GRACE_S = 1
LAYERS = ("rlimits", "user", "capabilities", "no_new_privs", "landlock", "mdwe", "seccomp", "namespaces")
# Without one of these nothing runs, unless the settings say so: the others depend on how the server was started.
REQUIRED = ("rlimits", "capabilities", "no_new_privs", "landlock", "seccomp")


@dataclass(frozen=True, slots=True)
class LockdownPlan:
    """What the zygote has prepared for its forks.

    Attributes:
        filter: the seccomp program.
        rules: descriptor of the Landlock rules, -1 for none.
        identity: the user to run as.
        address_space: bytes that the zygote has mapped: the limit of memory counts from there.
        zygote: its process id.
        required: layers without which nothing is run.
    """

    filter: bytes
    rules: int
    identity: Identity
    address_space: int
    zygote: int
    required: frozenset[str]


def lock_down(plan: LockdownPlan, cpu_s: int, memory_bytes: int) -> list[str]:
    """Give up everything that a program does not need. Descriptors 0, 1 and 2 stay, all others are closed.

    Returns:
        the layers that are now in force.

    Raises:
        OSError: a required layer cannot be had.
    """
    os.environ.clear()
    os.umask(0o777)
    os.nice(NICENESS)
    layers: list[str] = []

    def layer(name: str, work: Callable[[], object]) -> None:
        try:
            work()
        except OSError:
            if name in plan.required:
                raise
        else:
            layers.append(name)

    layer("rlimits", lambda: _limit(cpu_s, plan.address_space + memory_bytes))
    if plan.identity.uid != os.geteuid():
        plan.identity.assume()  # the zygote has tried it: a fork that cannot do it runs nothing
        layers.append("user")
    else:
        with contextlib.suppress(OSError):  # an ordinary user cannot leave its groups
            os.setgroups([])
    # Becoming another user forgets the parent-death signal: only now.
    kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != plan.zygote:
        raise OSError("the zygote is gone")
    layer("capabilities", kernel.drop_capabilities)
    kernel.prctl(kernel.PR_SET_DUMPABLE, 0)
    layer("no_new_privs", lambda: kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1))
    if plan.rules >= 0:
        layer("landlock", lambda: landlock.restrict(plan.rules))
    kernel.close_from(3)
    layer("mdwe", lambda: kernel.prctl(kernel.PR_SET_MDWE, kernel.PR_MDWE_REFUSE_EXEC_GAIN))
    layer("seccomp", lambda: seccomp.load(plan.filter))
    return layers


def _limit(cpu_s: int, address_space: int) -> None:
    for name, most in (
        (resource.RLIMIT_CPU, cpu_s + GRACE_S),
        (resource.RLIMIT_AS, address_space),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NPROC, 0),
        (resource.RLIMIT_NOFILE, 32),  # what a library opens while it is imported
        (resource.RLIMIT_MEMLOCK, 0),
        (resource.RLIMIT_MSGQUEUE, 0),
        (resource.RLIMIT_SIGPENDING, 0),
    ):
        hard = resource.getrlimit(name)[1]
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        soft = min(most, cpu_s) if name == resource.RLIMIT_CPU else most
        resource.setrlimit(name, (soft, most))
    # Should memory run out all the same, the kernel ends a program and not the server.
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write("1000")


def isolate() -> bool:
    """Move the zygote into namespaces without network, shared memory or messages, where the host lets it."""
    try:
        kernel.unshare(kernel.CLONE_NEWNET | kernel.CLONE_NEWIPC | kernel.CLONE_NEWUTS)
    except OSError:
        return False
    return True


def address_space() -> int:
    """Bytes that this process has mapped."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
