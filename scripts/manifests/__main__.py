"""Renders the overlays of k8s/ and checks them: `python -m scripts.manifests [OVERLAY ...]`.

OVERLAY: a folder of k8s/overlays; default: all. The checks are: schemas (strict), the Pod Security level "restricted",
images, secrets, names and addresses that do not exist, and NetworkPolicies. Exit status: 1 if there is a fault.
`python scripts/setup.py kubernetes` installs the packages of the checks.
"""

from __future__ import annotations

import argparse
import sys

from scripts.manifests.check import OVERLAYS, RenderError, faults_of, render


def main() -> int:
    """Check the overlays of the command line. Returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m scripts.manifests", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("overlay", nargs="*", help=f"one of {', '.join(OVERLAYS)}")
    names = parser.parse_args().overlay or OVERLAYS
    if unknown := sorted(set(names) - set(OVERLAYS)):
        parser.error(f"there is no overlay {unknown[0]!r}; known: {', '.join(OVERLAYS)}")
    failed = False
    for name in names:
        try:
            overlay = render(name)
        except RenderError as error:
            print(f"{name}: {error}")
            failed = True
            continue
        faults = faults_of(overlay)
        failed |= bool(faults)
        for fault in faults:
            print(f"{name}: {fault}")
        print(f"{name}: {len(overlay.objects)} objects, {len(faults)} faults")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
