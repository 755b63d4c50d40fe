"""Sites and roles as files on disk, as small as they can be."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

__all__ = ["SMALL_ROLES", "small_cluster", "write", "write_role", "write_site"]

_ON_NODE = {"capability": "os.base", "scope": "node"}

SMALL_ROLES: Mapping[str, Mapping[str, Any]] = {
    "base": {"provides": ["os.base"]},
    "db": {
        "provides": ["database"],
        "requires": [_ON_NODE],
        "outputs": {"db_host": {"value": "{{ node_address }}"}},
        "cardinality": {"per": "site", "count": "1"},
        "remove": {"destroys": "Every database."},
    },
    "api": {
        "provides": ["api"],
        "requires": [_ON_NODE, {"capability": "database"}],
        "inputs": {"api_db": {"from": "database", "output": "db_host"}},
        "outputs": {"api_url": {"value": "http://{{ node_address }}"}},
    },
    "agent": {
        "requires": [_ON_NODE, {"capability": "api"}],
        "inputs": {"agent_url": {"from": "api", "output": "api_url"}},
    },
}
"""The same four roles as `sites.small_catalog`, as contracts."""


def write(path: Path, content: Any) -> None:
    """Write text as it is and anything else as YAML."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content, sort_keys=False))


def write_role(
    roles: Path,
    name: str,
    contract: Mapping[str, Any] | None = None,
    *,
    options: Mapping[str, Mapping[str, Any]] | None = None,
    tasks: list[dict[str, Any]] | None = None,
    **files: Any,
) -> Path:
    """Write a role; an option is declared for every wire. `files` are more of it: `handlers=`, `defaults=`, …"""
    contract = contract or {}
    wires = {wire: {"type": "raw", "description": "-"} for wire in contract.get("inputs", {})}
    declared = {key: {"description": "-", **spec} for key, spec in (options or {}).items()}
    specs = {"main": {"short_description": name, "options": {**wires, **declared}}}
    folder = roles / name
    write(folder / "meta/contract.yml", {"contract": 1, **contract})
    write(folder / "meta/argument_specs.yml", {"argument_specs": specs})
    write(folder / "meta/main.yml", {"galaxy_info": {"author": "test", "description": name}, "dependencies": []})
    write(folder / "tasks/main.yml", tasks or [{"name": "Do nothing", "ansible.builtin.debug": {"msg": "nothing"}}])
    if "remove" in contract:
        write(folder / "tasks/remove.yml", [{"name": "Remove", "ansible.builtin.debug": {"msg": "removed"}}])
    for kind, content in files.items():
        write(folder / kind / "main.yml", content)
    return folder


def small_cluster(computes: int = 2, **more: Any) -> dict[str, Any]:
    """Return cluster.yml of a controller and some computes; `more` adds or replaces sections."""
    nodes: dict[str, Any] = {"ctl-1": {"groups": ["controller"], "address": "10.0.0.1"}}
    nodes |= {f"kvm-{n:02}": {"groups": ["compute"], "address": f"10.0.1.{n}"} for n in range(1, computes + 1)}
    return {
        "spec": 1,
        "groups": {
            "linux": {"roles": ["base"], "children": ["controller", "compute"]},
            "controller": {"roles": ["db", "api"]},
            "compute": {"roles": ["agent"]},
        },
        "nodes": nodes,
        **more,
    }


def write_site(project: Path, cluster: Mapping[str, Any] | None = None, name: str = "room") -> Path:
    """Write a site beside the small roles below `project`; return its folder."""
    for role, contract in SMALL_ROLES.items():
        options = {f"{role}_size": {"type": "int"}}
        write_role(project / "roles", role, contract, options=options)
    site = project / "inventories" / name
    write(site / "cluster.yml", cluster or small_cluster())
    return site
