"""The comparison of what should be with what was done last: a step for each difference, with its reasons.

A placement is a no-op when the fingerprint of (role files, resolved inputs, platform) equals that of its last success.
An input that is the output of a step of this plan is known after apply; its consumer is planned as an update, and the
scheduler records it ok without running it when the value turns out as last time. Not so where the output cannot change:
the role is the same and none of the variables that decide the output did.

Life-cycle steps of bare metal are not compared: what is to do follows from the phase that the node's machine is in
(`lifecycle.pending`). A node whose machine a rule over hardware chooses, and that has none yet, gets only its
discovery; whatever needs it is left to the next plan, and this one is not complete.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import NamedTuple

from orchestrator import graph, lifecycle
from orchestrator.carrying import Choice, Chooser
from orchestrator.collector import paused
from orchestrator.fingerprint import digest_of, fingerprint, is_known
from orchestrator.model import (
    METAL,
    PUSH,
    Action,
    Barrier,
    BarrierId,
    Connection,
    Contract,
    Fingerprint,
    Json,
    MachineState,
    Node,
    OutputRef,
    Placement,
    PlacementState,
    Plan,
    PlanNode,
    PlanRole,
    Rollout,
    Share,
    Snapshot,
    Step,
    StepId,
    Topology,
    Value,
)
from orchestrator.plan.document import signed
from orchestrator.plan.quorum import down, members
from orchestrator.plan.select import Selection
from orchestrator.plan.stages import destroyed, reasons
from orchestrator.templates import mentioned
from orchestrator.variables import Variables, visible

__all__ = ["make", "make_check", "resolve_value"]

_EVERYTHING = Selection()
_ONE_BY_ONE = Rollout(first=Share(count=1), then=Share(count=1), stop_after=1)
"""What a role with a quorum gets when nobody asks for a roll-out."""


@paused()
def make(
    topology: Topology,
    snapshot: Snapshot,
    selection: Selection = _EVERYTHING,
    chosen: Mapping[str, str] | None = None,
) -> Plan:
    """Return the plan that takes the site from `snapshot` to `topology`.

    `chosen` are the machines that rules choose for nodes which have none (`matching.assign`), by node.
    Deterministic: equal arguments give an equal plan, down to its id.
    """
    comparison = _Comparison(topology, snapshot, chosen or {})
    steps = comparison.pending()
    unchanged = len(topology.placements) - len(steps) - len(comparison.deferred)
    barriers = comparison.barriers(steps)
    steps.update(_removals(topology, snapshot, barriers))
    if selection:
        steps, barriers = _narrow(steps, barriers, selection, topology, snapshot)
    return _assemble(topology, snapshot, steps, barriers, selection, unchanged, comparison)


@paused()
def make_check(topology: Topology, snapshot: Snapshot, selection: Selection = _EVERYTHING) -> Plan:
    """Return a plan that runs what was applied before in check mode: nothing needs anything, nothing changes."""
    comparison = _Comparison(topology, snapshot)
    pending = comparison.pending()
    steps = {}
    for placement in topology.placements.values():
        state = snapshot.placements.get(placement.id)
        node = topology.spec.nodes[placement.node]
        if placement.role in lifecycle.STAGES:
            continue  # nothing that Ansible's check mode could ask
        if not state or not state.digest or not selection.matches(node.name, node.groups, placement.role):
            continue
        resolved = comparison.resolved(placement.inputs)
        if resolved.unknown:
            continue  # what it consumes has to be applied first; the plan says so
        executor, why = comparison.choose(placement, resolved.values)
        reason = "applied before, may have drifted" if placement.id not in pending else "has changes to apply as well"
        steps[placement.id] = Step(
            id=placement.id,
            action=Action.CHECK,
            role=placement.role,
            node=placement.node,
            reasons=(reason,),
            inputs=resolved.values,
            last=state.digest,
            expected_s=snapshot.durations.get(placement.role, 0.0),
            executor=executor,
            executor_reason=why,
        )
    unchecked = len(topology.placements) - len(steps)
    return _assemble(topology, snapshot, steps, {}, selection, unchecked, None)


class _Resolved(NamedTuple):
    values: Mapping[str, Value]
    unknown: tuple[str, ...]  # inputs known after apply


class _Comparison:
    """Walks the placements, providers first. Holds caches: placements that share inputs share the work."""

    def __init__(self, topology: Topology, snapshot: Snapshot, chosen: Mapping[str, str] | None = None) -> None:
        self._topology = topology
        self._snapshot = snapshot
        self._steps: dict[StepId, Step] = {}
        self._changing: dict[StepId, frozenset[str] | None] = {}  # inputs that may differ from last time; None: all
        self._resolved: dict[int, _Resolved] = {}
        self._digests: dict[tuple[str, str, int], tuple[str, Fingerprint]] = {}
        self._chooser = Chooser(topology.spec.policy.executors)
        self._known_nodes = {state.node for state in snapshot.placements.values()}
        self.fingerprints: dict[str, Fingerprint] = {}
        metal = [node for node in topology.spec.nodes.values() if node.profile]
        self._machines = lifecycle.of_nodes(metal, snapshot.machines)
        self._machines.update({node: snapshot.machines[key] for node, key in (chosen or {}).items()})
        self._installs = {node.name for node in metal if "install" in lifecycle.pending(self._machines.get(node.name))}
        self.undiscovered = tuple(
            sorted(n.name for n in metal if n.match and not (n.mac or n.serial or n.name in self._machines))
        )
        self._blind = frozenset(self.undiscovered)
        self.deferred: set[StepId] = set()

    def pending(self) -> dict[StepId, Step]:
        placements = self._topology.placements
        edges: dict[str, tuple[str, ...]] = {p.id: (*p.needs, *p.after) for p in placements.values()}
        edges.update({key: binding.providers for key, binding in self._topology.bindings.items()})
        for item in graph.order(graph.build(edges)):
            placement = placements.get(StepId(item))
            if placement is None:
                continue
            if self._must_wait(placement):
                self.deferred.add(placement.id)
            elif step := self._stage(placement) if placement.role in lifecycle.STAGES else self._step(placement):
                self._steps[placement.id] = step
        return {key: self._linked(self._steps[key]) for key in sorted(self._steps)}

    def _must_wait(self, placement: Placement) -> bool:
        """Whether a placement cannot be planned before hardware is known that it, or what it needs, runs on."""
        if not self._blind:
            return False
        if placement.node in self._blind:
            return placement.role != "discover"
        providers = (p for name in placement.needs for p in self._topology.bindings[name].providers)
        return any(provider in self.deferred for provider in providers)

    def _stage(self, placement: Placement) -> Step | None:
        """Return a life-cycle step, if the phase of the node's machine leaves it to be done."""
        machine = self._machines.get(placement.node)
        if placement.role not in lifecycle.pending(machine):
            return None
        self._changing[placement.id] = None
        done = self._snapshot.placements.get(placement.id)
        return Step(
            id=placement.id,
            action=Action.UPDATE if done and done.digest else Action.CREATE,
            role=placement.role,
            node=placement.node,
            reasons=reasons(self._topology.spec.nodes[placement.node], machine),
            inputs=self._told(placement, machine),
            needs=placement.needs,
            after=placement.after,
            destroys=destroyed(self._topology.spec, placement.node) if placement.role == "install" else "",
            expected_s=self._snapshot.durations.get(placement.role, 0.0),
            executor=METAL,
        )

    def _told(self, placement: Placement, machine: MachineState | None) -> Mapping[str, Value]:
        """Return a stage's inputs; with the machine that a rule chose, which nothing else names."""
        node = self._topology.spec.nodes[placement.node]
        if machine is None or node.mac or node.serial:
            return placement.inputs
        key = id(placement.inputs)
        if key not in self._resolved:
            self._resolved[key] = _Resolved({**placement.inputs, "machine": machine.id}, ())
        return self._resolved[key].values

    def barriers(self, steps: Mapping[StepId, Step]) -> dict[str, Barrier]:
        """Return the barriers that the steps name."""
        named = {need for step in steps.values() for need in (*step.needs, *step.after)} - set(steps)
        found = {}
        for name in sorted(named):
            binding = self._topology.bindings[BarrierId(name)]
            waiting = tuple(provider for provider in binding.providers if provider in steps)
            found[name] = Barrier(id=binding.id, capability=binding.capability, needs=waiting)
        return found

    def resolved(self, inputs: Mapping[str, Value]) -> _Resolved:
        """Return inputs with the outputs of settled placements filled in; equal inputs give the same mapping."""
        if id(inputs) not in self._resolved:
            values = {name: resolve_value(value, self._output) for name, value in inputs.items()}
            unknown = tuple(name for name, value in values.items() if not is_known(value))
            same = all(values[name] is value for name, value in inputs.items())
            self._resolved[id(inputs)] = _Resolved(inputs if same else values, unknown)
        return self._resolved[id(inputs)]

    def choose(self, placement: Placement, values: Mapping[str, Value]) -> Choice:
        contract = self._topology.catalog[placement.role]
        return self._chooser.choose(contract, self._topology.spec.nodes[placement.node], values)

    def _output(self, provider: StepId, output: str) -> tuple[bool, Json]:
        state = self._snapshot.placements.get(provider)
        if state is None or output not in state.outputs:
            return False, None
        if provider in self._steps and not self._keeps(self._steps[provider], output):
            return False, None
        return True, state.outputs[output]

    def _keeps(self, provider: Step, output: str) -> bool:
        """Whether a step that will run must publish the same output as last time."""
        changing = self._changing[provider.id]
        declared = self._topology.catalog[provider.role].outputs.get(output)
        if changing is None or declared is None or declared.depends is None:
            return False
        reached = visible(declared.depends, provider.inputs)
        return changing.isdisjoint(declared.depends.union(*(mentioned(value) for value in reached.values())))

    def _step(self, placement: Placement) -> Step | None:
        state = self._snapshot.placements.get(placement.id)
        contract = self._topology.catalog[placement.role]
        platform = self._topology.spec.nodes[placement.node].platform
        resolved = self.resolved(placement.inputs)
        digest, print_ = "", None
        if not resolved.unknown:
            digest, print_ = self._digest(contract, platform, resolved.values)
            if state and state.settled and state.digest == digest and placement.node not in self._installs:
                return None
            self.fingerprints[digest] = print_
        self._changing[placement.id] = self._differing(state, contract, platform, resolved, print_)
        executor, why = self.choose(placement, resolved.values)
        return Step(
            id=placement.id,
            action=Action.UPDATE if state and state.digest else Action.CREATE,
            role=placement.role,
            node=placement.node,
            reasons=self._reasons(placement, state, contract, platform, resolved, print_),
            inputs=resolved.values,
            needs=placement.needs,
            after=placement.after,
            digest=digest,
            last=state.digest if state and state.settled and placement.node not in self._installs else "",
            expected_s=self._snapshot.durations.get(placement.role, 0.0),
            executor=executor,
            executor_reason=why,
        )

    def _differing(
        self,
        state: PlacementState | None,
        contract: Contract,
        platform: str,
        resolved: _Resolved,
        now: Fingerprint | None,
    ) -> frozenset[str] | None:
        before = self._snapshot.fingerprints.get(state.digest) if state and state.status.good else None
        if before is None or before.role != contract.digest or before.platform != platform:
            return None
        now = now or fingerprint(contract.digest, platform, _known(resolved))
        names = {*before.inputs, *now.inputs, *resolved.unknown}
        return frozenset(name for name in names if before.inputs.get(name) != now.inputs.get(name))

    def _digest(self, contract: Contract, platform: str, values: Mapping[str, Value]) -> tuple[str, Fingerprint]:
        key = (contract.digest, platform, id(values))
        if key not in self._digests:
            print_ = fingerprint(contract.digest, platform, values)
            self._digests[key] = (digest_of(print_), print_)
        return self._digests[key]

    def _reasons(
        self,
        placement: Placement,
        state: PlacementState | None,
        contract: Contract,
        platform: str,
        resolved: _Resolved,
        now: Fingerprint | None,
    ) -> tuple[str, ...]:
        if placement.node in self._installs:
            return ("its system is installed",)
        if state is None:
            return ("new node",) if placement.node not in self._known_nodes else ("new placement",)
        reasons = [] if state.status.good else [f"last run {state.status}"]
        if state.drifted_at:
            reasons.append("drifted: the last check found the host changed")
        before = self._snapshot.fingerprints.get(state.digest)
        if before is None:
            return tuple(reasons) or ("never succeeded",)
        now = now or fingerprint(contract.digest, platform, _known(resolved))
        reasons += _differences(before, now, resolved.unknown)
        for name in resolved.unknown:
            reasons.append(f"input {name} known after apply of {_waited(resolved.values[name])}")
        return tuple(reasons)

    def _linked(self, step: Step) -> Step:
        """Replace bindings by what is pending of them: nothing, the one step, or the barrier."""
        return replace(step, needs=self._targets(step.needs), after=self._targets(step.after))

    def _targets(self, bindings: Iterable[str]) -> tuple[str, ...]:
        targets: list[str] = []
        for name in bindings:
            waiting = [p for p in self._topology.bindings[BarrierId(name)].providers if p in self._steps]
            targets += [waiting[0]] if len(waiting) == 1 else [name] if waiting else []
        return tuple(dict.fromkeys(targets))


