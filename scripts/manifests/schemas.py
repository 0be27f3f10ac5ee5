"""Checks each object against the schema of its kind. Unknown fields are faults.

The package kubernetes-validate has the schemas of Kubernetes' own kinds. The folder `k8s/schemas` has the schemas of
custom kinds (KEDA, JobSet, LeaderWorkerSet, Prometheus operator).
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator
from pathlib import Path

import jsonschema
import kubernetes_validate
from scripts.manifests.objects import ManifestFault, Object, Overlay, name_of

SCHEMAS = Path(__file__).resolve().parents[2] / "k8s" / "schemas"
VERSION = "1.34"  # the oldest version of Kubernetes that the guide allows


@functools.cache
def custom_kinds() -> dict[tuple[str, str], jsonschema.Draft7Validator]:
    """Returns the validators of the custom kinds in `k8s/schemas`: (API version, kind) → validator."""
    schemas = [json.loads(path.read_text()) for path in sorted(SCHEMAS.glob("*.json"))]
    return {(obj["x-api-version"], obj["x-kind"]): jsonschema.Draft7Validator(obj) for obj in schemas}


def schema_faults(overlay: Overlay) -> Iterator[ManifestFault]:
    """Yields a fault for each violation of a schema, and for each object of a kind without a schema."""
    for obj in overlay.objects:
        yield from _object_faults(json.dumps(obj, sort_keys=True))


@functools.cache  # because each call of kubernetes-validate reads schemas from files
def _object_faults(text: str) -> tuple[ManifestFault, ...]:
    obj = json.loads(text)
    validator = custom_kinds().get((obj.get("apiVersion", ""), obj.get("kind", "")))
    if validator is None:
        return tuple(_builtin_faults(obj))
    return tuple(_fault(obj, error) for error in validator.iter_errors(obj))


def _builtin_faults(obj: Object) -> Iterator[ManifestFault]:
    try:
        kubernetes_validate.validate(obj, VERSION, strict=True)
    except kubernetes_validate.SchemaNotFoundError:
        kind = f"{obj.get('apiVersion')} {obj.get('kind')}"
        yield ManifestFault(
            name_of(obj), f"{kind} has no schema; correct apiVersion or kind, or add a schema to k8s/schemas"
        )
    except kubernetes_validate.ValidationError as error:
        yield _fault(obj, error)


def _fault(obj: Object, error: jsonschema.ValidationError) -> ManifestFault:
    # If a schema has alternatives (anyOf), the outer error says only that none of them fits. The deepest error contains
    # the reason.
    deepest = jsonschema.exceptions.best_match([error]) or error
    path = ".".join(map(str, deepest.absolute_path)) or "object"
    return ManifestFault(name_of(obj), f"{path}: {deepest.message[:200]}; correct or remove this field")
