"""What the values of placements are as far as they are known before anything runs, templates and outputs included.

A value is unknown when it is secret, when only the host can tell (facts, results of tasks), or when a template needs
what the sandbox does not have. Whatever is made from it is unknown, too.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping
from typing import Final

from orchestrator.catalog import check_value, names_of
from orchestrator.expressions import EvaluationError, render, template_names
from orchestrator.model import (
    MAGIC,
    Catalog,
    Json,
    Option,
    OutputRef,
    Placement,
    SecretRef,
    Spec,
    StepId,
    Value,
)
from orchestrator.templates import has_template
from orchestrator.variables import Variables

__all__ = ["UNKNOWN", "UNSET", "Known", "Unknown"]


class Unknown:
    """Stands for a value that nobody knows yet."""


class Unset:
    """Stands for an option that has no value and no default."""


UNKNOWN: Final = Unknown()
UNSET: Final = Unset()


class Known:
    """Works values out; holds caches, since most placements share their inputs."""

    def __init__(self, spec: Spec, catalog: Catalog, placements: Mapping[StepId, Placement]) -> None:
        self._catalog = catalog
        self._spec = spec
        self._placements = placements
        self._magic = Variables(spec)
        self._variables: dict[tuple[str, int, str], Json] = {}
        self._outputs: dict[tuple[StepId, str], Json] = {}
        self._all: dict[tuple[str, str], Json] = {}
        self._open: set[tuple[object, ...]] = set()  # being worked out: meeting one of them again is a circle
        self._providers: dict[str, list[Placement]] = defaultdict(list)
        for placement in placements.values():
            for capability in catalog[placement.role].provides:
                self._providers[capability].append(placement)

    def variable(self, placement: Placement, name: str) -> Json:
        """Return the value of an option or variable of a placement's role; UNKNOWN or UNSET if it has none."""
        if name in MAGIC:
            return self._magic.magic(self._spec.nodes[placement.node])[name]
        key = (placement.role, id(placement.inputs), name)
        if key in self._open:
            return UNKNOWN
        if key not in self._variables:
            self._open.add(key)
            self._variables[key] = self._variable(placement, name)
            self._open.remove(key)
        return self._variables[key]

    def output(self, step: StepId, name: str) -> Json:
        """Return an output of a placement as it will be published, or UNKNOWN."""
        placement = self._placements.get(step)
        declared = self._catalog[placement.role].outputs.get(name) if placement else None
        if placement is None or declared is None or declared.secret:
            return UNKNOWN
        if (step, name) not in self._outputs:
            self._outputs[step, name] = self._settled(placement, declared.value)
        return self._outputs[step, name]

    def outputs(self, capability: str, name: str, node: str = "") -> Json:
        """Return that output of every placement that provides a capability and gives it, in the order of their ids.

        `node` leaves those of other nodes out. UNKNOWN if any of them is.
        """
        if node:
            return self._collected([p for p in self._providers[capability] if p.node == node], name)
        if (capability, name) not in self._all:
            self._all[capability, name] = self._collected(self._providers[capability], name)
        return self._all[capability, name]

    def placed(self, capability: str) -> list[str]:
        """Return the nodes on which a capability is provided, sorted."""
        return sorted({placement.node for placement in self._providers[capability]})

    def _collected(self, providers: Collection[Placement], name: str) -> Json:
        found = [
            self.output(placement.id, given)
            for placement in sorted(providers, key=lambda p: p.id)
            if (given := names_of(self._catalog[placement.role]).get(name))
        ]
        return UNKNOWN if UNKNOWN in found else found

    def _variable(self, placement: Placement, name: str) -> Json:
        contract = self._catalog[placement.role]
        option = contract.options.get(name)
        if option is None:
            if name in contract.variables:
                return self._settled(placement, contract.variables[name])
            return self._settled(placement, placement.inputs[name]) if name in placement.inputs else UNKNOWN
        if option.secret:
            return UNKNOWN
        if name in placement.inputs:
            return self._fitting(option, self._settled(placement, placement.inputs[name]))
        return UNSET if option.default is None else self._fitting(option, self._settled(placement, option.default))

    def _fitting(self, option: Option, value: Json) -> Json:
        """Return a value as its option's type; UNKNOWN for one that is wrong, which is reported elsewhere."""
        if value is UNKNOWN or value is UNSET:
            return value
        if check_value(option, value):
            return UNKNOWN
        return _veiled(option, _typed(option, value))

    def _settled(self, placement: Placement, value: Value) -> Json:
        """Return a value with everything in it worked out."""
        match value:
            case SecretRef():
                return UNKNOWN
            case OutputRef():
                return self._referred(value)
            case str() if has_template(value):
                return self._rendered(placement, value)
            case Mapping() | list() | tuple():
                return self._parts(placement, value)
        return value

    def _referred(self, reference: OutputRef) -> Json:
        found = [self.output(provider, reference.output) for provider in reference.providers]
        if reference.collect != "list":
            return found[0]
        return UNKNOWN if UNKNOWN in found else found

    def _parts(self, placement: Placement, value: Value) -> Json:
        """Return a list or mapping with its parts worked out; a secret in it stays the reference that it is."""
        parts = value.values() if isinstance(value, Mapping) else value
        found = [part if isinstance(part, SecretRef) else self._settled(placement, part) for part in parts]
        if UNKNOWN in found:
            return UNKNOWN
        return dict(zip(value, found, strict=True)) if isinstance(value, Mapping) else found

    def _rendered(self, placement: Placement, template: str) -> Json:
        try:
            values = {name: self.variable(placement, name) for name in sorted(template_names(template))}
            if UNKNOWN in values.values():
                return UNKNOWN
            return render(template, {name: value for name, value in values.items() if value is not UNSET})
        except (EvaluationError, ValueError):
            return UNKNOWN


def _typed(option: Option, value: Json) -> Json:
    """Return a value that suits its option as Ansible would convert it."""
    match option.type, value:
        case "int", str() | float():
            return int(float(value))
        case "float", str() | int():
            return float(value)
        case "bool", str():
            return value.strip().lower() in ("true", "t", "yes", "y", "on", "1", "1.0")
        case "list", str():
            return [part.strip() for part in value.split(",")] if value else []
    return value


def _veiled(option: Option, value: Json) -> Json:
    """Return a value without the secrets that it holds in the clear."""
    match value:
        case Mapping() if option.options:
            return {
                key: _veiled(option.options[key], item) if key in option.options else item
                for key, item in value.items()
                if not (key in option.options and option.options[key].secret)
            }
        case list() | tuple() if option.options:
            return [_veiled(option, item) for item in value]
    return value
