"""Small sites and catalogues built from the model's own types: no file, no clock, no Ansible."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from orchestrator.model import (
    Action,
    Cardinality,
    Catalog,
    Contract,
    Count,
    Group,
    Node,
    Option,
    Outcome,
    Output,
    PlacementState,
    Plan,
    Policy,
    Requirement,
    Scope,
    Snapshot,
    Spec,
    Status,
    Topology,
    Wire,
)
from orchestrator.schedule import Schedule, Verdict
from orchestrator.topology import resolve


def role(
    name: str,
    *,
    provides: Iterable[str] = (),
    requires: Iterable[str | Requirement] = (),
    inputs: Mapping[str, Wire] | None = None,
    outputs: Iterable[str] = (),
    options: Iterable[str | Option] = (),
    **rest: object,
) -> Contract:
    """Return a contract; `requires` takes "capability" or "capability/node", outputs and options take names."""
    wires = dict(inputs or {})
    declared = [o if isinstance(o, Option) else Option(name=o) for o in options] + [
        Option(name=o, type="raw") for o in wires
    ]
    return Contract(
        role=name,
        digest=str(rest.pop("digest", f"digest-of-{name}")),
        provides=tuple(provides),
        requires=tuple(r if isinstance(r, Requirement) else requirement(r) for r in requires),
        inputs=wires,
        outputs={o: Output(name=o, value="{{ " + o + " }}") for o in outputs},
        options={option.name: option for option in declared},
        **rest,  # type: ignore[arg-type]
    )


def requirement(text: str) -> Requirement:
    capability, _, scope = text.partition("/")
    return Requirement(capability=capability, scope=Scope(scope or "site"))


def catalog(*contracts: Contract) -> Catalog:
    return {contract.role: contract for contract in contracts}


def site(
    groups: Mapping[str, Iterable[str]],
    nodes: Mapping[str, Iterable[str]],
    *,
    variables: Mapping[str, Mapping[str, object]] | None = None,
    node_vars: Mapping[str, Mapping[str, object]] | None = None,
    bindings: Mapping[str, Mapping[str, tuple[str, ...]]] | None = None,
    policy: Policy | None = None,
) -> Spec:
    """Return a spec: group -> roles, node -> groups."""
    given = variables or {}
    chosen = bindings or {}
    all_groups = {"all": (), **groups}
    return Spec(
        site="test",
        networks={},
        profiles={},
        groups={
            name: Group(name=name, roles=tuple(roles), vars=given.get(name, {}), bindings=chosen.get(name, {}))
            for name, roles in all_groups.items()
        },
        nodes={
            name: Node(
                name=name,
                address=f"10.0.{number // 250}.{number % 250 + 1}",
                groups=("all", *sorted(member)),
                vars=(node_vars or {}).get(name, {}),
            )
            for number, (name, member) in enumerate(nodes.items())
        },
        policy=policy or Policy(),
        digest="spec",
    )


ONE = Cardinality(per=Scope.SITE, count=Count(least=0, most=1))


def small_catalog() -> Catalog:
    """base on every node, a database, a service that wires the database's address, a consumer on every compute."""
    return catalog(
        role("base", provides=["os.base"], options=["base_zone"]),
        role("db", provides=["database"], requires=["os.base/node"], outputs=["db_host"], cardinality=ONE),
        role(
            "api",
            provides=["api"],
            requires=["os.base/node", "database"],
            inputs={"api_db": Wire(capability="database", output="db_host")},
            outputs=["api_url"],
            options=["api_debug"],
        ),
        role(
            "agent",
            requires=["os.base/node", "api"],
            inputs={"agent_url": Wire(capability="api", output="api_url")},
            options=["agent_size"],
        ),
    )


def small_site(computes: int = 2, **rest: object) -> Spec:
    nodes = {"ctl-1": ["linux", "controller"]}
    nodes |= {f"kvm-{number}": ["linux", "compute"] for number in range(1, computes + 1)}
    return site({"linux": ["base"], "controller": ["db", "api"], "compute": ["agent"]}, nodes, **rest)  # type: ignore[arg-type]


def small_topology(computes: int = 2, contracts: Catalog | None = None, **rest: object) -> Topology:
    return resolve(small_site(computes, **rest), contracts or small_catalog())


OUTPUTS = {"db": {"db_host": "10.0.0.1"}, "api": {"api_url": "http://10.0.0.1"}}
"""What the roles of `small_catalog` publish."""


def after_success(
    plan: Plan, snapshot: Snapshot | None = None, outputs: Mapping[str, Mapping[str, object]] = OUTPUTS
) -> Snapshot:
    """Return the snapshot after every step of the plan succeeded, as the apply loop would leave it."""
    before = snapshot or Snapshot()
    schedule = Schedule(plan, outputs={k: s.outputs for k, s in before.placements.items()})
    placements = dict(before.placements)
    fingerprints = dict(before.fingerprints)
    while not schedule.done:
        decision = schedule.next(0.0)
        runs = [(batch, run) for batch in decision.batches for run in batch.runs]
        for batch, run in runs:
            role = batch.role.name
            produced = {} if batch.action is Action.REMOVE else outputs.get(role, {})
            outcome = Outcome(step=run.step, status=Status.CHANGED, outputs=produced)
            schedule.record(Verdict(outcome=outcome), 0.0)
            placements[run.step] = PlacementState(
                id=run.step, role=role, node=run.node.name, status=Status.CHANGED, digest=run.digest, outputs=produced
            )
            if run.fingerprint:
                fingerprints[run.digest] = run.fingerprint
    for step in plan.steps:
        if step.action is Action.REMOVE:
            del placements[step.id]
    return Snapshot(revision=before.revision + 1, placements=placements, fingerprints=fingerprints)


def with_digest(contracts: Catalog, name: str, digest: str) -> Catalog:
    return {**contracts, name: replace(contracts[name], digest=digest)}
