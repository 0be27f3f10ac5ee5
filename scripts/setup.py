#!/usr/bin/env python3
"""Makes .venv in this checkout, with the versions of constraints.txt. Instant where nothing has changed.

Run it with any Python 3: it looks for 3.11 or newer by itself. It installs torch first (ARLARENA_TORCH_INDEX names another
index for it alone), then the distributions of this repository, editable, and the tools of the developers.
"""

# This file has to be readable by an old Python, so that it can say that it is too old: no newer syntax here.
import hashlib
import os
import shutil
import subprocess
import sys
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
VENV = os.path.join(ROOT, ".venv")
STAMP = os.path.join(VENV, "arlarena-setup")
OLDEST = (3, 11)
NEWER = ("python3.11", "python3.12", "python3.13", "python3.14")
DISTRIBUTIONS = (
    "proto[redis,service]",
    "client",
    "services/env_server",
    "services/inference",
    "services/rollout",
    "services/trainer",
    "services/console",
)
TOOLS = ("pytest", "pytest-asyncio", "pytest-timeout", "ruff", "mypy", "import-linter", "scipy")


def fail(message):
    sys.stderr.write("error: {}\n".format(message))
    sys.exit(1)


def use_new_enough_python():
    """Go on in a Python of 3.11 or newer, if this is an older one."""
    if sys.version_info >= OLDEST:
        return
    for name in NEWER:
        path = shutil.which(name)
        if path and works(path):
            os.execv(path, [path] + sys.argv)
    version = "{}.{}".format(*sys.version_info[:2])
    fail(
        "{} is Python {}, and 3.11 or newer is needed: install one, or name it (make setup PYTHON=/path/to/python3.12)".format(
            sys.executable, version
        )
    )


def works(path):
    """Whether this is a Python that is new enough; a shim on PATH may have nothing behind it."""
    code = "import sys; sys.exit(sys.version_info < (3, 11))"
    return subprocess.call([path, "-c", code], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) == 0


def fingerprint():
    """Of everything that the installation depends on."""
    digest = hashlib.sha256()
    folders = [name.split("[")[0] for name in DISTRIBUTIONS]
    files = ["constraints.txt", os.path.join("scripts", "setup.py")]
    files += [os.path.join(folder, "pyproject.toml") for folder in folders]
    for name in files:
        with open(os.path.join(ROOT, name), "rb") as file:
            digest.update(name.encode() + b"\0" + file.read() + b"\0")
    facts = (sys.version, sys.base_prefix, ROOT, os.environ.get("ARLARENA_TORCH_INDEX", ""))
    digest.update("\0".join(facts).encode())
    return digest.hexdigest()


def up_to_date(wanted):
    """Whether the last installation here was this one."""
    try:
        with open(STAMP) as file:
            return file.read() == wanted and os.path.exists(python())
    except OSError:
        return False


def python():
    return os.path.join(VENV, "bin", "python")


def run(step, what, command):
    """One step; its output is shown, its failure is the end."""
    print("[setup {}/4] {} …".format(step, what))
    sys.stdout.flush()
    started = time.time()
    code = subprocess.call(command, cwd=ROOT)
    if code:
        fail("{} failed: {}".format(what, " ".join(command)))
    print("[setup {}/4] done after {:.0f} s".format(step, time.time() - started))


def pip(*arguments):
    common = ["--disable-pip-version-check", "--no-input", "-c", "constraints.txt"]
    return [python(), "-m", "pip", "install"] + common + list(arguments)


def pinned(name):
    """`name==version`, as constraints.txt has it."""
    with open(os.path.join(ROOT, "constraints.txt")) as file:
        for line in file:
            if line.split("==")[0].strip().lower() == name:
                return line.strip()
    return fail("constraints.txt pins no {}".format(name))


def torch_arguments():
    index = os.environ.get("ARLARENA_TORCH_INDEX", "").strip()
    return [pinned("torch")] + (["--index-url", index] if index else [])


def main():
    os.environ["PYTHONIOENCODING"] = "utf-8"
    use_new_enough_python()
    wanted = fingerprint()
    if up_to_date(wanted):
        return
    if not os.access(ROOT, os.W_OK):
        fail("{} cannot be written to".format(ROOT))
    if subprocess.call([sys.executable, "-c", "import ensurepip"], stderr=subprocess.DEVNULL):
        fail("this Python has no ensurepip, which makes virtual environments: install python3-venv (Debian, Ubuntu)")
    print("Setting up {} with {} (once; a few minutes, most of it the download of torch)".format(VENV, sys.executable))
    run(1, "a virtual environment", [sys.executable, "-m", "venv", "--clear", VENV])
    run(2, "torch", pip(*torch_arguments()))
    run(3, "the build back end", pip(pinned("hatchling")))
    editable = [part for name in DISTRIBUTIONS for part in ("-e", "./" + name)]
    run(4, "ARLArena and its tools", pip("--no-build-isolation", *(editable + list(TOOLS))))
    with open(STAMP, "w") as file:
        file.write(wanted)
    print("Ready. `make demo` trains, `make test` tests, `make help` lists the rest.")


if __name__ == "__main__":
    main()
