"""Checks the addresses and file names in command lines, variables and configuration files.

Each address must name an existing Service and a port of this Service. A URL of Redis must use TLS and an existing user.
Each path in the mount path of a ConfigMap or Secret must be an existing file.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from scripts.kubernetes_secrets import ROLES
from scripts.manifests.objects import NAMESPACE, ManifestFault, Object, Overlay, Pods, name_of
from scripts.manifests.references import config_files, volume_sources

URL = re.compile(r"(?P<scheme>https?|rediss?)://(?:(?P<user>[\w-]+)@)?(?P<host>[\w{}.-]+)(?::(?P<port>\d+))?")
# An address without a scheme: an option of torchrun, or HOST:PORT.
HOST = re.compile(r"^(?:--master-addr=(?P<host>[\w.-]+)|(?P<name>[\w.-]+):(?P<port>\d+))$")


def address_faults(overlay: Overlay) -> Iterator[ManifestFault]:
    """Yields a fault for each wrong address, each missing file, and each wrong URL of Redis.

    A URL of Redis is wrong if it does not use TLS, or if its user does not exist.
    """
    for pods in overlay.pods:
        for text in _texts(pods):
            for message in (*_addresses(overlay, text), *_files(overlay, pods, text)):
                yield ManifestFault(pods.owner, message)
    for obj in overlay.of_kind("ConfigMap"):
        for text in obj.get("data", {}).values():
            uncommented = re.sub(r"(?m)^\s*#.*$", "", text)
            for message in _addresses(overlay, uncommented):
                yield ManifestFault(name_of(obj), message)
    for obj in overlay.of_kind("ScaledObject"):
        for trigger in obj["spec"].get("triggers", []):
            for key in ("address", "serverAddress"):
                for message in _addresses(overlay, trigger.get("metadata", {}).get(key, "")):
                    yield ManifestFault(name_of(obj), message)


def _texts(pods: Pods) -> Iterator[str]:
    for container in pods.containers:
        yield from map(str, [*container.get("command", []), *container.get("args", [])])
        yield from (str(variable["value"]) for variable in container.get("env", []) if "value" in variable)
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            yield from container.get(probe, {}).get("exec", {}).get("command", [])


def _addresses(overlay: Overlay, text: str) -> Iterator[str]:
    for match in list(URL.finditer(text)) or list(HOST.finditer(text)):
        groups = match.groupdict("")
        host, port = groups["host"] or groups["name"], int(groups["port"]) if groups["port"] else None
        yield from _address(overlay, host, port)
        if groups.get("scheme", "").startswith("redis"):
            if groups["scheme"] == "redis":
                yield f"{host} is used without TLS; write rediss://"
            if groups["user"] not in ROLES:
                yield f"{groups['user']} is not a user of Redis; the users are {', '.join(ROLES)}"


def _address(overlay: Overlay, host: str, port: int | None) -> Iterator[str]:
    parts = host.split(".")
    if parts[0].isdigit() or parts[0] == "localhost":
        return
    services = {obj["metadata"]["name"]: obj for obj in overlay.of_kind("Service")}
    created = _created_services(overlay)
    if len(parts) > 1 and (parts[1] in services or parts[1] in created):  # POD.SERVICE
        name, pod = parts[1], parts[0]
        if not any(re.fullmatch(pattern, pod) for pattern in created.get(name, _pod_names(overlay, name))):
            yield f"{pod} is no pod of the Service {name}; correct the name"
    elif len(parts) == 1 or parts[1] == NAMESPACE:
        name = parts[0]
    else:
        return  # another namespace, or a public name
    if name not in services and name not in created:
        yield f"Service {name} does not exist; correct the address, or add the Service"
    elif name in services and port is not None:
        ports = [obj["port"] for obj in services[name]["spec"].get("ports", [])]
        if port not in ports:
            yield f"Service {name} has no port {port}; it has {ports}"


def _pod_names(overlay: Overlay, service: str) -> list[str]:
    """Returns regular expressions for the names of the pods of a headless Service."""
    sets = [obj for obj in overlay.of_kind("StatefulSet") if obj["spec"].get("serviceName") == service]
    return [rf"{re.escape(obj['metadata']['name'])}-(\d+|\{{pod\}})" for obj in sets]


def _created_services(overlay: Overlay) -> dict[str, list[str]]:
    """Returns the headless Services that the controllers of JobSet and LeaderWorkerSet create.

    The result is name of the Service → regular expressions for the names of its pods.
    """
    created = {}
    for obj in overlay.of_kind("JobSet"):
        name = obj["metadata"]["name"]
        jobs = [
            rf"{name}-{job['name']}-{index}-{_numbers(job['template']['spec'].get('completions', 1))}"
            for job in obj["spec"]["replicatedJobs"]
            for index in range(job.get("replicas", 1))
        ]
        created[obj["spec"].get("network", {}).get("subdomain", name)] = jobs
    for obj in overlay.of_kind("LeaderWorkerSet"):
        name, size = obj["metadata"]["name"], obj["spec"]["leaderWorkerTemplate"].get("size", 1)
        created[name] = [rf"{name}-{_numbers(obj['spec'].get('replicas', 1))}(-{_numbers(size)})?"]
    return created


def _numbers(count: int) -> str:
    return "(" + "|".join(map(str, range(count))) + ")"


def _files(overlay: Overlay, pods: Pods, text: str) -> Iterator[str]:
    """Yields a message for each path in `text` that is in a mounted ConfigMap or Secret, but is not a file there."""
    volumes = {volume["name"]: volume for volume in pods.spec.get("volumes", [])}
    for container in pods.containers:
        for mount in container.get("volumeMounts", []):
            names = _file_names(overlay, volumes.get(mount["name"], {}))
            for match in re.finditer(rf"{re.escape(mount['mountPath'])}/([\w.-]+)", text):
                if names and match[1] not in names:
                    yield f"{match[0]} does not exist; the volume {mount['name']} has {', '.join(sorted(names))}"


def _file_names(overlay: Overlay, volume: Object) -> set[str]:
    from scripts.kubernetes_secrets import keys

    names = set[str]()
    for kind, name, items in volume_sources(volume):
        known = config_files(overlay, name) if kind == "ConfigMap" else keys().get(name)
        names |= set(items.values()) if items else known or set()
    return names
