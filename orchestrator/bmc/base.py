"""Power of one machine, as its management controller (BMC) gives it. What every driver keeps to.

A `Controller` belongs to one node and is used by one thread at a time (`pool.py` sees to that). Its methods block, each
for at most the time limit that it was made with, and fail with a `BmcError` that says what, where, why and what next.
Nothing here, in messages or in `repr`, ever shows a password.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from orchestrator.errors import HalliganError

__all__ = [
    "BmcError",
    "BmcIdentity",
    "Change",
    "Controller",
    "Credential",
    "Deadline",
    "Device",
    "Kind",
    "Power",
    "Target",
]


class Power(StrEnum):
    """What a BMC says about its machine; `UNKNOWN` if it says neither, or nobody can be asked."""

    ON = "on"
    OFF = "off"
    UNKNOWN = "unknown"


class Change(StrEnum):
    """What can be asked of a machine's power. `CYCLE` of a machine that is off switches it on."""

    ON = "on"
    OFF = "off"  # at once, as if the plug were pulled
    CYCLE = "cycle"  # off, seen to be off, on
    SOFT_OFF = "soft-off"  # asks its operating system, which may take its time or not listen


class Device(StrEnum):
    """What a machine can be told to boot from, once."""

    NETWORK = "network"  # PXE
    HTTP = "http"  # UEFI HTTP boot
    DISK = "disk"
    CD = "cd"


class Kind(StrEnum):
    """What sort of thing went wrong with a BMC."""

    UNREACHABLE = "unreachable"  # nobody answers at its address
    DENIED = "denied"  # wrong user or password: never asked twice, or the account gets locked
    REFUSED = "refused"  # it (or we, when it is a stranger) will not do it
    LYING = "lying"  # it confirmed a change that it did not make
    TIMEOUT = "timeout"  # it answers, but what was asked did not happen in time


@dataclass(frozen=True, slots=True)
class BmcIdentity:
    """Which machine a BMC says it manages: system UUID in lower case, serial number; empty where it does not say."""

    uuid: str = ""
    serial: str = ""
    manufacturer: str = ""
    model: str = ""


@dataclass(frozen=True, slots=True)
class Credential:
    """A user and password of a BMC. Its `repr` hides the password."""

    user: str
    password: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Target:
    """Whom a driver talks to, for messages: node, driver and the address as the spec has it."""

    node: str
    driver: str
    address: str

    def error(self, kind: Kind, asked: str, why: str, *, detail: Sequence[str] = (), hint: str = "") -> BmcError:
        """Make the error of this BMC; without `hint` it is what usually helps with that kind."""
        return BmcError(kind, self, asked=asked, why=why, detail=detail, hint=hint)


class BmcError(HalliganError):
    """A BMC did not do what it was asked. `kind` says what sort of failure it is."""

    def __init__(
        self, kind: Kind, target: Target, *, asked: str, why: str, detail: Sequence[str] = (), hint: str = ""
    ) -> None:
        super().__init__(
            f"{target.node}: {asked} ({target.driver} at {target.address}): {why}",
            detail=detail,
            hint=hint or _HINTS[kind].format(node=target.node),
        )
        self.kind = kind
        self.target = target
        self.asked = asked

    @property
    def transient(self) -> bool:
        """Whether asking again later may help without anybody doing anything."""
        return self.kind in (Kind.UNREACHABLE, Kind.TIMEOUT)


_HINTS = {
    Kind.UNREACHABLE: "check the address of {node}'s BMC in the spec, its cable, and the route to its network",
    Kind.DENIED: "correct user and password in the secret variable that {node}'s bmc.credential names; "
    "nothing was tried a second time, so that the account is not locked",
    Kind.REFUSED: "read what the BMC answered; its web page or a newer firmware may tell more",
    Kind.LYING: "look at {node} itself; restarting its BMC (not the machine) often cures this",
    Kind.TIMEOUT: "look at {node}'s console; then try again, with a longer time limit if it is only slow",
}


class Controller(Protocol):
    """The BMC of one machine. Not for two threads at once."""

    def identity(self) -> BmcIdentity:
        """Ask which machine this is."""
        ...

    def power(self) -> Power:
        """Ask whether it is on."""
        ...

    def set_power(self, change: Change) -> None:
        """Change it, and return when the BMC says that it is so; at once if it already was."""
        ...

    def boot_once(self, device: Device) -> None:
        """Have the next boot come from `device`. Only what the machine then does proves it."""
        ...

    def close(self) -> None:
        """End the session with the BMC. Never fails; the controller is of no use afterwards."""
        ...


class Deadline:
    """A point in time that an operation must not pass; `math.inf` seconds is never."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._end = time.monotonic() + seconds

    def left(self) -> float:
        """Seconds that remain, never negative."""
        return max(0.0, self._end - time.monotonic())

    def pause(self, seconds: float) -> bool:
        """Wait, but not beyond the end. Whether time remains afterwards."""
        time.sleep(min(seconds, self.left()))
        return self.left() > 0