def resolve_value(value: Value, output: Callable[[StepId, str], tuple[bool, Json]]) -> Value:
    """Return the value, or for a reference to outputs that `output` all knows, what they are.

    A reference is always a whole input, never a part of one.
    """
    if not isinstance(value, OutputRef):
        return value
    found = [output(provider, value.output) for provider in value.providers]
    if not all(known for known, _ in found):
        return value
    return [item for _, item in found] if value.collect == "list" else found[0][1]


def _known(resolved: _Resolved) -> dict[str, Value]:
    return {name: value for name, value in resolved.values.items() if name not in resolved.unknown}


def _waited(value: Value) -> str:
    return ", ".join(value.providers[:3]) if isinstance(value, OutputRef) else "another step"


def _differences(before: Fingerprint, now: Fingerprint, unknown: tuple[str, ...]) -> list[str]:
    reasons = []
    if before.role != now.role:
        reasons.append("role files changed")
    if before.platform != now.platform:
        reasons.append(f"platform changed from {before.platform} to {now.platform}")
    for name in sorted({*before.inputs, *now.inputs} - set(unknown)):
        if name not in now.inputs:
            reasons.append(f"input {name} no longer set")
        elif name not in before.inputs:
            reasons.append(f"input {name} newly set")
        elif before.inputs[name] != now.inputs[name]:
            reasons.append(f"input {name} changed")
    return reasons


