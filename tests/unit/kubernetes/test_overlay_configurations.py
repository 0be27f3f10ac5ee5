"""The services accept the configuration files of the overlays, and the files fit the manifests."""

import subprocess
import tomllib
from pathlib import Path

import pytest

from arlarena.console.runconfig import RunConfig
from arlarena.env_server.settings import load_settings as load_environment
from arlarena.inference.settings import InferenceSettings
from arlarena.proto.config import load_table, read_with_secrets
from arlarena.rollout.settings import load_evaluation, load_rollout
from arlarena.trainer.settings import TrainerSettings

FOLDER = Path(__file__).resolve().parents[3] / "k8s" / "overlays"
OVERLAYS = ("cpu-smoke", "single-gpu", "multi-node")


@pytest.mark.parametrize("name", OVERLAYS)
def test_the_services_accept_the_file(name):
    path = FOLDER / name / "run.toml"
    load_environment(path)
    load_rollout(path)
    load_evaluation(path)
    load_table(path, "trainer", TrainerSettings)
    load_table(path, "inference", InferenceSettings)
    assert RunConfig(path, read_with_secrets(path)).environment in ("sokoban", "alfworld")


@pytest.mark.parametrize(
    ("name", "claim"), [("cpu-smoke", "run"), ("single-gpu", "run"), ("multi-node", "trainer-run")]
)
def test_deleting_an_overlay_keeps_the_namespace_the_secrets_and_the_claim_of_redis(rendered, name, claim):
    """`kubectl delete -k` deletes the rendered objects. The deletion of a namespace would delete all objects in it."""
    objects = rendered(name)
    names = {(one["kind"], one["metadata"]["name"]) for one in objects}
    assert {own for kind, own in names if kind == "PersistentVolumeClaim"} == {claim}
    assert not {"Namespace", "Secret"} & {kind for kind, _ in names}
    (redis,) = [one for one in objects if (one["kind"], one["metadata"]["name"]) == ("StatefulSet", "redis")]
    assert redis["spec"]["volumeClaimTemplates"][0]["metadata"]["name"] == "data"
    # The default of this field keeps the claims of a deleted StatefulSet.
    assert redis["spec"].get("persistentVolumeClaimRetentionPolicy", {}).get("whenDeleted", "Retain") == "Retain"


def read(name, file="run.toml"):
    return tomllib.loads((FOLDER / name / file).read_text())


def test_the_gateway_lists_each_policy_server(rendered):
    (group,) = [one for one in rendered("multi-node") if one["kind"] == "LeaderWorkerSet"]
    addresses = [f"http://vllm-{index}.vllm:8101" for index in range(group["spec"]["replicas"])]
    assert read("multi-node", "gateway.toml")["inference"]["replica_urls"] == addresses


def test_the_trainer_has_as_many_nodes_as_pods(rendered):
    (job_set,) = [one for one in rendered("multi-node") if one["kind"] == "JobSet"]
    first, others = (job["template"]["spec"] for job in job_set["spec"]["replicatedJobs"])
    assert (first["parallelism"], first["completions"]) == (1, 1)
    assert others["parallelism"] == others["completions"]
    for job in (first, others):
        (container,) = job["template"]["spec"]["containers"]
        nodes = {variable["name"]: variable.get("value") for variable in container["env"]}["NODES"]
        assert int(nodes) == 1 + others["completions"]


def test_each_pod_of_the_trainer_gets_its_rank(rendered, tmp_path):
    """The shell of the pods `others` adds 1 to the index, after Kubernetes has replaced `$$` by `$`."""
    (job_set,) = [one for one in rendered("multi-node") if one["kind"] == "JobSet"]
    (container,) = job_set["spec"]["replicatedJobs"][1]["template"]["spec"]["template"]["spec"]["containers"]
    (tmp_path / "python3").write_text('#!/bin/sh\necho "$@"\n')
    (tmp_path / "python3").chmod(0o755)
    command = [part.replace("$$", "$") for part in container["command"]]
    variables = {"PATH": f"{tmp_path}:/usr/bin:/bin", "JOB_COMPLETION_INDEX": "4"}
    printed = subprocess.run([*command, "--nnodes=6"], env=variables, capture_output=True, text=True, check=True).stdout
    assert printed.split() == ["-m", "arlarena.trainer.torchrun", "--node-rank=5", "--nnodes=6"]


def test_the_stream_of_the_autoscaler_is_the_runs(rendered):
    objects = rendered("multi-node")
    (addresses,) = [one["data"] for one in objects if "RUN_NAME" in one.get("data", {})]
    streams = {
        trigger["metadata"]["stream"]
        for one in objects
        if one["kind"] == "ScaledObject"
        for trigger in one["spec"]["triggers"]
        if "stream" in trigger["metadata"]
    }
    assert streams == {f"arl:{{{addresses['RUN_NAME']}}}:tasks"}
    assert read("multi-node")["run"]["name"] == addresses["RUN_NAME"]


def test_a_server_drains_before_its_pod_is_killed(rendered):
    """The pods get more time to stop than the services take."""
    from scripts.manifests.objects import Overlay

    for pods in Overlay.of(rendered("multi-node")).pods:
        grace = pods.spec["terminationGracePeriodSeconds"]
        own = {
            variable["name"]: float(variable["value"])
            for variable in pods.spec["containers"][0].get("env", [])
            if variable["name"] in ("ARLARENA_ENVIRONMENT_DRAIN_S", "ARLARENA_INFERENCE_SHUTDOWN_GRACE_S")
        }
        assert all(grace > seconds for seconds in own.values()), pods.owner
        if pods.owner == "Deployment/rollout":
            assert grace > load_rollout(FOLDER / "multi-node" / "run.toml").drain_s
