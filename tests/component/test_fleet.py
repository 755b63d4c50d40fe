"""Rooms full of machines, good and bad: real boot service, real HTTP, real BMC protocol, real apply loop and store."""

from __future__ import annotations

import contextlib
import json
import re
import signal
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from orchestrator import facts, matching
from orchestrator.model import MachineState, Phase
from orchestrator.service import Site, open_site
from orchestrator.store import Store, kinds
from tests.support.bootservice import Service, until
from tests.support.fleet import BMC_PASSWORD, Fleet, Pace, Running, launched
from tests.support.fleet_apply import Apply, Options, applying
from tests.support.fleet_cast import Fault
from tests.support.fleet_site import boot_settings, by_mac, write_metal_site

LIMIT_S = 240.0
PATIENCE = {"boot_s": 60.0, "facts_s": 60.0, "pickup_s": 20.0, "silent_s": 20.0, "login_s": 120.0, "look_s": 0.5}


@dataclass
class Room:
    """A site's folder and the boot service that answers its machines."""

    folder: Path
    service: Service

    @property
    def site(self) -> Path:
        return self.folder / "inventories/fleet"

    def open(self) -> Site:
        return open_site(str(self.site))

    def apply(
        self, fleet: Running, *, patience: Mapping[str, float] = PATIENCE
    ) -> contextlib.AbstractContextManager[Apply]:
        images = str(self.service.settings.images)
        return applying(self.site, fleet.control, Options(images=images, patience=dict(patience), bmc_s=15))

    def store(self) -> Store:
        return Store.open(self.site / ".halligan/state.db", create=False)

    def machines(self) -> dict[str, MachineState]:
        """What is believed, by node."""
        with self.store() as store:
            return {state.node: state for state in store.machines() if state.node}


@pytest.fixture
def room(tmp_path: Path) -> Iterator[Room]:
    site = tmp_path / "inventories/fleet"
    site.mkdir(parents=True)
    service = Service(settings=boot_settings(site, tmp_path), folder=tmp_path)
    service.start()
    yield Room(tmp_path, service)
    service.stop()
    assert "Traceback" not in service.log


def node(fault: Fault, fates: Mapping[int, str]) -> str:
    return next(f"kvm-{number:05}" for number, fate in fates.items() if fate == fault)


BAD = {
    Fault.NEVER: ("discover", "did not come up in the discovery image .*nothing at all was heard of it"),
    Fault.DEAD: ("install", "its BMC says that it is off|did not come up in the discovery image|nothing was heard of"),
    Fault.LOOPS: ("install", "restarted in the middle of the install 2 times"),
    Fault.BAD_IMAGE: ("install", "the image debian-12 is damaged"),
    Fault.TWIN_MAC: ("discover", "did not come up in the discovery image"),
    Fault.TWIN_SERIAL: ("discover", "conflict about who it is.*the same serial number"),
    Fault.MISWIRED: ("match", "leads to switch leaf-of-another-rack"),
    Fault.IMPOSTOR: ("discover", "conflict about who it is: another machine's facts"),
    Fault.HUGE: ("discover", "facts: refused .* may have 1048576 bytes"),
    Fault.DENIED: ("power", "user and password|password were not accepted"),
    Fault.MUTE: ("power", "no answer to GET"),
}
"""Where each kind of bad machine ends, and why, in words."""
CURED = (Fault.HANGS, Fault.REBOOTS)
"""What goes well at the second try."""


