"""A policy server with `admin_port`: the weight routes answer only on this port, with one engine and with a gateway."""

import socket

import pytest
from support.inference.inference_support import Http, label, model, openai_error, running_server, save, write_version

TOKEN = "a token of some length"
BEARER = {"authorization": f"Bearer {TOKEN}"}


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return save(model(1), tmp_path_factory.mktemp("model"))


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


# Slow for a gateway: two engines start, 6 s. Both check access with the same code.
@pytest.mark.parametrize("replicas", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_weights_are_accepted_only_on_the_admin_port(directory, tmp_path, replicas):
    root, port = tmp_path / "weights", free_port()
    root.mkdir()
    config = (
        f'model = "{directory}"\nweights_root = "{root}"\nadmin_token = "{TOKEN}"\nadmin_port = {port}\n'
        f"replicas = {replicas}\nhealth_interval_s = 0.2\n"
    )
    with running_server(tmp_path / "run", config) as server:
        admin = Http(f"http://127.0.0.1:{port}", timeout_s=60)
        body = {"version": label(write_version(root, model(2), 1))}
        for refused in (
            server.http.post("/serve_weights", body, headers=BEARER),
            server.http.put("/weights/x", b"{}", headers=BEARER),
            server.http.put("/weights/x/y", b"{}", headers=BEARER),
        ):
            assert refused.status_code == 404
            assert "admin_port" in openai_error(refused)["message"]
        assert admin.post("/serve_weights", body).status_code == 401
        assert admin.post("/serve_weights", body, headers=BEARER).status_code == 200
        assert server.version() == body["version"]
        assert admin.get("/ready").status_code == 200


def test_an_admin_port_that_is_in_use_is_named(directory, tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        config = f'model = "{directory}"\nadmin_port = {taken.getsockname()[1]}\n'
        with (
            pytest.raises(AssertionError, match=r"choose another \[inference\] admin_port"),
            running_server(tmp_path / "run", config),
        ):
            raise RuntimeError("the server started")
