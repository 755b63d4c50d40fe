"""Roles that work while most of their members do: who may be touched when, and which plans would cost the majority.

A member is a placement that has worked before. It is away when it is known to be down, while a step changes it, and
after a step of it failed. A plan may take away as many as the others can do without (`spare`); the schedule touches one
member at a time, first those that are down, and the others only while enough of them stay.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from fnmatch import fnmatchcase

from orchestrator.errors import Problem
from orchestrator.model import Action, Outcome, Phase, Plan, PlanRole, Snapshot, Status, Step, StepId
from orchestrator.ranges import fold

__all__ = ["Guard", "down", "guards", "losses", "members"]

_UNFIT = (Phase.FAILED, Phase.RESCUE, Phase.RETIRING, Phase.RETIRED)
_INSTALL = "install"


def spare(members: int) -> int:
    """How many of so many may be away at once: less than half, but one where there is no majority to lose."""
    return max(1, (members - 1) // 2)


def members(role: str, snapshot: Snapshot) -> tuple[StepId, ...]:
    """Return the placements of a role that have worked, in the spec or not."""
    return tuple(sorted(p.id for p in snapshot.placements.values() if p.role == role and p.digest))


def down(role: str, snapshot: Snapshot) -> dict[StepId, str]:
    """Return those members that are known not to work, each with what is known of it."""
    silent: dict[str, float] = {}
    for placement in snapshot.placements.values():
        if placement.status is Status.UNREACHABLE:
            silent[placement.node] = max(placement.at, silent.get(placement.node, placement.at))
    unfit = {m.node: f"its machine is {m.phase}" for m in snapshot.machines.values() if m.node and m.phase in _UNFIT}
    found = {}
    for member in members(role, snapshot):
        state = snapshot.placements[member]
        if state.node in silent and silent[state.node] >= state.at:
            found[member] = str(Status.UNREACHABLE)
        elif state.node in unfit:
            found[member] = unfit[state.node]
        elif not state.status.good:
            found[member] = str(state.status)
    return found


# --- before anything runs -----------------------------------------------------------------------------------------


def losses(plan: Plan, consent: Collection[str] = ()) -> list[Problem]:
    """Return why the plan would cost roles their majority; `consent` are shell globs on roles that may lose it."""
    return [
        problem
        for role in plan.roles.values()
        if role.members and not _agreed(role.name, consent) and (problem := _loss(plan, role))
    ]


def _loss(plan: Plan, role: PlanRole) -> Problem | None:
    everyone = set(role.members)
    touched = {step.id: step for step in plan.steps if step.id in everyone and step.action is not Action.CHECK}
    leaving = {key for key, step in touched.items() if step.action is Action.REMOVE}
    if leaving == everyone:
        return None  # the whole role goes: that is no accident, and what it destroys needs consent of its own
    wiped = _wiped(plan, role)
    taken = (leaving | wiped) - role.down.keys()
    away = leaving | wiped | role.down.keys()
    if taken and len(away) > spare(len(everyone)):
        return _problem(role, "removes" if leaving & taken else "installs anew", taken, away - taken)
    # A member whose step failed is mended first, and nothing else starts before; a host that is silent may stay so.
    mended = {m for m, why in role.down.items() if why == Status.FAILED and m in touched}
    lost = role.down.keys() - leaving - wiped - mended
    changed = touched.keys() - leaving - wiped - role.down.keys()
    if lost and changed and len(lost) + 1 > spare(len(everyone - leaving)):
        return _problem(role, "changes", changed, lost)
    return None


def _problem(role: PlanRole, verb: str, taken: Collection[StepId], others: Collection[StepId]) -> Problem:
    known = {m: role.down[m] for m in sorted(others) if m in role.down}
    while_ = f" while {_listed(known)} {'is' if len(known) == 1 else 'are'} down" if known else ""
    most = spare(len(role.members))
    if known:
        nodes = " ".join(f"--node {m.partition('@')[2]}" for m in known)
        first = f"bring {_listed(known)} back with `--role {role.name} {nodes}` first, or forget what is gone for good"
    else:
        first = f"take away {most} at a time, each with a plan of its own (`--node`)"
    return Problem(
        code="apply.quorum",
        summary=f"the plan {verb} {_listed(taken)}{while_}: {role.name} would lose its majority",
        detail=(
            f"it has {len(role.members)} members ({_listed(role.members)}), of which {most} may be away at once",
            *(f"{member}: {why} when last heard of" for member, why in known.items()),
        ),
        hint=f"{first}; or agree with `--allow-quorum-loss {role.name}`",
    )


def _listed(steps: Iterable[StepId]) -> str:
    found = sorted(steps)
    return f"{found[0].partition('@')[0]}@{fold([step.partition('@')[2] for step in found], 5)}" if found else ""


def _wiped(plan: Plan, role: PlanRole) -> set[StepId]:
    """Return the members whose machines the plan installs anew."""
    installed = {step.node for step in plan.steps if step.role == _INSTALL and step.action is not Action.CHECK}
    return {member for member in role.members if member.partition("@")[2] in installed}


def _agreed(role: str, consent: Collection[str]) -> bool:
    return any(fnmatchcase(role, pattern) for pattern in consent)


# --- while it runs ------------------------------------------------------------------------------------------------


class Guard:
    """Says which members of one role may be touched. Mutable; the schedule tells it what happens."""

    def __init__(self, members: Iterable[StepId], lost: Iterable[StepId]) -> None:
        self._members = set(members)
        self._lost = set(lost)
        self._busy: set[StepId] = set()

    def may_start(self, step: Step) -> bool:
        """Whether a step may start now: members one at a time, and none that the others cannot do without."""
        if step.id not in self._members:
            return True
        if self._busy - {step.id}:
            return False
        return step.id in self._lost or len(self._lost) < spare(len(self._members))

    def start(self, step: Step) -> None:
        if step.id in self._members:
            self._busy.add(step.id)

    def end(self, step: Step, outcome: Outcome) -> None:
        """Take in what a step finally came to."""
        self._busy.discard(step.id)
        if step.id not in self._members or outcome.status is Status.SKIPPED:
            return
        if not outcome.status.good:
            self._lost.add(step.id)
            return
        self._lost.discard(step.id)
        if step.action is Action.REMOVE:
            self._members.discard(step.id)

    def why_not(self, step: Step) -> tuple[StepId, str]:
        """Return whose fault it is that a step can never start, and why in words."""
        lost = sorted(self._lost) or [step.id]
        why = f"without {_listed(lost)} and {step.node}, {step.role} would lose its majority"
        return lost[0], why


def guards(plan: Plan, consent: Collection[str] = ()) -> Mapping[str, Guard]:
    """Return a guard for each role of a plan that has members, and whose loss is not agreed to."""
    return {
        name: Guard(role.members, role.down.keys() | _wiped(plan, role))
        for name, role in plan.roles.items()
        if role.members and not _agreed(name, consent)
    }
