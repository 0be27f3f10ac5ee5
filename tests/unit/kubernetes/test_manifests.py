"""The manifests of k8s/ have no fault, and the checks catch each kind of planted fault."""

import pytest

OVERLAYS = ("cpu-smoke", "single-gpu", "multi-node")


def faults(objects):
    from scripts.manifests.check import faults_of
    from scripts.manifests.objects import Overlay

    return [str(fault) for fault in faults_of(Overlay.of(objects))]


def find(objects, name):
    kind, _, own = name.partition("/")
    (found,) = [one for one in objects if (one["kind"], one["metadata"]["name"]) == (kind, own)]
    return found


def pod(objects, name):
    from scripts.manifests.objects import pods_of

    return next(pods_of(find(objects, name))).spec


def container(objects, name):
    return pod(objects, name)["containers"][0]


@pytest.mark.parametrize("name", OVERLAYS)
def test_an_overlay_has_no_fault(rendered, name):
    objects = rendered(name)
    assert len(objects) > 20
    assert faults(objects) == []


def test_all_overlays_are_checked(rendered):
    from scripts.manifests.check import OVERLAYS as FOUND

    assert sorted(FOUND) == sorted(OVERLAYS)


# Each fault: the object that the message must name, what is changed, and words of the message (the fault and the fix).
POD = {
    "runAsNonRoot": lambda one: one["securityContext"].pop("runAsNonRoot"),
    "runAsUser": lambda one: one["securityContext"].update(runAsUser=0),
    "hostNetwork": lambda one: one.update(hostNetwork=True),
    "automountServiceAccountToken: false": lambda one: one.pop("automountServiceAccountToken"),
    "is of kind hostPath": lambda one: one["volumes"].append({"name": "tmp", "hostPath": {"path": "/"}}),
    "Secret redis-worker does not exist": lambda one: secret(one, "redis-rollout").update(name="redis-worker"),
    "has no key pass;": lambda one: secret(one, "redis-rollout")["items"][0].update(key="pass"),
    "redis_password does not exist": lambda one: secret(one, "redis-rollout")["items"][0].update(path="password"),
    "PersistentVolumeClaim runs does not exist": lambda one: claim(one).update(claimName="runs"),
    "volume spare is mounted by no container": lambda one: one["volumes"].append({"name": "spare", "emptyDir": {}}),
    "RuntimeClass kata does not exist": lambda one: one.update(runtimeClassName="kata"),
    "ServiceAccount robot does not exist": lambda one: one.update(serviceAccountName="robot"),
}
CONTAINER = {
    "allowPrivilegeEscalation: false": lambda one: one["securityContext"].pop("allowPrivilegeEscalation"),
    "capabilities.drop: [ALL]": lambda one: one["securityContext"].pop("capabilities"),
    "readOnlyRootFilesystem": lambda one: one["securityContext"].update(readOnlyRootFilesystem=False),
    "privileged": lambda one: one["securityContext"].update(privileged=True),
    "set resources.requests": lambda one: one["resources"].pop("limits"),
    "is not in the list": lambda one: one.update(image="arlarena/rollout:latest"),
    "image 'python:3.11'": lambda one: one.update(image="python:3.11"),
    "a secret is in the command line": lambda one: one["args"].append("--token=abc"),
    "the value of WANDB_API_KEY is a secret": lambda one: variable(one, "WANDB_API_KEY", "abc"),
    "the value of ARLARENA_REDIS_URL contains a password": lambda one: variable(
        one, "ARLARENA_REDIS_URL", "rediss://rollout:abc@redis:6379/0"
    ),
    "without TLS; write rediss://": lambda one: variable(one, "ARLARENA_REDIS_URL", "redis://rollout@redis:6379/0"),
    "root is not a user of Redis": lambda one: variable(one, "ARLARENA_REDIS_URL", "rediss://root@redis:6379/0"),
    "Service inferense does not exist": lambda one: variable(one, "ARLARENA_INFERENCE_URL", "http://inferense:8100"),
    "Service inference has no port 8101": lambda one: variable(one, "X", "http://inference:8101"),
    "environment-0 is no pod of": lambda one: variable(one, "X", "http://environment-0.environment-pods-sokoban:8000"),
    "ConfigMap addreses does not exist": lambda one: one["envFrom"][0]["configMapRef"].update(name="addreses"),
    "run.tml does not exist": lambda one: one.update(args=["--config", "/etc/arlarena/run.tml"]),
    "volume data is mounted but does not exist": lambda one: one["volumeMounts"].append(
        {"name": "data", "mountPath": "/data"}
    ),
    "a secret in an environment variable": lambda one: one["env"].append(
        {"name": "K", "valueFrom": {"secretKeyRef": {"name": "redis-rollout", "key": "password"}}}
    ),
}


