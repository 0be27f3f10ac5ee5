"""Runs the command `python -m arlarena.rollout.evaluation` as a process."""

import asyncio
import os
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from support.evaluation.imitation import KEY
from support.processes import forking_support
from support.processes.forking_support import Forked


@dataclass
class Command:
    """A running or ended command. `code`: exit status, negative for a signal. `out`, `err`: the complete output."""

    process: Forked
    output: IO[str]
    errors: IO[str]
    code: int | None = None
    out: str = ""
    err: str = ""

    async def end(self, timeout: float = 60.0) -> "Command":
        """Wait until the command has ended, and read its output."""
        self.code = await asyncio.wait_for(self.process.ended(), timeout)
        self.out, self.err = (os.pread(file.fileno(), 1 << 20, 0).decode() for file in (self.output, self.errors))
        return self


@asynccontextmanager
async def command(*arguments: object, variables: Mapping[str, str] | None = None) -> AsyncIterator[Command]:
    """Start the command. If it still runs at the end of the `with` block, kill it."""
    kept = {name: value for name, value in os.environ.items() if not name.endswith("_API_KEY")}
    given = kept | {"ARLARENA_EVAL_API_KEY": KEY} | dict(variables or {})
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
        line = ["arlarena.rollout.evaluation", *map(str, arguments)]
        process = forking_support.popen(line, stdout=output, stderr=errors, env=given, start_new_session=True)
        running = Command(process, output, errors)
        try:
            yield running
        finally:
            if running.code is None:
                process.kill()


async def ended(*arguments: object, variables: Mapping[str, str] | None = None) -> tuple[int | None, str, str]:
    """Run the command to its end. Returns (exit status, standard output, standard error)."""
    async with command(*arguments, variables=variables) as running:
        await running.end()
        return running.code, running.out, running.err


def servers_of(folder: Path) -> list[int]:
    """Return the process ids of environment servers that have their configuration in this folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes()
        except OSError:
            continue
        if b"arlarena.env_server" in line and str(folder).encode() in line:
            found.append(int(path.parent.name))
    return found
