"""Machines of bare metal: the list, one in full, its time line, and what rules say of it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from orchestrator.cli.views.words import Look, count, joined, plain, table, when, wrapped
from orchestrator.model import MachineState, Node

if TYPE_CHECKING:
    from orchestrator.facts import Facts
    from orchestrator.service import Matched, NodeView, TraceLine

__all__ = ["match_text", "node_text", "nodes_json", "nodes_text", "trace_text"]

_LAST = 12  # lines of its time line that a node shows


def nodes_text(views: Sequence[NodeView], look: Look) -> str:
    """Return a line per bare-metal node, then one per machine that nobody has."""
    if not views:
        return "The site has no bare metal, and no machine was seen.\n"
    rows = [_row(view) for view in views if view.node]
    loose = [_row(view) for view in views if not view.node]
    head = ("node", "machine", "phase", "since", "image", "before it")
    lines = table(head, rows, look) if rows else []
    if loose:
        lines += ["", *table(("machines of nobody", "machine", "phase", "since", "", ""), loose, look)]
    reasons = [
        line
        for view in views
        if view.machine and view.machine.reason
        for line in wrapped(f"{_name(view)}: {view.machine.reason}", look, first="  ")
    ]
    return "\n".join([*lines, *(["", *reasons] if reasons else []), ""])


def _name(view: NodeView) -> str:
    return view.node.name if view.node else view.machine.id if view.machine else ""


def _row(view: NodeView) -> tuple[str, ...]:
    name = view.node.name if view.node else ""
    machine = view.machine
    todo = ", ".join(view.todo)
    if machine is None:
        return name, "-", "not seen", "", "", todo
    phase = f"{machine.phase} ({machine.failure})" if machine.failure else str(machine.phase)
    return name, machine.id, phase, when(machine.since), machine.image, todo


def nodes_json(views: Iterable[NodeView]) -> str:
    return "".join(f"{json.dumps(_plain(view))}\n" for view in views)


def _plain(view: NodeView) -> dict[str, object]:
    machine = view.machine
    found: dict[str, object] = {"node": view.node.name if view.node else None, "before_it": list(view.todo)}
    if machine:
        found |= {
            "machine": machine.id,
            "phase": str(machine.phase),
            "failure": machine.failure,
            "reason": machine.reason,
            "since": machine.since,
            "seen": machine.seen,
            "image": machine.image,
            "uuid": machine.identity.uuid,
            "serials": list(machine.identity.serials),
            "macs": list(machine.identity.macs),
            "host_keys": list(machine.host_keys),
        }
    return found


# --- one of them --------------------------------------------------------------------------------------------------


def node_text(view: NodeView, facts: Facts | None, trace: Sequence[TraceLine], look: Look) -> str:
    """Return what a node's machine is made of, where it is in its life, and what happened to it last."""
    sections = [[look.head(_name(view)), *(_pairs(_of_node(view.node)) if view.node else [])]]
    if view.machine:
        sections.append([look.dim("Life"), *_pairs(_of_machine(view.machine))])
    if facts:
        sections.append([look.dim("Hardware"), *_pairs(_of_facts(facts))])
    if view.todo:
        sections.append([f"Before it: {', '.join(view.todo)}"])
    if trace:
        sections.append([look.dim("Last seen"), *(f"  {line}" for line in _lines(trace[-_LAST:]))])
    return "\n\n".join("\n".join(section) for section in sections) + "\n"


def _pairs(pairs: Iterable[tuple[str, str]]) -> list[str]:
    return [f"  {name:<12}{plain(value)}" for name, value in pairs if value]


def _of_node(node: Node) -> Iterator[tuple[str, str]]:
    yield "profile", node.profile
    yield "address", node.address
    yield "MAC", node.mac
    yield "serial", node.serial
    yield "rule", json.dumps(dict(node.match)) if node.match else ""
    yield "BMC", f"{node.bmc.driver} at {node.bmc.address}" if node.bmc else "none"


def _of_machine(machine: MachineState) -> Iterator[tuple[str, str]]:
    yield "machine", machine.id
    yield "phase", f"{machine.phase} since {when(machine.since)}"
    yield "failed", f"{machine.failure}: {machine.reason}" if machine.failure else ""
    yield "last seen", when(machine.seen)
    yield "told to", machine.order.task if machine.order else ""
    yield "image", machine.image
    yield "host key", machine.host_keys[0] if machine.host_keys else ""
    yield "UUID", machine.identity.uuid
    yield "serials", ", ".join(machine.identity.serials)
    yield "MACs", ", ".join(machine.identity.macs)


def _of_facts(facts: Facts) -> Iterator[tuple[str, str]]:
    yield "made by", f"{facts.vendor} {facts.product}".strip()
    yield "firmware", facts.firmware_mode
    yield "CPU", f"{count(facts.cpus, 'core')}, {facts.cpu_model} ({facts.architecture})"
    yield "memory", f"{facts.memory_bytes / 2**30:.1f} GiB in {count(len(facts.dimms), 'module')}"
    for disk in facts.disks:
        yield "disk", f"{disk.name} {disk.size / 1e9:.1f} GB {disk.type} {disk.model} serial {disk.serial or '-'}"
    for nic in facts.nics:
        speed = f" {nic.speed_mbps} Mb/s" if nic.speed_mbps else ""
        yield "port", f"{nic.name} {nic.mac} {nic.driver}{speed}{'' if nic.carrier else ', no link'}"
        for neighbour in nic.neighbours:
            yield "", f"  on {neighbour.system_name} {neighbour.port_id}"
    for gpu in facts.gpus:
        yield "GPU", f"{gpu.vendor} {gpu.product}"
    yield "BMC", facts.bmc_address


def trace_text(name: str, lines: Sequence[TraceLine], look: Look) -> str:
    """Return a time line; the seconds are those since the line before it."""
    if not lines:
        return f"Nothing was ever seen of {name}.\n"
    return "\n".join([look.head(name), *_lines(lines), ""])


def _lines(lines: Sequence[TraceLine]) -> Iterator[str]:
    before = lines[0].at
    for line in lines:
        yield f"{when(line.at)} {line.at - before:+8.1f} s  {line.what:<9} {plain(line.detail)}".rstrip()
        before = line.at


# --- rules --------------------------------------------------------------------------------------------------------


def match_text(found: Matched, patterns: Sequence[str], look: Look) -> str:
    """Return who would get which machine, and every yes and no of the rules."""
    lines: list[str] = []
    for node in found.nodes:
        if patterns and not any(fnmatchcase(node.name, pattern) for pattern in patterns):
            continue
        lines += [look.head(node.name), *_judged(found, node), ""]
    spare = found.assignment.spare
    lines.append(f"Left over: {joined(spare)}" if spare else "No machine is left over.")
    return "\n".join([*lines, ""])


def _judged(found: Matched, node: Node) -> Iterator[str]:
    owner = next((m for m in found.machines.values() if m.node == node.name), None)
    if owner:
        yield f"  has {owner.id} ({owner.phase})"
    elif node.name in found.assignment.chosen:
        decided = found.assignment.decided.get(node.name, "")
        yield f"  would get {found.assignment.chosen[node.name]}{f': {decided}' if decided else ''}"
    for reason in found.assignment.unmatched.get(node.name, ()):
        yield f"  gets none: {reason}"
    for (name, machine), judgement in found.judgements.items():
        if name == node.name:
            yield f"  {machine}: {'yes' if judgement.matches else 'no'}"
            for clause in judgement.clauses:
                yield f"    {'+' if clause.ok else '-'} {clause.why}"
