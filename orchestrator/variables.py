"""Which value each variable has on each node, and which of them a role can see.

Precedence is Ansible's (documentation, "Understanding variable precedence"): the spec's group vars, then group_vars/
files, parents before children; then the node's vars in the spec, then host_vars/. Templates stay text: a role's inputs
are its declared options that the site sets, plus every variable that those mention, directly or not. So a change to a
variable reaches exactly the placements whose inputs mention it, and nothing has to be rendered to know that.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from types import MappingProxyType

from orchestrator.model import Node, Spec, Value
from orchestrator.templates import mentioned

__all__ = ["Variables", "visible"]

_PURE_REFERENCE = re.compile(r"^\s*\{\{\s*([A-Za-z_]\w*)\s*\}\}\s*$")


class Variables:
    """Effective variables of a site's nodes. Holds a cache: nodes of the same groups share all but their own vars."""

    def __init__(self, spec: Spec) -> None:
        self._spec = spec
        self._by_groups: dict[tuple[str, ...], Mapping[str, Value]] = {}

    def of_groups(self, groups: tuple[str, ...]) -> Mapping[str, Value]:
        """Return what the groups give, in order of precedence; `groups` has parents before children."""
        if groups not in self._by_groups:
            merged: dict[str, Value] = {}
            for source in ("vars", "file_vars"):  # every file wins over every group of the spec
                for group in groups:
                    merged.update(getattr(self._spec.groups[group], source))
            self._by_groups[groups] = MappingProxyType(merged)
        return self._by_groups[groups]

    def of_node(self, node: Node) -> Mapping[str, Value]:
        """Return every variable of a node, the magic ones included."""
        return {**self.of_groups(node.groups), **node.vars, **node.file_vars, **self.magic(node)}

    def of_name(self, name: str) -> Mapping[str, Value]:
        """Return the variables of a node by its name; those of every node for one that the spec no longer has."""
        node = self._spec.nodes.get(name)
        return self.of_node(node) if node else self.of_groups(("all",))

    def followed(self, node: str, name: str) -> Value | None:
        """Return a variable's value on a node, following plain `{{ other }}` references; None if it has none."""
        values = self.of_name(node)
        value = values.get(name)
        for _ in range(len(values)):
            match = _PURE_REFERENCE.match(value) if isinstance(value, str) else None
            if not match:
                break
            value = values.get(match[1])
        return value

    def magic(self, node: Node) -> dict[str, Value]:
        return {
            "node_name": node.name,
            "node_address": node.address,
            "node_addresses": dict(node.addresses),
            "site_name": self._spec.site,
        }

    def own(self, node: Node) -> Mapping[str, Value]:
        """Return what only this node sets, magic variables excluded."""
        return {**node.vars, **node.file_vars} if node.file_vars else node.vars


def visible(wanted: Iterable[str], values: Mapping[str, Value]) -> dict[str, Value]:
    """Return those of `wanted` that `values` sets, and everything that they mention, directly or not."""
    found: dict[str, Value] = {}
    todo = [name for name in wanted if name in values]
    while todo:
        name = todo.pop()
        if name not in found:
            found[name] = values[name]
            todo.extend(other for other in mentioned(values[name]) if other in values and other not in found)
    return found
