"""The same work for every tool: a role of so many tasks, and what each tool needs to run it on some hosts."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from orchestrator.inventory import batch_inventory
from orchestrator.model import PUSH, Action, Batch, PlanRole, StepId, StepRun
from tests.bench.hosts import Hosts
from tests.support.folders import write, write_role

__all__ = ["COLD_PORT", "OTHER_PORT", "Work"]

MATERIAL = Path(__file__).with_name("material")
COLD_PORT, OTHER_PORT = 8080, 8081
_SECTION = 20  # tasks
_PARTS = 5


class Work:
    """A role of `tasks` tasks for some hosts. `port` is the variable that one template of it shows."""

    def __init__(self, hosts: Hosts, tasks: int) -> None:
        self.hosts, self.tasks = hosts, tasks
        self.folder = hosts.folder / "given"
        self.roles = self.folder / "roles"
        self.role = f"bench_{tasks}"
        options = {
            "bench_home": {"type": "path", "required": True},
            "bench_ports": {"type": "list", "elements": "int", "required": True},
        }
        role = write_role(self.roles, self.role, options=options, tasks=list(_tasks())[:tasks])
        for template in MATERIAL.glob("*.j2"):
            write(role / "templates" / template.name, template.read_text())

    def batch(self, port: int, executor: str = PUSH) -> Batch:
        """Return the work as an executor gets it."""
        runs = tuple(
            StepRun(step=StepId(f"{self.role}@{node.name}"), node=node, inputs=self._inputs(node.name, port))
            for node in self.hosts.nodes
        )
        role = PlanRole(name=self.role, digest=f"{self.role}-of-the-bench")
        return Batch(id=f"b{port}", role=role, action=Action.CREATE, runs=runs, timeout_s=3600, executor=executor)

    def playbook(self, port: int) -> tuple[Path, Path]:
        """Return an inventory with the same variables as our own executor's, and a plain playbook."""
        inventory, playbook = self.folder / "inventory.json", self.folder / "play.yml"
        inventory.write_text(json.dumps(batch_inventory(self.batch(port), "bench", lambda _: "")))
        play = {"name": "Apply the role", "hosts": "all", "gather_facts": False, "roles": [self.role]}
        playbook.write_text(yaml.safe_dump([play]))
        return inventory, playbook

    def deploy(self, port: int) -> tuple[Path, Path]:
        """Return an inventory and a deploy file of pyinfra's."""
        inventory = self.folder / "inventory.py"
        server = self.hosts.server
        common = {
            "ssh_port": server.port,
            "ssh_key": str(server.key),
            "ssh_known_hosts_file": str(server.known_hosts),
            "ssh_strict_host_key_checking": "yes",
            "ssh_allow_agent": False,
            "ssh_look_for_keys": False,
            "bench_tasks": self.tasks,
        }
        hosts = []
        for node in self.hosts.nodes:
            own = {"node_name": node.name, "ssh_hostname": node.address, **self._inputs(node.name, port)}
            hosts.append((node.name, {**common, **own}))
        inventory.write_text(f"hosts = {hosts!r}\n")
        return inventory, MATERIAL / "deploy.py"

    def shows(self, port: int) -> bool:
        """Return whether every host has what the role writes, with this port."""
        last = f"part-{(self.tasks - 2) // _SECTION}"
        try:
            return all(
                f"port = {port}\n" in (self.hosts.work / node.name / "part-0" / "main.conf").read_text()
                and (self.hosts.work / node.name / last).is_dir()
                for node in self.hosts.nodes
            )
        except FileNotFoundError:
            return False

    def _inputs(self, name: str, port: int) -> dict[str, Any]:
        return {"bench_home": str(self.hosts.work / name), "bench_ports": [port, *range(9001, 9000 + _PARTS)]}


def _tasks() -> Iterator[dict[str, Any]]:
    create = {"path": "{{ bench_home }}", "state": "directory", "mode": "0755"}
    yield {"name": "Create the folder", "ansible.builtin.file": create}
    section = (MATERIAL / "section.yml").read_text()
    for part in range(_PARTS):
        yield from yaml.safe_load(section.replace("PART", str(part)))
