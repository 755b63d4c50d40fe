"""Calls to many BMCs from one asyncio loop, so that slow and dead ones hold nobody else up.

- At most `threads` calls run at a time, each in a thread of its own. Threads wait more than they work: 128 of them let
  1,000 BMCs through while 50 dead ones sit out their time limit.
- One call at a time per BMC, in the order in which they were asked for. Waiting for one's turn holds no thread.
- A BMC that was silent last time goes to the slow lane: all of these together get half of the threads at most.
- A call that outlives its limit is given up: its caller gets a `BmcError` of kind timeout, another may start in its
  place, and its BMC stays busy until the thread comes back. Drivers have limits of their own, so this is the net below.
- A BMC that denied the password is not asked again by this pool, until `forget`.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import Any, TypeVar
from weakref import WeakValueDictionary

from orchestrator.bmc.base import BmcError, Kind, Target

__all__ = ["Pool"]

_T = TypeVar("_T")


class Pool:
    """Belongs to one asyncio loop. `close` it at the end; threads that still hang then die with the process."""

    def __init__(self, *, threads: int = 128, limit_s: float = 120.0) -> None:
        self._limit_s = limit_s
        self._slots = asyncio.Semaphore(threads)
        self._slow = asyncio.Semaphore(max(1, threads // 2))
        self._spares = threads  # so many hanging threads may be replaced; the slots of more than that stay taken
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()  # those somebody holds or awaits
        self._suspects: set[str] = set()
        self._denied: dict[str, BmcError] = {}
        self._closed = False

    async def call(self, bmc_key: str, fn: Callable[..., _T], *args: Any, limit_s: float | None = None) -> _T:
        """Run `fn(*args)` in a thread and return what it returns. `bmc_key` is the BMC's address, or any name of it.

        The limit is for the call, and once more for getting the turn at this BMC.
        """
        if self._closed:
            raise RuntimeError("this pool is closed")
        limit = self._limit_s if limit_s is None else limit_s
        turn = self._turns.setdefault(bmc_key, asyncio.Lock())
        try:
            async with asyncio.timeout(limit):
                await turn.acquire()
        except TimeoutError:
            raise _late(bmc_key, limit, "an earlier call to this BMC has not come back") from None
        job: _Job | None = None
        try:
            if bmc_key in self._denied:
                raise self._denied[bmc_key].with_traceback(None)
            async with self._slow if bmc_key in self._suspects else contextlib.nullcontext():
                await self._slots.acquire()
                job = self._started(bmc_key, fn, args, turn)
                result: _T = await self._outcome(bmc_key, job, limit)
                return result
        finally:
            if job is None:
                turn.release()

    def forget(self, bmc_key: str) -> None:
        """Ask this BMC again even though it denied the password: it has another one now."""
        self._denied.pop(bmc_key, None)

    def close(self) -> None:
        """Take no more calls."""
        self._closed = True

    def _started(self, bmc_key: str, fn: Callable[..., Any], args: tuple[Any, ...], turn: asyncio.Lock) -> _Job:
        job = _Job(fn, args, asyncio.get_running_loop())
        try:
            job.start()
        except BaseException:
            self._slots.release()
            raise
        job.ended.add_done_callback(lambda ended: self._learn(bmc_key, ended.exception()))
        job.ended.add_done_callback(lambda _: turn.release())  # after that: the next must know that this was denied
        return job

    async def _outcome(self, bmc_key: str, job: _Job, limit: float) -> Any:
        try:
            done, _ = await asyncio.wait({job.ended}, timeout=limit)
        finally:
            self._free(job)
        if not done:
            self._suspects.add(bmc_key)
            raise _late(bmc_key, limit, "the call hangs")
        return job.ended.result()

    def _learn(self, bmc_key: str, error: BaseException | None) -> None:
        if isinstance(error, BmcError) and error.kind is Kind.DENIED:
            self._denied[bmc_key] = error
        if isinstance(error, BmcError) and error.transient:
            self._suspects.add(bmc_key)
        else:
            self._suspects.discard(bmc_key)

    def _free(self, job: _Job) -> None:
        """Give the slot to the next: now, if the thread ended or may be replaced; else when it ends."""
        if job.ended.done():
            self._slots.release()
        elif self._spares:
            self._spares -= 1
            self._slots.release()
            job.ended.add_done_callback(self._spare_again)
        else:
            job.ended.add_done_callback(lambda _: self._slots.release())

    def _spare_again(self, _: object) -> None:
        self._spares += 1


class _Job:
    """A function in a daemon thread: whoever hangs in it must not keep the process from ending."""

    def __init__(self, fn: Callable[..., Any], args: tuple[Any, ...], loop: asyncio.AbstractEventLoop) -> None:
        self._fn, self._args, self._loop = fn, args, loop
        self.ended: asyncio.Future[Any] = loop.create_future()

    def start(self) -> None:
        threading.Thread(target=self._work, name="bmc", daemon=True).start()

    def _work(self) -> None:
        try:
            result, error = self._fn(*self._args), None
        except BaseException as failure:  # handed to the caller, whatever it is
            result, error = None, failure
        with contextlib.suppress(RuntimeError):  # the loop is gone, and with it whoever asked
            self._loop.call_soon_threadsafe(self._end, result, error)

    def _end(self, result: Any, error: BaseException | None) -> None:
        if error is None:
            self.ended.set_result(result)
        else:
            self.ended.set_exception(error)
            self.ended.exception()  # seen: nobody may be waiting any more


def _late(bmc_key: str, limit: float, why: str) -> BmcError:
    target = Target(node=bmc_key, driver="pool", address=bmc_key)
    return target.error(Kind.TIMEOUT, "ask its BMC", f"{why}, after {limit:g} s")
