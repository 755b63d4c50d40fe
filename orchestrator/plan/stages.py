"""Why a life-cycle step of bare metal is planned, and what it destroys, in words."""

from __future__ import annotations

from collections.abc import Mapping

from orchestrator.model import Json, MachineState, Node, Phase, Spec

__all__ = ["destroyed", "reasons"]


def reasons(node: Node, machine: MachineState | None) -> tuple[str, ...]:
    """Return why a node's machine has something before it; without its name, so that many nodes share one line."""
    if machine is None:
        return (f"no machine is known {_meant(node)}",)
    words = f"its machine is {machine.phase}"
    if machine.phase is Phase.FAILED:
        words = f"its machine failed ({machine.failure})"
    elif machine.phase in (Phase.DISCOVERED, Phase.CLAIMED):
        words += ", not installed"
    return (f"{words}: {machine.reason}" if machine.reason else words,)


def _meant(node: Node) -> str:
    if node.mac:
        return "with its MAC address"
    return "with its serial number" if node.serial else "that its rule chooses"


def destroyed(spec: Spec, node: str) -> str:
    """Return what an install erases: the root disk, by the rule that picks it. `match` tells which disk that is."""
    profile = spec.profiles[spec.nodes[node].profile]
    rule = f" ({_rule(profile.root_disk)})" if profile.root_disk else ""
    return f"the root disk{rule}: the image {profile.image} is written over it"


def _rule(rule: Mapping[str, Json]) -> str:
    return ", ".join(f"{name} {value}" for name, value in rule.items())
