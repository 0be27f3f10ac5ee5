"""Chooses the user that runs the zygote's forks. Each fork runs a program. The user is root only if the server runs as
root and no other user can run the forks.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

NOBODY = 65534
OK = "ok"
FIX = (
    "either start the server as an ordinary user, or install Python and the libraries in folders that other users can "
    "read; to forbid programs as root, add 'user' to the sandbox's required layers"
)


@dataclass(frozen=True, slots=True)
class Identity:
    """The user and the group that run forks. `warning`: if they are root, the reason and the fix; else ""."""

    uid: int
    gid: int
    warning: str = ""

    def assume(self) -> None:
        """Switch this process irrevocably to this user and group, without supplementary groups.

        Raises:
            OSError: this process may not change its user.
        """
        os.setgroups([])
        os.setresgid(self.gid, self.gid, self.gid)
        os.setresuid(self.uid, self.uid, self.uid)


def choose_identity(readable: Sequence[Path]) -> Identity:
    """Return the user that runs the zygote's forks. `readable`: the files and folders that forks may read.

    If the zygote runs as an ordinary user, return this user. If the zygote runs as root, return the first of these
    users that can run forks and can read the loaded libraries in `readable`:
    1. user and group nobody;
    2. user nobody with the group of the standard library;
    3. the owner and the group of the standard library.
    If none of these users can, return root with a warning.
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
    """Check in a test fork whether forks can run as `identity`. Return "" if they can, else the reason."""
    result, result_writer = os.pipe()
    release, release_writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(release_writer)
            os.write(result_writer, _check_access(identity, readable).encode())
            os.close(result_writer)
            os.read(release, 1)  # blocks until the parent has checked that it can send signals to this process
        finally:
            os._exit(0)
    os.close(result_writer)
    os.close(release)
    try:
        with os.fdopen(result) as file:
            answer = file.read()
        os.kill(pid, 0)
    except PermissionError:
        return f"the server may not signal processes of uid {identity.uid} (it has no CAP_KILL)"
    finally:
        os.close(release_writer)
        os.waitpid(pid, 0)
    return "" if answer == OK else answer or "a test fork ended before it had reported a result"


def _check_access(identity: Identity, readable: Sequence[Path]) -> str:
    """Switch this process to `identity`, and check that this user can read the libraries. Return `OK`, or the problem.

    Call this function only in the test fork, because the process cannot switch back.
    """
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