def _removals(topology: Topology, snapshot: Snapshot, barriers: dict[str, Barrier]) -> dict[StepId, Step]:
    """Return the removal of each placement that the spec no longer has; consumers go before their providers."""
    gone = [state for key, state in sorted(snapshot.placements.items()) if key not in topology.placements]
    by_role: dict[str, list[StepId]] = defaultdict(list)
    for state in gone:
        by_role[state.role].append(state.id)
    after: dict[str, tuple[str, ...]] = {}
    for role in by_role:
        consumers = [other for other in by_role if _consumes(topology, other, role) and other != role]
        after[role] = tuple(f"removed<{other}" for other in consumers)
        for other in consumers:
            name = BarrierId(f"removed<{other}")
            barriers[name] = Barrier(id=name, capability="removed", needs=tuple(by_role[other]))
    variables = Variables(topology.spec)
    chooser = Chooser(topology.spec.policy.executors)
    return {state.id: _removal(topology, snapshot, state, after[state.role], variables, chooser) for state in gone}


def _consumes(topology: Topology, consumer: str, provider: str) -> bool:
    one, other = topology.catalog.get(consumer), topology.catalog.get(provider)
    return bool(one and other and {r.capability for r in one.requires} & set(other.provides))


def _removal(
    topology: Topology,
    snapshot: Snapshot,
    state: PlacementState,
    after: tuple[str, ...],
    variables: Variables,
    chooser: Chooser,
) -> Step:
    contract = topology.catalog.get(state.role)
    node = topology.spec.nodes.get(state.node)
    inputs: dict[str, Value] = {}
    if contract:
        values = variables.of_name(state.node)
        inputs = _last_wired(topology, snapshot, state, contract, variables)
        inputs |= visible({*contract.options, *contract.references}, values)
    if node is None:
        reason = "node no longer in the spec"
    elif contract is None:
        reason = "role no longer in the catalogue"
    else:
        reason = "no longer placed here by the spec"
    if contract is None or not contract.removable:
        reason += "; nothing runs on the host, it is only forgotten"
    executor, why = Choice(PUSH, "role no longer in the catalogue")
    if contract:
        executor, why = chooser.choose(contract, node or _plan_node(None, state.node, snapshot), inputs)
    return Step(
        id=state.id,
        action=Action.REMOVE,
        role=state.role,
        node=state.node,
        reasons=(reason,),
        inputs=inputs,
        after=after,
        last=state.digest,
        destroys=contract.destroys if contract and contract.removable else "",
        executor=executor,
        executor_reason=why,
    )


