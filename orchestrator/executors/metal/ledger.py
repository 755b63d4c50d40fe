"""What is believed of machines, kept up to date while steps wait for it.

The boot service is another process and writes what machines do into the store; this reads it there. One look at the
number of the last event, five times a second, serves every step that waits.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import TypeVar

from orchestrator import lifecycle
from orchestrator.errors import StoreError
from orchestrator.executors.metal.wanted import Wanted
from orchestrator.identity import keys
from orchestrator.lifecycle import RefusedError, Signal
from orchestrator.model import Event, Json, MachineState
from orchestrator.store import Store, kinds

__all__ = ["Ledger", "SilentError"]

_LOOK_S = 0.2
_KINDS = (kinds.MACHINE_MOVED, kinds.MACHINE_PROGRESS, kinds.MACHINE_BOOT, kinds.NODE_FORGOTTEN)
_TRIES = 5
_MOST_REASON = 600

T = TypeVar("T")


class SilentError(Exception):
    """Nothing was heard of a machine for too long."""


class Ledger:
    """Lives on one event loop. Holds every machine in memory, found by id, node and what identifies it."""

    def __init__(self, store: Store, clock: Callable[[], float]) -> None:
        self._store = store
        self._clock = clock
        self._seq = 0
        self._machines: dict[str, MachineState] = {}
        self._by_key: dict[str, set[str]] = defaultdict(set)
        self._by_node: dict[str, str] = {}
        self._heard: dict[str, float] = {}  # machine -> monotonic time of its last event
        self._news = asyncio.Event()
        self._looking = asyncio.Lock()
        self._watching: asyncio.Task[None] | None = None
        self._taken: set[str] = set()  # machines that rules chose in this run, until they are claimed

    async def start(self) -> None:
        self._seq = await asyncio.to_thread(self._store.last_seq)
        self._take(await asyncio.to_thread(self._store.machines))
        self._watching = asyncio.create_task(self._watch())

    async def stop(self) -> None:
        if self._watching:
            self._watching.cancel()
            await asyncio.gather(self._watching, return_exceptions=True)

    # --- looking --------------------------------------------------------------------------------------------------

    def find(self, wanted: Wanted) -> MachineState | None:
        """Return a node's machine: the one it has claimed, else the free one that the spec names."""
        if owned := self._by_node.get(wanted.node):
            return self._machines[owned]
        if wanted.machine:
            return self._machines.get(wanted.machine)
        for key in wanted.keys:
            for machine in sorted(self._by_key.get(key, ())):
                state = self._machines[machine]
                if not state.node or state.node == wanted.node:
                    return state
        return None

    def free(self) -> list[MachineState]:
        """Return the machines that nobody has and no rule of this run has chosen."""
        return [m for m in self._machines.values() if not m.node and m.id not in self._taken]

    def take(self, machine: str) -> None:
        self._taken.add(machine)

    def heard(self, machine: str) -> float:
        """Return the monotonic time of a machine's last sign of life since this run began, 0 for none."""
        return self._heard.get(machine, 0.0)

    async def facts(self, state: MachineState) -> bytes:
        return await asyncio.to_thread(self._store.facts, state.facts)

    async def last_seen(self, wanted: Wanted) -> str:
        """Return the last thing that was seen of a node's machine on its way, for messages."""
        names = [wanted.node, *([wanted.mac] if wanted.mac else [])]
        if state := self.find(wanted):
            names.append(state.id)

        def seen() -> list[Event]:
            return [e for name in names for e in self._store.events(node=name, kinds=[kinds.MACHINE_BOOT])]

        def doubted() -> list[Event]:
            """A conflict is on record with the machine that was there first: it may name ours in its reason only."""
            found = self._store.events(kinds=[kinds.MACHINE_CONFLICT])
            return [e for e in found if e.node in names or any(key in e.data["reason"] for key in wanted.keys)]

        events, conflicts = await asyncio.to_thread(lambda: (seen(), doubted()))
        if conflicts:
            return f"there is a conflict about who it is: {conflicts[-1].data['reason'][:_MOST_REASON]}"
        if not events:
            return "nothing at all was heard of it"
        last = max(events, key=lambda event: event.seq)
        return f"the last thing seen was {last.data['what']}: {last.data['detail']}".rstrip(": ")

    async def until(self, look: Callable[[], T | None], *, silent_s: float = 0.0, machine: str = "") -> T:
        """Wait until `look` returns something. With `silent_s`, raise SilentError when the machine is silent so long.

        The caller bounds the whole with `asyncio.timeout`.
        """
        began = time.monotonic()
        while (found := look()) is None:
            news = self._news
            if not silent_s:
                await news.wait()
                continue
            left = max(began, self.heard(machine)) + silent_s - time.monotonic()
            if left <= 0:
                raise SilentError
            try:
                async with asyncio.timeout(left):
                    await news.wait()
            except TimeoutError:
                continue
        return found

    # --- changing -------------------------------------------------------------------------------------------------

    async def move(self, machine: str, signal: Signal, *, run: str = "", **changes: Json) -> MachineState:
        """Move a machine and return what it is then. Raises RefusedError when its phase does not allow it."""
        for left in reversed(range(_TRIES)):
            state = await asyncio.to_thread(self._store.machine, machine)
            made = lifecycle.move(state, signal, machine=machine, **changes)
            event = kinds.machine_moved(made, at=self._clock(), run=run, by="apply")
            try:
                await asyncio.to_thread(self._store.append, [event])
            except RefusedError:
                if not left:
                    raise
                continue  # it moved in between: look again
            break
        await self._look()
        return self._machines[machine]

    # --- inside ---------------------------------------------------------------------------------------------------

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(_LOOK_S)
            with contextlib.suppress(StoreError):  # the next look may succeed; every wait has a limit of its own
                await self._look()

    async def _look(self) -> None:
        async with self._looking:  # who moved a machine must find it moved, even if another look was under way
            if await asyncio.to_thread(self._store.last_seq) > self._seq:
                await self._catch_up()

    async def _catch_up(self) -> None:
        def news() -> tuple[int, set[str], list[MachineState]]:
            events = list(self._store.events(after=self._seq))
            changed = {m for event in events if event.kind in _KINDS and (m := event.data.get("machine"))}
            states = [state for machine in sorted(changed) if (state := self._store.machine(machine))]
            return max([self._seq, *(event.seq for event in events)]), changed, states

        self._seq, changed, states = await asyncio.to_thread(news)
        self._heard.update(dict.fromkeys(changed, time.monotonic()))
        self._take(states)
        if changed:
            self._news.set()
            self._news = asyncio.Event()

    def _take(self, states: Iterable[MachineState]) -> None:
        for state in states:
            old = self._machines.get(state.id)
            if old:
                for key in keys(old.identity):
                    self._by_key[key].discard(state.id)
                if old.node and self._by_node.get(old.node) == state.id:
                    del self._by_node[old.node]
            self._machines[state.id] = state
            for key in keys(state.identity):
                self._by_key[key].add(state.id)
            if state.node:
                self._by_node[state.node] = state.id
