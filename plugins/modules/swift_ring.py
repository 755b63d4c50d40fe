#!/usr/bin/python
# Copyright: the Halligan authors
# Apache License 2.0 (see LICENSE)
"""Keep one of Swift's rings in step with a list of devices."""

from __future__ import annotations

import base64
import hashlib
import pickle
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: swift_ring
short_description: Keep one of Swift's rings in step with a list of devices
description:
  - Makes the builder file, adds, changes and removes devices, rebalances, and returns the ring.
  - Rebalances when devices or replicas changed, and when an earlier rebalance had to leave partitions where they were
    and may move them now.
  - Everything is done on a copy, which takes the place of the old files only if it differs. So check mode predicts
    exactly.
  - A seed makes the same steps give the same ring everywhere.
  - Needs C(swift-ring-builder) on the target.
author: The Halligan authors
options:
  builder:
    description: The builder file, as in C(/var/lib/swift-rings/account.builder). The ring is put beside it.
    type: path
    required: true
  part_power:
    description: The ring has two to the power of this many partitions. It cannot be changed later.
    type: int
    required: true
  replicas:
    description: Number of copies.
    type: int
    required: true
  min_part_hours:
    description: Hours in which no second copy of a partition may be moved.
    type: int
    required: true
  port:
    description: Port of the server that keeps what this ring places.
    type: int
    required: true
  devices:
    description: The devices, each with C(address) and C(device), and if need be C(region), C(zone) and C(weight).
    type: list
    elements: dict
    required: true
    suboptions:
      address: {description: Address of the storage node., type: str, required: true}
      device: {description: Name of the device on that node., type: str, required: true}
      region: {description: Region., type: int, default: 1}
      zone: {description: Zone., type: int, default: 1}
      weight: {description: Share of the partitions in proportion to the other devices., type: float, default: 100}
  seed:
    description: Seed of the choices that a rebalance makes.
    type: str
    required: true
attributes:
  check_mode:
    support: full
"""

EXAMPLES = r"""
- name: Keep the ring of accounts
  swift_ring:
    builder: /var/lib/swift-rings/account.builder
    part_power: 10
    replicas: 3
    min_part_hours: 1
    port: 6202
    devices: [{address: 10.0.0.21, device: d1}, {address: 10.0.0.22, device: d1, zone: 2}]
    seed: lab
"""

RETURN = r"""
did:
  description: What was done, or would be in check mode.
  type: list
  elements: str
  returned: always
ring:
  description: The ring file in base64.
  type: str
  returned: always
sha256:
  description: Its checksum.
  type: str
  returned: always
balance:
  description: By how many percent the worst device differs from its share.
  type: float
  returned: always
