"""Which machine is for which node: a matching of rules to machines that leaves no node empty without need.

1. A machine that a node has claimed stays that node's.
2. A node with a MAC or a serial number gets the machine that has them, and nobody else does.
3. The others, in natural order of their names, take the first free machine that fits their rule, in the order of
   (switch, switch port, serial number, machine id), natural order, machines without LLDP last. Where the first choice
   would leave a later node without any, earlier nodes move to other machines that fit them as well (augmenting paths).
4. Nodes with equal rules share out their machines in that order.

Equal rules are judged once per machine. Machines are bits of an integer, the first in order the lowest, so that a
thousand nodes with rules of their own and a thousand machines are a matter of a second.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from orchestrator.facts import Facts, properties
from orchestrator.fingerprint import canonical
from orchestrator.identity import normal_mac
from orchestrator.matching.rules import Rule, Values, fault_error, read
from orchestrator.model import Json, MachineState, Phase
from orchestrator.ranges import fold

__all__ = ["Assignment", "Candidate", "Wanted", "assign", "natural"]

MOST_REASONS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """A node that needs a machine, and what it says of it."""

    node: str
    rule: Mapping[str, Json] = field(default_factory=dict)
    mac: str = ""
    serial: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A machine that could be a node's. Rules take one that is discovered, unclaimed and told its full facts."""

    machine: MachineState
    facts: Facts


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """Who gets what. `decided` says per chosen node what decided, `unmatched` per empty node why, in words.

    `spare` are the ids of free machines that are left, in tie-break order.
    """

    chosen: Mapping[str, str] = field(default_factory=dict)
    decided: Mapping[str, str] = field(default_factory=dict)
    unmatched: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    spare: tuple[str, ...] = ()


def assign(nodes: Sequence[Wanted], machines: Sequence[Candidate]) -> Assignment:
    """Return which machine each node gets. The order of the arguments does not matter, their content decides alone.

    Raises HalliganError for a rule that `check` would refuse.
    """
    draft = _Draft(machines)
    ordered = sorted(nodes, key=lambda wanted: natural(wanted.node))
    rest = [wanted for wanted in ordered if not draft.keep(wanted)]
    draft.pin([wanted for wanted in rest if wanted.mac or wanted.serial])
    draft.match([wanted for wanted in rest if not (wanted.mac or wanted.serial)])
    return draft.result()


_DIGITS = re.compile(r"(\d+)")


def natural(text: str) -> tuple[tuple[int, int, str], ...]:
    """Return a sort key that puts kvm-2 before kvm-10 and Ethernet1/2 before Ethernet1/10, whatever the case."""
    parts = _DIGITS.split(text.casefold())
    return tuple((0, int(part), part) if at % 2 else (1, 0, part) for at, part in enumerate(parts) if part)


# --- the order of machines ----------------------------------------------------------------------------------------


def _rank(candidate: Candidate) -> tuple[object, ...]:
    switch, port = _where(candidate.facts)
    serial = candidate.facts.serial or next(iter(candidate.facts.identity.serials), "")
    return (not switch, natural(switch), natural(port), not serial, natural(serial), candidate.machine.id)


def _where(facts: Facts) -> tuple[str, str]:
    """Return switch and port of the network port it booted from, else of the first that heard a switch."""
    heard = [nic for nic in facts.nics if nic.neighbours]
    if not heard:
        return "", ""
    nic = min(heard, key=lambda nic: (nic.mac != facts.boot_mac, natural(nic.name)))
    neighbour = nic.neighbours[0]
    return neighbour.switch, neighbour.port_id or neighbour.port_description


def _place(candidate: Candidate) -> str:
    switch, port = _where(candidate.facts)
    return f"{switch} port {port}" if switch else "no switch known"


def _busy(candidate: Candidate) -> str:
    """Return why a machine is not free, empty if it is."""
    machine = candidate.machine
    if machine.node:
        return f"belongs to {machine.node}"
    if machine.phase is not Phase.DISCOVERED:
        reason = f" ({machine.reason})" if machine.reason else ""
        return f"is {machine.phase.value}{reason}"
    return ""


# --- the work -----------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Group:
    """Nodes with equal rules. `fits` has a bit for each machine that fits, in the order of machines."""

    rule: Rule
    nodes: list[str]
    fits: int = 0
    taken: int = 0


