"""Local machines for CI and demos, on a network of their own.

Containers are Debian 12 with systemd and sshd; vms are QEMU machines with empty disks whose power is behind Redfish.
"""

from orchestrator.lab.bmc import bmc_of
from orchestrator.lab.errors import LabError
from orchestrator.lab.room import (
    REQUIRED_COMMANDS,
    boot_network,
    connection,
    console,
    down,
    enter,
    machine_known_hosts,
    package_access,
    required_commands,
    status,
    up,
)
from orchestrator.lab.values import Lab, LabBmc, LabBoot, LabConnection, LabNode, NodeStatus, machine_of

__all__ = [
    "REQUIRED_COMMANDS",
    "Lab",
    "LabBmc",
    "LabBoot",
    "LabConnection",
    "LabError",
    "LabNode",
    "NodeStatus",
    "bmc_of",
    "boot_network",
    "connection",
    "console",
    "down",
    "enter",
    "machine_known_hosts",
    "machine_of",
    "package_access",
    "required_commands",
    "status",
    "up",
]
