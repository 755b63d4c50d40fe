"""What an operator asks of one machine outside of a plan: power, rescue, erase and retire."""

from __future__ import annotations

import secrets
from collections.abc import Mapping

from orchestrator.bmc import Change, Controller, Power
from orchestrator.executors.metal.stages import StageError, Work, agent_back, start_from_disk, start_from_network
from orchestrator.lifecycle import Signal, boots_locally
from orchestrator.model import Failure, MachineState, Order, Phase

__all__ = ["CHANGES", "change_power", "rescue", "retire", "unrescue"]


async def change_power(work: Work, change: Change) -> None:
    """Ask the BMC; what the machine then starts from is what its firmware and the boot service say."""

    def ask(bmc: Controller) -> tuple[Power, Power]:
        was = bmc.power()
        bmc.set_power(change)
        return was, bmc.power()

    _has_bmc(work)
    was, now = await work.around.bmc(work.wanted, ask)
    work.changed = was is not now or change is Change.CYCLE
    work.say(f"it was {was}, it is {now}")


async def rescue(work: Work) -> None:
    """Start the discovery image with a login, whatever is on the disk."""
    _has_bmc(work)
    state = work.must()
    if state.phase is not Phase.RESCUE:
        state = await work.move(state, Signal.RESCUE)
    before = state.credential
    await start_from_network(work)
    await agent_back(work, before)
    work.say(f"{state.id} runs the discovery image; log in as root with the site's key")


async def unrescue(work: Work) -> None:
    """End a rescue: the machine goes back to what it was, and starts from its disk if it has a system there."""
    _has_bmc(work)
    state = await work.move(work.must(), Signal.UNRESCUE)
    if boots_locally(state):
        await start_from_disk(work)
    else:
        await work.around.bmc(work.wanted, lambda bmc: bmc.set_power(Change.OFF))
        work.say("switched off")


async def retire(work: Work) -> None:
    """Erase every disk, prove it, and switch the machine off for good."""
    state = work.must()
    before = state.credential
    was_there = state.phase in (Phase.DISCOVERED, Phase.CLAIMED) and bool(state.credential)
    order = Order(id=secrets.token_hex(8), task="erase", args={"disks": "all", "method": "auto"})
    state = await work.move(state, Signal.RETIRE, order=order)
    if not was_there:
        _has_bmc(work)
        await start_from_network(work)
        await agent_back(work, before)

    def over() -> MachineState | None:
        now = work.must()
        return now if now.phase is not Phase.RETIRING else None

    ended = await work.ledger.until(over, silent_s=work.patience.silent_s, machine=state.id)
    if ended.phase is not Phase.RETIRED:
        raise StageError(f"{ended.id} is not erased: {ended.reason}", kind=Failure.ERASE)
    work.say(f"{ended.id} is erased; `halligan log` has the proof")
    if work.wanted.bmc:
        await work.around.bmc(work.wanted, lambda bmc: bmc.set_power(Change.OFF))
        work.say("switched off")


def _has_bmc(work: Work) -> None:
    if work.wanted.bmc is None:
        raise StageError(
            f"{work.wanted.node} has no BMC in the spec: its power can only be changed by hand", kind=Failure.POWER
        )


CHANGES: Mapping[str, Change] = {
    "on": Change.ON,
    "off": Change.OFF,
    "cycle": Change.CYCLE,
    "soft-off": Change.SOFT_OFF,
}
"""The words of `halligan power`."""
