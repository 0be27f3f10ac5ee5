"""Restricts the files that a process and its children can access, with Landlock (Linux 5.13, `landlock(7)`). Landlock
needs no privileges.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Sequence
from pathlib import Path

from arlarena.sandbox.kernel import (
    LANDLOCK_ADD_RULE,
    LANDLOCK_CREATE_RULESET,
    LANDLOCK_RESTRICT_SELF,
    call,
)

READ_FILE, READ_DIR = 1 << 2, 1 << 3
# Version of the Landlock interface -> mask of all file rights. The kernel refuses each right in the mask that no rule
# grants.
FILE_RIGHTS = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 4: (1 << 15) - 1, 5: (1 << 16) - 1}
TCP_BIND_AND_CONNECT = 0b11  # needs version 4 of the interface
SIGNALS_AND_ABSTRACT_SOCKETS = 0b11  # needs version 6 of the interface
VERSION_FLAG, PATH_BENEATH = 1, 1


class _Ruleset(ctypes.Structure):
    _fields_ = [("files", ctypes.c_uint64), ("net", ctypes.c_uint64), ("scoped", ctypes.c_uint64)]


class _PathBeneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = [("allowed", ctypes.c_uint64), ("parent", ctypes.c_int32)]


def version() -> int:
    """Return the kernel's version of the Landlock interface, or 0 if the kernel has no Landlock."""
    try:
        return call(LANDLOCK_CREATE_RULESET, None, 0, VERSION_FLAG)
    except OSError:
        return 0


def ruleset(readable: Sequence[Path]) -> int:
    """Return a file descriptor of Landlock rules. They let programs read only the files and folders in `readable`.

    The rules also let programs list the parent folders of these paths, because Python's imports list folders. With
    version 4 of the interface, the rules forbid TCP. With version 6, they also forbid signals to other processes and
    abstract sockets of other processes.

    Raises:
        OSError: the kernel has no Landlock.
    """
    abi = version()
    attributes = _Ruleset(
        FILE_RIGHTS[min(abi, max(FILE_RIGHTS))] if abi else 0,
        TCP_BIND_AND_CONNECT if abi >= 4 else 0,
        SIGNALS_AND_ABSTRACT_SOCKETS if abi >= 6 else 0,
    )
    size = 24 if abi >= 6 else 16 if abi >= 4 else 8
    rules = call(LANDLOCK_CREATE_RULESET, ctypes.byref(attributes), size, 0)  # type: ignore[arg-type]
    allowed = [(path, READ_FILE | READ_DIR if path.is_dir() else READ_FILE) for path in readable]
    for path, rights in [*allowed, *((folder, READ_DIR) for folder in {path.parent for path in readable})]:
        with contextlib.suppress(FileNotFoundError):  # the path was deleted after `readable` was listed
            _allow(rules, path, rights)
    return rules


def _allow(rules: int, path: Path, rights: int) -> None:
    parent = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        rule = _PathBeneath(rights, parent)
        call(LANDLOCK_ADD_RULE, rules, PATH_BENEATH, ctypes.byref(rule), 0)  # type: ignore[arg-type]
    finally:
        os.close(parent)


def restrict(rules: int) -> None:
    """Apply Landlock rules to this process irrevocably. `rules`: the file descriptor from `ruleset`.

    The caller must set no_new_privs first.

    Raises:
        OSError: the kernel refuses the rules.
    """
    call(LANDLOCK_RESTRICT_SELF, rules, 0)
