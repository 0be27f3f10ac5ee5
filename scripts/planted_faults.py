"""Inserts faults into the code one by one, and checks that a quick test catches each fault: `make verify PART=faults`.

    python scripts/planted_faults.py [NAME ...]

`tests/data/planted_faults.toml` lists the faults. Without NAME, the script checks all faults. It works in a temporary
copy of the checkout. First, the tests of the selected faults must pass without a fault. Then the script inserts each
fault alone. The changed module must still be importable, and one of the fault's tests must fail. The script prints one
line per fault, and exits with 1 if a fault is not caught.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FAULTS_FILE = "tests/data/planted_faults.toml"
DISTRIBUTIONS: tuple[str, ...] = tuple(tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["ruff"]["src"])
# If git cannot list the files of the checkout, `copy_checkout` copies all files except these.
NOT_COPIED = shutil.ignore_patterns(".venv*", ".git", "runs", "__pycache__", ".*_cache")
TIMEOUT_S = 300.0  # limit for the tests of one fault; they take a few seconds on an idle machine
NOT_IMPORTED = 70  # exit status of `DRIVER` if the changed module cannot be imported
# A program that imports the changed module from the copy, and then runs the tests. If the import fails, for example
# because of a syntax error, the fault does not count as caught.
DRIVER = f"""
import importlib, sys
import pytest
name, root, *arguments = sys.argv[1:]
try:
    file = importlib.import_module(name).__file__
    assert file.startswith(root), f"the imported file {{file}} is not in the folder {{root}}"
except BaseException as error:
    print(f"{{name}}: {{error!r}}")
    sys.exit({NOT_IMPORTED})
sys.exit(pytest.main(arguments))
"""
PYTEST = (
    "-q", "-m", "not slow", "-p", "no:cacheprovider", "--timeout-method=signal", "-o",
    "addopts=--import-mode=importlib -r fE",
)  # fmt: skip
_FAILED = re.compile(r"^(?:FAILED|ERROR) (\S*::.*)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class PlantedFault:
    """A fault to insert.

    Attributes:
        name: name in `FAULTS_FILE`.
        file: file to change, relative to the checkout.
        text: text to replace. It must occur once in `file`.
        replacement: the faulty text.
        tests: test files or pytest node ids. One of these tests must fail.
    """

    name: str
    file: str
    text: str
    replacement: str
    tests: tuple[str, ...]

    @property
    def module(self) -> str:
        """The dotted name of the module in `file`. If `file` is not a Python file: its nearest enclosing package."""
        path = Path(self.file)
        while path.suffix != ".py" and not (ROOT / path / "__init__.py").exists():
            path = path.parent
        name = path.as_posix().removesuffix(".py")
        return name[name.index("arlarena/") :].replace("/", ".")


def read_faults(root: Path = ROOT) -> list[PlantedFault]:
    """Return the faults in `FAULTS_FILE`, in the order of the file. `root`: folder of the checkout."""
    tables = tomllib.loads((root / FAULTS_FILE).read_text())
    return [
        PlantedFault(name, table["file"], table["text"], table["fault"], tuple(table["tests"]))
        for name, table in tables.items()
    ]


def copy_checkout(target: Path) -> None:
    """Copy the checkout's files to `target`, without the files that git ignores. Compile the copied packages."""
    listing = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(listing, cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        shutil.copytree(ROOT, target, ignore=NOT_COPIED, dirs_exist_ok=True)
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name)
    # By default, Python recompiles a file only if its modification time (in seconds) or its size has changed. Python
    # would then run the old bytecode after a quick change of equal size. With `checked-hash`, Python compares a hash of
    # the source.
    compiling = [sys.executable, "-m", "compileall", "-q", "--invalidation-mode", "checked-hash", *DISTRIBUTIONS]
    subprocess.run(compiling, cwd=target, env=environment_of(target), check=True)


