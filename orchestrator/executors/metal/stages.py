"""What each life-cycle step does, and what it takes as success. A step looks first: what is done costs nothing again.

Every wait is for something that the machine does, seen in the store. A machine that says nothing for too long is
switched off and on once, if its BMC can be asked, before the step gives up; the policy's retries come on top.
"""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol, TypeVar
from uuid import UUID

from orchestrator import facts, matching
from orchestrator.bmc import BmcError, Change, Controller, Device, Power
from orchestrator.errors import HalliganError, Problem
from orchestrator.executors.carry.session import UnreachableError
from orchestrator.executors.metal.ledger import Ledger, SilentError
from orchestrator.executors.metal.wanted import Wanted
from orchestrator.lifecycle import Signal
from orchestrator.model import Failure, MachineState, Order, Phase, PlanNode

__all__ = [
    "STAGE_OF",
    "Patience",
    "StageError",
    "Surroundings",
    "Work",
    "agent_back",
    "start_from_disk",
    "start_from_network",
]

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long a machine may say nothing, in seconds: servers take minutes to get through their firmware."""

    boot_s: float = 900.0  # from power on to the discovery image
    facts_s: float = 300.0  # from the first facts to the full ones
    pickup_s: float = 120.0  # from an order to the first progress
    silent_s: float = 300.0  # between two signs of progress
    watch_s: float = 20.0  # without a sign, before its BMC is asked whether it is on at all
    login_s: float = 900.0  # from the restart to a login
    look_s: float = 2.0  # between two tries to log in


class StageError(Exception):
    """The step failed; says why. `absent` is for machines that could not be reached at all, which is worth a retry."""

    def __init__(self, problem: str, *, kind: Failure, absent: bool = False) -> None:
        super().__init__(problem)
        self.kind = kind
        self.absent = absent


class Surroundings(Protocol):
    """What the steps need beside the store."""

    async def bmc(self, wanted: Wanted, ask: Callable[[Controller], T]) -> T:
        """Ask a node's BMC something, in a thread; raises BmcError."""
        ...

    def order(self, wanted: Wanted, found: facts.Facts, key: str) -> Order:
        """Return the order to install, from the machine's facts and the images at hand; raises HalliganError."""
        ...

    def smallest_disk(self, wanted: Wanted) -> int:
        """Return how many bytes the node's image needs; raises HalliganError."""
        ...

    def trust(self, node: PlanNode, host_keys: tuple[str, ...]) -> None:
        """Make a node's host keys known, before the first login."""
        ...

    async def login(self, node: PlanNode) -> None:
        """Log in and see that the system has finished its first start; raises UnreachableError."""
        ...


@dataclass(slots=True)
class Work:
    """One step under way. `said` becomes its log."""

    wanted: Wanted
    ledger: Ledger
    around: Surroundings
    patience: Patience
    run: str
    attempt: int = 1
    changed: bool = False
    said: list[str] = field(default_factory=list)

    def say(self, line: str) -> None:
        self.said.append(line)

    def state(self) -> MachineState | None:
        return self.ledger.find(self.wanted)

    def must(self) -> MachineState:
        state = self.state()
        if state is None:
            raise StageError(f"no machine is known for {self.wanted.node}", kind=Failure.IDENTITY, absent=True)
        return state

    async def move(self, state: MachineState, signal: Signal, **changes: object) -> MachineState:
        self.changed = True
        moved = await self.ledger.move(state.id, signal, run=self.run, **changes)
        self.say(f"machine {moved.id}: {state.phase} -> {moved.phase} ({signal})")
        return moved


# --- power --------------------------------------------------------------------------------------------------------

_COMES_BACK = (Phase.DISCOVERED, Phase.CLAIMED, Phase.FAILED)


async def power(work: Work) -> None:
    """Switch the machine on so that it starts from the network; leave one alone that waits for orders already."""
    state = work.state()
    if work.wanted.bmc is None:
        work.say("no BMC in the spec: switch the machine on by hand, starting from the network")
        return
    if state:
        await _same_machine(work, state)
    now = await work.around.bmc(work.wanted, lambda bmc: bmc.power())
    waits = state is not None and state.phase in (Phase.DISCOVERED, Phase.CLAIMED) and bool(state.credential)
    if now is Power.ON and waits and work.attempt == 1:
        work.say(f"it is on and runs the discovery image as {state.id}" if state else "")
        return
    await start_from_network(work, now)
    if state is not None and state.facts and state.phase in _COMES_BACK:
        await agent_back(work, state.credential)  # what it told before tells nothing of whether it is there now