class _Draft:
    """An assignment in the making; local to one call of `assign`."""

    def __init__(self, machines: Sequence[Candidate]) -> None:
        self._machines = sorted(machines, key=_rank)
        self._busy = [_busy(candidate) for candidate in self._machines]
        self._values: dict[int, Values] = {}
        self._claims = {
            candidate.machine.node: at for at, candidate in enumerate(self._machines) if candidate.machine.node
        }
        self._holders: dict[int, str] = {}  # machine -> node that gets it, or for which it is kept
        self._chosen: dict[str, int] = {}
        self._decided: dict[str, str] = {}
        self._unmatched: dict[str, tuple[str, ...]] = {}

    def result(self) -> Assignment:
        def in_order(names: Mapping[str, object]) -> list[str]:
            return sorted(names, key=natural)

        free = [at for at, busy in enumerate(self._busy) if not busy and at not in self._holders]
        return Assignment(
            chosen={node: self._machines[self._chosen[node]].machine.id for node in in_order(self._chosen)},
            decided={node: self._decided[node] for node in in_order(self._decided)},
            unmatched={node: self._unmatched[node] for node in in_order(self._unmatched)},
            spare=tuple(self._machines[at].machine.id for at in free),
        )

    def _values_of(self, at: int) -> Values:
        if at not in self._values:
            self._values[at] = properties(self._machines[at].facts)
        return self._values[at]

    def _take(self, node: str, at: int, why: str) -> None:
        self._holders[at] = node
        self._chosen[node] = at
        self._decided[node] = why

    # 1: claims

    def keep(self, wanted: Wanted) -> bool:
        """Whether the node has a machine already; it keeps it, whatever its rule says by now."""
        at = self._claims.get(wanted.node)
        if at is None:
            return False
        self._take(wanted.node, at, "claimed before")
        return True

    # 2: MAC and serial number

    def pin(self, nodes: Sequence[Wanted]) -> None:
        by_mac, by_serial = self._names()
        found = {wanted.node: _named(wanted, by_mac, by_serial) for wanted in nodes}
        askers: defaultdict[int, list[str]] = defaultdict(list)
        for wanted in nodes:
            for at in found[wanted.node]:
                askers[at].append(wanted.node)
                self._holders.setdefault(at, wanted.node)  # whatever comes of it, no rule may take it
        for wanted in nodes:
            reasons = self._pin_one(wanted, found[wanted.node], askers)
            if reasons:
                self._unmatched[wanted.node] = reasons

    def _names(self) -> tuple[Mapping[str, list[int]], Mapping[str, list[int]]]:
        by_mac: defaultdict[str, list[int]] = defaultdict(list)
        by_serial: defaultdict[str, list[int]] = defaultdict(list)
        for at, candidate in enumerate(self._machines):
            own, facts = candidate.machine.identity, candidate.facts
            for mac in {*own.macs, *(nic.mac for nic in facts.nics)} - {""}:
                by_mac[mac].append(at)
            for serial in {text.casefold() for text in (*own.serials, *facts.identity.serials, facts.serial)} - {""}:
                by_serial[serial].append(at)
        return by_mac, by_serial

    def _pin_one(self, wanted: Wanted, found: Sequence[int], askers: Mapping[int, list[str]]) -> tuple[str, ...]:
        """Give a node the machine that it names, or return why that cannot be."""
        named = _name(wanted)
        if not found:
            return (f"no machine with {named} was discovered",)
        if len(found) > 1:
            ids = ", ".join(self._machines[at].machine.id for at in found)
            return (
                f"{len(found)} machines have {named}: {ids}; name the one that is meant by both MAC and serial number",
            )
        (at,) = found
        machine = self._machines[at].machine
        others = [node for node in askers[at] if node != wanted.node]
        if others:
            return (f"{machine.id} with {named} is named by {', '.join(others)} too",)
        if self._busy[at]:
            return (f"{machine.id} with {named} {self._busy[at]}",)
        judgement = _read(wanted).judge(self._values_of(at))
        if not judgement.matches:
            return (f"{machine.id} with {named} does not fit the node's rule", *judgement.reasons)
        self._take(wanted.node, at, named)
        return ()

    # 3 and 4: rules

    def match(self, nodes: Sequence[Wanted]) -> None:
        groups = self._groups(nodes)
        for group in groups:
            group.fits = self._fitting(group.rule)
        free = sum(1 << at for at in range(len(self._machines)) if self._is_free(at))
        owner: dict[int, int] = {}
        left: defaultdict[int, list[str]] = defaultdict(list)
        for at, node in _in_turn(groups):
            taken = None if left[at] else _augment(groups, at, free, owner)
            if taken is None:
                left[at].append(node)
            else:
                free &= ~(1 << taken)
        for at, group in enumerate(groups):
            self._share_out(group, [node for node in group.nodes if node not in left[at]])
        for at, group in enumerate(groups):
            if left[at]:
                reasons = self._reasons(group)
                self._unmatched.update(dict.fromkeys(left[at], reasons))

    def _is_free(self, at: int) -> bool:
        return not self._busy[at] and at not in self._holders and self._machines[at].facts.level != "basic"

    def _groups(self, nodes: Sequence[Wanted]) -> list[_Group]:
        groups: dict[str, _Group] = {}
        for wanted in nodes:
            rule = _read(wanted)
            if not rule.terms:
                self._unmatched[wanted.node] = (
                    "it says nothing of its machine: give it `mac`, `serial` or a `match` rule",
                )
                continue
            groups.setdefault(canonical(wanted.rule), _Group(rule=rule, nodes=[])).nodes.append(wanted.node)
        return list(groups.values())

    def _fitting(self, rule: Rule) -> int:
        return sum(1 << at for at in range(len(self._machines)) if self._is_free(at) and rule.fits(self._values_of(at)))

    def _share_out(self, group: _Group, nodes: Sequence[str]) -> None:
        fitting = group.fits.bit_count()
        for node, at in zip(nodes, _bits(group.taken), strict=True):
            place = f" ({_place(self._machines[at])})" if fitting > 1 else ""
            others = f"{fitting} machines fit" if fitting > 1 else "the only machine that fits"
            self._take(node, at, f"rule; {others}{place}")

    def _reasons(self, group: _Group) -> tuple[str, ...]:
        """Return why the nodes of a group got nothing: machines alike in what keeps them away are one line."""
        if not self._machines:
            return ("no machine was discovered",)
        classes: defaultdict[tuple[str, ...], list[int]] = defaultdict(list)
        for at in range(len(self._machines)):
            classes[self._obstacle(group.rule, at)].append(at)
        lines = [self._line(group.rule, obstacle, found) for obstacle, found in classes.items()]
        if len(lines) > MOST_REASONS:
            rest = sum(len(found) for found in list(classes.values())[MOST_REASONS:])
            lines[MOST_REASONS:] = [f"and {rest} more machine{'s' * (rest > 1)} for other reasons"]
        return tuple(lines)

    def _obstacle(self, rule: Rule, at: int) -> tuple[str, ...]:
        failing = tuple(term.key for term in rule.terms if not term.fits(self._values_of(at)))
        if failing:
            return ("rule", *failing)
        if at in self._holders:
            return ("held",)
        return ("busy", self._busy[at]) if self._busy[at] else ("basic",)

    def _line(self, rule: Rule, obstacle: tuple[str, ...], found: Sequence[int]) -> str:
        ids = _some([self._machines[at].machine.id for at in found])
        lead = f"{len(found)} machine{'s' * (len(found) > 1)} ({ids})"
        match obstacle:
            case ("rule", *_):
                whys = "; ".join(rule.judge(self._values_of(found[0])).reasons)
                example = f" (as {self._machines[found[0]].machine.id})" if len(found) > 1 else ""
                return f"{lead} do{'es' * (len(found) == 1)} not fit{example}: {whys}"
            case ("held",):
                holders = fold((self._holders[at] for at in found), limit=5)  # node names, unlike ids, count up
                return f"{lead} fit{'s' * (len(found) == 1)}, but went to {holders}"
            case ("busy", why):
                return f"{lead} would fit, but {why}"
        return f"{lead} would fit, but told only basic facts so far"


