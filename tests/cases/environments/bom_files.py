"""Files that begin with a byte-order mark, as some editors write them, are read like those without."""

import subprocess
import tempfile
from pathlib import Path

from cases.case_support import PYTHON, check, corridors, finish

READ_PROBLEMS = """
import sys
from arlarena.environments.tir_math import options
from arlarena.environments.tir_math.problems import sources
sources.problems_of("w", options.read_options("w", {"train": sys.argv[1], "validation_share": 0.0}))
print("read")
"""
BOM = b"\xef\xbb\xbf"

with tempfile.TemporaryDirectory() as name:
    folder = Path(name)
    levels = ("\n\n".join(corridors()) + "\n").encode()
    (folder / "lines.jsonl").write_bytes(BOM + b'{"problem": "What is 3 * 9?", "answer": "27"}\n')
    (folder / "levels.txt").write_bytes(BOM + levels)
    (folder / "plain.txt").write_bytes(levels)
    sokoban = '[environment]\nname = "sokoban"\n'
    options = sokoban + "[environment.options]\nlevels = "
    configurations = {
        "levels without": f'{options}"{folder}/plain.txt"\n',
        "levels with": f'{options}"{folder}/levels.txt"\n',
        "run.toml with": "\ufeff" + sokoban,
    }
    for what, toml in configurations.items():
        (folder / "run.toml").write_text(toml, encoding="utf-8")
        command = [PYTHON, "-m", "arlarena.env_server.settings", str(folder / "run.toml")]
        done = subprocess.run(command, capture_output=True, text=True)
        check(f"{what} ({(done.stdout + done.stderr).strip()[-90:]})", done.returncode, 0)
    command = [PYTHON, "-c", READ_PROBLEMS, str(folder / "lines.jsonl")]
    done = subprocess.run(command, capture_output=True, text=True)
    check(f"problems with ({done.stderr.strip()[-80:]})", done.stdout.strip(), "read")
finish()
