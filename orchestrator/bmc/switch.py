"""Changing power so that the result is seen, not believed. The same for every driver that can press buttons.

A cycle is off and then on, each half seen to have happened: `PowerCycle` and `ForceRestart` leave the state "on"
throughout, so nothing could tell a BMC that did it from one that only said so. Many do not implement `PowerCycle`
at all (github.com/dsx-ai-factory/infra-controller/issues/2635).
"""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from typing import Protocol

from orchestrator.bmc.base import BmcError, Change, Deadline, Kind, Power, Target

__all__ = ["Press", "Switch", "carry_out"]


class Press(StrEnum):
    """A button. `RESET` is for BMCs that offer no way to switch off."""

    ON = "on"
    OFF = "off"
    SOFT = "soft"
    RESET = "reset"


class Switch(Protocol):
    """What a driver gives: reading the state, and pressing."""

    def read(self) -> Power:
        """Return what the BMC says now; raise a `BmcError` if it says nothing."""
        ...

    def press(self, press: Press) -> bool:
        """Press a button. Whether the BMC confirmed it; False if its answer got lost."""
        ...

    def only_resets(self) -> bool:
        """Whether the BMC offers no way to switch the machine off, only to reset it."""
        ...


_GOALS = {Press.ON: Power.ON, Press.OFF: Power.OFF, Press.SOFT: Power.OFF}


def carry_out(
    switch: Switch, change: Change, *, target: Target, deadline: Deadline, while_off: Callable[[], None] | None = None
) -> None:
    """Make `change` happen, or raise a `BmcError`. `while_off` is called in the middle of a cycle."""
    now = _settled(switch, deadline)
    asked = f"power {change}"
    if change is Change.CYCLE:
        if now is not Power.OFF and switch.only_resets():
            if not switch.press(Press.RESET):
                raise target.error(Kind.TIMEOUT, asked, "the BMC's answer to the reset got lost")
            return
        if now is not Power.OFF:
            _reach(switch, Press.OFF, now, target, asked, deadline)
        if while_off is not None:
            while_off()
        _reach(switch, Press.ON, Power.OFF, target, asked, deadline)
        return
    press = {Change.ON: Press.ON, Change.OFF: Press.OFF, Change.SOFT_OFF: Press.SOFT}[change]
    if now is not _GOALS[press]:
        _reach(switch, press, now, target, asked, deadline)


def _settled(switch: Switch, deadline: Deadline) -> Power:
    """Return the state; while it is neither on nor off (just changing), wait for up to a third of the time."""
    patience = deadline.left() * 2 / 3
    while (now := switch.read()) is Power.UNKNOWN and deadline.left() > patience:
        deadline.pause(0.5)
    return now


def _reach(switch: Switch, press: Press, before: Power, target: Target, asked: str, deadline: Deadline) -> None:
    confirmed = switch.press(press)
    goal = _GOALS[press]
    pause, last, silent = 0.1, before, None
    moved = False
    while True:
        try:
            last, silent = switch.read(), None
        except BmcError as error:
            if not error.transient:
                raise
            silent = error  # BMCs lose a request now and then, most of all while power changes
        if silent is None and last is goal:
            return
        moved = moved or last is not before
        if not deadline.pause(pause):
            break
        pause = min(2.0, pause * 1.5)
    raise _failed(press, last, moved, confirmed, silent, target=target, asked=asked, seconds=deadline.seconds)


def _failed(
    press: Press,
    last: Power,
    moved: bool,
    confirmed: bool,
    silent: BmcError | None,
    *,
    target: Target,
    asked: str,
    seconds: float,
) -> BmcError:
    within = f"within {seconds:g} s"
    if silent is not None:
        return target.error(Kind.TIMEOUT, asked, f"the BMC fell silent and did not come back {within}",
                            detail=[silent.summary])  # fmt: skip
    if press is Press.SOFT:
        return target.error(
            Kind.TIMEOUT,
            asked,
            f"the operating system did not switch the machine off {within}",
            hint=f"wait longer, or use `power off` if {target.node} may lose what it has not written",
        )
    if not confirmed:
        return target.error(Kind.TIMEOUT, asked, f"the BMC's answer got lost, and the machine is still {last} {within}")
    if moved or last is Power.UNKNOWN:
        return target.error(Kind.TIMEOUT, asked, f"the BMC began, and the machine is {last} after {seconds:g} s")
    return target.error(
        Kind.LYING, asked, f"the BMC confirmed it, and {seconds:g} s later still says that the machine is {last}"
    )
