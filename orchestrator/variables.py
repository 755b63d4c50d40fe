"""Which value each variable has on each node, and which of them a role can see.

Precedence is Ansible's (documentation, "Understanding variable precedence"): the spec's group vars, then group_vars/
files, parents before children; then the node's vars in the spec, then host_vars/. Templates stay text: a role's inputs
are its declared options that the site sets, plus every variable that those mention, directly or not. So a change to a
variable reaches exactly the placements whose inputs mention it, and nothing has to be rendered to know that.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from types import MappingProxyType

from orchestrator.model import Node, Spec, Value

__all__ = ["MAGIC", "Variables", "mentioned", "visible"]

MAGIC = ("node_name", "node_address", "node_addresses", "site_name")
"""Variables that Halligan gives to every host."""

_MARKS = ("{{", "{%")


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


def mentioned(value: Value) -> frozenset[str]:
    """Return the variables that the templates in a value mention."""
    names: set[str] = set()
    for text in _templates(value):
        names |= _names(text)
    return frozenset(names)


def _templates(value: Value) -> Iterator[str]:
    match value:
        case str():
            if any(mark in value for mark in _MARKS):
                yield value
        case Mapping():
            for item in value.values():
                yield from _templates(item)
        case list() | tuple():
            for item in value:
                yield from _templates(item)


@lru_cache(maxsize=65536)
def _names(text: str) -> frozenset[str]:
    import jinja2
    from jinja2 import nodes

    try:
        # Only parsed: names bound inside the template are among them too, which does no harm. jinja2.meta would be
        # exact but refuses filters that only Ansible knows.
        tree = jinja2.Environment().parse(text)  # noqa: S701 - never renders
    except jinja2.TemplateSyntaxError:
        return frozenset()  # Ansible reports it, with the host, when it renders the value
    return frozenset(name.name for name in tree.find_all(nodes.Name))
