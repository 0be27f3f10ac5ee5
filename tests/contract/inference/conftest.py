"""Makes `inference_support` importable, and one server for all tests that leave its weights alone."""

import pytest


@pytest.fixture(scope="session")
def served_model():
    """The model that `server` serves, in transformers."""
    from inference_support import model

    return model(11)


@pytest.fixture(scope="session")
def server(served_model, tmp_path_factory):
    """A real process over HTTP."""
    from inference_support import running_server, save

    folder = tmp_path_factory.mktemp("served")
    directory = save(served_model, folder / "model")
    config = f'model = "{directory}"\nmax_slots = 16\nserved_model_name = "tiny"\nmax_body_mb = 1\n'
    with running_server(folder / "run", config) as running:
        yield running
