"""Checks pods: the Pod Security level "restricted", images, visible secrets, probes and resources."""

from __future__ import annotations

import re
from collections.abc import Iterator

from scripts.manifests.objects import ManifestFault, Object, Overlay, Pods

# The images that pods may use: ARLArena's images (docker/) and Valkey.
IMAGES = re.compile(
    r"arlarena/(environment-(sokoban|alfworld|webshop|tir-math)|inference|rollout|trainer|console):\d+\.\d+\.\d+(-gpu)?"
    r"|valkey/valkey:8\.\d+"
)
RESTRICTED_VOLUMES = {
    "configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "image", "persistentVolumeClaim", "projected", "secret",
}  # fmt: skip
SECRET_NAME = re.compile(r"(^|[_-])(TOKEN|SECRET|PASSWORD|PASSWD|API[_-]?KEY|CREDENTIALS?)($|[_-])", re.IGNORECASE)
URL_PASSWORD = re.compile(r"[a-z+]+://[^/@\s]*:[^/@\s]+@", re.IGNORECASE)
# `valkey-cli --user probe --pass probe`: this user needs no password and may only send PING.
ALLOWED_ARGUMENTS = re.compile(r"--user probe --pass probe\b")
SECRET_ARGUMENT = re.compile(r"--?(pass(word)?|token|api-key|secret|admin-token)[= ]\S", re.IGNORECASE)


def pod_faults(overlay: Overlay) -> Iterator[ManifestFault]:
    """Yields the faults of all pods of the overlay."""
    for pods in overlay.pods:
        for message in _pod(pods):
            yield ManifestFault(pods.owner, message)
        for container in pods.containers:
            for message in (*_security(pods, container), *_container(pods, container)):
                yield ManifestFault(pods.owner, f"container {container['name']}: {message}")


def _pod(pods: Pods) -> Iterator[str]:
    for key in ("hostNetwork", "hostPID", "hostIPC"):
        if pods.spec.get(key):
            yield f"{key} is true; remove it"
    for volume in pods.spec.get("volumes", []):
        if kinds := set(volume) - RESTRICTED_VOLUMES - {"name"}:
            yield f"volume {volume['name']} is of kind {', '.join(kinds)}; use a claim, ConfigMap, Secret or emptyDir"
    if pods.spec.get("automountServiceAccountToken") is not False:
        yield "the pod gets a token of the Kubernetes API; set automountServiceAccountToken: false"


def _security(pods: Pods, container: Object) -> Iterator[str]:
    """Yields the violations of the Pod Security level "restricted". A writable root file system is also a violation."""
    own = container.get("securityContext", {})
    merged = {**pods.spec.get("securityContext", {}), **own}
    if merged.get("runAsNonRoot") is not True:
        yield "runAsNonRoot is missing; set securityContext.runAsNonRoot: true"
    if merged.get("runAsUser") != 10001:
        yield f"runAsUser is {merged.get('runAsUser')}; set securityContext.runAsUser: 10001, the user of the images"
    if own.get("allowPrivilegeEscalation") is not False:
        yield "set securityContext.allowPrivilegeEscalation: false"
    if merged.get("seccompProfile", {}).get("type") not in ("RuntimeDefault", "Localhost"):
        yield "set securityContext.seccompProfile.type: RuntimeDefault"
    if "ALL" not in own.get("capabilities", {}).get("drop", []):
        yield "set securityContext.capabilities.drop: [ALL]"
    if added := own.get("capabilities", {}).get("add"):
        yield f"capabilities {added} are added; remove them"
    if own.get("privileged"):
        yield "it is privileged; remove securityContext.privileged"
    if any("hostPort" in port for port in container.get("ports", [])):
        yield "it uses a port of the node; remove hostPort"
    if own.get("readOnlyRootFilesystem") is not True:
        yield "set securityContext.readOnlyRootFilesystem: true, and mount an emptyDir where the container writes"


def _container(pods: Pods, container: Object) -> Iterator[str]:
    image = container.get("image", "")
    if not IMAGES.fullmatch(image):
        yield (
            f"image {image!r} is not in the list of images. Either use an image of ARLArena with its version, "
            "or extend IMAGES in scripts/manifests/pod_security.py"
        )
    yield from _secrets(container)
    resources = container.get("resources", {})
    if not {"cpu", "memory"} <= set(resources.get("requests", {})) or "memory" not in resources.get("limits", {}):
        yield "set resources.requests (cpu, memory) and resources.limits (memory)"
    # A container that has only ports with the name `metrics` needs no probe, because only Prometheus connects to them.
    if any(port.get("name") != "metrics" for port in container.get("ports", [])):
        missing = [name for name in ("startupProbe", "readinessProbe", "livenessProbe") if name not in container]
        if missing:
            yield f"it serves a port but has no {', '.join(missing)}; add {'it' if len(missing) == 1 else 'them'}"


def _secrets(container: Object) -> Iterator[str]:
    """Yields a message for each secret in a command line or an environment variable. Secrets must be in files."""
    fix = "mount the Secret as a file, and pass the path in a variable that ends in _FILE"
    words = " ".join(map(str, [*container.get("command", []), *container.get("args", [])]))
    probes = [container.get(name, {}) for name in ("startupProbe", "readinessProbe", "livenessProbe")]
    texts = [words, *(" ".join(probe.get("exec", {}).get("command", [])) for probe in probes)]
    for text in texts:
        shown = ALLOWED_ARGUMENTS.sub("", text)
        if URL_PASSWORD.search(shown) or SECRET_ARGUMENT.search(shown):
            yield f"a secret is in the command line; {fix}"
    for variable in container.get("env", []):
        name, value = variable["name"], str(variable.get("value", ""))
        if URL_PASSWORD.search(value):
            yield f"the value of {name} contains a password; {fix}"
        elif SECRET_NAME.search(name) and not name.endswith("_FILE") and value:
            yield f"the value of {name} is a secret; {fix}"
        if "secretKeyRef" in variable.get("valueFrom", {}):
            yield f"{name} is a secret in an environment variable, so child processes can read the secret; {fix}"
