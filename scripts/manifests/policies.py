"""Checks NetworkPolicies: pods without a policy, rules that allow everything, and selectors that select nothing."""

from __future__ import annotations

from collections.abc import Iterator

from scripts.manifests.objects import ManifestFault, Object, Overlay, Pods, name_of, selects
from scripts.manifests.references import selected

EVERYWHERE = ("0.0.0.0/0", "::/0")
DIRECTIONS = (("Ingress", "ingress", "from"), ("Egress", "egress", "to"))


def policy_faults(overlay: Overlay) -> Iterator[ManifestFault]:
    """Yields the faults of all NetworkPolicies, and a fault for each pod that no NetworkPolicy restricts."""
    for pods in overlay.pods:
        for direction, _, _ in DIRECTIONS:
            if not any(direction in policy_types(policy) for policy in policies_of(overlay, pods)):
                message = f"no NetworkPolicy restricts its {direction.lower()}"
                yield ManifestFault(pods.owner, f"{message}; correct its labels, or restore the policy default-deny")
    for obj in overlay.of_kind("NetworkPolicy"):
        for message in _policy(overlay, obj):
            yield ManifestFault(name_of(obj), message)


def policy_types(policy: Object) -> list[str]:
    """Returns the directions of traffic that a NetworkPolicy restricts: "Ingress", "Egress" or both."""
    spec = policy["spec"]
    types: list[str] = spec.get("policyTypes") or ["Ingress", *(["Egress"] if "egress" in spec else [])]
    return types


def policies_of(overlay: Overlay, pods: Pods) -> list[Object]:
    """Returns the NetworkPolicies that select these pods."""
    return [
        obj
        for obj in overlay.of_kind("NetworkPolicy")
        if obj["metadata"].get("namespace", "default") == pods.namespace
        and selects(obj["spec"].get("podSelector", {}), pods.labels)
    ]


def _policy(overlay: Overlay, policy: Object) -> Iterator[str]:
    found = selected(overlay, policy, policy["spec"].get("podSelector", {}))
    if not found:
        yield "it selects no pod; correct podSelector"
    for direction, rules, peers in DIRECTIONS:
        if rules in policy["spec"] and direction not in policy_types(policy):
            yield f"it has {rules} rules without effect; add {direction} to policyTypes"
        for rule in policy["spec"].get(rules, []):
            if reason := _allows_all(rule, peers):
                yield f"a rule of {rules} allows {reason}; name the pods (podSelector) and ports"
            for peer in rule.get(peers, []):
                own = "podSelector" in peer and "namespaceSelector" not in peer
                if own and not selected(overlay, policy, peer["podSelector"]):
                    yield f"a rule of {rules} selects no pod; correct its podSelector"
            if rules == "ingress":
                yield from _ports(found, rule)


def _allows_all(rule: Object, peers: str) -> str | None:
    """Checks whether a rule of a NetworkPolicy allows too many peers.

    Returns a description of the peers if the rule allows too many, otherwise None. `peers`: "from" or "to".
    """
    if not rule.get(peers):
        return "all peers"
    for peer in rule[peers]:
        block = peer.get("ipBlock")
        if block and block["cidr"] in EVERYWHERE and not (block.get("except") and rule.get("ports")):
            return f"all addresses ({block['cidr']} without except or ports)"
        if not block and not any(peer.get(key) for key in ("podSelector", "namespaceSelector")):
            return "all pods"
    return None


def _ports(found: list[Pods], rule: Object) -> Iterator[str]:
    for port in rule.get("ports", []):
        name = port.get("port")
        for pods in found:
            if name is not None and name not in pods.ports and name not in pods.ports.values():
                yield f"port {name!r} is not a port of {pods.owner}, which has {sorted(pods.ports)}"


def can_connect(overlay: Overlay, source: Pods, target: Pods, port: int) -> bool:
    """Whether the NetworkPolicies allow a TCP connection from `source` to `port` of `target`, in the same namespace."""
    egress = _rules(overlay, source, "Egress", "egress")
    ingress = _rules(overlay, target, "Ingress", "ingress")
    return (egress is None or any(_matches(rule, "to", target, port, target.ports) for rule in egress)) and (
        ingress is None or any(_matches(rule, "from", source, port, target.ports) for rule in ingress)
    )


def _rules(overlay: Overlay, pods: Pods, direction: str, rules: str) -> list[Object] | None:
    """Returns the rules of all NetworkPolicies for one direction of the traffic of these pods.

    Returns None if no NetworkPolicy restricts this direction.
    """
    policies = [policy for policy in policies_of(overlay, pods) if direction in policy_types(policy)]
    return [rule for policy in policies for rule in policy["spec"].get(rules, [])] if policies else None


def _matches(rule: Object, peers: str, other: Pods, port: int, numbers: dict[str, int]) -> bool:
    allowed = [entry.get("port") for entry in rule.get("ports", []) if entry.get("protocol", "TCP") == "TCP"]
    if rule.get("ports") and port not in [numbers.get(str(name), name) for name in allowed]:
        return False
    return not rule.get(peers) or any(
        "podSelector" in peer and "namespaceSelector" not in peer and selects(peer["podSelector"], other.labels)
        for peer in rule[peers]
    )