def _last_wired(
    topology: Topology, snapshot: Snapshot, state: PlacementState, contract: Contract, variables: Variables
) -> dict[str, Value]:
    """Return the wired inputs of a placement that is in no topology any more, from what its providers last published.

    A role that goes may have to sign off elsewhere, as an OpenStack service does in Keystone's catalogue.
    """
    found: dict[str, Value] = {}
    for name, wire in contract.inputs.items():
        providers = sorted(
            (other for other in snapshot.placements.values() if _provides(topology, other.role, wire.capability)),
            key=lambda other: (other.node != state.node, other.id),
        )
        if not providers:
            continue
        declared = topology.catalog[providers[0].role].outputs.get(wire.output)
        if declared and declared.secret:
            found[name] = variables.followed(providers[0].node, declared.secret)
        elif published := [other.outputs[wire.output] for other in providers if wire.output in other.outputs]:
            found[name] = published if wire.collect == "list" else published[0]
    return {name: value for name, value in found.items() if value is not None}


def _provides(topology: Topology, role: str, capability: str) -> bool:
    contract = topology.catalog.get(role)
    return bool(contract and capability in contract.provides)


def _narrow(
    steps: dict[StepId, Step],
    barriers: dict[str, Barrier],
    selection: Selection,
    topology: Topology,
    snapshot: Snapshot,
) -> tuple[dict[StepId, Step], dict[str, Barrier]]:
    """Keep the chosen steps and whatever they need; order-only edges pull nothing in."""

    def groups(name: str) -> tuple[str, ...]:
        if node := topology.spec.nodes.get(name):
            return node.groups
        state = snapshot.nodes.get(name)
        return state.node.groups if state else ()

    chosen = {key for key, step in steps.items() if selection.matches(step.node, groups(step.node), step.role)}
    edges: dict[str, tuple[str, ...]] = {key: step.needs for key, step in steps.items()}
    edges.update({key: barrier.needs for key, barrier in barriers.items()})
    wanted = chosen | graph.ancestors(graph.build(edges), chosen)
    kept = {}
    for key, step in steps.items():
        if key not in wanted:
            continue
        reasons = step.reasons if key in chosen else (*step.reasons, "needed by the selection")
        after = tuple(a for a in step.after if a in wanted or (a in barriers and set(barriers[a].needs) & wanted))
        kept[key] = replace(step, reasons=reasons, after=after)
    named = {need for step in kept.values() for need in (*step.needs, *step.after)}
    return kept, {
        key: replace(barrier, needs=tuple(need for need in barrier.needs if need in kept))
        for key, barrier in barriers.items()
        if key in named
    }


