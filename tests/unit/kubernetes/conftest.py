"""The rendered overlays. The packages come from `python scripts/setup.py kubernetes`."""

import copy

import pytest


@pytest.fixture(scope="session")
def rendered():
    """`rendered(name)`: the objects of an overlay, a copy that a test may change."""
    pytest.importorskip("kubernetes_validate", reason="python scripts/setup.py kubernetes installs the checks")
    from scripts.manifests.check import render

    objects = {}

    def copy_of(name):
        if name not in objects:
            objects[name] = render(name).objects
        return copy.deepcopy(list(objects[name]))

    return copy_of
