"""Checks that all names refer to existing things: ConfigMaps, Secrets, volume claims, volumes, ports, pods, targets."""

from __future__ import annotations

from collections.abc import Iterator

from scripts.kubernetes_secrets import keys as secret_keys
from scripts.manifests.objects import ManifestFault, Object, Overlay, Pods, name_of, selects

PROBES = ("startupProbe", "readinessProbe", "livenessProbe")


def reference_faults(overlay: Overlay) -> Iterator[ManifestFault]:
    """Yields a fault for each name that refers to nothing, such as the name of a missing ConfigMap or port."""
    for pods in overlay.pods:
        for message in (*_sources(overlay, pods), *_mounts(pods), *_probes(pods), *_classes(overlay, pods)):
            yield ManifestFault(pods.owner, message)
    for obj in overlay.objects:
        checks = {
            "Service": _service,
            "StatefulSet": _stateful_set,
            "PodDisruptionBudget": _budget,
            "ServiceMonitor": _service_monitor,
            "ScaledObject": _scaled_object,
            "TriggerAuthentication": _trigger_authentication,
        }
        for message in checks.get(obj.get("kind", ""), _nothing)(overlay, obj):
            yield ManifestFault(name_of(obj), message)


def config_files(overlay: Overlay, name: str) -> set[str] | None:
    """Returns the keys of the ConfigMap `name`. Returns None if the overlay has no such ConfigMap."""
    found = [obj for obj in overlay.of_kind("ConfigMap") if obj["metadata"]["name"] == name]
    return set(found[0].get("data", {})) | set(found[0].get("binaryData", {})) if found else None


def _missing(overlay: Overlay, kind: str, name: str, wanted: set[str]) -> Iterator[str]:
    known = config_files(overlay, name) if kind == "ConfigMap" else secret_keys().get(name)
    if known is None:
        fix = "add it to the overlay" if kind == "ConfigMap" else "add it to scripts/kubernetes_secrets.py"
        yield f"{kind} {name} does not exist; correct the name, or {fix}"
    elif absent := wanted - known:
        yield f"{kind} {name} has no key {', '.join(sorted(absent))}; it has {', '.join(sorted(known))}"


def _sources(overlay: Overlay, pods: Pods) -> Iterator[str]:
    """Yields a message for each missing ConfigMap, Secret or volume claim that these pods use."""
    for container in pods.containers:
        for source in container.get("envFrom", []):
            for key, kind in (("configMapRef", "ConfigMap"), ("secretRef", "Secret")):
                if key in source:
                    yield from _missing(overlay, kind, source[key]["name"], set())
        for variable in container.get("env", []):
            for key, kind in (("configMapKeyRef", "ConfigMap"), ("secretKeyRef", "Secret")):
                if key in variable.get("valueFrom", {}):
                    reference = variable["valueFrom"][key]
                    yield from _missing(overlay, kind, reference["name"], {reference["key"]})
    for volume in pods.spec.get("volumes", []):
        for kind, name, wanted in volume_sources(volume):
            yield from _missing(overlay, kind, name, set(wanted))
        claim = volume.get("persistentVolumeClaim", {}).get("claimName")
        if claim is not None and claim not in overlay.names("PersistentVolumeClaim"):
            yield f"PersistentVolumeClaim {claim} does not exist; correct the name, or add the claim to the overlay"


def volume_sources(volume: Object) -> Iterator[tuple[str, str, dict[str, str]]]:
    """Yields (kind, name, files) for each ConfigMap and Secret of a volume.

    `files` is key → file name. If `files` is empty, the volume contains all keys, and the keys are the file names.
    """
    sources = [volume, *volume.get("projected", {}).get("sources", [])]
    for source in sources:
        for key, kind, name in (("configMap", "ConfigMap", "name"), ("secret", "Secret", "secretName")):
            if key in source:
                items = {item["key"]: item["path"] for item in source[key].get("items", [])}
                yield kind, source[key].get(name) or source[key].get("name", ""), items


def _mounts(pods: Pods) -> Iterator[str]:
    volumes = {volume["name"] for volume in pods.spec.get("volumes", [])} | set(pods.claims)
    mounted = {mount["name"] for container in pods.containers for mount in container.get("volumeMounts", [])}
    for name in sorted(mounted - volumes):
        yield f"volume {name} is mounted but does not exist; add it to volumes"
    for name in sorted(volumes - mounted):
        yield f"volume {name} is mounted by no container; remove it"


