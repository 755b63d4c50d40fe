"""Local machines for CI and demos: Debian 12 containers with systemd and sshd on a network of their own."""

from orchestrator.lab.errors import LabError
from orchestrator.lab.room import REQUIRED_COMMANDS, connection, down, status, up
from orchestrator.lab.values import Lab, LabConnection, LabNode, NodeStatus

__all__ = [
    "REQUIRED_COMMANDS",
    "Lab",
    "LabConnection",
    "LabError",
    "LabNode",
    "NodeStatus",
    "connection",
    "down",
    "status",
    "up",
]
