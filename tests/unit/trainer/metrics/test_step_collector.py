"""The trainer's metrics for Prometheus: the newest step, over HTTP."""

import socket
import urllib.request

import pytest
from prometheus_client.parser import text_string_to_metric_families

from arlarena.proto.http.metrics_port import served_metrics
from arlarena.proto.telemetry import get_logger
from arlarena.trainer.metrics.step_collector import StepCollector
from arlarena.trainer.metrics.trackers import TrackedRun, Trackers
from arlarena.trainer.settings import load_trainer

LOG = get_logger("trainer", "warning")


def scraped(port):
    """The gauges that `GET /metrics` reports, by name."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as reply:
        families = list(text_string_to_metric_families(reply.read().decode()))
    assert all(sample.labels == {"run": "demo"} for family in families for sample in family.samples)
    return {sample.name: sample.value for family in families for sample in family.samples}


def test_the_newest_step_is_reported_over_http(tmp_path):
    collector = StepCollector("demo", 7)
    trackers = Trackers((), TrackedRun("demo", tmp_path, 7, {}), LOG, collector)
    with served_metrics(collector, "127.0.0.1", 0, LOG) as port:
        start = scraped(port)
        assert set(start) == {"arlarena_trainer_step", "arlarena_trainer_step_time_seconds"}
        assert start["arlarena_trainer_step"] == 7
        trackers.add({"success_rate": 0.25, "kl/k3": float("nan"), "note": "text", "flag": True}, 8)
        trackers.add({"success_rate": 0.5, "kl/k3": float("inf")}, 9)
        found = scraped(port)
    assert found["arlarena_trainer_step"] == 9
    assert found["arlarena_trainer_last_success_rate"] == 0.5
    assert found["arlarena_trainer_last_kl_k3"] == float("inf")
    assert found["arlarena_trainer_step_time_seconds"] >= start["arlarena_trainer_step_time_seconds"]
    assert len(found) == 4
    with pytest.raises(OSError, match="refused"):
        scraped(port)


def test_without_a_port_nothing_is_served():
    with served_metrics(StepCollector("demo", 0), "127.0.0.1", None, LOG) as port:
        assert port == 0


@pytest.mark.parametrize("host", ["127.0.0.1", "no-such-host.invalid"])
def test_a_port_that_cannot_be_opened_is_a_warning(capfd, host):
    with socket.create_server(("127.0.0.1", 0)) as used:
        number = used.getsockname()[1]
        with served_metrics(StepCollector("demo", 0), host, number, LOG) as port:
            assert port == 0
    assert '"event":"metrics_not_served"' in "".join(capfd.readouterr())


def test_variables_set_the_port_and_no_other_setting(tmp_path, monkeypatch):
    (tmp_path / "run.toml").write_text("[trainer]\nmetrics_port = 1\nsteps = 5\n")
    monkeypatch.setenv("ARLARENA_TRAINER_METRICS_PORT", "9100")
    monkeypatch.setenv("ARLARENA_TRAINER_METRICS_HOST", "0.0.0.0")
    monkeypatch.setenv("ARLARENA_TRAINER_STEPS", "9")
    settings = load_trainer(tmp_path / "run.toml")
    assert (settings.metrics_port, settings.metrics_host, settings.steps) == (9100, "0.0.0.0", 5)