"""

BALANCED = 5.0  # percent; swift-ring-builder itself advises another rebalance above it
EMPTIED = 999.99  # for a device that shall have nothing and has something, as Swift says it
LEFT_AS_IS = 1  # exit code of swift-ring-builder: it had no reason to change the ring, or has a warning

State = Mapping[str, Any]
Device = Mapping[str, Any]


class UnwantedError(Exception):
    """What is asked for cannot be had."""


def place(device: Device) -> tuple[str, str]:
    """Return what tells a device from all others."""
    return str(device["address"]), str(device["device"])


def present(state: State) -> dict[tuple[str, str], dict[str, Any]]:
    """Return the devices of a builder, without those that go with the next rebalance."""
    leaving = {one["id"] for one in state["_remove_devs"]}
    return {(one["ip"], one["device"]): one for one in state["devs"] if one and one["id"] not in leaving}


def steps(state: State | None, wanted: Mapping[str, Any]) -> list[list[str]]:
    """Return the commands that lead from a builder (none: there is none yet) to what is wanted."""
    power, replicas, hours = (str(wanted[name]) for name in ("part_power", "replicas", "min_part_hours"))
    if state is None:
        return [["create", power, replicas, hours], *(added(one, wanted["port"]) for one in wanted["devices"])]
    if state["part_power"] != wanted["part_power"]:
        raise UnwantedError(
            f"the ring was made with a part power of {state['part_power']}, and every object's place follows from it; "
            f"set it back to {state['part_power']}"
        )
    there, listed = present(state), {place(one): one for one in wanted["devices"]}
    if strangers := {one["port"] for one in there.values()} - {wanted["port"]}:
        raise UnwantedError(f"the ring's devices have the port {strangers.pop()}; set it back to that")
    todo = []
    if float(state["replicas"]) != wanted["replicas"]:
        todo.append(["set_replicas", replicas])
    if state["min_part_hours"] != wanted["min_part_hours"]:
        todo.append(["set_min_part_hours", hours])
    todo += [["remove", f"d{one['id']}", "--yes"] for key, one in there.items() if key not in listed]
    for key, one in listed.items():
        todo += changed(there[key], one) if key in there else [added(one, wanted["port"])]
    return todo


def added(device: Device, port: int) -> list[str]:
    options = {name: device[name] for name in ("region", "zone", "device", "weight")}
    options |= {"ip": device["address"], "port": port, "replication-ip": device["address"], "replication-port": port}
    return ["add", *(word for name, value in options.items() for word in (f"--{name}", str(value)))]


def changed(old: Device, new: Device) -> list[list[str]]:
    """Return the commands for a device that is there already."""
    which = f"d{old['id']}"
    return [
        [f"set_{what}", which, str(new[what]), "--yes"]
        for what in ("region", "zone", "weight")
        if old[what] != new[what]
    ]


def balance(state: State) -> float:
    """Return by how many percent the worst device differs from its share of the partitions."""
    held: Counter[int] = Counter()
    for row in state["_replica2part2dev"] or []:
        held.update(row)
    total = sum(one["weight"] for one in state["devs"] if one)
    worst = 0.0
    for one in (one for one in state["devs"] if one):
        share = one["weight"] / total * state["parts"] * state["replicas"] if total else 0.0
        parts = held[one["id"]]
        worst = max(worst, abs(parts - share) / share * 100 if share else (EMPTIED if parts else 0.0))
    return round(worst, 2)


def may_move(state: State, now: float) -> bool:
    """Tell whether partitions that were moved last may be moved again."""
    return bool(now - state["_last_part_moves_epoch"] >= state["min_part_hours"] * 3600)


def due(state: State, now: float) -> bool:
    """Tell whether to rebalance: it never was, something changed, or the last time was not the end of it."""
    if state["devs_changed"] or state["_remove_devs"] or not state["_replica2part2dev"]:
        return True
    return balance(state) > BALANCED and may_move(state, now)


def copies_changed(state: State) -> bool:
    """Tell whether the ring has another number of copies than the builder. Fewer move nothing, so it is not saved."""
    rows = len(state["_replica2part2dev"] or [])
    return bool(rows) and rows != state["replicas"]


def read(builder: Path) -> dict[str, Any] | None:
    """Read a builder file: a pickled dictionary of plain values, written by root for root."""
    if not builder.exists():
        return None
    with builder.open("rb") as stream:
        state: dict[str, Any] = pickle.load(stream)  # noqa: S301 - its folder is root's own
    return state


class Work:
    """A copy of the builder to work on."""

    def __init__(self, module: AnsibleModule, builder: Path, folder: Path) -> None:
        self._module = module
        self.builder = folder / builder.name
        self.ring = ring_of(self.builder)
        for kept, copy in ((builder, self.builder), (ring_of(builder), self.ring)):
            if kept.exists():
                shutil.copy2(kept, copy)

    def run(self, *words: str) -> str:
        command = ["swift-ring-builder", str(self.builder), *words]
        code, output, error = self._module.run_command(command, cwd=str(self.builder.parent))
        if code not in (0, LEFT_AS_IS):
            self._module.fail_json(msg=f"swift-ring-builder {' '.join(words)}: {' '.join((output + error).split())}")
        return str(output)


def ring_of(builder: Path) -> Path:
    return builder.with_suffix(".ring.gz")


def same(one: Path, other: Path) -> bool:
    return one.exists() and other.exists() and one.read_bytes() == other.read_bytes()


def keep(module: AnsibleModule, folder: Path) -> dict[str, Any]:
    """Bring the ring to what is wanted; return what the module returns."""
    builder, options = Path(module.params["builder"]), module.params
    state = read(builder)
    todo = steps(state, options)
    work = Work(module, builder, folder)
    did = [" ".join(words) for words in todo]
    for words in todo:
        work.run(*words)
    reached = read(work.builder)
    if reached is not None and due(reached, time.time()):
        work.run("rebalance", "--seed", options["seed"], *(["--force"] if copies_changed(reached) else []))
    if not work.ring.exists():
        work.run("write_ring")
    if not same(work.ring, ring_of(builder)):
        did.append("rebalanced")
    # The ring first: a run that ends in between does the same steps again, with the same seed.
    for new, old in ((work.ring, ring_of(builder)), (work.builder, builder)):
        if not module.check_mode and not same(new, old):
            module.atomic_move(str(new), str(old))
    return told(module, did, work if module.check_mode else Work(module, builder, folder))


def told(module: AnsibleModule, did: Sequence[str], work: Work) -> dict[str, Any]:
    """Return what the module returns of a ring, and warn of one that is not what it should be yet."""
    content, state = work.ring.read_bytes(), read(work.builder) or {}
    off = balance(state)
    if off > BALANCED and not may_move(state, time.time()):
        module.warn(
            f"{work.ring.name}: a device is {off} % off its share; apply again when min_part_hours have passed."
        )
    return {
        "changed": bool(did),
        "did": list(did),
        "ring": base64.b64encode(content).decode(),
        "sha256": hashlib.sha256(content).hexdigest(),
        "balance": off,
    }


def main() -> None:
    device = {
        "address": {"type": "str", "required": True},
        "device": {"type": "str", "required": True},
        "region": {"type": "int", "default": 1},
        "zone": {"type": "int", "default": 1},
        "weight": {"type": "float", "default": 100},
    }
    module = AnsibleModule(
        argument_spec={
            "builder": {"type": "path", "required": True},
            "part_power": {"type": "int", "required": True},
            "replicas": {"type": "int", "required": True},
            "min_part_hours": {"type": "int", "required": True},
            "port": {"type": "int", "required": True},
            "devices": {"type": "list", "elements": "dict", "required": True, "options": device},
            "seed": {"type": "str", "required": True},
        },
        supports_check_mode=True,
    )
    with tempfile.TemporaryDirectory(prefix="swift-ring-") as folder:
        try:
            result = keep(module, Path(folder))
        except UnwantedError as error:
            module.fail_json(msg=f"{module.params['builder']}: {error}")
    module.exit_json(**result)


if __name__ == "__main__":
    main()
