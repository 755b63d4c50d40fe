"""Whether cables are where the spec expects them: LLDP says what the switch at the other end is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from orchestrator.errors import Problem, closest
from orchestrator.facts import Facts, Neighbour, Nic
from orchestrator.identity import normal_mac
from orchestrator.matching.conditions import Fault, glob
from orchestrator.model import Json

__all__ = ["check_wiring", "wiring"]

_KEYS = ("port", "switch")


def check_wiring(expected: Json) -> tuple[Fault, ...]:
    """Return everything that is wrong with expected wiring as written: {NIC or MAC: {switch: glob, port: glob}}."""
    if not isinstance(expected, Mapping):
        return (Fault(path=(), summary="is no wiring", hint="write eno1: {switch: leaf-3a, port: Ethernet12}"),)
    return tuple(fault for nic, ends in expected.items() for fault in _check_one(nic, ends))


def _check_one(nic: Json, ends: Json) -> Iterator[Fault]:
    if not isinstance(ends, Mapping) or not ends:
        yield Fault(
            path=(nic,), summary="says neither switch nor port", hint="write {switch: leaf-3a, port: Ethernet12}"
        )
        return
    for key, value in ends.items():
        if key not in _KEYS:
            near = closest(str(key).lower(), _KEYS)
            yield Fault(
                path=(nic, key), summary=f"is no part of a cable's end.{near}", hint="there are switch and port"
            )
        elif not isinstance(value, str | int) or isinstance(value, bool) or value == "":
            yield Fault(path=(nic, key), summary="is no text", hint='write a name or a pattern as "leaf-3*"')


def wiring(expected: Mapping[str, Json], facts: Facts) -> tuple[Problem, ...]:
    """Return what is wrong with a machine's cables, one problem per port; empty if all is as expected.

    A switch is known by its name or chassis id, a port by its id or description. Codes: wiring.nic, wiring.link,
    wiring.silent, wiring.switch, wiring.port.
    """
    return tuple(problem for name, ends in expected.items() for problem in _one(name, ends, facts))


def _one(name: str, ends: Mapping[str, Json], facts: Facts) -> Iterator[Problem]:
    nic = _find(name, facts)
    wanted = _wanted(ends)
    if nic is None:
        names = ", ".join(f"{nic.name} ({nic.mac})" for nic in facts.nics) or "none"
        yield Problem(
            code="wiring.nic",
            summary=f"the machine has no network port {name}, which should lead to {wanted}",
            detail=(f"it has {names}",),
            hint="correct the port's name or MAC under `wiring`",
        )
    elif not nic.neighbours:
        yield _silent(nic, wanted)
    elif not any(_fits(ends, neighbour) for neighbour in nic.neighbours):
        yield _misplaced(nic, ends, wanted)


def _find(name: str, facts: Facts) -> Nic | None:
    mac = normal_mac(name)
    return next((nic for nic in facts.nics if name in {nic.name, nic.biosdevname} or (mac and nic.mac == mac)), None)


def _wanted(ends: Mapping[str, Json]) -> str:
    return " ".join(f"{key} {ends[key]}" for key in ("switch", "port") if key in ends)


def _silent(nic: Nic, wanted: str) -> Problem:
    if nic.carrier is False:
        return Problem(
            code="wiring.link",
            summary=f"{nic.name} has no link; it should lead to {wanted}",
            hint="plug the cable in, or enable the switch port",
        )
    return Problem(
        code="wiring.silent",
        summary=f"{nic.name} heard no LLDP; it should lead to {wanted}",
        hint="enable LLDP on the switch port; switches send every 30 seconds, basic facts do not wait for it",
    )


def _misplaced(nic: Nic, ends: Mapping[str, Json], wanted: str) -> Problem:
    found = "; ".join(_words(neighbour) for neighbour in nic.neighbours)
    right_switch = any(_is_switch(ends, neighbour) for neighbour in nic.neighbours)
    part = "port" if right_switch else "switch"
    return Problem(
        code=f"wiring.{part}",
        summary=f"{nic.name} leads to the wrong {part}: it should lead to {wanted}, and leads to {found}",
        hint="move the cable, or correct `wiring` of the node",
    )


def _words(neighbour: Neighbour) -> str:
    port = neighbour.port_id or neighbour.port_description
    if neighbour.port_description and neighbour.port_description != port:
        port = f"{port} ({neighbour.port_description})"
    return f"switch {neighbour.switch or 'without a name'} port {port or 'without a name'}"


def _fits(ends: Mapping[str, Json], neighbour: Neighbour) -> bool:
    return _is_switch(ends, neighbour) and _any(ends.get("port"), neighbour.port_id, neighbour.port_description)


def _is_switch(ends: Mapping[str, Json], neighbour: Neighbour) -> bool:
    return _any(ends.get("switch"), neighbour.system_name, neighbour.chassis_id)


def _any(pattern: Json, *texts: str) -> bool:
    return pattern is None or any(map(glob(str(pattern)), texts))
