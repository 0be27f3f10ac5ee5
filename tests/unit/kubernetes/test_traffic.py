"""Who may connect to whom, computed from the rendered NetworkPolicies."""

import os
import tomllib
from pathlib import Path

import pytest

from arlarena.sandbox.lockdown import REQUIRED

ROOT = Path(__file__).resolve().parents[3]
PORTS = (6379, 8000, 8100, 8101, 8400)
OTHER_PORT = 29_499  # no manifest names this port, so only a rule without ports allows it
ENVIRONMENTS = {f"environment-{name}" for name in ("alfworld", "sokoban", "tir-math", "webshop")}


@pytest.fixture
def connections(rendered):
    """`connections(overlay)`: all allowed connections (client, server, port) between pods of the overlay."""
    from scripts.manifests.objects import Overlay
    from scripts.manifests.policies import can_connect

    def of(name):
        overlay = Overlay.of(rendered(name))
        names = {pods.owner: pods.owner.partition("/")[2] for pods in overlay.pods}
        return {
            (names[source.owner], names[target.owner], port)
            for source in overlay.pods
            for target in overlay.pods
            for port in PORTS
            if port in target.ports.values() and can_connect(overlay, source, target, port)
        }

    return of


@pytest.mark.parametrize("name", ["cpu-smoke", "single-gpu"])
def test_the_connections_of_a_driven_run(connections, name):
    assert connections(name) == {
        ("rollout", "redis", 6379), ("trainer", "redis", 6379),
        ("rollout", "environment-sokoban", 8000), ("trainer", "environment-sokoban", 8000),
        ("run", "environment-sokoban", 8000), ("environment-sokoban", "environment-sokoban", 8000),
        ("rollout", "inference", 8100), ("run", "inference", 8100),
        ("trainer", "inference", 8101),
    }  # fmt: skip


def test_the_connections_of_several_nodes(connections):
    expected = {(client, server, 8000) for client in ("rollout", "trainer") for server in ENVIRONMENTS}
    expected |= {(server, server, 8000) for server in ENVIRONMENTS - {"environment-tir-math"}}
    assert connections("multi-node") == expected | {
        ("rollout", "redis", 6379), ("trainer", "redis", 6379), ("rollout", "gateway", 8100),
        ("trainer", "gateway", 8101), ("gateway", "vllm", 8101),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "expected"), [("cpu-smoke", set()), ("single-gpu", set()), ("multi-node", {("trainer", "trainer")})]
)
def test_only_the_trainer_of_several_nodes_connects_to_itself_on_all_ports(rendered, name, expected):
    from scripts.manifests.objects import Overlay
    from scripts.manifests.policies import can_connect

    overlay = Overlay.of(rendered(name))
    pairs = [(source, target) for source in overlay.pods for target in overlay.pods]
    found = {
        tuple(pods.owner.partition("/")[2] for pods in pair)
        for pair in pairs
        if can_connect(overlay, *pair, OTHER_PORT)
    }
    assert found == expected


def test_the_connections_to_other_namespaces_and_to_the_internet(rendered):
    """Each entry: direction, pods of the overlay, the other end, ports."""
    dns, web = ("UDP 53", "TCP 53"), ("TCP 443",)
    servers = {"rollout", "trainer", "gateway", "vllm"} | ENVIRONMENTS
    expected = {("egress", name, "kube-system", dns) for name in servers - {"environment-tir-math"}}
    expected |= {("egress", name, "0.0.0.0/0", web) for name in ("rollout", "trainer", "vllm")}
    expected |= {("ingress", name, "monitoring", ("TCP http",)) for name in servers - {"rollout", "trainer"}}
    expected |= {("ingress", name, "monitoring", ("TCP metrics",)) for name in ("rollout", "trainer")}
    assert outside(rendered("multi-node")) == expected | {("ingress", "redis", "keda", ("TCP redis",))}
    for name in ("cpu-smoke", "single-gpu"):
        pods = ("rollout", "trainer", "run", "inference", "environment-sokoban")
        assert outside(rendered(name)) == {("egress", pod, "kube-system", dns) for pod in pods}