def test_of_two_hundred_machines_each_bad_one_is_isolated_with_its_reason(room: Room) -> None:
    fates = {3 + 7 * at: str(fault) for at, fault in enumerate([*BAD, *CURED, *CURED])}
    often = {"slow": 0.04, "skewed": 0.04, "replay": 0.04}
    plot = Fleet(200, room.service.http, seed=7, faults=often, fates=fates, passwords=True)
    with launched(room.folder, plot) as fleet:
        write_metal_site(room.folder, by_mac(plot.cast, fleet.bmc), roles=["base"])
        with room.apply(fleet) as apply:
            result = apply.result()
        state, counts = fleet.state(), fleet.counts()
        leaked = leaks(room, [*fleet.secrets(), BMC_PASSWORD], result["plan"])

    reasons = {f"{stage}@{node(fault, fates)}": why for fault, (stage, why) in BAD.items()}
    assert sorted(result["failures"]) == sorted(reasons), result["failures"]
    for step, why in reasons.items():
        assert re.search(why, result["failures"][step]), (step, result["failures"][step])

    bad = {step.partition("@")[2] for step in reasons}
    good = set(state) - bad
    believed = room.machines()
    assert {name for name in good if believed[name].phase is not Phase.READY} == set()
    assert {name for name in good if state[name]["phase"] != "system"} == set()
    assert {state[name]["disk"] for name in bad} == {""}
    assert {name for name, machine in believed.items() if machine.phase is Phase.READY} == good
    assert {believed[name].id for name in good} == {state[name]["id"] for name in good}

    cured = {name for name in good if state[name]["fault"] in CURED}
    assert len(cured) == 4
    assert {name: installs(state[name]) for name in good} == {name: 2 if name in cured else 1 for name in good}
    assert sum(each["unwanted"] for each in state.values()) == 0
    replayed = sum(each["fault"] == Fault.REPLAY for each in state.values())
    assert counts["refused replay"] == replayed > 0

    placed = room.open().snapshot().placements
    assert {found.node for key, found in placed.items() if key.startswith("base@") and found.status.good} == good
    assert leaked == []
    with room.store() as store:
        assert store.check() == []
        doubted = {event.node for event in store.events(kinds=[kinds.MACHINE_CONFLICT])}
    assert len(doubted) >= 3  # the originals of both twins, and the impostor


def installs(machine: Mapping[str, Any]) -> int:
    """How many different orders to install a machine was handed out."""
    return len({key for key, task in machine["orders"] if task == "install"})


def leaks(room: Room, secrets: list[str], plan: str) -> list[str]:
    """Return where a secret is to be read: in the store, what was logged, the plan."""
    texts = {"plan": plan, "boot.log": room.service.log}
    with room.store() as store:
        texts["events"] = "\n".join(json.dumps([dict(event.data), event.node]) for event in store.events())
        texts["logs"] = "\n".join(entry.text for entry in store.log())
        texts["facts"] = "\n".join(store.facts(state.facts).decode() for state in store.machines() if state.facts)
        texts["machines"] = repr(store.machines())
    for path in (*room.site.rglob("*.db*"), *room.folder.rglob("*.log")):
        texts[path.name] = path.read_bytes().decode("latin-1")
    assert len(secrets) > 1
    return sorted({name for name, text in texts.items() for secret in secrets if secret in text})


def test_the_leaks_would_be_found(room: Room) -> None:
    """What the test above trusts in: that a secret in the store is seen."""
    plot = Fleet(1, room.service.http, within_s=0.0)
    with launched(room.folder, plot) as fleet:
        until(lambda: fleet.counts().get("full"), "the machine told its facts")
        until(lambda: len(known(room)) == 1, "they are on record")
        serial = plot.cast[0].serial
        assert {"events", "facts", "machines"} <= set(leaks(room, [serial, serial], ""))
        assert leaks(room, fleet.secrets(), "") == []


