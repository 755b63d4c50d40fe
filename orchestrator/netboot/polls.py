"""Agents that wait for an order. A waiting one costs a future; one query of the store serves all of them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Iterable

from orchestrator.errors import StoreError
from orchestrator.model import Event

__all__ = ["Polls"]

_EVERY_S = 0.2
_LOG = logging.getLogger("halligan.boot")


class Polls:
    """Has inner state: who waits. To be used in one event loop."""

    def __init__(self) -> None:
        self._waiting: dict[str, asyncio.Future[bool]] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def begin(self, machine: str) -> asyncio.Future[bool]:
        """Return what becomes True when something of the machine changes, False when another poll takes its place."""
        self._end(machine, False)
        self._waiting[machine] = waiter = asyncio.get_running_loop().create_future()
        return waiter

    def done(self, machine: str, waiter: asyncio.Future[bool]) -> None:
        """End a wait that `begin` began."""
        waiter.cancel()
        if self._waiting.get(machine) is waiter:
            del self._waiting[machine]

    def wake(self, machines: Iterable[str]) -> None:
        for machine in machines:
            self._end(machine, True)

    def end_all(self) -> None:
        """Let every agent ask again: this service ends."""
        for machine in list(self._waiting):
            self._end(machine, False)

    def _end(self, machine: str, changed: bool) -> None:
        waiter = self._waiting.pop(machine, None)
        if waiter is not None and not waiter.done():
            waiter.set_result(changed)

    async def watch(self, head: Callable[[], int], moves: Callable[[int], Collection[Event]]) -> None:
        """Wake those whose machine was moved, by whatever process, until cancelled.

        `head` returns the number of the last event, `moves` those after a number; both are called in threads.
        """
        seen: int | None = None
        while True:
            try:
                last = await asyncio.to_thread(head)
                if seen is not None and last > seen and self._waiting:
                    events = await asyncio.to_thread(moves, seen)
                    self.wake({event.data["machine"] for event in events})
                    last = max([last, *(event.seq for event in events)])
                seen = last
            except StoreError as error:
                _LOG.error("cannot look for new orders: %s", error.summary)
            await asyncio.sleep(_EVERY_S)