def _probes(pods: Pods) -> Iterator[str]:
    for container in pods.containers:
        own = {port.get("name") for port in container.get("ports", [])}
        numbers = {port["containerPort"] for port in container.get("ports", [])}
        for name in PROBES:
            for kind in ("httpGet", "tcpSocket", "grpc"):
                port = container.get(name, {}).get(kind, {}).get("port")
                if port is not None and port not in own and port not in numbers:
                    yield f"container {container['name']}: {name} uses port {port!r}, which the container does not have"


def _classes(overlay: Overlay, pods: Pods) -> Iterator[str]:
    runtime = pods.spec.get("runtimeClassName")
    if runtime is not None and runtime not in overlay.names("RuntimeClass"):
        yield f"RuntimeClass {runtime} does not exist; correct the name, or add it to the overlay"
    account = pods.spec.get("serviceAccountName", "default")
    if account != "default" and account not in overlay.names("ServiceAccount"):
        yield f"ServiceAccount {account} does not exist; correct the name, or add it to the overlay"


def selected(overlay: Overlay, obj: Object, selector: Object | None) -> list[Pods]:
    """Returns the pods in the namespace of `obj` that a label selector selects."""
    namespace = obj["metadata"].get("namespace", "default")
    return [pods for pods in overlay.pods if pods.namespace == namespace and selects(selector, pods.labels)]


def _service(overlay: Overlay, obj: Object) -> Iterator[str]:
    selector = obj["spec"].get("selector")
    found = selected(overlay, obj, {"matchLabels": selector} if selector else None)
    if not found:
        yield f"the selector {selector} selects no pod; correct the labels"
    for port in obj["spec"].get("ports", []):
        target = port.get("targetPort", port["port"])
        for pods in found:
            if target not in pods.ports and target not in pods.ports.values():
                yield f"targetPort {target!r} is not a port of {pods.owner}, which has {sorted(pods.ports)}"


def _stateful_set(overlay: Overlay, obj: Object) -> Iterator[str]:
    name = obj["spec"].get("serviceName")
    service = [other for other in overlay.of_kind("Service") if other["metadata"]["name"] == name]
    if not service:
        yield f"serviceName {name} does not exist; correct the name, or add the Service"
    elif service[0]["spec"].get("clusterIP") != "None":
        yield f"Service {name} creates no DNS names for its pods; set clusterIP: None"


def _budget(overlay: Overlay, obj: Object) -> Iterator[str]:
    if not selected(overlay, obj, obj["spec"].get("selector")):
        yield "the selector selects no pod; correct the labels"


def _service_monitor(overlay: Overlay, obj: Object) -> Iterator[str]:
    services = [
        service
        for service in overlay.of_kind("Service")
        if selects(obj["spec"].get("selector"), service["metadata"].get("labels", {}))
    ]
    if not services:
        yield "the selector selects no Service; correct the labels"
    for endpoint in obj["spec"].get("endpoints", []):
        for service in services:
            names = {port.get("name") for port in service["spec"].get("ports", [])}
            if endpoint.get("port") not in names:
                yield f"port {endpoint.get('port')!r} is not a port of {name_of(service)}, which has {sorted(names)}"


def _scaled_object(overlay: Overlay, obj: Object) -> Iterator[str]:
    target = obj["spec"]["scaleTargetRef"]
    if target["name"] not in overlay.names(target.get("kind", "Deployment")):
        yield f"{target.get('kind', 'Deployment')} {target['name']} does not exist; correct scaleTargetRef"
    for trigger in obj["spec"].get("triggers", []):
        reference = trigger.get("authenticationRef")
        if reference and reference["name"] not in overlay.names("TriggerAuthentication"):
            yield f"TriggerAuthentication {reference['name']} does not exist; correct the name, or add it"


def _trigger_authentication(overlay: Overlay, obj: Object) -> Iterator[str]:
    for reference in obj["spec"].get("secretTargetRef", []):
        yield from _missing(overlay, "Secret", reference["name"], {reference["key"]})


def _nothing(overlay: Overlay, obj: Object) -> Iterator[str]:
    yield from ()
