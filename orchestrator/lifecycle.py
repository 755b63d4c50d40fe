"""The life of a machine as one table, and the life-cycle steps that a bare-metal node goes through. Pure.

(phase, signal) -> phase, for every caller: boot service, executor and operator's commands all change a machine through
`move`, and the store refuses a move that starts from another phase than the machine is in. What the table does not
have is refused in words. docs/metal.md draws it (`make docs`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from orchestrator.errors import HalliganError
from orchestrator.model import METAL, Contract, Failure, Json, MachineState, Node, Phase, Requirement, Scope

__all__ = [
    "LIVES",
    "STAGES",
    "TABLE",
    "USABLE",
    "Move",
    "RefusedError",
    "Signal",
    "boots_locally",
    "mermaid",
    "move",
    "of_nodes",
    "pending",
    "stage_contracts",
]


class Signal(StrEnum):
    """What happens to a machine. The first four come from the machine itself, the others from us or an operator."""

    BOOT = "boot"  # it asked for its boot script
    ENROL = "enrol"  # its agent runs and has a credential
    FACTS = "facts"  # it told what it is made of
    WROTE = "wrote"  # the image is on its disk, grown, seeded and bootable
    ERASED = "erased"  # its disks are proven empty
    FAIL = "fail"  # it, or we on its behalf, gave up
    CLAIM = "claim"  # a node takes it
    RELEASE = "release"  # its node lets it go
    INSTALL = "install"  # it is ordered to write an image
    LOGIN = "login"  # we logged in to its operating system
    REINSTALL = "reinstall"  # an operator wants it written anew
    RESCUE = "rescue"  # an operator wants a shell in the discovery image
    UNRESCUE = "unrescue"
    RETIRE = "retire"  # an operator wants its disks erased and it gone
    READMIT = "readmit"  # an operator wants a retired machine back
    RESTART = "restart"  # it is ordered to start from its disk


_P, _S = Phase, Signal
_AGENT = (_S.BOOT, _S.ENROL, _S.FACTS)

_INTERRUPTED = "it restarted in the middle of an install"


def _same(phase: Phase, *signals: Signal) -> Iterator[tuple[tuple[Phase | None, Signal], Phase]]:
    return (((phase, signal), phase) for signal in signals)


TABLE: Mapping[tuple[Phase | None, Signal], Phase] = {
    (None, _S.BOOT): _P.ENROLLED,
    (None, _S.ENROL): _P.DISCOVERING,
    (None, _S.FACTS): _P.DISCOVERED,  # an ironic-python-agent: it posts facts and nothing else
    **dict(_same(_P.ENROLLED, _S.BOOT)),
    (_P.ENROLLED, _S.ENROL): _P.DISCOVERING,
    (_P.ENROLLED, _S.FACTS): _P.DISCOVERED,
    (_P.ENROLLED, _S.FAIL): _P.FAILED,
    **dict(_same(_P.DISCOVERING, _S.BOOT, _S.ENROL)),
    (_P.DISCOVERING, _S.FACTS): _P.DISCOVERED,
    (_P.DISCOVERING, _S.FAIL): _P.FAILED,
    **dict(_same(_P.DISCOVERED, *_AGENT)),
    (_P.DISCOVERED, _S.CLAIM): _P.CLAIMED,
    (_P.DISCOVERED, _S.RESCUE): _P.RESCUE,
    (_P.DISCOVERED, _S.RETIRE): _P.RETIRING,
    (_P.DISCOVERED, _S.FAIL): _P.FAILED,
    **dict(_same(_P.CLAIMED, *_AGENT, _S.CLAIM, _S.REINSTALL)),
    (_P.CLAIMED, _S.INSTALL): _P.INSTALLING,
    (_P.CLAIMED, _S.RELEASE): _P.DISCOVERED,
    (_P.CLAIMED, _S.RESCUE): _P.RESCUE,
    (_P.CLAIMED, _S.RETIRE): _P.RETIRING,
    (_P.CLAIMED, _S.FAIL): _P.FAILED,
    **dict(_same(_P.INSTALLING, _S.FACTS)),
    (_P.INSTALLING, _S.BOOT): _P.CLAIMED,
    (_P.INSTALLING, _S.ENROL): _P.CLAIMED,
    (_P.INSTALLING, _S.WROTE): _P.INSTALLED,
    (_P.INSTALLING, _S.FAIL): _P.FAILED,
    **dict(_same(_P.INSTALLED, _S.BOOT)),
    (_P.INSTALLED, _S.LOGIN): _P.READY,
    (_P.INSTALLED, _S.RESTART): _P.INSTALLED,
    (_P.INSTALLED, _S.REINSTALL): _P.CLAIMED,
    (_P.INSTALLED, _S.RESCUE): _P.RESCUE,
    (_P.INSTALLED, _S.RETIRE): _P.RETIRING,
    (_P.INSTALLED, _S.FAIL): _P.FAILED,
    **dict(_same(_P.READY, _S.BOOT, _S.LOGIN)),
    (_P.READY, _S.REINSTALL): _P.CLAIMED,
    (_P.READY, _S.RESCUE): _P.RESCUE,
    (_P.READY, _S.RETIRE): _P.RETIRING,
    **dict(_same(_P.FAILED, _S.BOOT, _S.FACTS, _S.FAIL)),
    (_P.FAILED, _S.ENROL): _P.DISCOVERING,  # or claimed, see `move`
    (_P.FAILED, _S.CLAIM): _P.CLAIMED,
    (_P.FAILED, _S.RELEASE): _P.DISCOVERED,
    (_P.FAILED, _S.LOGIN): _P.READY,
    (_P.FAILED, _S.REINSTALL): _P.CLAIMED,
    (_P.FAILED, _S.RESCUE): _P.RESCUE,
    (_P.FAILED, _S.RETIRE): _P.RETIRING,
    **dict(_same(_P.RESCUE, *_AGENT)),
    (_P.RESCUE, _S.UNRESCUE): _P.DISCOVERED,  # or where it came from, see `move`
    **dict(_same(_P.RETIRING, *_AGENT, _S.RETIRE)),
    (_P.RETIRING, _S.ERASED): _P.RETIRED,
    (_P.RETIRING, _S.FAIL): _P.FAILED,
    **dict(_same(_P.RETIRED, _S.BOOT)),
    (_P.RETIRED, _S.READMIT): _P.ENROLLED,
}
"""Where each signal leads. None is a machine that nobody has heard of."""

_HINTS = {
    (_P.INSTALLING, _S.RETIRE): "cancel the apply that installs it first",
    (_P.INSTALLING, _S.RESCUE): "cancel the apply that installs it first",
    (_P.READY, _S.CLAIM): "it runs its node's system; `halligan reinstall` or `halligan retire` first",
    (_P.READY, _S.INSTALL): "`halligan reinstall` asks for it, and the plan shows what is lost",
    (_P.INSTALLED, _S.ENROL): "it should start from its disk; look at its boot order with `halligan trace`",
    (_P.READY, _S.ENROL): "it should start from its disk; look at its boot order with `halligan trace`",
    (_P.RETIRED, _S.ENROL): "`halligan retire --undo` takes it back",
}


class RefusedError(HalliganError):
    """The signal makes no sense for a machine in this phase, or comes from somebody who may not send it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """One change of a machine. `before` is None for a machine not heard of; `changes` are new values of its fields."""

    machine: str
    signal: Signal
    before: Phase | None
    after: Phase
    node: str = ""
    changes: Mapping[str, Json] = field(default_factory=dict)


