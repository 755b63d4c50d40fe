"""Bounds for what strangers can cause: how often, how many, and one at a time per machine."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager

__all__ = ["LogLimit", "Once", "Rate", "Rates", "Turns"]


class Rate:
    """Allows `most` within any `seconds`."""

    def __init__(self, most: int, seconds: float, clock: Callable[[], float]) -> None:
        self._most, self._seconds, self._clock = most, seconds, clock
        self._times: deque[float] = deque()

    def allow(self) -> bool:
        now = self._clock()
        while self._times and self._times[0] <= now - self._seconds:
            self._times.popleft()
        if len(self._times) >= self._most:
            return False
        self._times.append(now)
        return True


class Rates:
    """A Rate per key. Forgets the keys that were asked about longest ago."""

    def __init__(self, most: int, seconds: float, clock: Callable[[], float], *, keys: int = 20_000) -> None:
        self._arguments = (most, seconds, clock)
        self._keys = keys
        self._rates: dict[str, Rate] = {}

    def allow(self, key: str) -> bool:
        rate = self._rates.pop(key, None) or Rate(*self._arguments)
        self._rates[key] = rate
        if len(self._rates) > self._keys:
            del self._rates[next(iter(self._rates))]
        return rate.allow()


class Once:
    """Allows each key once within `seconds`. Forgets keys in the order they came, so it stays small."""

    def __init__(self, seconds: float, clock: Callable[[], float], *, most: int = 20_000) -> None:
        self._seconds, self._clock, self._most = seconds, clock, most
        self._seen: dict[str, float] = {}

    def allow(self, key: str) -> bool:
        now = self._clock()
        last = self._seen.pop(key, None)
        if last is not None and last > now - self._seconds:
            self._seen[key] = last
            return False
        while self._seen and (len(self._seen) >= self._most or next(iter(self._seen.values())) < now - self._seconds):
            del self._seen[next(iter(self._seen))]
        self._seen[key] = now
        return True


class Turns:
    """Lets one caller at a time do something about the same key, in the order they came; others are not held up."""

    def __init__(self) -> None:
        self._locks: dict[str, tuple[asyncio.Lock, int]] = {}

    @asynccontextmanager
    async def of(self, keys: Iterable[str]) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            for key in sorted(set(keys)):  # everybody in the same order, so nobody waits in a circle
                await stack.enter_async_context(self._one(key))
            yield

    @asynccontextmanager
    async def _one(self, key: str) -> AsyncIterator[None]:
        lock, users = self._locks.get(key) or (asyncio.Lock(), 0)
        self._locks[key] = (lock, users + 1)
        try:
            async with lock:
                yield
        finally:
            lock, users = self._locks[key]
            if users == 1:
                del self._locks[key]
            else:
                self._locks[key] = (lock, users - 1)


class LogLimit(logging.Filter):
    """At most `most` lines per second; how many were left out is said with the next one. Errors always pass."""

    def __init__(self, most: int, clock: Callable[[], float]) -> None:
        super().__init__()
        self._most, self._clock = most, clock
        self._second, self._count, self._left_out = 0, 0, 0

    def filter(self, record: logging.LogRecord) -> bool:
        second = int(self._clock())
        if second != self._second:
            self._second, self._count = second, 0
        self._count += 1
        if self._count > self._most and record.levelno < logging.ERROR:
            self._left_out += 1
            return False
        if self._left_out:
            record.msg, record.args = f"{record.getMessage()} ({self._left_out} lines were left out before)", ()
            self._left_out = 0
        return True
