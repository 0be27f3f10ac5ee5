"""Imports at start-up, and the equality of the two tables of routes."""

import subprocess
import sys

from arlarena.inference import app
from arlarena.inference.embedded.serving import routes as serving


def test_the_application_module_does_not_import_torch():
    modules = "arlarena.inference.app, arlarena.inference.gateway.build, arlarena.inference.__main__"
    code = f"import sys, {modules}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0


def test_declared_and_served_routes_are_equal():
    assert {*app.MODEL_ROUTES, *app.STATE_ROUTES, *app.ADMIN_ROUTES} == set(serving.Serving._routes(_Anything()))


class _Anything:
    def __getattr__(self, name):
        return self

    def __call__(self, *arguments):
        return self
