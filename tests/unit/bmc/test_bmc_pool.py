"""The pool: who waits for whom, and who does not. Threads are held by events, never by time."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import threading
from collections.abc import AsyncIterator, Coroutine
from typing import Any

import pytest

from orchestrator.bmc import BmcError, Kind
from orchestrator.bmc.base import Target
from orchestrator.bmc.pool import Pool

LONG = 60.0
TARGET = Target("kvm-1", "redfish", "10.90.0.11")


def run(body: Coroutine[Any, Any, None]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(LONG * 2):
            await body

    asyncio.run(bounded())


class Gate:
    """A call that hangs until it is opened, and tells when it was entered and how many are in it."""

    def __init__(self) -> None:
        self.opened, self.entered = threading.Event(), threading.Semaphore(0)
        self._lock, self.inside, self.most, self.calls = threading.Lock(), 0, 0, 0

    def call(self) -> str:
        with self._lock:
            self.inside += 1
            self.calls += 1
            self.most = max(self.most, self.inside)
        self.entered.release()
        self.opened.wait(LONG)
        with self._lock:
            self.inside -= 1
        return "through"

    async def wait_entered(self, times: int = 1) -> None:
        for _ in range(times):
            assert await asyncio.to_thread(self.entered.acquire, timeout=LONG)


@contextlib.asynccontextmanager
async def gates(count: int) -> AsyncIterator[list[Gate]]:
    made = [Gate() for _ in range(count)]
    try:
        yield made
    finally:
        for gate in made:
            gate.opened.set()


def fail(kind: Kind) -> None:
    raise TARGET.error(kind, "power on", "no")


def test_it_returns_what_the_function_returns_and_raises_what_it_raises():
    async def body() -> None:
        pool = Pool()
        assert await pool.call("a", lambda x, y: x + y, 1, 2) == 3
        with pytest.raises(ZeroDivisionError):
            await pool.call("a", lambda: 1 / 0)
        with pytest.raises(TimeoutError, match="its own"):
            await pool.call("a", raise_, TimeoutError("its own"))

    run(body())


def raise_(error: BaseException) -> None:
    raise error


def test_one_call_at_a_time_per_bmc_in_order():
    async def body() -> None:
        async with gates(1) as (gate,):
            pool, order = Pool(), []
            first = asyncio.create_task(pool.call("a", gate.call))
            await gate.wait_entered()
            others = [asyncio.create_task(pool.call("a", order.append, n)) for n in range(5)]
            assert await pool.call("b", lambda: "free") == "free"
            assert order == []
            gate.opened.set()
            await asyncio.gather(first, *others)
            assert order == list(range(5))

    run(body())


def test_no_more_than_so_many_threads():
    async def body() -> None:
        async with gates(1) as (gate,):
            pool = Pool(threads=3)
            calls = [asyncio.create_task(pool.call(str(n), gate.call)) for n in range(10)]
            await gate.wait_entered(3)
            gate.opened.set()
            assert await asyncio.gather(*calls) == ["through"] * 10
            assert gate.most == 3

    run(body())


def test_a_call_that_hangs_is_given_up_and_its_thread_replaced():
    async def body() -> None:
        async with gates(1) as (gate,):
            pool = Pool(threads=1)
            with pytest.raises(BmcError) as caught:
                await pool.call("dead", gate.call, limit_s=0.05)
            assert caught.value.kind is Kind.TIMEOUT
            assert await pool.call("alive", lambda: "free") == "free"

    run(body())


def test_a_bmc_whose_call_still_hangs_takes_no_other():
    async def body() -> None:
        async with gates(1) as (gate,):
            pool = Pool()
            with pytest.raises(BmcError):
                await pool.call("dead", gate.call, limit_s=0.05)
            with pytest.raises(BmcError, match="earlier call to this BMC has not come back"):
                await pool.call("dead", gate.call, limit_s=0.05)
            assert gate.calls == 1
            gate.opened.set()
            assert await pool.call("dead", lambda: "again") == "again"

    run(body())


def test_threads_that_hang_are_replaced_only_so_often():
    """Two slots, two spares: with four hanging, the next waits until one of them comes back."""

    async def body() -> None:
        async with gates(4) as hanging:
            pool = Pool(threads=2)
            for n, gate in enumerate(hanging):
                with pytest.raises(BmcError):
                    await pool.call(f"dead-{n}", gate.call, limit_s=0.05)
            waiting = asyncio.create_task(pool.call("alive", lambda: "free"))
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(asyncio.shield(waiting), 0.2)
            hanging[3].opened.set()
            assert await waiting == "free"

    run(body())


def test_those_that_were_silent_get_half_of_the_threads():
    async def body() -> None:
        async with gates(1) as (gate,):
            pool = Pool(threads=4)
            for n in range(8):
                with pytest.raises(BmcError):
                    await pool.call(f"dead-{n}", fail, Kind.UNREACHABLE)
            again = [asyncio.create_task(pool.call(f"dead-{n}", gate.call)) for n in range(8)]
            await gate.wait_entered(2)
            assert [await pool.call(f"alive-{n}", str, n) for n in range(4)] == ["0", "1", "2", "3"]
            assert gate.most == 2
            gate.opened.set()
            await asyncio.gather(*again)

    run(body())


def test_one_that_answers_again_is_a_suspect_no_more():
    async def body() -> None:
        async with gates(1) as (gate,):
            pool = Pool(threads=2)
            for n in range(2):
                with pytest.raises(BmcError):
                    await pool.call(str(n), fail, Kind.TIMEOUT)
                await pool.call(str(n), lambda: None)
            both = [asyncio.create_task(pool.call(str(n), gate.call)) for n in range(2)]
            await gate.wait_entered(2)
            gate.opened.set()
            await asyncio.gather(*both)

    run(body())


def test_one_that_denied_is_not_asked_again_until_it_is_forgotten():
    async def body() -> None:
        pool, asked = Pool(), []

        def deny() -> None:
            asked.append(1)
            fail(Kind.DENIED)

        calls = [pool.call("a", deny) for _ in range(20)]
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
        assert [one.kind for one in outcomes if isinstance(one, BmcError)] == [Kind.DENIED] * 20
        assert len(asked) == 1
        pool.forget("a")
        assert await pool.call("a", lambda: "in") == "in"

    run(body())


def test_a_cancelled_call_gives_everything_back_when_its_thread_ends():
    async def body() -> None:
        async with gates(1) as (gate,):
            pool = Pool(threads=1)
            task = asyncio.create_task(pool.call("a", gate.call))
            await gate.wait_entered()
            queued = asyncio.create_task(pool.call("a", lambda: "never"))
            await asyncio.sleep(0)
            for one in (queued, task):
                one.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await one
            gate.opened.set()
            assert await pool.call("a", lambda: "mine") == "mine"
            assert await pool.call("b", lambda: "too") == "too"

    run(body())


def test_a_closed_pool_takes_nothing_and_a_finished_one_remembers_nobody():
    async def body() -> None:
        pool = Pool()
        await asyncio.gather(*(pool.call(str(n), lambda: None) for n in range(300)))
        gc.collect()
        assert len(pool._turns) == 0
        pool.close()
        with pytest.raises(RuntimeError, match="closed"):
            await pool.call("a", lambda: None)

    run(body())


def test_a_loop_may_end_while_threads_hang():
    gate = Gate()

    async def body() -> None:
        with pytest.raises(BmcError):
            await Pool().call("dead", gate.call, limit_s=0.05)

    run(body())
    gate.opened.set()  # and the thread's outcome goes nowhere, without a traceback
