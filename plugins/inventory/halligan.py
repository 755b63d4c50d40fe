"""Ansible inventory plugin: shows a Halligan site to plain Ansible. All work is done by `orchestrator.service`."""

from __future__ import annotations

from typing import Any

from ansible.errors import AnsibleParserError
from ansible.plugins.inventory import BaseInventoryPlugin
from ansible.template import trust_as_template

DOCUMENTATION = """
name: halligan
short_description: Nodes, groups and variables of a Halligan site
description:
  - Reads C(inventories/SITE/cluster.yml) with its C(group_vars/) and C(host_vars/), as C(halligan plan) does.
  - Gives every host its roles in C(halligan_waves), which C(playbooks/site.yml) applies.
options:
  plugin:
    description: Not read; a cluster.yml needs no C(plugin) key.
    type: str
"""


class InventoryModule(BaseInventoryPlugin):
    """Thin shim over `Site.inventory`."""

    NAME = "halligan"

    def verify_file(self, path: str) -> bool:
        return bool(super().verify_file(path)) and path.endswith(("/cluster.yml", "/cluster.yaml"))

    def parse(self, inventory: Any, loader: Any, path: str, cache: bool = True) -> None:
        super().parse(inventory, loader, path, cache)
        from orchestrator.errors import HalliganError
        from orchestrator.service import open_site

        try:
            site = open_site(path).inventory()
        except HalliganError as error:
            raise AnsibleParserError(str(error)) from None
        for name, value in site["vars"].items():
            inventory.set_variable("all", name, _trusted(value))
        for group in site["groups"]:
            inventory.add_group(group)
        for group, content in site["groups"].items():
            for child in content["children"]:
                inventory.add_child(group, child)
        for host, variables in site["hosts"].items():
            inventory.add_host(host)
            for name, value in variables.items():
                inventory.set_variable(host, name, _trusted(value))
        for group, content in site["groups"].items():
            for host in content["hosts"]:
                inventory.add_host(host, group=group)


def _trusted(value: Any) -> Any:
    """Mark text as template: a site's variables are code, as in any inventory file."""
    if isinstance(value, str):
        return trust_as_template(value)
    if isinstance(value, dict):
        return {name: _trusted(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_trusted(item) for item in value]
    return value
