"""`arlarena serve broker`: runs a local broker until SIGINT or SIGTERM."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from pathlib import Path

from arlarena.console.launch.broker import HOST, Broker, BrokerError
from arlarena.console.launch.child import ProcessReaper
from arlarena.console.launch.failures import LaunchError
from arlarena.proto.streams.broker_address import FILE_VARIABLE
from arlarena.proto.telemetry import announce, get_logger

# Interval between two checks of the broker's process. Time between SIGTERM and SIGKILL. Both in seconds.
POLL_S, STOP_S = 0.5, 10.0


async def serve_broker(directory: Path, port: int | None) -> None:
    """Start the broker, print its address, and wait for SIGINT or SIGTERM.

    Raises:
        LaunchError: the broker does not start, or exits unexpectedly.
    """
    try:
        await _serve(directory, port)
    except BrokerError as error:
        raise LaunchError(str(error)) from error


async def _serve(directory: Path, port: int | None) -> None:
    stop = asyncio.Event()
    os.umask(0o077)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    reaper = ProcessReaper(grace_s=STOP_S)
    with contextlib.closing(reaper), Broker(directory, port=port) as broker:
        assert broker.port is not None
        assert broker.process is not None
        reaper.add(broker.process.pid)
        get_logger("broker").info("password_file", path=str(broker.password_path), variable=FILE_VARIABLE)
        announce(HOST, broker.port)
        while not stop.is_set():
            if not broker.running:
                raise BrokerError(f"the server exited unexpectedly; its log: {broker.log_path}")
            try:
                await asyncio.wait_for(stop.wait(), POLL_S)
            except TimeoutError:
                continue