async def start_from_network(work: Work, now: Power | None = None) -> None:
    """Switch the machine off if it is on, and on again so that it starts from the network once."""

    was = await work.around.bmc(work.wanted, lambda bmc: _start(bmc, Device.NETWORK, now))
    work.changed = True
    work.say(f"it was {was}; switched {'off and ' if was is Power.ON else ''}on, to start from the network once")


def _start(bmc: Controller, device: Device, now: Power | None = None) -> Power:
    """Switch a machine off if it is on, and on from a device once; return what it was before."""
    was = bmc.power() if now is None else now
    if was is Power.ON:
        bmc.set_power(Change.OFF)
    bmc.boot_once(device)
    bmc.set_power(Change.ON)
    return was


async def _same_machine(work: Work, state: MachineState) -> None:
    """Compare what the BMC says of its machine with what the machine said itself."""
    told = await work.around.bmc(work.wanted, lambda bmc: bmc.identity())
    known = state.identity.uuid
    if told.uuid and known and known not in (told.uuid.lower(), _swapped(told.uuid)):
        raise StageError(
            f"its BMC manages a machine with the UUID {told.uuid}, but {work.wanted.node} is {state.id} with the UUID "
            f"{known}: the spec has the wrong BMC address, or the wrong MAC address or serial number",
            kind=Failure.IDENTITY,
        )


def _swapped(uuid: str) -> str:
    """Return a UUID as IPMI shows it, whose first three fields may come in the other byte order (IPMI 2.0, 20.8)."""
    return str(UUID(bytes=UUID(uuid).bytes_le))


# --- discover -----------------------------------------------------------------------------------------------------


async def discover(work: Work) -> None:
    """Wait until the machine has told what it is made of."""
    if work.wanted.by_rule:
        await _discover_by_rule(work)
        return
    if work.attempt > 1 and work.wanted.bmc and not _known(work.state()):
        await start_from_network(work)
    try:
        async with asyncio.timeout(work.patience.boot_s):
            state = await work.ledger.until(lambda: found if (found := work.state()) and _known(found) else None)
    except TimeoutError:
        await _never_came(work)
    if state.level != "full":
        await _full_facts(work, state)
    state = work.must()
    found = await _facts(work, state)
    disks = ", ".join(f"{disk.name} {disk.size / 1e9:.0f} GB" for disk in found.disks)
    work.say(f"{state.id}: {found.vendor} {found.product}, {found.cpus} CPUs, {found.memory_bytes >> 30} GiB, {disks}")


def _known(state: MachineState | None) -> bool:
    return state is not None and bool(state.facts) and state.phase not in (Phase.ENROLLED, Phase.DISCOVERING)


async def _full_facts(work: Work, state: MachineState) -> None:
    """Basic facts come first, the full ones (LLDP above all) up to a minute later; without them wiring is unknown."""
    try:
        async with asyncio.timeout(work.patience.facts_s):
            await work.ledger.until(lambda: found if (found := work.must()).level == "full" else None)
    except TimeoutError:
        work.say(f"{state.id} sent no full facts within {work.patience.facts_s:.0f} s; going on with the basic ones")


async def _never_came(work: Work) -> None:
    waited = f"{work.patience.boot_s / 60:.0f} minutes"
    raise StageError(
        f"it did not come up in the discovery image within {waited}; {await work.ledger.last_seen(work.wanted)}",
        kind=Failure.BOOT,
        absent=True,
    )


async def _discover_by_rule(work: Work) -> None:
    """Wait until a machine is there that the node's rule would take; the next plan says which one it gets."""
    judged: dict[str, bool] = {}

    async def fits(state: MachineState) -> bool:
        if state.facts not in judged:
            found = facts.read(await work.ledger.facts(state))
            judged[state.facts] = matching.judge(work.wanted.match, found).matches
        return judged[state.facts]

    def candidates() -> list[MachineState] | None:
        fresh = [m for m in work.ledger.free() if _known(m) and m.level == "full" and judged.get(m.facts, True)]
        return fresh or None

    try:
        async with asyncio.timeout(work.patience.boot_s):
            while True:
                for state in sorted(await work.ledger.until(candidates), key=lambda m: m.id):
                    if await fits(state) and state in work.ledger.free():
                        work.ledger.take(state.id)
                        work.say(f"{state.id} is such a machine; the next plan says which one the node gets")
                        return
    except TimeoutError:
        rule = json.dumps(dict(work.wanted.match))
        raise StageError(
            f"no machine was discovered that its rule takes ({rule}); `halligan match` explains every yes and no",
            kind=Failure.BOOT,
            absent=True,
        ) from None


