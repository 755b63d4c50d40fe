"""The checks of the contracts, evaluated on what is known before anything runs: a problem for each rule that is broken.

A check that mentions a value which is not known yet, or an option without a value, says nothing. Equal inputs are
checked once, however many placements share them, unless the check looks at the node itself.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from typing import NamedTuple

from orchestrator import expressions
from orchestrator.errors import Location, Problem
from orchestrator.expressions import EvaluationError, evaluate, render
from orchestrator.model import MAGIC, Catalog, Check, Json, Node, Placement, Spec, StepId
from orchestrator.ranges import fold
from orchestrator.spec import Places
from orchestrator.topology.values import UNKNOWN, UNSET, Known

__all__ = ["Checks", "ask_for_ports"]

_OF_NODE = frozenset({*MAGIC, "nics", "here"})
"""What makes the outcome differ between placements that have the same inputs."""

_OF_SITE = frozenset({"networks", "nodes", "placed", "outputs"})


class _UnknownError(Exception):
    """The expression asked for something that is not known yet."""


class _Fault(NamedTuple):
    role: str
    check: int
    message: str
    where: Location | None


def ask_for_ports(catalog: Catalog) -> bool:
    """Whether any check looks at the network ports of its node, which somebody has to fetch from the store then."""
    return any("nics" in expressions.names(check.that) for contract in catalog.values() for check in contract.checks)


class Checks:
    """Evaluates the checks of every placement. Holds caches."""

    def __init__(
        self, spec: Spec, catalog: Catalog, placements: Mapping[StepId, Placement], nics: Mapping[str, frozenset[str]]
    ) -> None:
        self._spec = spec
        self._catalog = catalog
        self._placements = placements
        self._nics = nics
        self._known = Known(spec, catalog, placements)
        self._places = Places(spec)
        self._answers: dict[tuple[str, int, int], str | None] = {}
        self._holding: dict[tuple[object, ...], bool] = {}
        self._broken: dict[tuple[str, int], Problem] = {}

    def problems(self) -> list[Problem]:
        """Return what is wrong, one problem for all nodes that have the same fault for the same reason."""
        faults: dict[_Fault, list[str]] = defaultdict(list)
        for placement in self._placements.values():
            for fault in self._faults(placement):
                faults[fault].append(placement.node)
        return [
            *(self._problem(fault, nodes) for fault, nodes in faults.items()),
            *(problem for _, problem in sorted(self._broken.items())),
        ]

    def _faults(self, placement: Placement) -> Iterator[_Fault]:
        contract = self._catalog[placement.role]
        for index, check in enumerate(contract.checks):
            message = self._message(placement, index, check)
            if message is not None:
                yield _Fault(placement.role, index, message, self._where(placement, check))

    def _message(self, placement: Placement, index: int, check: Check) -> str | None:
        """Return what is wrong, or None; asks once for all placements that cannot differ."""
        names = expressions.names(check.that) | expressions.template_names(check.message)
        if not names.isdisjoint(_OF_NODE):
            return self._asked(placement, index, check)
        key = (placement.role, index, id(placement.inputs))
        if key not in self._answers:
            self._answers[key] = self._asked(placement, index, check)
        return self._answers[key]

    def _asked(self, placement: Placement, index: int, check: Check) -> str | None:
        scope = _Scope(self._known, self._nics, placement, self._site)
        names = expressions.names(check.that)
        try:
            values = scope.values(names)
            return None if self._holds(placement.role, index, check, values) else scope.text(check.message)
        except _UnknownError:
            return None
        except EvaluationError as error:
            if names <= values.keys():  # else it is about an option that has no value
                self._broken.setdefault((placement.role, index), _cannot(placement, check, error))
            return None

    def _holds(self, role: str, index: int, check: Check, values: Mapping[str, Json]) -> bool:
        """Evaluate a check once for equal values; what it knows of the whole site is the same for all."""
        if "here" in values:
            return bool(evaluate(check.that, values))
        key = (role, index, *((name, repr(value)) for name, value in values.items() if name not in _OF_SITE))
        if key not in self._holding:
            self._holding[key] = bool(evaluate(check.that, values))
        return self._holding[key]

    def _problem(self, fault: _Fault, nodes: list[str]) -> Problem:
        check = self._catalog[fault.role].checks[fault.check]
        return Problem(
            code="topology.check",
            summary=f"role {fault.role} on {fold(nodes, 5)}: {fault.message}",
            where=fault.where,
            hint=check.hint,
        )

    def _where(self, placement: Placement, check: Check) -> Location | None:
        """Return where the option is set that the check is about; else where the role is placed."""
        node = self._spec.nodes[placement.node]
        if check.option and (found := self._places.variable(node, check.option)):
            return found
        return self._owner(placement.role, node)

    def _owner(self, role: str, node: Node) -> Location | None:
        for group in reversed(node.groups):
            if role in self._spec.groups[group].roles:
                return self._spec.groups[group].where
        return node.where

    @cached_property
    def _site(self) -> Mapping[str, Json]:
        """Return what an expression can know of the whole site."""
        return {
            "networks": {
                name: {"cidr": one.cidr, "gateway": one.gateway, "vlan": one.vlan, "mtu": one.mtu, "dns": list(one.dns)}
                for name, one in self._spec.networks.items()
            },
            "nodes": {
                name: {
                    "platform": node.platform,
                    "address": node.address,
                    "addresses": dict(node.addresses),
                    "groups": list(node.groups),
                }
                for name, node in self._spec.nodes.items()
            },
        }


class _Scope:
    """What one placement's checks can mention."""

    def __init__(
        self, known: Known, nics: Mapping[str, frozenset[str]], placement: Placement, site: Mapping[str, Json]
    ) -> None:
        self._known = known
        self._nics = nics
        self._placement = placement
        self._site = site
        self._functions: dict[str, Callable[..., Json]] = {
            "placed": known.placed,
            "outputs": self._outputs,
            "here": self._here,
        }

    def values(self, names: frozenset[str]) -> dict[str, Json]:
        """Return the values of names. Raises _UnknownError if one of them is not known, or has none."""
        found = {}
        for name in sorted(names):
            value = self._value(name)
            if value is UNKNOWN:
                raise _UnknownError
            if value is not UNSET:
                found[name] = value
        return found

    def text(self, template: str) -> str:
        """Return a message; what is not known is said to be so."""
        values = {name: self._value(name) for name in expressions.template_names(template)}
        shown = {name: "(not known yet)" if value is UNKNOWN else value for name, value in values.items()}
        try:
            return str(render(template, {name: value for name, value in shown.items() if value is not UNSET}))
        except (_UnknownError, EvaluationError):
            return template

    def _value(self, name: str) -> Json:
        if name in self._functions:
            return self._functions[name]
        if name in self._site:
            return self._site[name]
        if name == "nics":
            found = self._nics.get(self._placement.node)
            return UNKNOWN if found is None else sorted(found)
        return self._known.variable(self._placement, name)

    def _outputs(self, capability: str, output: str) -> Json:
        return _or_raise(self._known.outputs(capability, output))

    def _here(self, capability: str, output: str) -> Json:
        return _or_raise(self._known.outputs(capability, output, self._placement.node))


def _or_raise(value: Json) -> Json:
    if value is UNKNOWN:
        raise _UnknownError
    return value


def _cannot(placement: Placement, check: Check, error: EvaluationError) -> Problem:
    return Problem(
        code="topology.check-fails",
        summary=f"a check of role {placement.role} cannot be evaluated for {placement.node}: {error}",
        where=check.where,
        detail=(check.that,),
        hint="correct the expression in the role's contract",
    )
