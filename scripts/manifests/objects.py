"""The objects of one rendered overlay, and the pods that they create."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

Object = dict[str, Any]
NAMESPACE = "arlarena"


@dataclass(frozen=True, slots=True, order=True)
class ManifestFault:
    """A fault of one Kubernetes object. `name`: Kind/name of the object. `message`: the fault and its fix."""

    name: str
    message: str

    def __str__(self) -> str:
        return f"{self.name}: {self.message}"


@dataclass(frozen=True, slots=True)
class Pods:
    """The pods of one pod template.

    Attributes:
        owner: Kind/name of the object that contains the template.
        namespace: namespace of the object that contains the template.
        labels: labels of the pods.
        spec: the template's `spec`.
        claims: names of the volume claims that the owner creates for each pod.
    """

    owner: str
    namespace: str
    labels: dict[str, str]
    spec: Object
    claims: tuple[str, ...] = ()

    @property
    def containers(self) -> list[Object]:
        """All containers, including init containers."""
        return [*self.spec.get("initContainers", []), *self.spec.get("containers", [])]

    @property
    def ports(self) -> dict[str, int]:
        """The named container ports: name → number."""
        ports = [port for container in self.containers for port in container.get("ports", [])]
        return {port["name"]: port["containerPort"] for port in ports if "name" in port}


@dataclass(frozen=True, slots=True)
class Overlay:
    """All objects of a rendered overlay, and the pods that they create."""

    objects: tuple[Object, ...]
    pods: tuple[Pods, ...] = field(default=())

    @classmethod
    def of(cls, objects: list[Object]) -> Overlay:
        """Returns the overlay with these objects and their pods."""
        return cls(tuple(objects), tuple(pods for obj in objects for pods in pods_of(obj)))

    def of_kind(self, *kinds: str) -> list[Object]:
        """Returns the objects of these kinds."""
        return [obj for obj in self.objects if obj.get("kind") in kinds]

    def names(self, *kinds: str) -> set[str]:
        """Returns the names of the objects of these kinds."""
        return {obj["metadata"]["name"] for obj in self.of_kind(*kinds)}


def name_of(obj: Object) -> str:
    """Returns Kind/name of a Kubernetes object."""
    return f"{obj.get('kind', '(no kind)')}/{obj.get('metadata', {}).get('name', '(no name)')}"


def pods_of(obj: Object) -> Iterator[Pods]:
    """Yields one `Pods` for each pod template of a Kubernetes object."""
    kind, spec = obj.get("kind"), obj.get("spec", {})
    if kind in ("Deployment", "StatefulSet", "DaemonSet", "Job", "ReplicaSet"):
        yield _pods(obj, spec.get("template", {}), spec.get("volumeClaimTemplates", []))
    elif kind == "CronJob":
        yield _pods(obj, spec.get("jobTemplate", {}).get("spec", {}).get("template", {}))
    elif kind == "Pod":
        yield _pods(obj, obj)
    elif kind == "JobSet":
        for job in spec.get("replicatedJobs", []):
            yield _pods(obj, job.get("template", {}).get("spec", {}).get("template", {}))
    elif kind == "LeaderWorkerSet":
        group = spec.get("leaderWorkerTemplate", {})
        for name in ("leaderTemplate", "workerTemplate"):
            if name in group:
                yield _pods(obj, group[name], group.get("volumeClaimTemplates", []))


def _pods(obj: Object, template: Object, claims: list[Object] | None = None) -> Pods:
    metadata = template.get("metadata", {})
    own = tuple(claim["metadata"]["name"] for claim in claims or [])
    return Pods(
        name_of(obj), obj["metadata"].get("namespace", "default"), metadata.get("labels", {}), template["spec"], own
    )


def selects(selector: Object | None, labels: dict[str, str]) -> bool:
    """Whether a label selector (`matchLabels`, `matchExpressions`) selects pods with these labels.

    An empty selector selects all pods. None selects no pod.
    """
    if selector is None:
        return False
    if any(labels.get(key) != value for key, value in selector.get("matchLabels", {}).items()):
        return False
    return all(_holds(expression, labels) for expression in selector.get("matchExpressions", []))


def _holds(expression: Object, labels: dict[str, str]) -> bool:
    key, values = expression["key"], expression.get("values", [])
    match expression["operator"]:
        case "In":
            return labels.get(key) in values
        case "NotIn":
            return labels.get(key) not in values
        case "Exists":
            return key in labels
        case _:  # DoesNotExist
            return key not in labels
