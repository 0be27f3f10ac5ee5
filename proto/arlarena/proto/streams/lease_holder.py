"""Identifies the process that holds the trainer's lease of a run, or that held it before (see `trainer_lease.py`)."""

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
    """A process that holds the trainer's lease of a run, or that held it before.

    `incarnation`: random id of the trainer process. `machine`: the machine's boot id and the pid namespace, "" if the
    system provides neither. `pid`: valid only on `machine`. `started`: start time of the process in clock ticks since
    boot, 0 if unknown; it differs if a later process gets this pid. `nonce`: a random value, new for each
    `TrainerLease.acquire`.
    """

    incarnation: str
    host: str
    machine: str
    pid: int
    started: int
    nonce: str

    @classmethod
    def of_this_process(cls, incarnation: str) -> Self:
        """Returns a new `Holder` that describes the calling process."""
        pid = os.getpid()
        _, started = _stat(pid)
        return cls(incarnation, socket.gethostname(), _machine(), pid, started, uuid.uuid4().hex)

    @classmethod
    def decode(cls, value: bytes) -> Self:
        """Decode a value that `encode` returned. Returns a holder on an unknown machine if the value is invalid."""
        try:
            fields = json.loads(value)
            return cls(**{name: kind(fields[name]) for name, kind in _FIELDS.items()})
        except (ValueError, KeyError, TypeError, OverflowError):  # int(Infinity) raises OverflowError
            return cls("unknown", "an unknown host", "unknown", 0, 0, "")

    def encode(self) -> bytes:
        """Returns the holder as JSON. `TrainerLease` stores this value in the lease's key on the broker."""
        return json.dumps(asdict(self), sort_keys=True).encode()

    def is_here(self) -> bool:
        """True if the holder's process is on this machine, in the pid namespace of the calling process."""
        return self.host == socket.gethostname() and self.machine == _machine()

    def is_alive(self) -> bool:
        """True if the holder's process runs and is not the calling process. A zombie does not count as running.

        Call this method only if `is_here` returns True: on another machine, the pid identifies another process.
        """
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
    """Returns the broker's key that stores the last holder of the trainer's lease of `run`."""
    return f"arl:{{{run}}}:last-trainer"


def _machine() -> str:
    """Returns this machine's boot id and this process's pid namespace, or '' if the system provides neither."""
    parts = []
    with contextlib.suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip())
    with contextlib.suppress(OSError):
        parts.append(str(os.stat("/proc/self/ns/pid").st_ino))
    return ":".join(parts)


def _stat(pid: int) -> tuple[str, int]:
    """Returns (state letter, start time in clock ticks since boot) of a process. Returns ('', 0) if unknown."""
    try:
        # The file contains the command's name in parentheses. The name may contain spaces and parentheses, so the code
        # parses the text after the last ")".
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        return fields[0], int(fields[19])
    except (OSError, IndexError, ValueError):
        return "", 0
