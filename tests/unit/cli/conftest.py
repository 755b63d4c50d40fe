"""Plans for the views: a small mixed one that a person can read, and a big one that a person cannot."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable

import pytest

from orchestrator.model import (
    CARRY,
    PUSH,
    Action,
    Barrier,
    BarrierId,
    Connection,
    Plan,
    PlanNode,
    PlanRole,
    Policy,
    Step,
    StepId,
)


def make_plan(
    steps: Iterable[Step],
    barriers: Iterable[Barrier] = (),
    groups: dict[str, tuple[str, ...]] | None = None,
    **changes: object,
) -> Plan:
    """Return a plan of the steps; its nodes and roles are those that the steps name."""
    steps = tuple(steps)
    nodes = sorted({step.node for step in steps})
    values: dict[str, object] = {
        "id": hashlib.sha256(repr(steps).encode()).hexdigest(),
        "site": "lab",
        "base_revision": 7,
        "spec_digest": "0" * 64,
        "complete": True,
        "steps": steps,
        "barriers": tuple(barriers),
        "nodes": {
            name: PlanNode(
                name=name,
                platform="debian-12",
                address="10.0.0.1",
                connection=Connection(),
                groups=(groups or {}).get(name, ("all",)),
            )
            for name in nodes
        },
        "roles": {role: PlanRole(name=role, digest="0" * 64) for role in sorted({step.role for step in steps})},
        "policy": Policy(),
        "total_nodes": len(nodes),
    }
    return Plan(**{**values, **changes})  # type: ignore[arg-type]  # a test may set any field


def make_step(
    step_id: str, action: Action = Action.CREATE, reasons: tuple[str, ...] = ("new node",), **more: object
) -> Step:
    role, _, node = step_id.partition("@")
    more.setdefault("executor", CARRY)
    return Step(
        id=StepId(step_id),
        action=action,
        role=role,
        node=node,
        reasons=reasons,
        inputs={},
        **more,  # type: ignore[arg-type]
    )


@pytest.fixture
def step() -> Callable[..., Step]:
    return make_step


@pytest.fixture
def plan_of() -> Callable[..., Plan]:
    return make_plan


SMALL_GROUPS = {
    "ctl-1": ("all", "controllers"),
    "kvm-1": ("all", "compute", "kvm"),
    "kvm-2": ("all", "compute", "kvm"),
    "old-1": ("all",),
}


@pytest.fixture
def small_plan() -> Plan:
    """One controller, two compute nodes, one node that leaves; every action but check, one destructive step."""
    database = BarrierId("database.mysql<mariadb@ctl-1")
    identity = BarrierId("identity.keystone<keystone@ctl-1")
    steps = (
        make_step("base@ctl-1", expected_s=30.0),
        make_step("base@kvm-1", expected_s=30.0),
        make_step("base@kvm-2", expected_s=30.0),
        make_step(
            "mariadb@old-1", Action.REMOVE, ("no longer placed here",), destroys="Every database under /var/lib/mysql."
        ),
        make_step("mariadb@ctl-1", needs=("base@ctl-1",), expected_s=95.0),
        make_step(
            "keystone@ctl-1",
            Action.UPDATE,
            ("input keystone_admin_url changed", "role files changed"),
            needs=(database,),
            after=("base@ctl-1",),
            executor=PUSH,
            executor_reason="role keystone: its contract",
        ),
        make_step("nova@kvm-1", needs=("base@kvm-1", identity)),
        make_step("nova@kvm-2", needs=("base@kvm-2", identity), executor=PUSH, executor_reason="Windows"),
    )
    barriers = (
        Barrier(id=database, capability="database.mysql", needs=(StepId("mariadb@ctl-1"),)),
        Barrier(id=identity, capability="identity.keystone", needs=(StepId("keystone@ctl-1"),)),
    )
    return make_plan(steps, barriers, SMALL_GROUPS, unchanged=4)


@pytest.fixture(scope="session")
def big_plan() -> Plan:
    """1,000 nodes x 10 roles."""
    return make_big_plan(kvm=900, hyperv=95)


CONTROL = ("time", "names", "mariadb", "rabbitmq", "memcached", "keystone", "glance", "placement", "smoke")
COMPUTE = ("time", "names", "libvirt", "nova", "neutron", "storage", "metrics", "logs", "audit")


def make_big_plan(kvm: int, hyperv: int) -> Plan:
    names = {
        **{f"ctl-{n}": ("all", "controllers") for n in range(1, 4)},
        **{f"net-{n}": ("all", "network") for n in range(1, 3)},
        **{f"kvm-{n:03d}": ("all", "compute", "kvm") for n in range(1, kvm + 1)},
        **{f"hv-{n:02d}": ("all", "compute", "hyperv") for n in range(1, hyperv + 1)},
    }
    identity = BarrierId("identity.keystone<keystone@ctl-[1:3]")
    steps: list[Step] = []
    for node, groups in names.items():
        steps.append(make_step(f"base@{node}", expected_s=40.0))
        before = f"base@{node}"
        for role in CONTROL if "controllers" in groups else COMPUTE:
            needs = (before, identity) if role == "nova" else (before,)
            steps.append(make_step(f"{role}@{node}", needs=needs, expected_s=0.0 if role == "glance" else 25.0))
            before = f"{role}@{node}"
    barrier = Barrier(
        id=identity, capability="identity.keystone", needs=tuple(StepId(f"keystone@ctl-{n}") for n in range(1, 4))
    )
    return make_plan(steps, (barrier,), names, site="demo-mixed-1000", base_revision=0)