def _read(wanted: Wanted) -> Rule:
    rule, faults = read(wanted.rule)
    if faults:
        raise fault_error(faults)
    return rule


def _some(ids: Sequence[str]) -> str:
    return ", ".join(ids[:3]) + (f" and {len(ids) - 3} more" if len(ids) > 3 else "")


def _name(wanted: Wanted) -> str:
    parts = [f"MAC {wanted.mac}"] if wanted.mac else []
    return " and ".join([*parts, *([f"serial number {wanted.serial}"] if wanted.serial else [])])


def _named(wanted: Wanted, by_mac: Mapping[str, list[int]], by_serial: Mapping[str, list[int]]) -> list[int]:
    """Return the machines that have the node's MAC and serial number, those of both that it names."""
    found = []
    if wanted.mac:
        found.append(set(by_mac.get(normal_mac(wanted.mac), ())))
    if wanted.serial:
        found.append(set(by_serial.get(" ".join(wanted.serial.split()).casefold(), ())))
    return sorted(set.intersection(*found))


def _in_turn(groups: Sequence[_Group]) -> Iterator[tuple[int, str]]:
    """Yield (group, node) for all nodes in natural order of their names."""
    turns = [(natural(node), at, node) for at, group in enumerate(groups) for node in group.nodes]
    for _, at, node in sorted(turns):
        yield at, node


def _bits(mask: int) -> Iterator[int]:
    while mask:
        low = mask & -mask
        yield low.bit_length() - 1
        mask ^= low


def _augment(groups: Sequence[_Group], start: int, free: int, owner: dict[int, int]) -> int | None:
    """Give the group one machine more, moving other groups on if need be; return the free machine that was used.

    A breadth-first search over groups: from a group to the machines that fit it, to the groups that have these. The
    shortest path is taken, so that as few nodes as possible move.
    """
    came: dict[int, tuple[int, int]] = {}  # group -> (the group before it, the machine that it would hand over)
    seen, queue = 0, [start]
    for at in queue:
        reachable = groups[at].fits & ~groups[at].taken
        hit = reachable & free
        if hit:
            machine = (hit & -hit).bit_length() - 1
            _shift(groups, at, machine, came, owner)
            return machine
        for machine in _bits(reachable & ~seen):
            other = owner.get(machine)
            if other is not None and other != start and other not in came:
                came[other] = (at, machine)
                queue.append(other)
        seen |= reachable
    return None


def _shift(
    groups: Sequence[_Group], at: int, machine: int, came: Mapping[int, tuple[int, int]], owner: dict[int, int]
) -> None:
    """Give `machine` to a group, which hands over its own to the one before it, back to the start."""
    while True:
        groups[at].taken |= 1 << machine
        owner[machine] = at
        if at not in came:
            return
        before, given = came[at]
        groups[at].taken &= ~(1 << given)
        at, machine = before, given
