"""The dashboard of the profile `observe` uses metrics that the services export, and the provisioned data source."""

import json
import re
import tomllib
from pathlib import Path

import pytest
import yaml
from scripts.reference_pages import registries

OBSERVE = Path(__file__).resolve().parents[3] / "docker" / "observe"
DASHBOARD = json.loads((OBSERVE / "dashboards" / "arlarena.json").read_text())
EXPRESSIONS = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]
GLOSSARY = tomllib.loads((OBSERVE.parents[1] / "proto" / "arlarena" / "proto" / "metrics.toml").read_text())
# The trainer exports the metrics of its last step under this name.
LAST_STEP = {f"arlarena_trainer_last_{name}" for name in GLOSSARY["training"]}
SUFFIXES = {"counter": ("_total",), "histogram": ("_bucket", "_count", "_sum"), "gauge": ("",), "info": ("_info",)}


def exported() -> dict[str, set[str]]:
    """The names of all time series that the services export, with the labels of their families."""
    series: dict[str, set[str]] = {}
    for registry in registries().values():
        for family in registry.collect():
            labels = {label for sample in family.samples for label in sample.labels}
            for suffix in SUFFIXES[family.type]:
                series[family.name + suffix] = labels
    return series


def unknown(expression: str) -> set[str]:
    return set(re.findall(r"\barlarena_\w+", expression)) - set(exported()) - LAST_STEP


def test_every_metric_of_the_dashboard_is_exported() -> None:
    assert len(EXPRESSIONS) >= 15
    assert {name for expression in EXPRESSIONS for name in unknown(expression)} == set()


@pytest.mark.parametrize("wrong", ["rate(arlarena_env_steps_total[1m])", "arlarena_env_requests"])
def test_a_metric_that_no_service_exports_is_found(wrong: str) -> None:
    assert len(unknown(wrong)) == 1


def test_panels_use_the_provisioned_data_source_and_do_not_overlap() -> None:
    sources = yaml.safe_load((OBSERVE / "provisioning" / "datasources" / "prometheus.yaml").read_text())["datasources"]
    assert {panel["datasource"]["uid"] for panel in DASHBOARD["panels"]} == {source["uid"] for source in sources}
    cells = [
        (x, y)
        for grid in (panel["gridPos"] for panel in DASHBOARD["panels"])
        for x in range(grid["x"], grid["x"] + grid["w"])
        for y in range(grid["y"], grid["y"] + grid["h"])
    ]
    assert len(cells) == len(set(cells))
    assert max(x for x, _ in cells) < 24  # the width of Grafana's grid
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])


def test_prometheus_scrapes_the_servers_of_compose_with_their_secrets() -> None:
    compose = yaml.safe_load((OBSERVE.parents[1] / "compose.yaml").read_text())
    scrapes = yaml.safe_load((OBSERVE / "prometheus.yaml").read_text())["scrape_configs"]
    prometheus = compose["services"]["prometheus"]
    for job in scrapes:
        if "authorization" in job:  # trainer and workers serve metrics without a token
            assert Path(job["authorization"]["credentials_file"]).name in prometheus["secrets"]
        targets = [target.partition(":")[0] for each in job.get("static_configs", ()) for target in each["targets"]]
        targets += [name for each in job.get("dns_sd_configs", ()) for name in each["names"]]
        assert targets
        for target in targets:
            assert set(compose["services"][target]["networks"]) & set(prometheus["networks"])
