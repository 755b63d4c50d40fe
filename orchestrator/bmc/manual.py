"""A machine whose power nobody but a person can change: says what to do instead of doing it."""

from __future__ import annotations

from orchestrator.bmc.base import BmcIdentity, Change, Device, Kind, Power, Target

__all__ = ["ManualController"]

_BY_HAND = {
    Change.ON: "switch {node} on by hand",
    Change.OFF: "switch {node} off by hand",
    Change.CYCLE: "switch {node} off and on again by hand",
    Change.SOFT_OFF: "shut {node} down by hand",
}
_FROM = {
    Device.NETWORK: "over the network (PXE)",
    Device.HTTP: "over the network (UEFI HTTP boot)",
    Device.DISK: "from its disk",
    Device.CD: "from its CD drive",
}


class ManualController:
    """Asks nobody. Every change is a `BmcError` of kind refused whose message is the instruction to the operator."""

    def __init__(self, target: Target) -> None:
        self._target = target

    def identity(self) -> BmcIdentity:
        """Return nothing: nobody can be asked."""
        return BmcIdentity()

    def power(self) -> Power:
        """Return unknown: nobody can be asked."""
        return Power.UNKNOWN

    def set_power(self, change: Change) -> None:
        """Raise the instruction."""
        self._please(f"power {change}", _BY_HAND[change].format(node=self._target.node))

    def boot_once(self, device: Device) -> None:
        """Raise the instruction."""
        self._please(
            f"boot once from {device}",
            f"choose in the boot menu of {self._target.node} that it boots {_FROM[device]} this time",
        )

    def close(self) -> None:
        """Do nothing."""

    def _please(self, asked: str, instruction: str) -> None:
        raise self._target.error(
            Kind.REFUSED,
            asked,
            f"this machine has no BMC that Halligan may use: please {instruction}",
            hint=f"{instruction}; the run goes on as soon as the machine reports in",
        )