def secret(spec, name):
    sources = [source for volume in spec["volumes"] for source in volume.get("projected", {}).get("sources", [])]
    return next(source["secret"] for source in sources if source["secret"]["name"] == name)


def claim(spec):
    return next(volume["persistentVolumeClaim"] for volume in spec["volumes"] if "persistentVolumeClaim" in volume)


def variable(one, name, value):
    one["env"] = [other for other in one["env"] if other["name"] != name] + [{"name": name, "value": value}]


@pytest.mark.parametrize("words", POD)
def test_a_fault_of_a_pod_is_caught(rendered, words):
    objects = rendered("cpu-smoke")
    POD[words](pod(objects, "Deployment/rollout"))
    assert any(line.startswith("Deployment/rollout: ") and words in line for line in faults(objects))


@pytest.mark.parametrize("words", CONTAINER)
def test_a_fault_of_a_container_is_caught(rendered, words):
    objects = rendered("cpu-smoke")
    CONTAINER[words](container(objects, "Deployment/rollout"))
    assert any(line.startswith("Deployment/rollout: ") and words in line for line in faults(objects))


def rules(objects, name, direction):
    return find(objects, name)["spec"][direction]


def rename(one, old, new):
    one[new] = one.pop(old)


OBJECTS = {
    ("Deployment/gateway", "replica"): lambda all: rename(
        find(all, "Deployment/gateway")["spec"], "replicas", "replica"
    ),
    ("JobSet/trainer", "maxRestart"): lambda all: rename(
        find(all, "JobSet/trainer")["spec"]["failurePolicy"], "maxRestarts", "maxRestart"
    ),
    ("ScaledObject/rollout", "lag_count"): lambda all: find(all, "ScaledObject/rollout")["spec"]["triggers"][0].update(
        lag_count="8"
    ),
    ("LeaderWorkerSet/vllm", "runAsNonRoot is missing; set"): lambda all: pod(all, "LeaderWorkerSet/vllm")[
        "securityContext"
    ].pop("runAsNonRoot"),
    ("JobSet/trainer", "Service trainers does not exist"): lambda all: container(all, "JobSet/trainer")["args"].append(
        "--master-addr=trainers"
    ),
    ("JobSet/trainer", "trainer-first-0-1 is no pod of"): lambda all: container(all, "JobSet/trainer")["args"].append(
        "--master-addr=trainer-first-0-1.trainer"
    ),
    ("Rollout/rollout", "has no schema; correct apiVersion"): lambda all: find(all, "Deployment/rollout").update(
        apiVersion="argoproj.io/v1alpha1", kind="Rollout"
    ),
    ("NetworkPolicy/rollout", "allows all peers; name the pods"): lambda all: rules(
        all, "NetworkPolicy/rollout", "egress"
    ).append({}),
    ("NetworkPolicy/rollout", "allows all pods"): lambda all: rules(all, "NetworkPolicy/rollout", "egress").append(
        {"to": [{"podSelector": {}}]}
    ),
    ("NetworkPolicy/hub", "allows all addresses"): lambda all: rules(all, "NetworkPolicy/hub", "egress")[0]["to"][0][
        "ipBlock"
    ].pop("except"),
    ("NetworkPolicy/redis", "a rule of ingress selects no pod"): lambda all: rules(
        all, "NetworkPolicy/redis", "ingress"
    )[0]["from"][0].update(podSelector={"matchLabels": {"app": "worker"}}),
    ("NetworkPolicy/redis", "selects no pod; correct podSelector"): lambda all: find(all, "NetworkPolicy/redis")[
        "spec"
    ].update(podSelector={"matchLabels": {"app": "redis"}}),
    ("NetworkPolicy/redis", "port 'tls' is not a port of StatefulSet/redis"): lambda all: rules(
        all, "NetworkPolicy/redis", "ingress"
    )[0].update(ports=[{"protocol": "TCP", "port": "tls"}]),
    ("NetworkPolicy/gateway", "add Egress to policyTypes"): lambda all: find(all, "NetworkPolicy/gateway")[
        "spec"
    ].update(policyTypes=["Ingress"]),
    ("Service/redis", "selects no pod; correct the labels"): lambda all: find(all, "Service/redis")["spec"].update(
        selector={"app": "redis"}
    ),
    ("Service/redis", "targetPort 'tls' is not a port of"): lambda all: find(all, "Service/redis")["spec"]["ports"][
        0
    ].update(targetPort="tls"),
    ("StatefulSet/redis", "serviceName db does not exist"): lambda all: find(all, "StatefulSet/redis")["spec"].update(
        serviceName="db"
    ),
    ("Deployment/gateway", "readinessProbe uses port 'https'"): lambda all: container(all, "Deployment/gateway")[
        "readinessProbe"
    ]["httpGet"].update(port="https"),
    ("Deployment/gateway", "it serves a port but has no livenessProbe"): lambda all: container(
        all, "Deployment/gateway"
    ).pop("livenessProbe"),
    ("PodDisruptionBudget/vllm", "selects no pod"): lambda all: find(all, "PodDisruptionBudget/vllm")["spec"].update(
        selector={"matchLabels": {"app": "vllm"}}
    ),
    ("ServiceMonitor/inference", "port 'metrics' is not a port of Service/inference"): lambda all: find(
        all, "ServiceMonitor/inference"
    )["spec"]["endpoints"][0].update(port="metrics"),
    ("ScaledObject/rollout", "Deployment workers does not exist"): lambda all: find(all, "ScaledObject/rollout")[
        "spec"
    ]["scaleTargetRef"].update(name="workers"),
    ("ScaledObject/rollout", "Service valkey does not exist"): lambda all: find(all, "ScaledObject/rollout")["spec"][
        "triggers"
    ][0]["metadata"].update(address="valkey:6379"),
    ("TriggerAuthentication/redis", "Secret redis-keda has no key user"): lambda all: find(
        all, "TriggerAuthentication/redis"
    )["spec"]["secretTargetRef"][0].update(key="user"),
}


@pytest.mark.parametrize(("name", "words"), OBJECTS)
def test_a_fault_of_an_object_is_caught(rendered, name, words):
    objects = rendered("multi-node")
    OBJECTS[name, words](objects)
    assert any(line.startswith(f"{name}: ") and words in line for line in faults(objects))


def test_a_pod_without_a_policy_is_caught(rendered):
    objects = [one for one in rendered("cpu-smoke") if one["metadata"]["name"] != "default-deny"]
    find(objects, "Deployment/rollout")["spec"]["template"]["metadata"]["labels"]["app.kubernetes.io/component"] = "x"
    message = "Deployment/rollout: no NetworkPolicy restricts its ingress; correct its labels"
    assert any(line.startswith(message) for line in faults(objects))


def test_a_gateway_with_a_wrong_replica_is_caught(rendered):
    objects = rendered("multi-node")
    (config,) = [one for one in objects if "gateway.toml" in one.get("data", {})]
    config["data"]["gateway.toml"] = config["data"]["gateway.toml"].replace("vllm-1.vllm", "vllm-2.vllm")
    assert [line for line in faults(objects) if "vllm-2 is no pod of the Service vllm" in line]