def move(state: MachineState | None, signal: Signal, *, machine: str = "", **changes: Json) -> Move:
    """Return where a signal takes a machine, or raise RefusedError, which says why not.

    `changes` are fields of MachineState by name. A claim carries `node`; a failure carries `failure` and `reason`.
    """
    before = state.phase if state else None
    after = TABLE.get((before, signal))
    if state and before is Phase.FAILED and signal is Signal.LOGIN and not boots_locally(state):
        after = None  # what failed was not the login: there is no system to log in to
    key = state.id if state else machine
    if after is None:
        raise RefusedError(
            f"machine {_called(state, machine)} is {before or 'unknown'}: {_words(signal)} is not possible now",
            hint=_HINTS.get((before, signal), ""),  # type: ignore[arg-type]  # None is in no key
        )
    node = state.node if state else ""
    if signal is Signal.CLAIM:
        wanted = str(changes.get("node", ""))
        if node and wanted != node:
            raise RefusedError(
                f"machine {key} belongs to node {node}; node {wanted} cannot claim it",
                hint=f"a claim is good once: `halligan node release {node}` lets it go",
            )
        node = wanted
    if after is Phase.CLAIMED and not node:
        raise RefusedError(f"machine {key} belongs to no node: {_words(signal)} is not possible")
    changes = {**_defaults(state, signal, after), **changes}
    if signal is Signal.ENROL and before is Phase.FAILED and node:
        after = Phase.CLAIMED
    if signal is Signal.UNRESCUE and state and state.before:
        after = Phase(state.before)
    if signal is Signal.RELEASE:
        node = ""
    changes.pop("node", None)
    return Move(machine=key, signal=signal, before=before, after=after, node=node, changes=changes)


_ENDS_ORDER = frozenset(
    {_S.WROTE, _S.ERASED, _S.FAIL, _S.RELEASE, _S.REINSTALL, _S.UNRESCUE, _S.LOGIN, _S.RESCUE, _S.RETIRE}
)


