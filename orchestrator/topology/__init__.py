"""Who runs what, bound to whom, with which inputs: Spec + Catalog -> Topology, or every problem at once.

placing.py   roles of groups and nodes -> (role, node) pairs; platforms, cardinality, quorum
binding.py   capabilities -> providers, nearest scope first; missing and surplus providers, cycles
inputs.py    variables and wires -> the values each placement gets; missing and wrong values
values.py    what those values are as far as anybody can know before a role ran
checks.py    the contracts' checks, evaluated on these
metal.py     the life-cycle steps of bare metal, as roles of Halligan's own
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from orchestrator.collector import paused
from orchestrator.errors import Problem, ProblemsError
from orchestrator.model import Catalog, Placement, Spec, Topology
from orchestrator.topology.binding import Binder, cycle_problem
from orchestrator.topology.checks import Checks, ask_for_ports
from orchestrator.topology.inputs import Inputs
from orchestrator.topology.metal import with_stages
from orchestrator.topology.placing import place

__all__ = ["ask_for_ports", "resolve", "wanted_secrets"]


@paused()
def resolve(spec: Spec, catalog: Catalog, nics: Mapping[str, frozenset[str]] = MappingProxyType({})) -> Topology:
    """Return the site's topology; `nics` are the network ports of each node whose hardware is known, for checks.

    Deterministic: the same spec and catalogue give the same placements in the same order, sorted by id.

    Raises:
        ProblemsError: unknown roles, wrong platforms, counts out of range, capabilities without provider or with
            too many, dependency cycles, missing or wrong inputs, broken checks; all of them together.
    """
    problems: list[Problem] = []
    catalog = with_stages(spec, catalog)
    pairs = place(spec, catalog, problems)
    binder = Binder(spec, catalog, pairs, problems)
    bound = {pair: binder.bind(pair) for pair in pairs}
    if found := cycle_problem(bound, binder.bindings):
        problems.append(found)
    inputs = Inputs(spec, catalog, binder, problems)
    placements = [
        Placement(id=pair.id, role=pair.role, node=pair.node, inputs=inputs.of(pair), needs=needs, after=after)
        for pair, (needs, after) in bound.items()
    ]
    problems.extend(inputs.problems())
    problems.extend(Checks(spec, catalog, {placement.id: placement for placement in placements}, nics).problems())
    if any(problem.severity == "error" for problem in problems):
        raise ProblemsError([*spec.problems, *problems])
    topology = Topology(
        spec=spec,
        catalog=catalog,
        placements={placement.id: placement for placement in sorted(placements, key=lambda p: p.id)},
        bindings=dict(sorted(binder.bindings.items())),
    )
    return replace(topology, problems=(*spec.problems, *problems))


def wanted_secrets(spec: Spec, catalog: Catalog) -> tuple[str, ...]:
    """Return the secret options that placed roles require and nothing sets, whatever else is wrong with the site."""
    ignored: list[Problem] = []
    catalog = with_stages(spec, catalog)
    pairs = place(spec, catalog, ignored)
    inputs = Inputs(spec, catalog, Binder(spec, catalog, pairs, ignored), ignored)
    for pair in pairs:
        inputs.of(pair)
    return inputs.missing_secrets()
