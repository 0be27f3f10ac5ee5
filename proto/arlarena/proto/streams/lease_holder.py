"""The process that holds or held the trainer's lease of a run (`trainer_lease.py`)."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import uuid
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self


@dataclass(frozen=True, slots=True)
class Holder:
    """A process that holds or held a lease.

    `incarnation`: random id of the trainer process. `machine`: boot id and pid namespace of the process, as far as the
    system provides them. `pid`: valid only on this machine and in this namespace. `started`: start time of the process
    in clock ticks since boot, 0 if unknown. It distinguishes the process from a later process with the same pid.
    `nonce`: a random value, new for each `acquire`.
    """

    incarnation: str
    host: str
    machine: str
    pid: int
    started: int
    nonce: str

    @classmethod
    def of_this_process(cls, incarnation: str) -> Self:
        """Returns the holder for the calling process."""
        pid = os.getpid()
        _, started = _stat(pid)
        return cls(incarnation, socket.gethostname(), _machine(), pid, started, uuid.uuid4().hex)

    @classmethod
    def decode(cls, value: bytes) -> Self:
        """Decode a key's value. Returns a holder on an unknown machine if the value is invalid."""
        try:
            fields = json.loads(value)
            return cls(**{name: kind(fields[name]) for name, kind in _FIELDS.items()})
        except (ValueError, KeyError, TypeError):
            return cls("unknown", "an unknown host", "unknown", 0, 0, "")

    def encode(self) -> bytes:
        """Returns the holder as the value of a key."""
        return json.dumps(asdict(self), sort_keys=True).encode()

    def is_here(self) -> bool:
        """True if the holder's pid is valid here: the holder has the machine and pid namespace of this process."""
        return self.host == socket.gethostname() and self.machine == _machine()

    def is_alive(self) -> bool:
        """True if the holder's process runs and is not this process. A zombie does not run. Call only if `is_here`."""
        if self.pid == os.getpid():
            return False
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except (PermissionError, OverflowError):
            pass
        state, started = _stat(self.pid)
        return state not in ("Z", "X") and not (self.started and started and started != self.started)

    def __str__(self) -> str:
        return f"trainer {self.incarnation} (pid {self.pid} on {self.host})"


_FIELDS = {"incarnation": str, "host": str, "machine": str, "pid": int, "started": int, "nonce": str}


def last_trainer_key(run: str) -> str:
    """Returns the key of the most recent holder of the lease of `run`."""
    return f"arl:{{{run}}}:last-trainer"


def _machine() -> str:
    """Returns the boot id and the pid namespace; '' if the system provides neither."""
    parts = []
    with contextlib.suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip())
    with contextlib.suppress(OSError):
        parts.append(str(os.stat("/proc/self/ns/pid").st_ino))
    return ":".join(parts)


def _stat(pid: int) -> tuple[str, int]:
    """Returns the state letter and the start time (clock ticks since boot) of a process; ('', 0) if unknown."""
    try:
        # The command's name is in parentheses and may contain blanks and parentheses, so parse after the last ")".
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        return fields[0], int(fields[19])
    except (OSError, IndexError, ValueError):
        return "", 0
