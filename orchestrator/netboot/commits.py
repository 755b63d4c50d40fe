"""The one writer of the boot service: what arrives within a moment is committed together.

A commit costs a write to the disk that the machine waits for, and a room of machines that is switched on sends a
thousand reports at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from orchestrator.errors import HalliganError, StoreError
from orchestrator.lifecycle import RefusedError
from orchestrator.model import Event
from orchestrator.netboot.tokens import Claim
from orchestrator.store.store import Store
from orchestrator.store.values import StepLog

__all__ = ["Commits", "StaleError"]

_WINDOW_S = 0.02
_MOST = 1000  # entries per transaction


class StaleError(HalliganError):
    """The machine was moved by somebody else since we looked: look again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Entry:
    done: asyncio.Future[None]
    events: Sequence[Event]
    logs: Sequence[StepLog] = ()
    facts: Mapping[str, bytes] = field(default_factory=dict)
    claims: Sequence[Claim] = ()


class Commits:
    """Has inner state: a queue, the task that empties it, and its thread. To be used in one event loop.

    `keep` writes down used tokens, and is called before the events of the same entries are committed.
    """

    def __init__(self, store: Store, keep: Callable[[Sequence[Claim]], None]) -> None:
        self._store = store
        self._keep = keep
        self._queue: asyncio.Queue[_Entry | None] = asyncio.Queue()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="commit")
        self._task = asyncio.create_task(self._run(), name="commits")

    async def append(
        self,
        events: Sequence[Event],
        *,
        logs: Sequence[StepLog] = (),
        facts: Mapping[str, bytes] | None = None,
        claims: Sequence[Claim] = (),
    ) -> None:
        """Commit; returns when it is done. All of it or nothing is committed, whatever becomes of others' entries.

        Raises:
            StaleError: a machine is not in the phase any more that a move starts from.
            StoreError: the store cannot be written.
        """
        done = asyncio.get_running_loop().create_future()
        self._queue.put_nowait(_Entry(done=done, events=events, logs=logs, facts=facts or {}, claims=claims))
        await done

    async def close(self) -> None:
        """Commit what has come so far, and end."""
        self._queue.put_nowait(None)
        await self._task
        self._thread.shutdown()

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        open_ = True
        while open_:
            batch = [await self._queue.get()]
            if batch[0] is not None and self._queue.empty():
                await asyncio.sleep(_WINDOW_S)  # not for anything to happen: so that others may join
            while not self._queue.empty() and len(batch) < _MOST:
                batch.append(self._queue.get_nowait())
            entries = [entry for entry in batch if entry is not None]
            open_ = len(entries) == len(batch)
            try:
                errors = await loop.run_in_executor(self._thread, self._commit, entries)
            except Exception as bug:  # ours; without an answer everybody would wait for ever
                errors = [bug] * len(entries)
            for entry, error in zip(entries, errors, strict=True):
                _tell(entry.done, error)

    def _commit(self, entries: Sequence[_Entry]) -> list[Exception | None]:
        try:
            self._keep([claim for entry in entries for claim in entry.claims])
        except OSError as error:
            broken = StoreError(f"cannot write down which tokens were used: {error.strerror}")
            others = iter(self._halve([entry for entry in entries if not entry.claims]))
            return [broken if entry.claims else next(others) for entry in entries]
        return self._halve(entries)

    def _halve(self, entries: Sequence[_Entry]) -> list[Exception | None]:
        """Commit entries together; if one of them is refused, find out which with few commits."""
        if not entries:
            return []
        error = self._store_all(entries)
        if error is None or isinstance(error, StoreError) or len(entries) == 1:
            return [error] * len(entries)
        middle = len(entries) // 2
        return [*self._halve(entries[:middle]), *self._halve(entries[middle:])]

    def _store_all(self, entries: Sequence[_Entry]) -> Exception | None:
        facts = {digest: document for entry in entries for digest, document in entry.facts.items()}
        try:
            self._store.append(
                [event for entry in entries for event in entry.events],
                logs=[log for entry in entries for log in entry.logs],
                facts=facts,
            )
        except RefusedError as error:
            return StaleError(error.summary, hint=error.hint)
        except Exception as error:  # a bug in one entry must not lose those of all others
            return error
        return None


def _tell(done: asyncio.Future[None], error: Exception | None) -> None:
    if done.done():  # its caller was cancelled
        return
    if error is None:
        done.set_result(None)
    else:
        done.set_exception(error)
