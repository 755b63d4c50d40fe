"""Groups: who belongs to whom, and in which order they apply."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from orchestrator import graph
from orchestrator.spec.references import References
from orchestrator.spec.schema import GroupModel
from orchestrator.yaml import Findings

__all__ = ["ALL", "Order", "check", "order"]

ALL = "all"
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def check(findings: Findings, groups: Mapping[str, GroupModel], known: Iterable[str]) -> None:
    """Note bad names, unknown children and cycles."""
    references = References("group", {*known, ALL}, hint="declare it under groups:")
    for name, group in groups.items():
        path = ("groups", name)
        if not _NAME.fullmatch(name):
            better = re.sub(r"\W", "_", name, flags=re.ASCII)
            findings.error(
                "spec.group-name",
                path,
                f'"{name}" is not a group name: Ansible wants letters, digits and "_", no digit first',
                hint=f'for example "{better if not better[:1].isdigit() else "_" + better}"',
            )
        if name == ALL and group.children:
            findings.error("spec.group-cycle", (*path, "children"), "all holds every group already; it has no children")
        for index, child in enumerate(group.children):
            references.use(child, (*path, "children", index))
    references.report(findings)
    _check_cycle(findings, {name: group.children for name, group in groups.items() if name != ALL})


def _check_cycle(findings: Findings, children: Mapping[str, Iterable[str]]) -> None:
    if not any(children.values()):
        return
    if members := graph.cycle(graph.build(children)):
        chain = tuple(reversed(members))
        findings.error(
            "spec.group-cycle",
            ("groups", chain[0], "children"),
            f"the groups contain each other: {' > '.join(chain)}",
            hint="remove one of these children",
        )


class Order:
    """Ancestors and depth of every group. Keeps a cache of the answers per set of groups."""

    def __init__(self, parents: Mapping[str, frozenset[str]], depth: Mapping[str, int]) -> None:
        self._parents = parents
        self._depth = depth
        self._known: dict[tuple[str, ...], tuple[str, ...]] = {}

    def of(self, groups: Iterable[str]) -> tuple[str, ...]:
        """Return the groups and everything that holds them, parents before children, then by name (as Ansible)."""
        asked = tuple(groups)
        if asked not in self._known:
            reached: set[str] = {ALL}
            todo = list(asked)
            while todo:
                name = todo.pop()
                if name in self._parents and name not in reached:
                    reached.add(name)
                    todo.extend(self._parents[name])
            self._known[asked] = tuple(sorted(reached, key=lambda name: (self._depth[name], name)))
        return self._known[asked]


def order(groups: Mapping[str, Iterable[str]]) -> Order:
    """Return the order of groups from the children of each. Groups in a cycle come out in some order."""
    names = {ALL, *groups}
    parents: dict[str, set[str]] = {name: set() for name in names}
    for name, children in groups.items():
        for child in children:
            if child in parents and name != ALL:
                parents[child].add(name)
    depth = {ALL: 0}
    todo = {name for name in names if name != ALL}
    level = 1
    while todo:
        ready = {name for name in todo if not parents[name] & todo} or todo
        depth.update(dict.fromkeys(ready, level))
        todo -= ready
        level += 1
    return Order({name: frozenset(found) for name, found in parents.items()}, depth)
