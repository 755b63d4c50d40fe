"""Ansible inventories as data: one for a batch (what one run may know), one for a whole site (plain Ansible)."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from typing import Any

from orchestrator import graph
from orchestrator.lifecycle import STAGES
from orchestrator.model import (
    Action,
    Batch,
    Connection,
    Contract,
    Json,
    Node,
    OutputRef,
    Placement,
    PlanNode,
    SecretRef,
    Topology,
    Value,
)
from orchestrator.variables import Variables

__all__ = ["batch_inventory", "connection_vars", "reveal", "site_inventory"]

Reveal = Callable[[SecretRef], Json]

_REMOVE = "remove"


def batch_inventory(batch: Batch, site: str, secret: Reveal) -> dict[str, Json]:
    """Return the inventory of one executor call: its hosts, and of the variables only what the role may see.

    Values that all hosts share are written once, as group variables.
    """
    shared = batch.runs[0].inputs if all(run.inputs is batch.runs[0].inputs for run in batch.runs) else {}
    common: dict[str, Json] = {
        **{name: reveal(value, secret) for name, value in shared.items()},
        "site_name": site,
        "halligan_role": batch.role.name,
        "halligan_tasks_from": _REMOVE if batch.action is Action.REMOVE else "main",
        "halligan_facts": list(batch.role.facts),
        "halligan_facts_age": batch.facts_age_s,
        "halligan_outputs": {} if batch.action is Action.REMOVE else dict(batch.role.outputs),
    }
    hosts = {}
    for run in batch.runs:
        own = {} if shared else {name: reveal(value, secret) for name, value in run.inputs.items()}
        hosts[run.node.name] = {
            **own,
            "node_name": run.node.name,
            "node_address": run.node.address,
            "node_addresses": dict(run.node.addresses),
            **connection_vars(run.node),
        }
    return {"all": {"vars": common, "hosts": hosts}}


def connection_vars(node: PlanNode | Node) -> dict[str, Json]:
    """Return Ansible's connection variables. Host keys are always checked, against the site's own list if any."""
    connection = node.connection
    found: dict[str, Json] = {"ansible_host": node.address, "ansible_connection": connection.transport}
    if connection.user:
        found["ansible_user"] = connection.user
    if connection.port:
        found["ansible_port"] = connection.port
    if connection.transport == "ssh":
        found |= _ssh_vars(connection)
    if connection.transport in ("ssh", "local"):
        found["ansible_become"] = connection.user not in ("", "root")
        found["ansible_python_interpreter"] = "/usr/bin/python3"
    return found


def _ssh_vars(connection: Connection) -> dict[str, Json]:
    options = ["StrictHostKeyChecking=yes"]
    if connection.known_hosts:
        options += [f"UserKnownHostsFile={connection.known_hosts}", "GlobalKnownHostsFile=/dev/null"]
    if connection.proxy_command:
        options.append(f"ProxyCommand={connection.proxy_command}")
    found: dict[str, Json] = {"ansible_ssh_common_args": " ".join(f"-o {shlex.quote(o)}" for o in options)}
    if connection.private_key:
        found["ansible_ssh_private_key_file"] = connection.private_key
        found["ansible_ssh_extra_args"] = "-o IdentitiesOnly=yes"
    return found


def reveal(value: Value, secret: Reveal) -> Json:
    """Return a value with its secrets in place."""
    match value:
        case SecretRef():
            return secret(value)
        case Mapping():
            return {name: reveal(item, secret) for name, item in value.items()}
        case list() | tuple():
            return [reveal(item, secret) for item in value]
    return value


def site_inventory(topology: Topology, secret: Reveal) -> dict[str, Any]:
    """Return {"groups", "hosts", "vars"} of a whole site, for the inventory plugin and `playbooks/site.yml`.

    Every host has `halligan_waves`: per wave the roles that it runs then, so that a playbook that walks the waves side
    by side satisfies every contract. An input wired to another node's output becomes an expression over that node's
    `halligan_outputs_<role>`, which the playbook sets once that role has run there.
    """
    spec = topology.spec
    variables = Variables(spec)
    wave_of = _waves(topology)
    count = max(wave_of.values(), default=0)
    hosts: dict[str, dict[str, Json]] = {}
    for node in spec.nodes.values():
        waves: list[list[str]] = [[] for _ in range(count)]
        hidden = node.bmc.credential if node.bmc else ""  # roles have no business with a machine's power
        values = {n: reveal(value, secret) for n, value in variables.of_node(node).items() if n != hidden}
        hosts[node.name] = {**values, **connection_vars(node), "halligan_waves": waves}
    for placement in _roles(topology):
        host = hosts[placement.node]
        host["halligan_waves"][wave_of[placement.id] - 1].append(placement.role)
        host.update({name: reveal(value, secret) for name, value in _wired(topology, placement).items()})
    return {
        "groups": {
            name: {
                "children": list(group.children),
                "hosts": sorted(n.name for n in spec.nodes.values() if name in n.groups),
            }
            for name, group in spec.groups.items()
            if name != "all"
        },
        "hosts": hosts,
        "vars": {
            "site_name": spec.site,
            "halligan_wave_count": count,
            "halligan_role_outputs": {r: _expressions(c) for r, c in topology.catalog.items() if r not in STAGES},
            "halligan_role_facts": {r: list(c.facts) for r, c in topology.catalog.items() if r not in STAGES},
        },
    }


def _waves(topology: Topology) -> dict[str, int]:
    edges: dict[str, tuple[str, ...]] = {p.id: (*p.needs, *p.after) for p in topology.placements.values()}
    edges.update({key: binding.providers for key, binding in topology.bindings.items()})
    roles = {placement.id for placement in _roles(topology)}
    return graph.waves(graph.build(edges), lambda item: item in roles)


def _roles(topology: Topology) -> list[Placement]:
    """Return the placements that Ansible runs: all but the life-cycle steps of bare metal."""
    return [placement for placement in topology.placements.values() if placement.role not in STAGES]


def _expressions(contract: Contract) -> dict[str, Json]:
    return {name: output.value for name, output in contract.outputs.items() if not output.secret}


def _wired(topology: Topology, placement: Placement) -> dict[str, Value]:
    contract = topology.catalog[placement.role]
    return {name: _expression(placement.inputs[name]) for name in contract.inputs if name in placement.inputs}


def _expression(value: Value) -> Value:
    if not isinstance(value, OutputRef):
        return value
    terms = []
    for provider in value.providers:
        role, _, node = provider.partition("@")
        terms.append(f"hostvars['{node}']['halligan_outputs_{role.replace('-', '_')}']['{value.output}']")
    return "{{ [" + ", ".join(terms) + "] }}" if value.collect == "list" else "{{ " + terms[0] + " }}"
