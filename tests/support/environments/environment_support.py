"""A real environment server in a separate process, for tests."""

import contextlib
import json
import os
import subprocess

from support.processes import forking_support

CONFIG = """
[environment]
name = "{name}"
capacity = {capacity}
reap_interval_s = 0.05
reattach_grace_s = {grace}
session_ttl_s = {ttl}
drain_s = {drain}
max_body_bytes = 200000
"""
SOKOBAN = """
[environment.options]
observation = "grid+coordinates"
template = "compact"
min_moves = 3
"""


@contextlib.contextmanager
def environment_server(
    folder, name="sokoban", capacity=16, grace=30, ttl=900, drain=0.2, extra=None, arguments=(), variables=None
):
    """Starts `python -m arlarena.env_server` on a free port, as a forked process (see forking_support.py).

    Yields (URL, process), and stops the server at the end of the block.
    """
    config = folder / "environment.toml"
    settings = CONFIG.format(name=name, capacity=capacity, grace=grace, ttl=ttl, drain=drain)
    options = SOKOBAN if name == "sokoban" else ""
    config.write_text(settings + (options if extra is None else extra))
    command = ["arlarena.env_server", "--config", str(config), "--port", "0", *arguments]
    with (folder / "stderr.log").open("w") as log:
        environment = {**os.environ, **(variables or {})}
        process = forking_support.popen(command, stdout=subprocess.PIPE, stderr=log, env=environment)
    try:
        line = process.stdout.readline()
        assert line, f"the server ended: {(folder / 'stderr.log').read_text()}"
        announced = json.loads(line)
        assert announced["event"] == "listening"
        yield f"http://{announced['host']}:{announced['port']}", process
    finally:
        process.terminate()
        process.wait(timeout=20)
        process.stdout.close()
