"""The user that forks of the zygote run as: not root, wherever another user can read the libraries."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

NOBODY = 65534
OK = "ok"
FIX = (
    "start the server as an ordinary user, or install Python and the libraries in folders that other users can read; "
    "to refuse to start instead, add 'user' to the sandbox's required layers"
)


@dataclass(frozen=True, slots=True)
class Identity:
    """A user and a group. `warning`: why forks stay root, and how to change that; "" where they are not root."""

    uid: int
    gid: int
    warning: str = ""

    def assume(self) -> None:
        """Become this user for good, without supplementary groups. Raises OSError."""
        os.setgroups([])
        os.setresgid(self.gid, self.gid, self.gid)
        os.setresuid(self.uid, self.uid, self.uid)


def choose(readable: Sequence[Path]) -> Identity:
    """The user for forks: this process's own, unless that is root. Root becomes nobody; where nobody cannot read the
    libraries below `readable`, nobody with the libraries' group; last, the libraries' owner and group.
    """
    own = Identity(os.geteuid(), os.getegid())
    if own.uid != 0:
        return own
    library = os.stat(os.__file__)
    problems = []
    for uid, gid in ((NOBODY, NOBODY), (NOBODY, library.st_gid), (library.st_uid, library.st_gid)):
        if uid == 0:
            continue
        candidate = Identity(uid, gid)
        if not (problem := _problem(candidate, readable)):
            return candidate
        problems.append(problem)
    return Identity(own.uid, own.gid, f"programs run as uid 0: {problems[0]}. Fix: {FIX}")


def _problem(identity: Identity, readable: Sequence[Path]) -> str:
    """Why forks cannot run as `identity`; "" where they can. A fork tries it."""
    told, tell = os.pipe()
    held, hold = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(hold)
            os.write(tell, _tried(identity, readable).encode())
            os.close(tell)
            os.read(held, 1)  # returns once the parent has tried to signal this process
        finally:
            os._exit(0)
    os.close(tell)
    os.close(held)
    try:
        with os.fdopen(told) as file:
            said = file.read()
        os.kill(pid, 0)
    except PermissionError:
        return f"the server may not signal processes of uid {identity.uid} (it has no CAP_KILL)"
    finally:
        os.close(hold)
        os.waitpid(pid, 0)
    return "" if said == OK else said or "a fork ended before it had tried another user"


def _tried(identity: Identity, readable: Sequence[Path]) -> str:
    """In a fork: `OK`, or what fails."""
    try:
        identity.assume()
    except OSError as error:
        return f"the server may not change the user of its forks ({error.strerror}; it needs CAP_SETUID and CAP_SETGID)"
    below = tuple(map(str, readable))
    for module in list(sys.modules.values()):
        file = vars(module).get("__file__")
        if isinstance(file, str) and file.startswith(below) and not os.access(file, os.R_OK):
            return f"uid {identity.uid} cannot read {file}"
    return OK