def _assemble(
    topology: Topology,
    snapshot: Snapshot,
    steps: Mapping[StepId, Step],
    barriers: Mapping[str, Barrier],
    selection: Selection,
    unchanged: int,
    comparison: _Comparison | None,
) -> Plan:
    used_nodes = sorted({step.node for step in steps.values()})
    used_roles = sorted({step.role for step in steps.values()})
    used_prints = sorted({step.digest for step in steps.values() if step.digest})
    return signed(
        Plan(
            id="",
            site=topology.spec.site,
            base_revision=snapshot.revision,
            spec_digest=topology.spec.digest,
            complete=not (comparison and comparison.undiscovered),
            steps=tuple(steps[key] for key in sorted(steps)),
            barriers=tuple(barriers[key] for key in sorted(barriers)),
            nodes={name: _plan_node(topology.spec.nodes.get(name), name, snapshot) for name in used_nodes},
            roles={role: _plan_role(topology, role, snapshot) for role in used_roles},
            policy=topology.spec.policy,
            unchanged=unchanged,
            total_nodes=len({*topology.spec.nodes, *used_nodes}),
            selection=selection.words(),
            undiscovered=comparison.undiscovered if comparison else (),
            deferred=len(comparison.deferred) if comparison else 0,
            fingerprints={digest: comparison.fingerprints[digest] for digest in used_prints} if comparison else {},
        )
    )


def _plan_node(node: Node | None, name: str, snapshot: Snapshot) -> PlanNode:
    if node is None:
        state = snapshot.nodes.get(name)
        return state.node if state else PlanNode(name=name, platform="", address="", connection=Connection())
    return PlanNode(
        name=node.name,
        platform=node.platform,
        address=node.address,
        connection=node.connection,
        groups=node.groups,
        addresses=node.addresses,
    )


def _plan_role(topology: Topology, role: str, snapshot: Snapshot) -> PlanRole:
    contract = topology.catalog.get(role)
    if contract is None:
        return PlanRole(name=role, digest="")
    quorum = contract.cardinality.quorum
    return PlanRole(
        name=role,
        digest=contract.digest,
        outputs={name: output.value for name, output in contract.outputs.items() if not output.secret},
        facts=contract.facts,
        rollout=topology.spec.policy.rollout.get(role, contract.rollout or (_ONE_BY_ONE if quorum else None)),
        removable=contract.removable,
        includes=contract.includes,
        members=members(role, snapshot) if quorum else (),
        down=down(role, snapshot) if quorum else {},
    )
