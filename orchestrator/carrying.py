"""Which executor a placement gets, and why: CARRY where a role can run on its host alone, else PUSH.

Who is asked, the first that answers: the site's policy (role, then nearest group, then default), what the host can do,
the role's contract, what the role's files need, what its inputs ask for. A choice never makes a placement differ: it
is no part of a fingerprint.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from orchestrator.model import CARRY, METAL, PUSH, Connection, Contract, Executors, Node, PlanNode, Value
from orchestrator.templates import asks_controller, texts

__all__ = ["Choice", "Chooser", "asked", "unable"]

OLDEST_PYTHON = (3, 11)
"""What a host's own Python must be at least to run Ansible as it is carried there."""

_PYTHONS = {
    "debian-11": (3, 9),
    "debian-12": (3, 11),
    "debian-13": (3, 13),
    "ubuntu-20.04": (3, 8),
    "ubuntu-22.04": (3, 10),
    "ubuntu-24.04": (3, 12),
    "ubuntu-26.04": (3, 14),
    **{f"{name}-8": (3, 6) for name in ("rocky", "alma", "rhel", "centos-stream")},
    **{f"{name}-9": (3, 9) for name in ("rocky", "alma", "rhel", "centos-stream")},
    **{f"{name}-10": (3, 12) for name in ("rocky", "alma", "rhel", "centos-stream")},
    "fedora-41": (3, 13),
    "fedora-42": (3, 13),
    "fedora-43": (3, 14),
    "opensuse-leap-15": (3, 6),
    "opensuse-leap-16": (3, 13),
}
"""Platform -> version of its /usr/bin/python3, from the distributions' package lists: `python3` in packages.debian.org,
packages.ubuntu.com, packages.fedoraproject.org and software.opensuse.org, the release notes of Enterprise Linux."""

_MINOR = re.compile(r"(-\d+)\.\d+$")  # rocky-9.4 has the Python of rocky-9


class Choice(NamedTuple):
    """An executor, and why in one short line; no reason for CARRY that nobody had to ask for."""

    executor: str
    reason: str = ""


class Chooser:
    """Chooses for the placements of a site. Holds caches: thousands of nodes differ in few ways that matter."""

    def __init__(self, wanted: Executors) -> None:
        self._wanted = wanted
        self._chosen: dict[tuple[tuple[str, ...], str, str, tuple[str, ...]], tuple[Choice, bool]] = {}
        self._asking: dict[int, tuple[Mapping[str, Value], str]] = {}  # holds the inputs: an id may come again

    def choose(self, contract: Contract, node: Node | PlanNode, inputs: Mapping[str, Value]) -> Choice:
        """Return who applies a role on a node with these inputs."""
        if contract.executor == METAL:
            return Choice(METAL)
        says = contract.role, contract.executor, contract.controller
        key = (says, node.platform, node.connection.transport, node.groups)
        if key not in self._chosen:
            self._chosen[key] = self._without_inputs(contract, node)
        choice, final = self._chosen[key]
        if final:
            return choice
        if id(inputs) not in self._asking:
            self._asking[id(inputs)] = inputs, _asking(inputs)
        reason = self._asking[id(inputs)][1]
        return Choice(PUSH, reason) if reason else choice

    def _without_inputs(self, contract: Contract, node: Node | PlanNode) -> tuple[Choice, bool]:
        """Return the choice as far as the inputs have no say, and whether they have none at all."""
        impossible = unable(node.platform, node.connection)
        executor, where = asked(self._wanted, contract.role, node.groups)
        if executor == PUSH or (executor == CARRY and not impossible):
            return Choice(executor, where), True
        if reason := impossible or _too_old(node.platform):
            return Choice(PUSH, reason), True
        if contract.executor == PUSH:
            return Choice(PUSH, f"role {contract.role}: its contract"), True
        if contract.controller and not contract.executor:
            return Choice(PUSH, f"role {contract.role}: {contract.controller}"), True
        return Choice(CARRY, f"role {contract.role}: its contract" if contract.controller else ""), False


def asked(wanted: Executors, role: str, groups: tuple[str, ...]) -> tuple[str, str]:
    """Return the executor that a site asks for and where in its policy; groups have the nearest last."""
    if role in wanted.roles:
        return wanted.roles[role], f"policy.executors.roles.{role}"
    for group in reversed(groups):
        if group in wanted.groups:
            return wanted.groups[group], f"policy.executors.groups.{group}"
    return wanted.default, "policy.executors.default" if wanted.default else ""


def unable(platform: str, connection: Connection) -> str:
    """Return why nothing can be carried to such a host, whoever asks for it; empty: it can."""
    if platform == "windows" or platform.startswith("windows-"):
        return "Windows"
    return "" if connection.transport == "ssh" else f"connection {connection.transport}"


def _too_old(platform: str) -> str:
    """Return what is wrong with the Python of a platform; whoever has another one there asks for CARRY."""
    version = _PYTHONS.get(platform) or _PYTHONS.get(_MINOR.sub(r"\1", platform))
    if version is None:
        return f"no known Python on {platform}" if platform else "no known platform"
    return "" if version >= OLDEST_PYTHON else f"Python {version[0]}.{version[1]} on {platform}"


def _asking(inputs: Mapping[str, Value]) -> str:
    for name in sorted(inputs):
        for text in texts(inputs[name]):
            if found := asks_controller(text, files=False):
                return f"input {name} uses {found.what}"
    return ""