def test_killed_boot_service_and_killed_apply_give_no_order_twice(room: Room) -> None:
    pace = Pace(firmware=(0.2, 0.5, 1.0), install=(8.0, 10.0, 12.0), report_s=0.5)
    plot = Fleet(30, room.service.http, seed=11, pace=pace, passwords=True)
    patience = {**PATIENCE, "pickup_s": 120.0, "silent_s": 120.0}
    with launched(room.folder, plot) as fleet:
        write_metal_site(room.folder, by_mac(plot.cast, fleet.bmc))

        def installing() -> int:
            return sum(each["phase"] == "installing" for each in fleet.state().values())

        with room.apply(fleet, patience=patience) as first:
            until(lambda: installing() >= 10, "a third of them install", LIMIT_S)
            room.service.restart(signal.SIGKILL)
            before = fleet.counts()["progress"]
            until(lambda: fleet.counts()["progress"] > before + 10, "they go on with the next boot service", LIMIT_S)
            assert installing()
            first.kill()
        with room.store() as store:
            interrupted = store.open_run()
            assert interrupted is not None
            assert store.in_flight(interrupted.id)
        with room.apply(fleet, patience=patience) as second:
            result = second.result()
        state, counts = fleet.state(), fleet.counts()

    assert result["status"] == "succeeded", result["failures"]
    assert counts["tried again"] > 0  # the kill was felt
    assert {name: installs(each) for name, each in state.items()} == dict.fromkeys(state, 1)
    assert {each["boots"] for each in state.values()} == {2}  # once to the network, once to the disk
    assert {each["unwanted"] for each in state.values()} == {0}
    with room.store() as store:
        assert [run.id for run in store.runs()] == [interrupted.id]
        assert store.check() == []
        moves = [event.data for event in store.events(kinds=[kinds.MACHINE_MOVED])]
    ordered = [data["machine"] for data in moves if data["signal"] == "install"]
    assert sorted(ordered) == sorted(set(ordered))


RULES = {
    "big": ("dell-r660", 15, {"memory_gib": ">= 200", "disks": {"nvme": ">= 2"}}),
    "wide": ("supermicro-6029", 25, {"memory_gib": "< 200", "lldp.switch": "leaf-*"}),
}


def test_rules_choose_machines_once_these_are_known(room: Room) -> None:
    plot = Fleet(60, room.service.http, seed=5, within_s=2.0, templates=("dell-r660", "supermicro-6029"))
    nodes: dict[str, Any] = {}
    for name, (profile, count, rule) in RULES.items():
        for number in range(1, count + 1):
            address = f"10.20.{len(nodes) // 250}.{len(nodes) % 250 + 1}"
            nodes[f"{name}-{number:02}"] = {"address": address, "profile": profile, "match": rule, "groups": ["metal"]}
    write_metal_site(room.folder, nodes)
    first = room.open().plan()
    assert not first.complete
    assert sorted(step.id for step in first.steps) == sorted(f"discover@{name}" for name in nodes)
    with launched(room.folder, plot) as fleet:
        with room.apply(fleet) as apply:
            result = apply.result()
        assert result["failures"] == {}
        until(lambda: len(known(room)) == 60, "all machines told what they are", LIMIT_S)

        second = room.open().plan()
        wanted = [matching.Wanted(node=name, rule=node["match"]) for name, node in nodes.items()]
        chosen = matching.assign(wanted, known(room)).chosen
        assert second.complete
        assert {step.node: step.inputs["machine"] for step in second.steps if step.role == "match"} == dict(chosen)
        assert len(second.steps) == 5 * len(nodes)

        with room.apply(fleet) as apply:
            result = apply.result()
        assert result["failures"] == {}
        state = {each["id"]: each for each in fleet.state().values()}

    assert {name: machine.id for name, machine in room.machines().items()} == dict(chosen)
    assert {machine.phase for machine in room.machines().values()} == {Phase.READY}
    taken = set(chosen.values())
    assert {key for key, each in state.items() if each["orders"]} == taken
    assert {each["phase"] for key, each in state.items() if key not in taken} == {"discovery"}
    assert room.open().plan().steps == ()
    with room.store() as store:
        assert store.check() == []


def known(room: Room) -> list[matching.Candidate]:
    with room.store() as store:
        told = [machine for machine in store.machines() if machine.level == "full"]
        return [matching.Candidate(machine=each, facts=facts.read(store.facts(each.facts))) for each in told]
