"""Structured logs: one line of JSON for each event, with the same keys in all services."""

from __future__ import annotations

import sys
import time
from typing import Any, TextIO

import msgspec

from arlarena.proto.text.redaction import masked
from arlarena.proto.text.wording import json_escaped

LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}


class Logger:
    """Writes one line of JSON for each event: `ts` (Unix time in seconds), `level`, `service`, `event`, other fields.

    Writes to `stream` (default: stderr). Omits events below `level`. Converts values that JSON cannot represent to
    strings, masks secrets (see redaction.py), and escapes control characters.
    """

    def __init__(self, service: str, level: str = "info", stream: TextIO | None = None) -> None:
        self.service = service
        self._threshold = LEVELS[level]
        self._stream = stream
        self._encoder = msgspec.json.Encoder(enc_hook=str)

    def _write(self, level: str, event: str, fields: dict[str, Any]) -> None:
        if LEVELS[level] < self._threshold:
            return
        values = masked(msgspec.to_builtins(fields, enc_hook=str, str_keys=True))
        record = {"ts": round(time.time(), 3), "level": level, "service": self.service, "event": event, **values}
        stream = self._stream if self._stream is not None else sys.stderr
        stream.write(json_escaped(self._encoder.encode(record).decode()) + "\n")
        stream.flush()

    def debug(self, event: str, **fields: Any) -> None:
        """Log details for developers."""
        self._write("debug", event, fields)

    def info(self, event: str, **fields: Any) -> None:
        """Log a normal event."""
        self._write("info", event, fields)

    def warning(self, event: str, **fields: Any) -> None:
        """Log a problem that does not stop the service."""
        self._write("warning", event, fields)

    def error(self, event: str, **fields: Any) -> None:
        """Log a problem that a person must solve."""
        self._write("error", event, fields)


def get_logger(service: str, level: str = "info") -> Logger:
    """Returns a logger for one service."""
    return Logger(service, level)


def announce(host: str, port: int, stream: TextIO | None = None) -> None:
    """Write the event `listening` with this server's address to `stream` (default: stdout), as one line of JSON.

    The parent process reads this line.
    """
    out = stream if stream is not None else sys.stdout
    out.write(msgspec.json.encode({"event": "listening", "host": host, "port": port}).decode() + "\n")
    out.flush()
