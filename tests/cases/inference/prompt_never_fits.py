"""A run whose prompts do not fit the policy's context ends, and says so."""

import subprocess
import tempfile
from pathlib import Path

from cases.case_support import PYTHON, check, finish

CONFIG = """
[run]
name = "context"
[environment]
name = "sokoban"
capacity = 64
[environment.options]
template = "full"
[policy.tiny]
hidden = 32
layers = 1
[trainer]
recipe = "grpo"
steps = 1
groups_per_step = 2
group_size = 2
minibatch_groups = 1
max_response_tokens = 16
[evaluation]
count = 2
max_tokens = 16
[console.threads]
clone = 1
trainer = 1
inference = 1
"""

with tempfile.TemporaryDirectory() as name:
    folder = Path(name)
    (folder / "context.toml").write_text(CONFIG)
    command = [PYTHON, "-m", "arlarena.console", "up", str(folder / "context.toml"), "--run-dir", str(folder / "run")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        said, _ = process.communicate(timeout=60)
    except subprocess.TimeoutExpired:
        process.terminate()
        said, _ = process.communicate(timeout=60)
    print(said[-600:])
    check("the run said why it cannot go on", "context" in said.lower() and "prompt" in said.lower(), True)
    check("it failed", process.returncode > 0, True)
finish()
