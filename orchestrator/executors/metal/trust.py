"""The host keys of machines that we installed, in the known_hosts file of their connection (sshd(8))."""

from __future__ import annotations

import os
import threading
from pathlib import Path

from orchestrator.errors import HalliganError
from orchestrator.model import PlanNode

__all__ = ["trust"]

_ONE_AT_A_TIME = threading.Lock()


def trust(known_hosts: Path, node: PlanNode, host_keys: tuple[str, ...]) -> None:
    """Make these the keys of a node, in place of those that it had; the file is replaced as a whole."""
    if not str(known_hosts) or str(known_hosts) == ".":
        raise HalliganError(f"the connection of {node.name} names no known_hosts file to keep its host keys in")
    names = {node.name, node.address} - {""}
    with _ONE_AT_A_TIME:
        known_hosts.parent.mkdir(parents=True, exist_ok=True)
        lines = known_hosts.read_text().splitlines() if known_hosts.exists() else []
        kept = [line for line in lines if not names & set(line.partition(" ")[0].split(","))]
        new = [f"{','.join(sorted(names))} {key}" for key in host_keys]
        if lines == [*kept, *new] or set(new) <= set(lines):
            return
        partial = known_hosts.with_name(f".{known_hosts.name}.{os.getpid()}")
        partial.write_text("".join(f"{line}\n" for line in [*kept, *new]))
        partial.replace(known_hosts)