async def _facts(work: Work, state: MachineState) -> facts.Facts:
    return facts.read(await work.ledger.facts(state))


# --- match --------------------------------------------------------------------------------------------------------


async def match(work: Work) -> None:
    """See that the machine is what the spec means and expects, and claim it. Nothing has been written yet."""
    state = work.must()
    found = await _facts(work, state)
    if problems := _misfits(work, found):
        raise StageError(f"{state.id} is not as the spec wants it: {'; '.join(problems)}", kind=Failure.HARDWARE)
    work.say(f"{state.id} is as the spec wants it")
    if state.node != work.wanted.node or state.phase is Phase.FAILED:
        await work.move(state, Signal.CLAIM, node=work.wanted.node)


def _misfits(work: Work, found: facts.Facts) -> list[str]:
    wanted = work.wanted
    problems: list[str] = []
    for rule in (wanted.match, wanted.profile.get("expect", {})):
        judgement = matching.judge(rule, found)
        problems += [clause.why for clause in judgement.clauses if not clause.ok]
    problems += [str(problem) for problem in matching.wiring(wanted.wiring, found)]
    if found.firmware_mode and found.firmware_mode != wanted.firmware:
        problems.append(f"it started in {found.firmware_mode} mode, and the profile installs for {wanted.firmware}")
    try:
        least = work.around.smallest_disk(wanted)
    except HalliganError as error:
        return [*problems, error.summary]
    disk = matching.pick_disk(wanted.profile.get("root_disk", {}), found, min_bytes=least)
    if isinstance(disk, Problem):
        return [*problems, disk.summary]
    work.say(f"root disk: {disk.name} ({disk.model}, serial {disk.serial or 'unknown'}, {disk.size / 1e9:.1f} GB)")
    return problems


# --- install ------------------------------------------------------------------------------------------------------

_ROUNDS = 2  # orders given before the step fails: a machine that restarted in the middle is told again


async def install(work: Work) -> None:
    """Have the image written. An install that already runs, from before a crash of ours, is taken up where it is."""
    for left in reversed(range(_ROUNDS)):
        state = work.must()
        if state.phase is Phase.INSTALLING and state.order:
            work.say(f"{state.id} is installing already ({state.order.id})")
        elif state.phase is Phase.INSTALLED:
            break
        else:
            state = await _ordered(work, state)
        try:
            ended = await _followed(work, state)
        except SilentError:
            await _silent(work, state, last=not left)
            continue
        if ended.phase is Phase.INSTALLED:
            break
        if ended.phase is Phase.FAILED:
            raise StageError(ended.reason, kind=Failure(ended.failure or Failure.IMAGE))
        work.say(f"{state.id}: {ended.reason or 'the install ended'}")
        if left:
            await agent_back(work, state.credential)  # an order given before that would end with its enrolment
    else:
        raise StageError(
            f"{work.must().id} restarted in the middle of the install {_ROUNDS} times; look at its power and console",
            kind=Failure.INTERRUPTED,
        )
    state = work.must()
    work.around.trust(work.wanted.host, state.host_keys)
    work.say(f"{state.id} has {state.image}; {len(state.host_keys)} host keys are known")


async def _ordered(work: Work, state: MachineState) -> MachineState:
    if state.phase is Phase.FAILED:
        state = await work.move(state, Signal.CLAIM, node=work.wanted.node)
    found = await _facts(work, state)
    try:
        order = await asyncio.to_thread(work.around.order, work.wanted, found, secrets.token_hex(8))
    except HalliganError as error:
        raise StageError(str(error), kind=Failure.IMAGE) from None
    return await work.move(state, Signal.INSTALL, order=order)


async def _followed(work: Work, state: MachineState) -> MachineState:
    """Wait until the order is over, one way or another; raise SilentError when the machine says nothing."""

    def begun() -> MachineState | None:
        now = work.must()
        return now if now.phase is not Phase.INSTALLING or now.seen > state.seen else None

    def over() -> MachineState | None:
        now = work.must()
        return now if now.phase is not Phase.INSTALLING else None

    now = await _heard(work, state, begun, work.patience.pickup_s)
    if now.phase is not Phase.INSTALLING:
        return now
    return await _heard(work, state, over, work.patience.silent_s)


