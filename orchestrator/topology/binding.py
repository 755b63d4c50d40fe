"""Which placements provide what another one requires: nearest scope first, none or too many explained."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from orchestrator import graph
from orchestrator.errors import Location, Problem, closest
from orchestrator.fingerprint import sha256
from orchestrator.lifecycle import LIVES, STAGES
from orchestrator.model import BarrierId, Binding, Catalog, Count, Node, Requirement, Scope, Spec, StepId
from orchestrator.ranges import fold
from orchestrator.topology.placing import Pair

__all__ = ["Binder", "Bound", "cycle_problem"]

Bound = tuple[tuple[BarrierId, ...], tuple[BarrierId, ...]]  # (needs, after)

_REACH = {Scope.NODE: 0, Scope.GROUP: 1, Scope.SITE: 2}


class Binder:
    """Finds providers; remembers every binding it made, one per capability and set of providers."""

    def __init__(self, spec: Spec, catalog: Catalog, pairs: Sequence[Pair], problems: list[Problem]) -> None:
        self._spec = spec
        self._catalog = catalog
        self._problems = problems
        self._reported: set[tuple[str, ...]] = set()
        self._on_node: dict[tuple[str, str], tuple[StepId, ...]] = {}
        self._in_site: dict[str, list[StepId]] = defaultdict(list)
        self._in_groups: dict[tuple[str, tuple[str, ...]], tuple[StepId, ...]] = {}
        self._node_of: dict[StepId, str] = {}
        self.bindings: dict[BarrierId, Binding] = {}
        self.role_nodes: dict[str, list[str]] = defaultdict(list)
        for pair in pairs:
            self.role_nodes[pair.role].append(pair.node)
            for capability in catalog[pair.role].provides:
                key = (capability, pair.node)
                self._on_node[key] = (*self._on_node.get(key, ()), pair.id)
                self._in_site[capability].append(pair.id)
                self._node_of[pair.id] = pair.node
        for found in self._in_site.values():
            found.sort()

    def bind(self, pair: Pair) -> Bound:
        """Return the bindings that a placement needs and those that it only comes after."""
        contract = self._catalog[pair.role]
        needs = [
            self._binding(requirement.capability, providers)
            for requirement in contract.requires
            if (providers := self.providers(pair, requirement))
        ]
        if pair.role not in STAGES and (alive := self._on_node.get((LIVES, pair.node))):
            needs.insert(0, self._binding(LIVES, alive))
        after = [
            self._binding(capability, providers)
            for capability in contract.after
            if (providers := self._nearby(pair, capability))
        ]
        return tuple(needs), tuple(after)

    def providers(self, pair: Pair, requirement: Requirement) -> tuple[StepId, ...]:
        """Return whom a placement is bound to; reports a problem once per role when the number is not right."""
        node = self._spec.nodes[pair.node]
        chosen = self._chosen(node, requirement.capability)
        if chosen is not None:
            found = tuple(p for name in chosen for p in self._on_node.get((requirement.capability, name), ()))
            return self._counted(pair, requirement, found, "the spec's `bindings`")
        for scope, candidates in self._scopes(node, requirement.capability):
            if _REACH[scope] > _REACH[requirement.scope]:
                break
            others = tuple(c for c in candidates if c != pair.id)
            if others and len(others) >= requirement.count.least:
                return self._counted(pair, requirement, others, f"the same {scope}")
        if requirement.count.least:
            self._missing(pair, requirement)
        return ()

    def crossing(self) -> set[str]:
        """Return the nodes whose placements other nodes may be bound to: providers of something beyond one node."""
        wide = {
            requirement.capability
            for role in self.role_nodes
            for requirement in self._catalog[role].requires
            if requirement.scope is not Scope.NODE
        }
        return {self._node_of[p] for capability in wide for p in self._in_site.get(capability, ())}

    def _nearby(self, pair: Pair, capability: str) -> tuple[StepId, ...]:
        for _, candidates in self._scopes(self._spec.nodes[pair.node], capability):
            if others := tuple(c for c in candidates if c != pair.id):
                return others
        return ()

    def _scopes(self, node: Node, capability: str) -> Iterable[tuple[Scope, tuple[StepId, ...]]]:
        if capability not in self._in_site:
            return
        yield Scope.NODE, self._on_node.get((capability, node.name), ())
        key = (capability, node.groups)
        if key not in self._in_groups:
            shared = set(node.groups) - {"all"}
            self._in_groups[key] = tuple(
                p for p in self._in_site[capability] if shared & set(self._spec.nodes[self._node_of[p]].groups)
            )
        yield Scope.GROUP, self._in_groups[key]
        yield Scope.SITE, tuple(self._in_site[capability])

    def _chosen(self, node: Node, capability: str) -> tuple[str, ...] | None:
        if capability in node.bindings:
            return node.bindings[capability]
        for group in reversed(node.groups):
            if capability in self._spec.groups[group].bindings:
                return self._spec.groups[group].bindings[capability]
        return None

    def _binding(self, capability: str, providers: tuple[StepId, ...]) -> BarrierId:
        names = ",".join(providers) if len(providers) <= 3 else sha256(",".join(providers))[:12]
        key = BarrierId(f"{capability}<{names}")
        if key not in self.bindings:
            self.bindings[key] = Binding(id=key, capability=capability, providers=providers)
        return key

    def _counted(
        self, pair: Pair, requirement: Requirement, found: tuple[StepId, ...], where: str
    ) -> tuple[StepId, ...]:
        count = requirement.count
        if len(found) < count.least or (count.most is not None and len(found) > count.most):
            self._wrong_number(pair, requirement, found, where)
        return found

    def _wrong_number(self, pair: Pair, requirement: Requirement, found: tuple[StepId, ...], where: str) -> None:
        nodes = [self._node_of[p] for p in found]
        self._report(
            pair,
            requirement.capability,
            Problem(
                code="topology.provider-count",
                summary=f"role {pair.role} on {self._who(pair)} needs {_count(requirement.count)} of "
                f"{requirement.capability}, but {where} offers {len(found)}",
                where=self._where(pair),
                detail=tuple(f"candidate: {provider}" for provider in found[:8]),
                hint=f"choose with `bindings: {{{requirement.capability}: [{', '.join(nodes[:1]) or 'NODE'}]}}` "
                "in the group or node",
            ),
        )

    def _missing(self, pair: Pair, requirement: Requirement) -> None:
        capability = requirement.capability
        offering = sorted(role for role, contract in self._catalog.items() if capability in contract.provides)
        elsewhere = self._in_site.get(capability, [])
        detail = [f"{p} provides it, but not on the same {requirement.scope}" for p in elsewhere[:8]]
        if offering:
            hint = f"place {' or '.join(offering)} on {_place_word(requirement.scope, pair)}"
        else:
            every = {c for contract in self._catalog.values() for c in contract.provides}
            hint = f"no role of the catalogue provides {capability}.{closest(capability, every)}"
        self._report(
            pair,
            capability,
            Problem(
                code="topology.no-provider",
                summary=f"role {pair.role} on {self._who(pair)} needs {_count(requirement.count)} of {capability} "
                f"in the same {requirement.scope}, and found {'too few' if elsewhere else 'none'}",
                where=self._where(pair),
                detail=tuple(detail),
                hint=hint,
            ),
        )

    def _report(self, pair: Pair, capability: str, problem: Problem) -> None:
        """One problem per role and capability: a thousand nodes with the same fault are one fault."""
        if (pair.role, capability) not in self._reported:
            self._reported.add((pair.role, capability))
            self._problems.append(problem)

    def _who(self, pair: Pair) -> str:
        return fold(self.role_nodes[pair.role], 3)

    def _where(self, pair: Pair) -> Location | None:
        node = self._spec.nodes[pair.node]
        for group in reversed(node.groups):
            if pair.role in self._spec.groups[group].roles:
                return self._spec.groups[group].where
        return node.where


def cycle_problem(bound: Mapping[Pair, Bound], bindings: Mapping[BarrierId, Binding]) -> Problem | None:
    """Return a problem that prints one cycle of placements, if there is any."""
    edges: dict[str, tuple[str, ...]] = {pair.id: (*needs, *after) for pair, (needs, after) in bound.items()}
    edges.update({key: binding.providers for key, binding in bindings.items()})
    found = graph.cycle(graph.build(edges))
    if not found:
        return None
    # Edges run from the needed to the needy; people read "a needs b".
    chain = list(reversed(found))
    lines = []
    last = ""
    for item in chain:
        if item in bindings:
            continue
        lines.append(f"{item}" if not last else f"  needs {item}")
        last = item
    return Problem(
        code="topology.cycle",
        summary="these roles wait for each other, so none can ever start",
        detail=tuple(lines),
        hint="drop one `requires` or `after` of these roles' contracts, or place them on different nodes",
    )


def _count(count: Count) -> str:
    if count.most is None:
        return f"{count.least} or more providers"
    return f"{count} provider{'s' if count.most != 1 else ''}"


def _place_word(scope: Scope, pair: Pair) -> str:
    return {
        Scope.NODE: f"the node itself (role {pair.role} needs it there)",
        Scope.GROUP: f"a node that shares a group with {pair.node}",
        Scope.SITE: "a node of the site",
    }[scope]
