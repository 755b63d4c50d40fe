"""BMCs in memory that behave: they take time, fail, lie and deny as real ones do. For tests of whoever uses BMCs.

    rack = FakeRack()
    rack["10.90.0.11"] = FakeBmc(password="right", on_change=machine.powered)
    controller = rack.connect(Bmc(driver="redfish", address="10.90.0.11"), credential, node="kvm-1", firmware="uefi")

`FakeRack.connect` is called like `orchestrator.bmc.connect` and can stand in its place.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from orchestrator.bmc.base import BmcIdentity, Change, Credential, Deadline, Device, Kind, Power, Target
from orchestrator.bmc.switch import Press, carry_out

if TYPE_CHECKING:
    from orchestrator.model import Bmc

__all__ = ["FakeBmc", "FakeController", "FakeRack"]


@dataclass(slots=True, kw_only=True)
class FakeBmc:
    """One BMC and its machine. Change the fields at any time; they are read anew for each request.

    `changes_in` is after how many reads of the power state a change shows; `silent` BMCs answer nothing until the time
    limit is over, `gone` ones are unreachable at once; `lies` confirms power changes that it does not make, and
    `lies_about_boot` the same for the boot device; `deaf` machines ignore a soft-off; `refuses` is what it says to
    every change. `delay_s` is before each answer. `on_change(before, after)` is called when power changed, in the
    caller's thread. `asked` lists what came in, `logins` counts passwords that were tried, `presses`
    buttons.
    """

    identity: BmcIdentity = field(default_factory=BmcIdentity)
    user: str = "admin"
    password: str = ""  # empty: takes everybody
    power: Power = Power.OFF
    boot: Device | None = None
    changes_in: int = 0
    delay_s: float = 0.0
    silent: bool = False
    gone: bool = False
    lies: bool = False
    lies_about_boot: bool = False
    deaf: bool = False
    refuses: str = ""
    on_change: Callable[[Power, Power], None] | None = None
    asked: list[str] = field(default_factory=list)
    logins: int = 0
    presses: int = 0
    _coming: Power | None = None
    _reads_left: int = 0

    def read(self) -> Power:
        """Return the power state, and let a change that is due happen."""
        if self._coming is not None:
            if self._reads_left <= 0:
                before, self.power, self._coming = self.power, self._coming, None
                if self.on_change is not None and before is not self.power:
                    self.on_change(before, self.power)
            else:
                self._reads_left -= 1
        return self.power

    def press(self, press: Press) -> None:
        """Take a press of a button: the change comes later, if at all."""
        self.presses += 1
        if self.lies or (press is Press.SOFT and self.deaf):
            return
        self._coming = Power.ON if press is Press.ON else Power.OFF
        self._reads_left = self.changes_in


class FakeController:
    """A `Controller` of a `FakeBmc`."""

    def __init__(self, target: Target, bmc: FakeBmc, credential: Credential | None, *, firmware: str, timeout_s: float):
        self._target, self._bmc, self._credential = target, bmc, credential
        self._firmware, self._deadline, self._timeout_s = firmware, Deadline(timeout_s), timeout_s
        self._logged_in = self._denied = False

    def identity(self) -> BmcIdentity:
        """Return the machine's identity."""
        self._begin("read its identity")
        return self._bmc.identity

    def power(self) -> Power:
        """Return the power state."""
        self._begin("read its power state")
        return self._bmc.read()

    def set_power(self, change: Change) -> None:
        """Change it as the drivers do, with the same code."""
        self._begin(f"power {change}")
        carry_out(_Buttons(self, f"power {change}"), change, target=self._target, deadline=self._deadline)

    def boot_once(self, device: Device) -> None:
        """Take the device as the next boot's."""
        asked = f"boot once from {device}"
        self._begin(asked)
        if device is Device.HTTP and self._firmware != "uefi":
            raise self._target.error(Kind.REFUSED, asked, "HTTP boot is a thing of UEFI")
        self.refuse(asked)
        if self._bmc.lies_about_boot:
            raise self._target.error(Kind.LYING, asked, f"the BMC confirmed it, and shows {self._bmc.boot}")
        self._bmc.boot = device

    def close(self) -> None:
        """Log out."""
        self._logged_in = False

    def _begin(self, asked: str) -> None:
        self._deadline = Deadline(self._timeout_s)
        self._bmc.asked.append(asked)
        self.wait(asked)
        if self._denied:
            raise self._denial(asked)
        if self._logged_in or not self._bmc.password:
            return
        self._bmc.logins += 1
        if self._credential != Credential(self._bmc.user, self._bmc.password):
            self._denied = True
            raise self._denial(asked)
        self._logged_in = True

    def wait(self, asked: str) -> None:
        """Take the time that an answer takes, or fail as a BMC does that gives none."""
        if self._bmc.gone:
            raise self._target.error(Kind.UNREACHABLE, asked, "nobody there")
        never = threading.Event()
        if self._bmc.silent or self._bmc.delay_s > self._deadline.left():
            never.wait(self._deadline.left())
            raise self._target.error(Kind.TIMEOUT, asked, f"no answer within {self._timeout_s:g} s")
        never.wait(self._bmc.delay_s)

    def refuse(self, asked: str) -> None:
        """Fail if this BMC refuses."""
        if self._bmc.refuses:
            raise self._target.error(Kind.REFUSED, asked, self._bmc.refuses)

    def pressed(self, press: Press, asked: str) -> None:
        """Press a button of the machine."""
        self.refuse(asked)
        self.wait(asked)
        self._bmc.press(press)

    def seen(self, asked: str) -> Power:
        """Read the power state in the middle of a change."""
        self.wait(asked)
        return self._bmc.read()

    def _denial(self, asked: str) -> Exception:
        return self._target.error(Kind.DENIED, asked, "user and password were not accepted")


class _Buttons:
    """The controller as a `Switch`."""

    def __init__(self, controller: FakeController, asked: str) -> None:
        self._controller, self._asked = controller, asked

    def read(self) -> Power:
        return self._controller.seen(self._asked)

    def press(self, press: Press) -> bool:
        self._controller.pressed(press, self._asked)
        return True

    def only_resets(self) -> bool:
        return False


class FakeRack(dict[str, FakeBmc]):
    """BMCs by address. An address that is not in it is unreachable."""

    def connect(
        self, bmc: Bmc, credential: Credential | None, *, node: str, firmware: str, timeout_s: float = 30.0
    ) -> FakeController:
        """Return a controller, as `orchestrator.bmc.connect` does."""
        target = Target(node=node, driver=bmc.driver, address=bmc.address)
        fake = self.get(bmc.address) or FakeBmc(gone=True)
        return FakeController(target, fake, credential, firmware=firmware, timeout_s=timeout_s)
