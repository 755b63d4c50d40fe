"""Which disk the operating system is written to: never a guess, for what is on it is lost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from orchestrator.errors import Problem, closest
from orchestrator.facts import PROPERTIES, Disk, Facts, disk_properties
from orchestrator.matching.assign import natural
from orchestrator.matching.conditions import Condition, Fault
from orchestrator.matching.rules import item_conditions
from orchestrator.model import Json

__all__ = ["LEAST_BYTES", "check_disk", "pick_disk"]

LEAST_BYTES = 4 * 10**9
"""The smallest disk that an empty rule takes."""

_BY = ("largest", "smallest")
_GB = 10**9


def check_disk(rule: Json) -> tuple[Fault, ...]:
    """Return everything that is wrong with a rule for the root disk as written."""
    return _read(rule)[1]


def _read(rule: Json) -> tuple[Mapping[str, Condition], tuple[Fault, ...]]:
    if not isinstance(rule, Mapping):
        return {}, (Fault(path=(), summary="is no rule", hint="write property: condition, one a line"),)
    faults: list[Fault] = []
    rest = {key: value for key, value in rule.items() if key != "by"}
    conditions = item_conditions("disks", rest, (), faults, ("by",))
    by = rule.get("by", _BY[0])
    if by not in _BY:
        near = closest(str(by).lower(), _BY)
        summary = f'is "{str(by)[:40]}", which is neither smallest nor largest.{near}'
        faults.append(Fault(path=("by",), summary=summary, hint="write by: smallest or by: largest"))
    return conditions, tuple(faults)


def pick_disk(rule: Mapping[str, Json], facts: Facts, *, min_bytes: int = 0) -> Disk | Problem:
    """Return the disk that a rule means, or what is in the way: none fits, several do, or it is smaller than the image.

    An empty rule means the only fixed disk of 4 GB or more. The size of the image (`min_bytes`) never chooses: a rule
    that means one disk today must not mean another when the image grows. Codes: disk.rule, disk.none, disk.several,
    disk.small.
    """
    conditions, faults = _read(rule)
    if faults:
        lines = tuple(f"{'.'.join(map(str, fault.path))} {fault.summary}" for fault in faults)
        return Problem(code="disk.rule", summary="the rule for the root disk cannot be read", detail=lines)
    fixed = [disk for disk in facts.disks if disk.size and not disk.removable]
    found = [disk for disk in fixed if _fits(disk, conditions, rule)]
    if not found:
        return _none(conditions, fixed)
    by = rule.get("by")
    if len(found) > 1 and not by:
        return _several(found)
    disk = sorted(found, key=lambda disk: (disk.size if by == "smallest" else -disk.size, _stable(disk)))[0]
    return disk if disk.size >= min_bytes else _small(disk, min_bytes)


def _fits(disk: Disk, conditions: Mapping[str, Condition], rule: Mapping[str, Json]) -> bool:
    if not rule:
        return disk.size >= LEAST_BYTES
    values = disk_properties(disk)
    return all(condition.holds(values[name]) for name, condition in conditions.items())


def _stable(disk: Disk) -> tuple[object, ...]:
    """Sort equal disks by where they are plugged in: names change from boot to boot."""
    return (natural(disk.by_path), natural(disk.hctl), natural(disk.serial), natural(disk.wwn), natural(disk.name))


def _none(conditions: Mapping[str, Condition], fixed: Sequence[Disk]) -> Problem:
    if not fixed:
        hint = "check that the controller's driver is in the discovery image and that its RAID volumes exist"
        return Problem(code="disk.none", summary="the machine has no fixed disk", hint=hint)
    wanted = " and ".join(f"{name} {condition.wanted}" for name, condition in conditions.items())
    wanted = wanted or f"fixed and at least {LEAST_BYTES // _GB} GB"
    return Problem(
        code="disk.none",
        summary=f"no disk fits the rule for the root disk ({wanted})",
        detail=tuple(_words(disk) for disk in fixed),
        hint=f"change root_disk of the profile; it can name {', '.join(sorted(PROPERTIES['disks'].items))} and by",
    )


def _several(found: Sequence[Disk]) -> Problem:
    ordered = sorted(found, key=lambda disk: natural(disk.name))
    names = ", ".join(disk.name for disk in ordered)
    return Problem(
        code="disk.several",
        summary=f"{len(found)} disks fit the rule for the root disk: {names}. Which one?",
        detail=tuple(_words(disk) for disk in ordered),
        hint="add serial, wwn, size or type to root_disk of the profile, or by: smallest",
    )


def _small(disk: Disk, least: int) -> Problem:
    return Problem(
        code="disk.small",
        summary=f"disk too small: {_words(disk)} is what the rule means, and the image needs {least / _GB:.1f} GB",
        hint="choose another disk with root_disk of the profile, or a smaller image",
    )


def _words(disk: Disk) -> str:
    parts = [
        disk.name,
        disk.type,
        f"{disk.size / _GB:.1f} GB",
        disk.model,
        f"serial {disk.serial}" if disk.serial else "",
    ]
    return " ".join(part for part in parts if part)
