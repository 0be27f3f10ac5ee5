"""The libraries that programs may import: the standard library, numpy, scipy, sympy and mpmath. The zygote loads the
most frequent modules before it forks.
"""

from __future__ import annotations

import importlib
import os
import sysconfig
from collections.abc import Iterator
from pathlib import Path

PACKAGES = ("numpy", "scipy", "sympy", "mpmath")
# Modules that the zygote loads, with all their imports. If a program imports another module, such as scipy.stats or
# scipy.signal, its fork loads the module from a file. This takes a quarter of a second, but all forks need less memory.
MODULES = """
    array ast base64 bisect calendar cmath collections.abc colorsys copy csv dataclasses datetime decimal difflib enum
    fractions functools hashlib heapq io itertools json keyword locale math numbers operator pprint queue random re
    secrets statistics string struct textwrap time timeit traceback types typing unicodedata uuid zlib
    numpy.fft numpy.linalg numpy.polynomial numpy.random
    scipy.constants scipy.fft scipy.integrate scipy.linalg scipy.optimize scipy.sparse scipy.sparse.linalg scipy.special
    sympy sympy.abc sympy.combinatorics sympy.geometry sympy.ntheory.modular sympy.ntheory.residue_ntheory
    sympy.parsing.sympy_parser sympy.plotting.series sympy.solvers.diophantine
"""
# Typical calls. They fill the libraries' caches before the first fork, so that all forks have filled caches.
WARM_UP = """
import numpy as np, scipy.optimize, scipy.integrate, sympy as sp
x, y, n = sp.symbols("x y n"); k = sp.Symbol("k", integer=True)
sp.solve(x**2 - 5*x + 6, x); sp.solve([x + y - 3, x - y - 1], [x, y]); sp.factor(x**4 - 1); sp.factorint(360)
sp.expand((x + 1)**5); sp.simplify(sp.sin(x)**2 + sp.cos(x)**2); sp.diff(sp.exp(x)*sp.sin(x), x)
sp.integrate(x**2*sp.exp(x), x); sp.limit(sp.sin(x)/x, x, 0); sp.summation(n**2, (n, 1, k))
sp.series(sp.cos(x), x, 0, 6); sp.nsolve(sp.cos(x) - x, x, 1); sp.Matrix([[1, 2], [3, 4]]).inv(); sp.isprime(97)
sp.divisors(60); sp.Rational(1, 3); str(sp.sqrt(8)); sp.N(sp.pi, 30); sp.latex(sp.sqrt(x)/2); sp.binomial(10, 3)
sp.solveset(sp.sin(x), x, sp.S.Reals)
a = np.arange(9.0).reshape(3, 3) + np.eye(3); np.linalg.solve(a, np.ones(3)); np.linalg.eig(a); np.roots([1, -3, 2])
a @ a; str(a); np.random.default_rng(0).normal(size=3); scipy.optimize.brentq(np.cos, 0, 3)
scipy.optimize.minimize(lambda v: (v[0] - 1)**2, [0.0]); scipy.integrate.quad(np.sin, 0, 1)
"""
EXCLUDED_FOLDERS = frozenset(("site-packages", "dist-packages", "test", "idlelib", "ensurepip", "lib2to3", "tkinter"))


def preload() -> None:
    """Import the modules in `MODULES`, and execute the code in `WARM_UP`. The zygote calls this before it forks."""
    for name in MODULES.split():
        importlib.import_module(name)
    exec(compile(WARM_UP, "<warm-up>", "exec"), {})


def readable() -> Iterator[Path]:
    """Yield the files and folders that a program's imports may read.

    These are the standard library without `EXCLUDED_FOLDERS`, the folders of `PACKAGES`, and the folders with the
    shared libraries of these packages.
    """
    paths = sysconfig.get_paths()
    for folder in {paths["stdlib"], paths["platstdlib"], os.path.dirname(os.__file__)}:
        yield from (entry for entry in Path(folder).iterdir() if entry.name not in EXCLUDED_FOLDERS)
    for name in PACKAGES:
        package = Path(importlib.import_module(name).__path__[0])
        yield package
        if (libraries := package.with_name(f"{name}.libs")).is_dir():
            yield libraries
