"""Which role goes on which node: the roles of a node's groups and its own, checked against the contracts."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import NamedTuple

from orchestrator.carrying import asked, unable
from orchestrator.errors import Location, Problem, closest
from orchestrator.lifecycle import STAGES
from orchestrator.model import CARRY, Catalog, Contract, Node, Scope, Spec, StepId
from orchestrator.ranges import fold
from orchestrator.spec import Places
from orchestrator.topology.metal import is_metal

__all__ = ["Pair", "place", "step_id"]


class Pair(NamedTuple):
    """A role on a node, before anything is bound."""

    role: str
    node: str
    id: StepId


def step_id(role: str, node: str) -> StepId:
    return StepId(f"{role}@{node}")


def place(spec: Spec, catalog: Catalog, problems: list[Problem]) -> list[Pair]:
    """Return every placement the spec asks for, once each, by node and then in the order of its groups."""
    problems.extend(_unknown_roles(spec, catalog))
    problems.extend(_unknown_in_policy(spec, catalog))
    pairs: list[Pair] = []
    misfits: dict[tuple[str, str], list[str]] = defaultdict(list)
    roles_of: dict[tuple[str, ...], tuple[str, ...]] = {}
    for node in spec.nodes.values():
        if is_metal(node):
            pairs.extend(Pair(stage, node.name, step_id(stage, node.name)) for stage in STAGES)
        if node.groups not in roles_of:
            roles_of[node.groups] = tuple(dict.fromkeys(r for g in node.groups for r in spec.groups[g].roles))
        for role in dict.fromkeys((*roles_of[node.groups], *node.roles)):
            contract = catalog.get(role)
            if contract is None:
                continue
            if contract.supports(node.platform):
                pairs.append(Pair(role, node.name, step_id(role, node.name)))
            else:
                misfits[role, node.platform].append(node.name)
    problems.extend(_misfit(catalog[role], platform, spec, names) for (role, platform), names in misfits.items())
    problems.extend(_counts(spec, catalog, pairs))
    problems.extend(_executors(spec, catalog, pairs))
    return pairs


def _unknown_roles(spec: Spec, catalog: Catalog) -> list[Problem]:
    asked: list[tuple[str, str, Location | None]] = [
        *((role, f"group {group.name}", group.where) for group in spec.groups.values() for role in group.roles),
        *((role, f"node {node.name}", node.where) for node in spec.nodes.values() for role in node.roles),
    ]
    return [
        Problem(
            code="topology.unknown-role",
            summary=f"{owner} asks for role {role}, which is not in the catalogue.{closest(role, catalog)}",
            where=where,
            hint="`halligan roles` lists the catalogue; a role needs a meta/contract.yml to be in it",
        )
        for role, owner, where in asked
        if role not in catalog
    ]


def _unknown_in_policy(spec: Spec, catalog: Catalog) -> list[Problem]:
    """Return the roles that limits, time-outs and roll-outs name and that do not exist; life-cycle steps count."""
    policy = spec.policy
    known = {*catalog, *STAGES}
    sections: list[tuple[tuple[str, ...], Mapping[str, object]]] = [
        (("policy", "limits", "roles"), policy.limits.roles),
        (("policy", "timeouts", "roles"), policy.timeouts.roles),
        (("policy", "rollout"), policy.rollout),
    ]
    places = Places(spec)
    return [
        Problem(
            code="topology.unknown-role",
            summary=f'{".".join(path)} names the role "{role}", which is not in the catalogue.{closest(role, known)}',
            where=places.section((*path, role)),
            hint="`halligan roles` lists the catalogue",
        )
        for path, roles in sections
        for role in roles
        if role not in known
    ]


def _misfit(contract: Contract, platform: str, spec: Spec, names: list[str]) -> Problem:
    return Problem(
        code="topology.platform",
        summary=f"role {contract.role} does not run on {platform} ({fold(names, 5)}); "
        f"it supports {', '.join(contract.platforms)}",
        where=spec.nodes[names[0]].where,
        hint="take the role off these nodes' groups, or correct their platform",
    )


def _counts(spec: Spec, catalog: Catalog, pairs: list[Pair]) -> list[Problem]:
    nodes_of: dict[str, list[str]] = defaultdict(list)
    for pair in pairs:
        nodes_of[pair.role].append(pair.node)
    problems = []
    for role, names in sorted(nodes_of.items()):
        for scope, members in _per_scope(catalog[role], spec.nodes, names):
            if problem := _count_problem(catalog[role], scope, members, spec):
                problems.append(problem)
    return problems


def _per_scope(contract: Contract, nodes: Mapping[str, Node], names: list[str]) -> list[tuple[str, list[str]]]:
    if contract.cardinality.per is not Scope.GROUP:
        return [("the site", names)]
    members: dict[str, list[str]] = defaultdict(list)
    for name in names:
        for group in nodes[name].groups:
            if group != "all":
                members[group].append(name)
    return [(f"group {group}", found) for group, found in sorted(members.items())]


def _count_problem(contract: Contract, scope: str, names: list[str], spec: Spec) -> Problem | None:
    count, found = contract.cardinality.count, len(names)
    where = spec.nodes[names[0]].where
    if found < count.least or (count.most is not None and found > count.most):
        return Problem(
            code="topology.cardinality",
            summary=f"role {contract.role} is placed on {found} nodes of {scope} ({fold(names, 5)}); "
            f"its contract allows {count}",
            where=where,
            hint="move the role to a group with the right number of nodes",
        )
    if contract.cardinality.quorum and found % 2 == 0:
        return Problem(
            code="topology.quorum",
            summary=f"role {contract.role} is placed on {found} nodes of {scope} ({fold(names, 5)}); "
            f"it needs an odd number to keep a quorum when the network splits",
            where=where,
            hint=f"use {found - 1} or {found + 1} nodes",
        )
    return None


def _executors(spec: Spec, catalog: Catalog, pairs: list[Pair]) -> list[Problem]:
    """Return what is wrong with the policy's executors: unknown roles, hosts that nothing can be carried to."""
    wanted = spec.policy.executors
    problems = [
        Problem(
            code="topology.unknown-role",
            summary=f'policy.executors.roles names the role "{role}", which is not in the catalogue.'
            f"{closest(role, catalog)}",
            where=wanted.places.get(f"roles.{role}"),
            hint="`halligan roles` lists the catalogue",
        )
        for role in wanted.roles
        if role not in catalog
    ]
    if CARRY not in (*wanted.roles.values(), *wanted.groups.values()):
        return problems
    misfits: dict[tuple[str, str], list[str]] = defaultdict(list)
    for pair in pairs:
        node = spec.nodes[pair.node]
        executor, entry = asked(wanted, pair.role, node.groups)
        reason = unable(node.platform, node.connection)
        if executor == CARRY and reason and entry != "policy.executors.default":  # a default is for those that can
            misfits[entry, reason].append(node.name)
    return problems + [
        Problem(
            code="topology.executor",
            summary=f"{entry} asks for {CARRY}, which takes SSH and a Python of the host's own; "
            f"{fold(sorted(set(names)), 5)} cannot: {reason}",
            where=wanted.places.get(entry.removeprefix("policy.executors.")),
            hint="name the group of hosts that can instead, or take this entry out: Halligan carries wherever it can",
        )
        for (entry, reason), names in misfits.items()
    ]
