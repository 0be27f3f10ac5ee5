"""Alarms and autoscalers use metrics that the servers have, and each alarm has a section in the runbooks."""

import re
from pathlib import Path

from support.docs.documents import anchors

ROOT = Path(__file__).resolve().parents[3]


def alarms(rendered):
    (rules,) = [one for one in rendered("multi-node") if one["kind"] == "PrometheusRule"]
    return [rule for group in rules["spec"]["groups"] for rule in group["rules"]]


def queries(rendered):
    scaled = [one for one in rendered("multi-node") if one["kind"] == "ScaledObject"]
    triggers = [trigger["metadata"] for one in scaled for trigger in one["spec"]["triggers"]]
    return [trigger["query"] for trigger in triggers if "query" in trigger]


def test_the_metrics_exist(rendered):
    reference = (ROOT / "docs" / "reference" / "metrics.md").read_text()
    known = set(re.findall(r"^\| `(arlarena_\w+)`", reference, re.MULTILINE))
    texts = [*(alarm["expr"] for alarm in alarms(rendered)), *queries(rendered)]
    used = {name for text in texts for name in re.findall(r"\barlarena_\w+", text)}
    assert len(used) >= 10
    assert used <= known


def test_each_alarm_has_a_runbook(rendered):
    found = alarms(rendered)
    assert len(found) >= 10
    for alarm in found:
        path, _, anchor = alarm["annotations"]["runbook"].partition("#")
        assert anchor in anchors(ROOT / path), alarm["alert"]
        assert alarm["labels"]["severity"] in ("warning", "critical")


def test_each_section_of_the_alarms_belongs_to_an_alarm(rendered):
    text = (ROOT / "docs" / "how-to" / "operate.md").read_text().partition("\n## Alarms\n")[2]
    assert set(re.findall(r"^### (\w+)$", text, re.MULTILINE)) == {alarm["alert"] for alarm in alarms(rendered)}