def outside(objects):
    """Return the rules for peers outside the namespace, as in `expected` of the test above."""
    from scripts.manifests.objects import Overlay
    from scripts.manifests.policies import DIRECTIONS, policies_of

    overlay, found = Overlay.of(objects), set()
    for pods in overlay.pods:
        for policy in policies_of(overlay, pods):
            for _, direction, peers in DIRECTIONS:
                for rule in policy["spec"].get(direction, []):
                    ports = tuple(f"{port['protocol']} {port['port']}" for port in rule.get("ports", []))
                    for peer in rule[peers]:
                        namespace = peer.get("namespaceSelector", {}).get("matchLabels", {})
                        other = namespace.get("kubernetes.io/metadata.name") or peer.get("ipBlock", {}).get("cidr")
                        if other or "podSelector" not in peer:
                            found.add((direction, pods.owner.partition("/")[2], other, ports))
    return found


def test_tir_math_and_redis_have_no_egress_and_no_dns(rendered):
    from scripts.manifests.objects import Overlay
    from scripts.manifests.policies import policies_of

    overlay = Overlay.of(rendered("multi-node"))
    closed = {
        pods.owner for pods in overlay.pods if not any("egress" in one["spec"] for one in policies_of(overlay, pods))
    }
    assert closed == {"StatefulSet/environment-tir-math", "StatefulSet/redis"}


@pytest.mark.parametrize("name", ["cpu-smoke", "single-gpu"])
def test_the_page_has_no_ingress_and_no_egress(rendered, name):
    from scripts.manifests.objects import Overlay
    from scripts.manifests.policies import policies_of

    overlay = Overlay.of(rendered(name))
    (page,) = [pods for pods in overlay.pods if pods.owner == "Deployment/page"]
    policies = policies_of(overlay, page)
    assert {one["metadata"]["name"] for one in policies} == {"default-deny", "page"}
    assert not any(key in one["spec"] for one in policies for key in ("ingress", "egress"))


@pytest.mark.parametrize(
    ("name", "owner", "claim"),
    [
        ("cpu-smoke", "Deployment/page", "run"),
        ("single-gpu", "Deployment/page", "run"),
        ("multi-node", "JobSet/trainer", "trainer-run"),
    ],
)
def test_the_page_only_reads_the_run_and_asks_for_a_token(rendered, name, owner, claim):
    from scripts.manifests.objects import Overlay

    overlay = Overlay.of(rendered(name))
    (pods,) = [pods for pods in overlay.pods if pods.owner == owner and "page" in map(_name, pods.containers)]
    (page,) = [one for one in pods.containers if one["name"] == "page"]
    volumes = {one["name"]: one for one in pods.spec["volumes"]}
    mounts = {one["name"]: one for one in page["volumeMounts"]}
    assert volumes["run"]["persistentVolumeClaim"]["claimName"] == claim
    assert mounts["run"]["readOnly"] is True
    variables = {one["name"]: one["value"] for one in page["env"]}
    folder = next(one["mountPath"] for one in page["volumeMounts"] if one["mountPath"].startswith("/run/"))
    assert variables["ARLARENA_PAGE_TOKEN_FILE"].startswith(f"{folder}/")
    assert "livenessProbe" in page


def test_the_page_beside_the_trainer_cannot_delay_it(rendered):
    """A startup probe of a container that runs beside the trainer would delay the trainer's start."""
    from scripts.manifests.objects import Overlay

    overlay = Overlay.of(rendered("multi-node"))
    first, others = [pods for pods in overlay.pods if pods.owner == "JobSet/trainer"]
    (page,) = first.spec["initContainers"]
    assert page["restartPolicy"] == "Always"
    assert "startupProbe" not in page
    assert page["resources"]["limits"] == {"cpu": "1", "memory": "1Gi"}
    assert page["image"] == first.spec["containers"][0]["image"]
    assert "initContainers" not in others.spec


def _name(container):
    return container["name"]


def test_tir_math_runs_in_gvisor_if_an_overlay_has_the_component(rendered, tmp_path):
    from scripts.manifests.check import FOLDER, faults_of, render

    base, component = (os.path.relpath(FOLDER / path, tmp_path) for path in ("multi-node", "../components/gvisor"))
    text = f"kind: Kustomization\nresources: [{base}]\ncomponents: [{component}]\n"
    (tmp_path / "kustomization.yaml").write_text(text)
    overlay = render(str(tmp_path))
    assert faults_of(overlay) == []
    runtimes = {pods.owner: pods.spec.get("runtimeClassName") for pods in overlay.pods}
    assert {owner for owner, name in runtimes.items() if name} == {"StatefulSet/environment-tir-math"}


def test_the_sandbox_in_gvisor_requires_all_default_layers_except_landlock():
    given = tomllib.loads((ROOT / "k8s/components/gvisor/tir_math.toml").read_text())
    required = given["environment"]["options"]["sandbox"]["required"]
    assert {*required, "landlock"} == set(REQUIRED)
