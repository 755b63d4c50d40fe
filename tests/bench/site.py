"""Sites of any size on disk, with a catalogue of ten realistic roles per compute node (and three of a controller)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import yaml

__all__ = ["PER_NODE", "write_plain_inventory", "write_site"]

PER_NODE = 10  # placements of a compute node

_EVERYWHERE: Mapping[str, Any] = {"requires": [{"capability": "os.base", "scope": "node"}]}

# role -> contract; options are made from the wires and `_OPTIONS`
_ROLES: Mapping[str, Mapping[str, Any]] = {
    "base": {"provides": ["os.base"]},
    "clock": {**_EVERYWHERE, "provides": ["time.sync"]},
    "hosts": {**_EVERYWHERE, "inputs": {"hosts_map": {"site": "providers"}}},
    "logs": {**_EVERYWHERE, "after": ["time.sync"]},
    "metrics": {**_EVERYWHERE, "after": ["time.sync"]},
    "firewall": {**_EVERYWHERE, "provides": ["net.firewall"]},
    "database": {
        **_EVERYWHERE,
        "provides": ["database"],
        "outputs": {"database_host": {"value": "{{ node_address }}"}},
        "cardinality": {"per": "site", "count": "1.."},
    },
    "queue": {
        **_EVERYWHERE,
        "provides": ["queue"],
        "outputs": {"queue_endpoint": {"value": "{{ node_address }}:5672"}},
    },
    "identity": {
        "requires": [{"capability": "os.base", "scope": "node"}, {"capability": "database"}, {"capability": "queue"}],
        "provides": ["identity"],
        "inputs": {
            "identity_database_host": {"from": "database", "output": "database_host"},
            "identity_queues": {"from": "queue", "output": "queue_endpoint", "collect": "list"},
        },
        "outputs": {"identity_url": {"value": "http://{{ node_address }}:5000/v3"}},
    },
    "hypervisor": {
        "requires": [{"capability": "os.base", "scope": "node"}, {"capability": "net.firewall", "scope": "node"}],
        "provides": ["hypervisor"],
    },
    "switch": {**_EVERYWHERE, "provides": ["net.switch"]},
    "agent": {
        "requires": [
            {"capability": "hypervisor", "scope": "node"},
            {"capability": "net.switch", "scope": "node"},
            {"capability": "identity"},
            {"capability": "queue"},
        ],
        "provides": ["compute"],
        "inputs": {
            "agent_identity_url": {"from": "identity", "output": "identity_url"},
            "agent_queues": {"from": "queue", "output": "queue_endpoint", "collect": "list"},
        },
    },
    "probe": {"requires": [{"capability": "compute", "scope": "node"}]},
}
_CONTROLLER = ["database", "queue", "identity"]
_COMPUTE = ["hypervisor", "switch", "agent", "probe"]
_COMMON = ["base", "clock", "hosts", "logs", "metrics", "firewall"]

_OPTIONS: Mapping[str, Mapping[str, Any]] = {
    "enabled": {"type": "bool", "default": True},
    "level": {"type": "str", "choices": ["low", "normal", "high"], "default": "normal"},
    "workers": {"type": "int", "default": 4},
    "address": {"type": "str", "default": "{{ node_address }}"},
    "servers": {"type": "list", "elements": "str", "default": []},
    "limits": {"type": "dict", "options": {"files": {"type": "int"}, "memory": {"type": "bytes"}}},
}


def write_site(root: Path, computes: int, *, listed: bool) -> Path:
    """Write roles and a site with that many compute nodes below `root`; return the site's folder.

    `listed`: every node stands in the file with variables of its own; otherwise a few ranges hold them all.
    """
    for name, contract in _ROLES.items():
        _write_role(root / "roles" / name, name, contract)
    site = root / "inventories" / "bench"
    site.mkdir(parents=True)
    (site / "cluster.yml").write_text("\n".join(_cluster(computes, listed=listed)) + "\n")
    return site


def _write_role(folder: Path, name: str, contract: Mapping[str, Any]) -> None:
    prefixed = {f"{name}_{option}": {**spec, "description": "-"} for option, spec in _OPTIONS.items()}
    wires = {wire: {"type": "raw", "description": "-"} for wire in contract.get("inputs", {})}
    specs = {"argument_specs": {"main": {"short_description": name, "options": {**prefixed, **wires}}}}
    meta = {"galaxy_info": {"author": "bench", "description": name}, "dependencies": []}
    task = [{"name": "Write", "ansible.builtin.debug": {"msg": f"{{{{ {name}_level }}}}"}}]
    for path, content in {
        "meta/contract.yml": {"contract": 1, **contract},
        "meta/argument_specs.yml": specs,
        "meta/main.yml": meta,
        "defaults/main.yml": {
            f"{name}_{option}": spec["default"] for option, spec in _OPTIONS.items() if "default" in spec
        },
        "tasks/main.yml": task,
    }.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(yaml.safe_dump(content))


def _cluster(computes: int, *, listed: bool) -> Iterator[str]:
    yield "spec: 1"
    yield "networks:\n  mgmt: {cidr: 10.0.0.0/8}\n  tunnel: {cidr: 172.16.0.0/12}"
    yield f"groups:\n  linux: {{roles: [{', '.join(_COMMON)}], children: [controller, compute]}}"
    yield f"  controller: {{roles: [{', '.join(_CONTROLLER)}]}}"
    yield f"  compute:\n    roles: [{', '.join(_COMPUTE)}]"
    yield '    vars: {switch_address: "{{ node_addresses.tunnel }}", agent_level: high, hypervisor_workers: 8}'
    yield "  all:\n    vars: {clock_servers: [10.0.0.1, 10.0.0.2], logs_level: low}"
    yield "nodes:\n  ctl-[1:3]: {groups: [controller], address: 10.0.0.1, addresses: {tunnel: 172.16.0.1}}"
    if listed:
        yield from (_listed(number) for number in range(1, computes + 1))
    else:
        yield f"  kvm-[00001:{computes:05}]:"
        yield "    {groups: [compute], address: 10.1.0.1, addresses: {tunnel: 172.17.0.1}}"
    yield "policy:\n  limits: {steps: 500, batches: 50}"


def _listed(number: int) -> str:
    address, tunnel = IPv4Address("10.1.0.0") + number, IPv4Address("172.17.0.0") + number
    return f"""  kvm-{number:05}:
    groups: [compute]
    address: {address}
    addresses: {{tunnel: {tunnel}}}
    vars: {{hypervisor_servers: [disk-{number}a, disk-{number}b], firewall_limits: {{files: {1000 + number}}}}}"""


def write_plain_inventory(site: str, path: Path) -> None:
    """Write the nodes, groups and variables of a site as an inventory that Ansible reads without Halligan."""
    from orchestrator.service import open_site

    spec = open_site(site).spec()
    groups = {
        name: {
            "vars": dict(group.vars),
            "children": {child: {} for child in group.children},
            "hosts": {node.name: {} for node in spec.nodes.values() if name in node.groups},
        }
        for name, group in spec.groups.items()
        if name != "all"
    }
    hosts = {
        node.name: {"ansible_host": node.address, "node_addresses": dict(node.addresses), **node.vars}
        for node in spec.nodes.values()
    }
    path.write_text(
        yaml.safe_dump({"all": {"vars": dict(spec.groups["all"].vars), "hosts": hosts, "children": groups}})
    )
