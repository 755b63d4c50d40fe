"""Power of machines: one `Controller` per BMC, whatever it speaks. `base.py` says what they promise."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.bmc.base import (
    BmcError,
    BmcIdentity,
    Change,
    Controller,
    Credential,
    Device,
    Kind,
    Power,
    Target,
)
from orchestrator.errors import HalliganError, closest

if TYPE_CHECKING:
    from orchestrator.model import Bmc

__all__ = [
    "DRIVERS",
    "BmcError",
    "BmcIdentity",
    "Change",
    "Controller",
    "Credential",
    "Device",
    "Kind",
    "Power",
    "check",
    "connect",
]

DRIVERS = ("redfish", "ipmi", "manual")


def check(bmc: Bmc, *, node: str) -> None:
    """Raise a HalliganError if the spec's BMC cannot be used: an unknown driver, an address that is none."""
    from orchestrator.bmc.addresses import ipmi_endpoint, redfish_endpoint

    if bmc.driver not in DRIVERS:
        raise HalliganError(
            f'{node}: there is no BMC driver "{bmc.driver}".{closest(bmc.driver, DRIVERS)}',
            hint=f"use one of: {', '.join(DRIVERS)}",
        )
    if bmc.driver == "redfish":
        redfish_endpoint(bmc.address, node=node)
    elif bmc.driver == "ipmi":
        ipmi_endpoint(bmc.address, node=node)


def connect(
    bmc: Bmc, credential: Credential | None, *, node: str, firmware: str, timeout_s: float = 30.0
) -> Controller:
    """Return the controller of a node's BMC. Nobody is asked yet: the first method does that.

    `firmware` is the machine's, "uefi" or "bios"; `timeout_s` bounds each operation as a whole, waiting for a power
    change included. Raises what `check` raises, and a HalliganError if IPMI lacks a credential.
    """
    from orchestrator.bmc.addresses import ipmi_endpoint, redfish_endpoint, shown

    check(bmc, node=node)
    target = Target(node=node, driver=bmc.driver, address=shown(bmc.address))
    if bmc.driver == "redfish":
        from orchestrator.bmc.redfish import RedfishController

        endpoint = redfish_endpoint(bmc.address, node=node)
        return RedfishController(target, endpoint, credential, firmware=firmware, ca=bmc.ca, timeout_s=timeout_s)
    if bmc.driver == "ipmi":
        from orchestrator.bmc.ipmi import IpmiController

        if credential is None:
            raise HalliganError(
                f"{node}: IPMI at {target.address} wants a user and a password",
                hint="name a secret variable with the keys user and password as bmc.credential",
            )
        host, port = ipmi_endpoint(bmc.address, node=node)
        return IpmiController(target, host, port, credential, firmware=firmware, timeout_s=timeout_s)
    from orchestrator.bmc.manual import ManualController

    return ManualController(target)
