"""No memory of a program is both writable and executable, even if inherited from the zygote or with a layer missing."""

from __future__ import annotations

import ctypes
from contextlib import closing

import pytest
from sandbox_attacks import BREACH, attacks, baits
from support.sandbox.sandbox_support import patched_work

from arlarena.sandbox import kernel
from arlarena.sandbox.forks import ForkSandbox, ForkSettings

pytestmark = [
    pytest.mark.skipif(not kernel.supported(), reason="the sandbox of forks needs Linux on x86-64 or aarch64"),
    pytest.mark.slow,  # zygotes of several kinds; test_attacks.py runs memory.txt
]
PR_GET_MDWE = 66
COMMON = next(attack.program for attack in attacks() if attack.family == "memory").partition("address = ")[0]
# Mappings that libffi without static trampolines leaves in the zygote for its callbacks, in both forms.
INHERITED = {
    "writable and executable": "writable = executable = mapped(RWX, PRIVATE | ANONYMOUS)",
    "one file, shared twice": (
        "descriptor = os.memfd_create('x'); os.ftruncate(descriptor, PAGE)\n"
        "writable, executable = mapped(RW, SHARED, descriptor), mapped(RX, SHARED, descriptor)"
    ),
    "one file, shared and private": (
        "descriptor = os.memfd_create('x'); os.ftruncate(descriptor, PAGE)\n"
        "writable, executable = mapped(RW, SHARED, descriptor), mapped(RX, PRIVATE, descriptor)"
    ),
    "one file, shared without the right to write": (
        "descriptor = os.memfd_create('x'); os.ftruncate(descriptor, PAGE)\n"
        "writable, executable = mapped(1, SHARED, descriptor), mapped(RX, SHARED, descriptor)"
    ),
}


@pytest.mark.parametrize("left", INHERITED.values(), ids=INHERITED)
def test_writable_memory_of_the_zygote_is_not_executable_in_a_fork(left: str, monkeypatch: pytest.MonkeyPatch) -> None:
    keep = "import builtins; builtins.inherited = writable, executable"
    common = COMMON.replace("@library@", "")
    work = patched_work(monkeypatch, f"{common}\n{left}\n{keep}")
    with closing(ForkSandbox(ForkSettings(), work)) as sandbox:
        execution = sandbox.run(
            f"{common}\nwritable, executable = inherited\nprotect(writable, RW)\nwrite(writable)\n"
            "print('written', flush=True)\nrun(executable)"
        )
    assert (execution.stdout, execution.error_line) == ("written\n", "ProcessError: the program was ended by SIGSEGV")


def kernel_has_mdwe() -> bool:
    """Whether the kernel supports MDWE, independent of the sandbox's own report."""
    return int(ctypes.CDLL(None).prctl(PR_GET_MDWE, *[ctypes.c_ulong(0)] * 4)) >= 0


WITHOUT = {
    "mdwe": "def absent(option, *rest, known=kernel.prctl):\n    if option == kernel.PR_SET_MDWE: raise OSError(22)\n"
    "    return known(option, *rest)\nkernel.prctl = absent",
    "seccomp": "def absent(program): raise OSError(38)\nseccomp.load = absent",
}


@pytest.mark.parametrize("absent", WITHOUT)
def test_private_mappings_of_files_are_refused_without_mdwe_and_without_seccomp(
    absent: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = f"from arlarena.sandbox import kernel, seccomp\n{WITHOUT[absent]}"
    if absent == "seccomp" and not kernel_has_mdwe():
        pytest.skip("PR_GET_MDWE fails: the kernel has no MDWE (Linux has it from 6.3), so no second layer is left")
    settings = ForkSettings(required=("rlimits", "capabilities", "no_new_privs", "landlock"))
    tried = [attack for attack in attacks() if attack.family == "memory" and "mapping" in attack.name]
    assert len(tried) >= 8
    with (
        closing(ForkSandbox(settings, patched_work(monkeypatch, code))) as sandbox,
        baits(sandbox.zygote_pid) as around,
    ):
        layers = sandbox.health().layers
        assert absent not in layers
        assert {"mdwe", "seccomp"} & set(layers)
        breached = [attack.name for attack in tried if BREACH in sandbox.run(around.in_program(attack)).stdout]
    assert breached == []


def test_mdwe_is_in_force_if_the_kernel_supports_it(sandbox: ForkSandbox) -> None:
    assert ("mdwe" in sandbox.health().layers) == kernel_has_mdwe()


def test_extension_modules_are_loaded_in_a_locked_fork(sandbox: ForkSandbox) -> None:
    program = (
        "import sys\nbefore = set(sys.modules)\n"
        "import scipy.interpolate, scipy.ndimage, scipy.signal, scipy.spatial, scipy.stats\n"
        "new = [getattr(sys.modules[name], '__file__', None) or '' for name in set(sys.modules) - before]\n"
        "print(sum(file.endswith('.so') for file in new) >= 10)"
    )
    execution = sandbox.run(program)
    assert (execution.stdout, execution.error_line) == ("True\n", "")
