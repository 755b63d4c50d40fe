"""The values each placement gets: variables that its role can see, and wires to other placements' outputs.

Placements with the same values share one mapping, so that 100,000 placements cost what their distinct inputs cost.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType

from orchestrator.catalog import check_value
from orchestrator.errors import Problem, closest
from orchestrator.lifecycle import STAGES
from orchestrator.model import MAGIC, Catalog, Contract, Node, Option, OutputRef, Requirement, Spec, StepId, Value, Wire
from orchestrator.ranges import fold
from orchestrator.spec import Places
from orchestrator.templates import mentioned
from orchestrator.topology.binding import Binder
from orchestrator.topology.metal import MachineInputs
from orchestrator.topology.placing import Pair
from orchestrator.variables import Variables, visible

__all__ = ["Inputs"]


class Inputs:
    """Computes inputs placement by placement; holds caches and collects problems."""

    def __init__(self, spec: Spec, catalog: Catalog, binder: Binder, problems: list[Problem]) -> None:
        self._spec = spec
        self._catalog = catalog
        self._binder = binder
        self._problems = problems
        self._variables = Variables(spec)
        self._machines = MachineInputs(spec, self._variables)
        self._places = Places(spec)
        self._base: dict[tuple[str, tuple[str, ...]], tuple[Mapping[str, Value], frozenset[str]]] = {}
        self._shared: dict[tuple[object, ...], Mapping[str, Value]] = {}
        self._missing: dict[tuple[str, str], list[str]] = defaultdict(list)
        self._site_facts: dict[tuple[str, str], Mapping[str, str]] = {}

    def of(self, pair: Pair) -> Mapping[str, Value]:
        """Return the inputs of a placement."""
        contract = self._catalog[pair.role]
        node = self._spec.nodes[pair.node]
        if pair.role in STAGES:
            return self._machines.of(node)
        base, used = self._by_groups(contract, node.groups)
        own = self._variables.own(node)
        special = not used.isdisjoint(own)
        if special:
            base, used = self._visible(contract, {**self._variables.of_groups(node.groups), **own})
        wired = self._wired(pair, contract, base)
        magic = () if used.isdisjoint(MAGIC) else [name for name in MAGIC if name in used]
        if special or magic:
            mine = self._variables.magic(node)
            return self._checked(contract, node, {**base, **wired, **{name: mine[name] for name in magic}})
        key = (pair.role, id(base), tuple((name, repr(value)) for name, value in wired.items()))
        if key not in self._shared:
            self._shared[key] = self._checked(contract, node, {**base, **wired})
        else:
            self._note_missing(contract, node, self._shared[key])
        return self._shared[key]

    def problems(self) -> list[Problem]:
        """Return what is missing on some node, and a warning for each variable that looks like a mistyped option."""
        return [*self._missing_inputs(), *self._mistyped_options(), *self._machines.problems()]

    def missing_secrets(self) -> tuple[str, ...]:
        return tuple(
            sorted(
                {
                    name
                    for role, name in self._missing
                    if self._catalog[role].options[name].secret and not self._is_wired(role, name)
                }
            )
        )

    def _is_wired(self, role: str, name: str) -> bool:
        """Whether another role gives the value: its missing provider is reported where it was looked for."""
        wire = self._catalog[role].inputs.get(name)
        return wire is not None and bool(wire.capability)

    def _missing_inputs(self) -> Iterator[Problem]:
        """One problem per role and option that lacks a value, however many nodes it is on."""
        for (role, name), nodes in sorted(self._missing.items()):
            if self._is_wired(role, name):
                continue
            option = self._catalog[role].options[name]
            if option.secret:
                what, hint = "the secret", f"`halligan secrets init {self._spec.site}` generates it"
            else:
                what = "a value for"
                hint = f"set {name} in group_vars/, host_vars/ or cluster.yml ({option.description})"
            yield Problem(
                code="topology.missing-secret" if option.secret else "topology.missing-input",
                summary=f"role {role} on {fold(nodes, 5)} needs {what} {name}",
                where=self._spec.nodes[nodes[0]].where,
                hint=hint,
            )

    def _mistyped_options(self) -> Iterator[Problem]:
        placed = {role.replace("-", "_"): self._catalog[role] for role in self._binder.role_nodes}
        known = {name for contract in self._catalog.values() for name in contract.options}
        owners = [
            *((f"group {g.name}", g.where, {**g.vars, **g.file_vars}) for g in self._spec.groups.values()),
            *((f"node {n.name}", n.where, self._variables.own(n)) for n in self._spec.nodes.values()),
        ]
        reported: set[str] = set()
        for owner, where, names in owners:
            for name in names:
                if name in known or name in reported:
                    continue
                reported.add(name)
                contract = next((c for prefix, c in placed.items() if name.startswith(f"{prefix}_")), None)
                if contract and (near := closest(name, contract.options)):
                    yield Problem(
                        code="topology.unknown-option",
                        summary=f"{owner} sets {name}, which is no option of role {contract.role}.{near}",
                        where=where,
                        severity="warning",
                        hint=f"`halligan roles show {contract.role}` lists its options",
                    )

    def _by_groups(self, contract: Contract, groups: tuple[str, ...]) -> tuple[Mapping[str, Value], frozenset[str]]:
        key = (contract.role, groups)
        if key not in self._base:
            self._base[key] = self._visible(contract, self._variables.of_groups(groups))
        return self._base[key]

    def _visible(self, contract: Contract, values: Mapping[str, Value]) -> tuple[Mapping[str, Value], frozenset[str]]:
        """Return the variables a role sees, and every name whose value could change that."""
        wanted = {*contract.options, *contract.references}
        found = visible(wanted, values)
        names = frozenset(wanted.union(*(mentioned(value) for value in found.values())))
        return MappingProxyType(found), names

    def _wired(self, pair: Pair, contract: Contract, base: Mapping[str, Value]) -> dict[str, Value]:
        wired: dict[str, Value] = {}
        for name, wire in contract.inputs.items():
            if name in base:
                continue  # the site's own word wins
            if wire.site:
                wired[name] = self._site_fact(wire.site, pair.role)
            elif (value := self._output(pair, contract, wire)) is not None:
                wired[name] = value
        return wired

    def _site_fact(self, name: str, role: str) -> Mapping[str, str]:
        key = (name, role if name == "peers" else "")
        if key not in self._site_facts:
            nodes: Iterable[str] = self._spec.nodes
            if name != "hosts":
                nodes = self._binder.role_nodes[role] if name == "peers" else self._binder.crossing()
            self._site_facts[key] = {node: self._spec.nodes[node].address for node in sorted(nodes)}
        return self._site_facts[key]

    def _output(self, pair: Pair, contract: Contract, wire: Wire) -> Value | None:
        requirement = next(
            (r for r in contract.requires if r.capability == wire.capability), Requirement(capability=wire.capability)
        )
        providers = self._binder.providers(pair, requirement)
        if not providers:
            return None
        output = self._catalog[_role(providers[0])].outputs.get(wire.output)
        if output is None:
            self._no_such_output(contract, wire, providers[0])
            return None
        if output.secret:
            return self._variables.followed(providers[0].partition("@")[2], output.secret)
        return OutputRef(providers=providers, output=wire.output, collect=wire.collect)

    def _no_such_output(self, contract: Contract, wire: Wire, provider: StepId) -> None:
        outputs = self._catalog[_role(provider)].outputs
        problem = Problem(
            code="topology.no-output",
            summary=f"role {contract.role} wires output {wire.output} of {wire.capability}, "
            f"but its provider {provider} has no such output.{closest(wire.output, outputs)}",
            where=contract.where,
            hint=f"outputs of {_role(provider)}: {', '.join(sorted(outputs)) or 'none'}",
        )
        if problem not in self._problems:
            self._problems.append(problem)

    def _checked(self, contract: Contract, node: Node, values: Mapping[str, Value]) -> Mapping[str, Value]:
        """Check the values against the role's options once per distinct set of inputs."""
        for name, value in values.items():
            option = contract.options.get(name)
            if option is not None:
                for problem in self._misfits(option, value, node):
                    if problem not in self._problems:
                        self._problems.append(problem)
        self._note_missing(contract, node, values)
        return MappingProxyType(dict(values))

    def _misfits(self, option: Option, value: Value, node: Node) -> list[Problem]:
        """Return what is wrong with a value, at the place where the site sets it."""
        if not check_value(option, value):
            return []
        return check_value(option, value, self._places.variable(node, option.name) or node.where)

    def _note_missing(self, contract: Contract, node: Node, values: Mapping[str, Value]) -> None:
        for name, option in contract.options.items():
            if option.required and option.default is None and name not in values:
                self._missing[contract.role, name].append(node.name)


def _role(step: StepId) -> str:
    return step.partition("@")[0]
