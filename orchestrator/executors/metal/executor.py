"""Life-cycle steps of bare metal as an Executor: an event loop in a thread of its own, a task per step.

What a step waits for is in the store, written by the boot service. So a controller that is killed loses nothing: the
machine goes on, and the next controller's step finds it where it is.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import TypeVar

from orchestrator.bmc import BmcError, Controller, Credential, connect
from orchestrator.bmc.pool import Pool
from orchestrator.errors import HalliganError
from orchestrator.executors.base import Report
from orchestrator.executors.carry.session import Link
from orchestrator.executors.metal.console import Console
from orchestrator.executors.metal.ledger import Ledger
from orchestrator.executors.metal.orders import Orders
from orchestrator.executors.metal.stages import STAGE_OF, Patience, StageError, Work
from orchestrator.executors.metal.trust import trust
from orchestrator.executors.metal.wanted import Wanted
from orchestrator.facts import Facts
from orchestrator.inventory import Reveal, reveal
from orchestrator.lifecycle import RefusedError
from orchestrator.model import METAL, Batch, Order, Outcome, Phase, PlanNode, Process, Status, StepRun
from orchestrator.store import Store

__all__ = ["MetalExecutor"]

_T = TypeVar("_T")

_DONE = {
    "power": (),  # quick, and true only now: it looks again
    "discover": (Phase.DISCOVERED, Phase.CLAIMED, Phase.INSTALLING, Phase.INSTALLED, Phase.READY),
    "match": (Phase.CLAIMED, Phase.INSTALLING, Phase.INSTALLED, Phase.READY),
    "install": (Phase.INSTALLED, Phase.READY),
    "ready": (Phase.READY,),
}


class MetalExecutor:
    """Runs power, discover, match, install and ready."""

    name = METAL
    gather_s = 0.0

    def __init__(
        self,
        *,
        store: Callable[[], Store],
        secret: Reveal,
        orders: Orders,
        run: str = "",
        clock: Callable[[], float] = time.time,
        patience: Patience | None = None,
        connect: Callable[..., Controller] = connect,
        link: Link | None = None,
        console: Callable[[str], Path | None] = lambda _node: None,
    ) -> None:
        """`store` opens the site's store. Whoever makes this sees to it that machines are answered when they boot.

        `console` returns the file that a node's serial console is written to, if there is one: a step's log gets what
        comes during the step.
        """
        self._open_store = store
        self._secret = secret
        self._orders = orders
        self._run = run
        self._clock = clock
        self._patience = patience or Patience()
        self._connect = connect
        self._controllers: dict[str, Controller] = {}
        self._link = link or Link()
        self._console = console
        self._guard = threading.Lock()  # of what follows: submit, cancel and close may come from any thread
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._store: Store | None = None
        self._flights: dict[str, Future[None]] = {}

    # --- the Protocol ---------------------------------------------------------------------------------------------

    def submit(self, batch: Batch, report: Callable[[Report], None]) -> None:
        with self._guard:
            loop = self._started()
            self._flights[batch.id] = asyncio.run_coroutine_threadsafe(self._fly(batch, report), loop)

    def cancel(self, batch: str) -> None:
        with self._guard:
            flight = self._flights.get(batch)
        if flight:
            flight.cancel()

    def recover(self, process: Process, runs: Sequence[StepRun]) -> tuple[Outcome, ...]:  # noqa: ARG002 - the Protocol's
        """Return the steps whose end the store shows; the others look again where their machines are."""
        found = []
        with contextlib.closing(self._open_store()) as store:
            for run in runs:
                stage = run.step.partition("@")[0]
                owned = store.machines_of([run.node.name])
                if owned and owned[0].phase in _DONE.get(stage, ()):
                    found.append(Outcome(step=run.step, status=Status.CHANGED, attempt=run.attempt))
        return tuple(found)

    def close(self) -> None:
        with self._guard:
            loop, thread, flights = self._loop, self._thread, list(self._flights.values())
            self._loop = self._thread = None
        for flight in flights:
            flight.cancel()
        if loop and thread:
            asyncio.run_coroutine_threadsafe(self._end(), loop).result()
            loop.call_soon_threadsafe(loop.stop)
            thread.join()
            loop.close()
        if self._store:
            self._store.close()
            self._store = None

    def perform(
        self, run: StepRun, operation: Callable[[Work], Awaitable[None]], *, timeout_s: float
    ) -> tuple[str, ...]:
        """Do one thing to one machine outside of a plan; return what was said on the way.

        Raises:
            HalliganError: it did not come to the end; its detail says how far it got.
        """
        said: list[str] = []
        with self._guard:
            loop = self._started()
        tried = self._tried(operation, run, said, timeout_s)
        status, problem, _ = asyncio.run_coroutine_threadsafe(tried, loop).result()
        if not status.good:
            raise HalliganError(f"{run.node.name}: {problem}", detail=said)
        return tuple(said)

    # --- what the stages need (stages.Surroundings) ---------------------------------------------------------------

    async def bmc(self, wanted: Wanted, ask: Callable[[Controller], _T]) -> _T:
        assert wanted.bmc is not None
        if wanted.node not in self._controllers:
            given = reveal(wanted.credential, self._secret) if wanted.credential else None
            credential = Credential(user=str(given["user"]), password=str(given["password"])) if given else None
            self._controllers[wanted.node] = self._connect(
                wanted.bmc, credential, node=wanted.node, firmware=wanted.firmware, timeout_s=60.0
            )
        return await self._pool.call(wanted.bmc.address, ask, self._controllers[wanted.node])

    def order(self, wanted: Wanted, found: Facts, key: str) -> Order:
        return self._orders.install(wanted, found, key)

    def smallest_disk(self, wanted: Wanted) -> int:
        return int(self._orders.image(wanted).size)

    def trust(self, node: PlanNode, host_keys: tuple[str, ...]) -> None:
        trust(Path(node.connection.known_hosts), node, host_keys)

    async def login(self, node: PlanNode) -> None:
        await self._link.ask(node, "command -v cloud-init >/dev/null || exit 0; cloud-init status --wait >/dev/null; :")

    # --- inside ---------------------------------------------------------------------------------------------------

    def _started(self) -> asyncio.AbstractEventLoop:
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            self._thread = threading.Thread(target=self._loop.run_forever, name="metal", daemon=True)
            self._thread.start()
            self._store = self._open_store()
            self._begun = asyncio.run_coroutine_threadsafe(self._begin(self._store), self._loop)
        return self._loop

    async def _begin(self, store: Store) -> None:
        self._pool = Pool()
        self._ledger = Ledger(store, self._clock)
        await self._ledger.start()

    async def _end(self) -> None:
        mine = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in mine:
            task.cancel()
        await asyncio.gather(*mine, return_exceptions=True)
        if hasattr(self, "_ledger"):
            await self._ledger.stop()
            self._pool.close()
        for controller in self._controllers.values():
            await asyncio.to_thread(controller.close)

    async def _fly(self, batch: Batch, report: Callable[[Report], None]) -> None:
        steps = [asyncio.create_task(self._step(batch, run, report)) for run in batch.runs]
        try:
            await asyncio.gather(*steps)
        finally:
            for step in steps:
                step.cancel()
            await asyncio.gather(*steps, return_exceptions=True)
            with self._guard:
                self._flights.pop(batch.id, None)

    async def _step(self, batch: Batch, run: StepRun, report: Callable[[Report], None]) -> None:
        began = time.monotonic()
        said: list[str] = []
        console = Console.at_its_end(self._console(run.node.name))
        status, problem, changed = Status.FAILED, "cancelled", False
        try:
            status, problem, changed = await self._tried(STAGE_OF[batch.role.name], run, said, batch.timeout_s)
        finally:
            done = Status.CHANGED if changed and status.good else status
            report(
                Outcome(
                    step=run.step,
                    status=done,
                    problem=problem,
                    log="".join(f"{line}\n" for line in said) + console.since(),
                    seconds=time.monotonic() - began,
                    attempt=run.attempt,
                )
            )

    async def _tried(
        self, stage: Callable[[Work], Awaitable[None]], run: StepRun, said: list[str], timeout_s: float
    ) -> tuple[Status, str, bool]:
        """Run a step; return its status, what went wrong, and whether it changed something."""
        changed = False
        try:
            await asyncio.wrap_future(self._begun)
            work = Work(
                wanted=Wanted.of(run),
                ledger=self._ledger,
                around=self,
                patience=self._patience,
                run=self._run,
                attempt=run.attempt,
                said=said,
            )
            try:
                async with asyncio.timeout(timeout_s):
                    await stage(work)
            finally:
                changed = work.changed
        except StageError as error:
            return (Status.UNREACHABLE if error.absent else Status.FAILED), str(error), changed
        except BmcError as error:
            return (Status.UNREACHABLE if error.transient else Status.FAILED), _told(error, said), changed
        except (HalliganError, RefusedError) as error:
            return Status.FAILED, _told(error, said), changed
        except TimeoutError:
            return Status.FAILED, f"not done within {timeout_s:g} s", changed
        return Status.OK, "", changed


def _told(error: HalliganError, said: list[str]) -> str:
    """Return an error in one line, and put all of it into the step's log."""
    said.append(str(error))
    return f"{error.summary} ({error.hint})" if error.hint else error.summary
