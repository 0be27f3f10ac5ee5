"""Programs that try to escape from the sandbox, and the secrets that they look for.

An attack prints BREACH and what it got hold of; whatever else it does, it has failed. Most are *controlled*: run in a
plain Python beside the same baits they do print it, so their failure in the sandbox means something. The others would
harm the machine that tests them (kill everything, fill the memory) or need a privilege that a test may not have.
"""

from __future__ import annotations

import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parent
BREACH = "BREACH"


@dataclass(frozen=True, slots=True)
class Attack:
    """A program. `controlled`: it succeeds without a sandbox, which a test checks."""

    family: str
    name: str
    program: str
    controlled: bool


@dataclass(frozen=True, slots=True)
class Baits:
    """The secrets that attacks look for; placeholders like `@secret_file@` in their programs stand for these."""

    values: dict[str, str]

    def in_program(self, attack: Attack) -> str:
        """An attack's program with its placeholders replaced."""
        return re.sub("@([a-z_]+)@", lambda found: self.values[found[1]], attack.program)


def attacks() -> list[Attack]:
    """All of them, in the order of their files. `# == name` begins one, `# == name (harmful)` one without control.
    Lines before the first one of a file begin each of its programs.
    """
    found = []
    for file in sorted(FOLDER.glob("*.txt")):
        common, *parts = re.split(r"^# == ", file.read_text(), flags=re.MULTILINE)
        for part in parts:
            title, _, program = part.partition("\n")
            name, _, harmful = title.partition(" (")
            found.append(Attack(file.stem, name.strip(), common + program, not harmful))
    return found


@contextmanager
def baits(zygote_pid: int) -> Iterator[Baits]:
    """A file, a variable, servers, a process of the same user and an open descriptor, all with the same secret."""
    secret = secrets.token_hex(16)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="baits-")))
        folder.chmod(0o777)
        file = folder / "secret"
        file.write_text(secret)
        file.chmod(0o644)
        os.environ["BAIT"] = secret
        stack.callback(os.environ.pop, "BAIT", None)
        tcp = _serving(stack, socket.AF_INET, ("127.0.0.1", 0), secret)
        path = str(folder / "socket")
        _serving(stack, socket.AF_UNIX, path, secret)
        Path(path).chmod(0o777)
        abstract = f"baits-{secret[:8]}"
        _serving(stack, socket.AF_UNIX, f"\0{abstract}", secret)
        udp = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        udp.bind(("127.0.0.1", 0))
        leaked = os.open(file, os.O_RDONLY)
        os.set_inheritable(leaked, True)
        stack.callback(os.close, leaked)
        victim = subprocess.Popen([sys.executable, "-c", f"import time; kept = '{secret}'; time.sleep(3600)"])
        stack.callback(_ended, victim)
        yield Baits(
            {
                "secret": secret,
                "secret_file": str(file),
                "folder": str(folder),
                "tcp_port": str(tcp),
                "udp_port": str(udp.getsockname()[1]),
                "unix_path": path,
                "abstract": abstract,
                "victim": str(victim.pid),
                "server": str(os.getpid()),
                "zygote": str(zygote_pid),
                "library": str(Path(os.__file__)),
                "here": str(FOLDER / "__init__.py"),
            }
        )
        assert victim.poll() is None, "an attack ended the victim"
        assert file.read_text() == secret, "an attack changed the file"
        assert sorted(each.name for each in folder.iterdir()) == ["secret", "socket"], (
            "an attack made or removed a file"
        )


def _serving(stack: ExitStack, family: int, address: object, secret: str) -> int:
    """A server that sends the secret to every client."""
    server = stack.enter_context(socket.socket(family))
    server.bind(address)
    server.listen(64)

    def serve() -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            with connection:
                connection.sendall(secret.encode())

    threading.Thread(target=serve, daemon=True).start()
    stack.callback(server.shutdown, socket.SHUT_RDWR)
    return server.getsockname()[1] if family == socket.AF_INET else 0


def _ended(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGKILL)
    process.wait()


def control(program: str) -> str:
    """A program's output without a sandbox."""
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, timeout=60, close_fds=False, stdin=subprocess.DEVNULL)
    return done.stdout.decode("utf-8", "replace")