def environment_of(root: Path) -> dict[str, str]:
    """Return the environment variables with which Python uses the packages and the bytecode in the folder `root`."""
    paths = os.pathsep.join(str(root / distribution) for distribution in DISTRIBUTIONS)
    changes = {"PYTHONPATH": paths, "PYTHONPYCACHEPREFIX": str(root / ".bytecode"), "OMP_NUM_THREADS": "1"}
    return {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"} | changes


@contextlib.contextmanager
def planted(root: Path, fault: PlantedFault) -> Iterator[None]:
    """Insert a fault into the copy at `root`. Restore the file at the end of the `with` block.

    Raises:
        ValueError: `fault.text` does not occur exactly once in `fault.file`.
    """
    file = root / fault.file
    source = file.read_text()
    if source.count(fault.text) != 1:
        raise ValueError(
            f"{fault.name}: the text to replace occurs {source.count(fault.text)} times in {fault.file}, not once"
        )
    file.write_text(source.replace(fault.text, fault.replacement))
    try:
        yield
    finally:
        file.write_text(source)


def run_tests(root: Path, module: str, tests: Sequence[str], *flags: str, timeout_s: float) -> tuple[int, str]:
    """Run tests in the copy at `root`. Return (exit status of pytest, output).

    The exit status is -1 after a timeout, and `NOT_IMPORTED` if the module `module` cannot be imported.
    """
    command = [sys.executable, "-c", DRIVER, module, str(root), *PYTEST, *flags, *tests]
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(
            command,
            cwd=root,
            env=environment_of(root),
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            code = process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            code = -1
        finally:
            with contextlib.suppress(ProcessLookupError):  # also kill processes that the tests started
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        output.seek(0)
        return code, output.read()


def verdict_of(code: int, output: str) -> tuple[bool, str]:
    """Judge a run of the tests of a fault. `code`, `output`: results of `run_tests`. Return (caught, detail).

    `detail` is the test that caught the fault. If no test caught the fault, `detail` is the reason.
    """
    failed = _FAILED.search(output)
    if code == 1 and failed:
        return True, failed[1]
    tail = output.strip().splitlines()[-1:]
    reasons = {0: "its tests pass", -1: "its tests took too long", NOT_IMPORTED: "its module cannot be imported"}
    return False, reasons.get(code, f"pytest ended with {code}") + (f" ({tail[0]})" if code and tail else "")


def check_all(root: Path, faults: Sequence[PlantedFault]) -> int:
    """Check in the copy at `root` whether tests catch `faults`. Return the exit status: 0 if all are caught, else 1."""
    tests = list(dict.fromkeys(test for fault in faults for test in fault.tests))
    began = time.monotonic()
    code, output = run_tests(root, "arlarena.proto.config", tests, timeout_s=len(tests) * TIMEOUT_S)
    if code:
        print(f"{output}\nerror: the tests fail without a fault; fix the tests first")
        return 1
    print(f"without a fault: {output.strip().splitlines()[-1]}", flush=True)
    missed = 0
    for fault in faults:
        start = time.monotonic()
        with planted(root, fault):
            caught, detail = verdict_of(*run_tests(root, fault.module, fault.tests, "-x", timeout_s=TIMEOUT_S))
        missed += not caught
        took = time.monotonic() - start
        print(f"{'caught' if caught else 'NOT CAUGHT'}  {fault.name}  {took:.1f} s  {detail}", flush=True)
    print(f"{len(faults) - missed} of {len(faults)} faults caught in {time.monotonic() - began:.0f} s")
    return 1 if missed else 0


def main(names: Sequence[str]) -> int:
    """Check the faults with these names. Without names, check all faults. Return the exit status."""
    faults = read_faults()
    known = [fault.name for fault in faults]
    if unknown := sorted(set(names) - set(known)):
        print(f"error: no fault is called {', '.join(unknown)}; known: {', '.join(known)}", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="arlarena-faults-") as folder:
        root = Path(folder).resolve()
        copy_checkout(root)
        return check_all(root, [fault for fault in faults if not names or fault.name in names])


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # sys.exit removes the copy
    sys.exit(main(sys.argv[1:]))
