"""Renders the overlays of k8s/ and checks them: `python -m scripts.manifests [OVERLAY ...]`.

OVERLAY: a folder in k8s/overlays; default: all folders. The program checks schemas (strictly), the Pod Security level
"restricted", images, secrets, names, addresses and NetworkPolicies. Exit status: 1 if an overlay has a fault.
`python scripts/setup.py kubernetes` installs the packages that the checks need.
"""

from __future__ import annotations

import argparse
import sys

from scripts.manifests.check import OVERLAYS, RenderError, faults_of, render


def main() -> int:
    """Check the overlays that the command line names. Returns the exit status."""
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
