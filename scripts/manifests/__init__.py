"""Checks of the Kubernetes manifests in k8s/: `python -m scripts.manifests`."""