async def _heard(
    work: Work, state: MachineState, look: Callable[[], MachineState | None], silent_s: float
) -> MachineState:
    """Wait for something of a machine; raise SilentError when it is silent too long, or at once when it is off."""
    left = silent_s
    while True:
        step = min(left, work.patience.watch_s) if work.wanted.bmc else left
        heard = work.ledger.heard(state.id)
        try:
            return await work.ledger.until(look, silent_s=step, machine=state.id)
        except SilentError:
            left = silent_s - step if work.ledger.heard(state.id) > heard else left - step
            if left <= 0 or await work.around.bmc(work.wanted, lambda bmc: bmc.power()) is Power.OFF:
                raise


async def _silent(work: Work, state: MachineState, *, last: bool) -> None:
    """Find out why nothing is heard of a machine that should write, and bring it back, once."""
    told = "its BMC is not in the spec"
    if work.wanted.bmc:
        now = await work.around.bmc(work.wanted, lambda bmc: bmc.power())
        told = f"its BMC says that it is {now}"
    work.say(f"nothing was heard of {state.id}; {told}")
    if last or not work.wanted.bmc:
        reason = f"nothing was heard of {state.id} for too long while it should install; {told}"
        await work.move(state, Signal.FAIL, failure=str(Failure.TIMEOUT), reason=reason)
        raise StageError(reason, kind=Failure.TIMEOUT, absent=True)
    await start_from_network(work)
    await agent_back(work, state.credential)


async def agent_back(work: Work, before: str) -> None:
    """Wait until the machine's agent is there again after a restart: it has another credential than `before`."""
    try:
        async with asyncio.timeout(work.patience.boot_s):
            await work.ledger.until(lambda: found if (found := work.must()).credential != before else None)
    except TimeoutError:
        await _never_came(work)


# --- ready --------------------------------------------------------------------------------------------------------


async def ready(work: Work) -> None:
    """Restart the machine from its disk and log in."""
    state = work.must()
    if state.phase is Phase.READY:
        return
    work.around.trust(work.wanted.host, state.host_keys)
    if state.phase is Phase.INSTALLED:
        await _disk_next(work)
        order = Order(id=secrets.token_hex(8), task="reboot")
        state = await work.move(state, Signal.RESTART, order=order)
    cycled = False
    while True:
        try:
            await _logged_in(work)
            break
        except TimeoutError:
            if cycled or work.wanted.bmc is None:
                reason = f"nobody could log in within {work.patience.login_s / 60:.0f} minutes: {work.said[-1]}"
                if state.phase is Phase.INSTALLED:
                    await work.move(state, Signal.FAIL, failure=str(Failure.LOGIN), reason=reason)
                raise StageError(reason, kind=Failure.LOGIN, absent=True) from None
        cycled = True
        await start_from_disk(work)
    await work.move(work.must(), Signal.LOGIN)


async def _disk_next(work: Work) -> None:
    """Spare the machine the network on its way to its disk; where that cannot be, its boot answer sends it there."""
    if work.wanted.bmc is None:
        return
    try:
        await work.around.bmc(work.wanted, lambda bmc: bmc.boot_once(Device.DISK))
    except BmcError as error:
        work.say(str(error))


async def _logged_in(work: Work) -> None:
    async with asyncio.timeout(work.patience.login_s):
        while True:
            try:
                await work.around.login(work.wanted.host)
            except (UnreachableError, HalliganError) as error:
                if not work.said or work.said[-1] != str(error):
                    work.say(str(error))
                await asyncio.sleep(work.patience.look_s)
            else:
                work.say(f"logged in to {work.wanted.host.address}")
                return


async def start_from_disk(work: Work) -> None:
    """Switch the machine off if it is on, and on again so that it starts from its disk once."""

    await work.around.bmc(work.wanted, lambda bmc: _start(bmc, Device.DISK))
    work.say("switched off and on by its BMC, to start from its disk")


STAGE_OF: Mapping[str, Callable[[Work], Awaitable[None]]] = {
    "power": power,
    "discover": discover,
    "match": match,
    "install": install,
    "ready": ready,
}