def _defaults(state: MachineState | None, signal: Signal, after: Phase) -> dict[str, Json]:
    """Return what a signal says of the machine's fields by itself."""
    changes: dict[str, Json] = {}
    stays = state is not None and state.phase is after
    if signal is not Signal.FAIL and not (stays and after is Phase.FAILED):
        changes |= {"failure": "", "reason": ""}
    if state and state.phase is Phase.INSTALLING and signal in (Signal.BOOT, Signal.ENROL):
        changes |= {"reason": _INTERRUPTED, "order": None}
    if signal in _ENDS_ORDER:
        changes["order"] = None
    if signal is Signal.RESCUE and state:
        changes["before"] = state.phase.value
    if signal in (Signal.LOGIN, Signal.REINSTALL):
        changes["credential"] = ""  # whoever had it was in the discovery image, and is gone
    if signal in (Signal.REINSTALL, Signal.RETIRE, Signal.RELEASE, Signal.ERASED):
        changes |= {"image": "", "host_keys": ()}
    return changes


def _called(state: MachineState | None, machine: str) -> str:
    if state is None:
        return machine or "(unknown)"
    return f"{state.id} ({state.node})" if state.node else state.id


def _words(signal: Signal) -> str:
    return {
        Signal.BOOT: "network boot",
        Signal.ENROL: "an enrolment",
        Signal.FACTS: "new facts",
        Signal.WROTE: "the end of an install",
        Signal.ERASED: "the end of an erase",
        Signal.FAIL: "a failure",
        Signal.LOGIN: "the first login",
        Signal.INSTALL: "an install",
        Signal.CLAIM: "a claim",
        Signal.RELEASE: "a release",
    }.get(signal, signal.value)


def boots_locally(state: MachineState) -> bool:
    """Whether a machine is to start from its own disk: it has a system there that is to be kept."""
    after_login = state.phase is Phase.FAILED and state.failure == Failure.LOGIN
    return state.phase in (Phase.INSTALLED, Phase.READY) or after_login


def mermaid() -> str:
    """Return the table as a Mermaid state diagram; signals that change nothing are left out."""
    arrows: dict[tuple[str, str], list[str]] = {}
    for (before, signal), after in TABLE.items():
        if before is not after:
            arrows.setdefault((before.value if before else "[*]", after.value), []).append(signal.value)
    lines = [f"    {one} --> {other}: {', '.join(signals)}" for (one, other), signals in arrows.items()]
    return "\n".join(["stateDiagram-v2", *lines, ""])


# --- the life-cycle steps -----------------------------------------------------------------------------------------

STAGES = ("power", "discover", "match", "install", "ready")
"""The life-cycle steps of a bare-metal node, in order; also names that no role may have."""

_DESCRIPTIONS = {
    "power": "The machine is switched on and starts from the network.",
    "discover": "The machine told what it is made of.",
    "match": "The machine is the one that the spec means, and belongs to the node.",
    "install": "The operating system is on the root disk.",
    "ready": "The machine started from its disk, and we logged in.",
}

LIVES = "machine.ready"
"""The capability that every role of a bare-metal node needs of its own node."""


def stage_contracts() -> dict[str, Contract]:
    """Return the life-cycle steps as contracts: each needs the one before it on the same node."""
    contracts = {}
    before = ""
    for stage in STAGES:
        provides = f"machine.{stage}"
        contracts[stage] = Contract(
            role=stage,
            description=_DESCRIPTIONS[stage],
            digest=f"stage-{stage}-1",
            provides=(provides,),
            requires=(Requirement(capability=before, scope=Scope.NODE),) if before else (),
            executor=METAL,
        )
        before = provides
    return contracts


USABLE = (Phase.DISCOVERED, Phase.CLAIMED, Phase.INSTALLING, Phase.INSTALLED, Phase.READY, Phase.FAILED)
"""Phases of machines that a rule may choose, or has chosen."""

_TODO: Mapping[Phase, tuple[str, ...]] = {
    Phase.INSTALLING: STAGES[3:],
    Phase.INSTALLED: STAGES[4:],
    Phase.READY: (),
}


def pending(state: MachineState | None) -> tuple[str, ...]:
    """Return the stages that a node still has to go through, by the phase of its machine (None: not known yet).

    A machine that was discovered may be off by now, so it gets every stage: each is quick where nothing is to do.
    """
    if state is None:
        return STAGES
    if state.phase is Phase.FAILED and state.failure == Failure.LOGIN:
        return STAGES[4:]
    return _TODO.get(state.phase, STAGES)


def of_nodes(nodes: Iterable[Node], machines: Mapping[str, MachineState]) -> dict[str, MachineState]:
    """Return node name -> its machine: the one that it has claimed, else the free one with its MAC or serial number."""
    claimed = {state.node: state for state in machines.values() if state.node}
    free = [state for state in machines.values() if not state.node]
    by_mac = {mac: state for state in free for mac in state.identity.macs}
    by_serial = {serial.casefold(): state for state in free for serial in state.identity.serials}
    found = {}
    for node in nodes:
        state = claimed.get(node.name) or by_mac.get(node.mac) or by_serial.get(node.serial.casefold())
        if state:
            found[node.name] = state
    return found
