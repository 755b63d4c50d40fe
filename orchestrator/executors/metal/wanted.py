"""What a step is told of its node's machine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from orchestrator.identity import keys
from orchestrator.model import Bmc, Identity, Json, PlanNode, StepRun, Value

__all__ = ["Wanted"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """A node as its life-cycle steps see it. `credential` may still be a reference."""

    node: str
    host: PlanNode
    mac: str = ""
    serial: str = ""
    machine: str = ""  # that a rule chose when the plan was made
    match: Mapping[str, Json] = field(default_factory=dict)
    wiring: Mapping[str, Json] = field(default_factory=dict)
    profile: Mapping[str, Json] = field(default_factory=dict)
    networks: tuple[Mapping[str, Json], ...] = ()
    boot_network: str = ""
    bmc: Bmc | None = None
    credential: Value = None

    @classmethod
    def of(cls, run: StepRun) -> Wanted:
        told = run.inputs
        bmc = told.get("bmc") or {}
        if bmc.get("driver") == "manual":
            bmc = {}  # a person: nobody who could be asked
        return cls(
            node=run.node.name,
            host=run.node,
            mac=told.get("mac", ""),
            serial=told.get("serial", ""),
            machine=told.get("machine", ""),
            match=told.get("match", {}),
            wiring=told.get("wiring", {}),
            profile=told.get("profile", {}),
            networks=tuple(told.get("networks", ())),
            boot_network=told.get("boot_network", ""),
            bmc=Bmc(driver=bmc["driver"], address=bmc["address"], ca=bmc.get("ca", "")) if bmc else None,
            credential=bmc.get("credential"),
        )

    @property
    def keys(self) -> tuple[str, ...]:
        """What the store's index finds its machine by."""
        serials = (self.serial,) if self.serial else ()
        return keys(Identity(macs=(self.mac,) if self.mac else (), serials=serials))

    @property
    def by_rule(self) -> bool:
        """Whether only a rule over hardware tells which machine it is, and none is chosen yet."""
        return bool(self.match) and not (self.mac or self.serial or self.machine)

    @property
    def firmware(self) -> str:
        return str(self.profile.get("firmware", "uefi"))

    @property
    def image(self) -> str:
        return str(self.profile.get("image", ""))
