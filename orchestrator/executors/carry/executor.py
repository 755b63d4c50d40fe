"""Batches carried to their hosts. All of it runs in one event loop, in a thread of its own.

The record of a batch (`events.jsonl` in its folder, without secrets) is written before a host may forget a play, so
whatever a host did is known here or there. A play is named by run, step and how many of its plays have ended, so
asking for it again, after a broken session or by a new controller, reads it on instead of starting it again.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import resource
import socket
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from orchestrator.executors.base import Executor, Report
from orchestrator.executors.carry.cargo import Cargo, Packer
from orchestrator.executors.carry.session import (
    Ask,
    BrokenError,
    Ending,
    Link,
    RefusedError,
    Session,
    UnfitError,
    UnreachableError,
)
from orchestrator.executors.events import Reader, last_words
from orchestrator.model import CARRY, Batch, Json, Outcome, PlanNode, Process, SecretRef, Status, StepRun

__all__ = ["CarryExecutor"]

_LOGINS = 32  # at once: sshd drops more unauthenticated ones (MaxStartups), and all are for one CPU here
_IDLE = 1000  # sessions kept for the next play, about 50 kB each
_DESCRIPTORS = 4 * _IDLE
_REATTACH_S = 300.0
_STEADY_S = 10.0  # a session that lasted so long worked
_SKEW_S = 60.0
_RECORD = "events.jsonl"


@dataclass(slots=True)
class _Flight:
    """A batch on its way."""

    batch: Batch
    report: Callable[[Report], None]
    reader: Reader
    record: BinaryIO
    started: float
    cargo: Cargo | None = None
    sessions: dict[str, Session] = field(default_factory=dict)
    stop: str = ""


@dataclass(slots=True)
class _Trip:
    """How far one host has come."""

    flight: _Flight
    run: StepRun
    heard: float = 0.0  # when the host was heard last
    asked: bool = False  # the play may run there
    boot: str = ""  # the host's boot id once the play ran there
    read: int = 0  # bytes of the play's events
    tries: int = 0
    outcome: Outcome | None = None

    def take(self, line: bytes, event: Mapping[str, Any]) -> None:
        self.read += len(line) + 1
        self.heard, self.tries = time.monotonic(), 0
        self.flight.record.write(line + b"\n")
        self.outcome = self.flight.reader.read(event, time.monotonic() - self.flight.started) or self.outcome

    def start(self, session: Session) -> None:
        self.boot = session.hello.boot

    async def pause(self) -> None:
        """Wait before another try, longer each time."""
        if self.tries:
            await asyncio.sleep(min(0.1 * 2**self.tries, 5.0))
        self.tries += 1


class CarryExecutor:
    """Applies roles by sending them to their hosts."""

    name = CARRY
    gather_s = 0.0  # a wide batch costs no less than many narrow ones

    def __init__(
        self,
        *,
        home: Path,
        site: str,
        runs: Path,
        secret: Callable[[SecretRef], Json],
        owner: str,
        roles: Sequence[Path] = (),
        cache: Path | None = None,
        push: Executor | None = None,
        link: Link | None = None,
        reattach_s: float = _REATTACH_S,
    ) -> None:
        """`runs` gets a folder per batch; `owner` names this site's controller on the hosts; `push` takes those hosts
        that turn out to be unable to run a play; a broken session is tried again for `reattach_s` seconds.
        """
        self._runs = runs
        self._owner = f"{owner} on {socket.gethostname()}"
        self._push = push
        self._link = link or Link()
        self._reattach_s = reattach_s
        kept = cache or Path.home() / ".cache" / "halligan" / "parcels"
        self._packer = Packer(home=home, roles=tuple(roles) or (home / "roles",), cache=kept, site=site, secret=secret)
        self._ends = _ends(runs)
        self._flights: dict[str, _Flight] = {}
        self._pushed: dict[str, list[str]] = {}  # batch -> the batches made of those of its hosts that are pushed to
        self._pool = _Pool(self._link)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    @property
    def sessions(self) -> int:
        """How many sessions have been opened."""
        return self._link.opened

    def submit(self, batch: Batch, report: Callable[[Report], None]) -> None:
        self._call(self._fly(batch, report))

    def cancel(self, batch: str) -> None:
        self._call(self._cancel(batch, "cancelled"))
        for part in self._pushed.get(batch, ()):
            self._push.cancel(part)  # type: ignore[union-attr]  # it took the part

    def recover(self, process: Process, runs: Sequence[StepRun]) -> tuple[Outcome, ...]:
        """Return what the batch's record holds. Plays that still run are left alone: they are asked for again."""
        record = self._runs / process.batch / _RECORD
        by_node = {run.node.name: run for run in runs}
        reader = Reader(runs, check=False)
        outcomes: dict[str, Outcome] = {}
        ended = set()
        for event in _lines(record):
            if "end" in event:
                ended.add(event["host"])
                run = by_node.get(event["host"])
                if run and event["host"] not in outcomes:
                    outcomes[event["host"]] = reader.close(run.node.name, Status.FAILED, event["end"]["problem"], 0.0)
            elif outcome := reader.read(event, 0.0):
                outcomes[event["event_data"]["host"]] = outcome
        for name in outcomes.keys() - ended:  # killed between the two: what is asked for next is another play
            with record.open("ab", buffering=0) as file:
                self._note_end(file, by_node[name], "")
        rest = [run for run in runs if run.node.name not in outcomes]
        return (*outcomes.values(), *self._recover_pushed(process, rest))

    def _recover_pushed(self, process: Process, runs: Sequence[StepRun]) -> Iterator[Outcome]:
        """Ask for those hosts of a batch that were pushed to, each in a batch of its own."""
        for run in runs if self._push else ():
            part = _part(process.batch, run)
            if self._push and (self._runs / part).is_dir() and Path(process.folder).name != part:
                yield from self._push.recover(Process(batch=part, pid=0, start_time=0.0, folder=""), (run,))

    def close(self) -> None:
        loop, thread = self._loop, self._thread
        if loop is None or thread is None:
            return
        asyncio.run_coroutine_threadsafe(self._close(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
        self._loop = self._thread = None

    # --- in the loop's thread -------------------------------------------------------------------------------------

    def _call(self, work: Coroutine[Any, Any, None]) -> None:
        if self._loop is None:
            _make_room()
            self._loop = asyncio.new_event_loop()
            self._thread = threading.Thread(target=self._loop.run_forever, name="carry", daemon=True)
            self._thread.start()
        asyncio.run_coroutine_threadsafe(work, self._loop)

    async def _close(self) -> None:
        for batch in list(self._flights):
            await self._cancel(batch, "cancelled")
        here = asyncio.current_task()
        while others := [task for task in asyncio.all_tasks() if task is not here and task.get_name() == "flight"]:
            await asyncio.wait(others)
        await self._pool.close()

    async def _cancel(self, batch: str, why: str) -> None:
        flight = self._flights.get(batch)
        if flight:
            flight.stop = flight.stop or why
            for session in list(flight.sessions.values()):
                await session.cancel()

    async def _fly(self, batch: Batch, report: Callable[[Report], None]) -> None:
        task = asyncio.current_task()
        if task:
            task.set_name("flight")
        reader = Reader(batch.runs, check=batch.check)
        folder = self._runs / batch.id
        try:
            folder.mkdir(parents=True, exist_ok=True)
            opened = (folder / _RECORD).open("ab", buffering=0)
        except OSError as error:
            for outcome in reader.rest(f"the batch cannot be recorded: {error}", 0.0):
                report(outcome)
            return
        with opened as record:
            flight = _Flight(batch=batch, report=report, reader=reader, record=record, started=time.monotonic())
            self._flights[batch.id] = flight
            try:
                try:
                    flight.cargo = await asyncio.to_thread(self._packer.cargo, batch)
                except Exception as error:
                    flight.stop = flight.stop or f"the role could not be packed: {_told(error)}"
                async with asyncio.TaskGroup() as group:
                    for run in batch.runs:
                        group.create_task(self._host(flight, run), name="flight")
            finally:
                del self._flights[batch.id]

    async def _host(self, flight: _Flight, run: StepRun) -> None:
        """Take one host to its outcome, whatever happens."""
        try:
            outcome = await self._outcome(flight, run)
        except UnfitError as error:
            self._hand_over(flight, run, str(error))
            return
        except Exception as error:
            problem = f"the play could not be carried: {_told(error)}"
            outcome = flight.reader.close(run.node.name, Status.FAILED, problem, time.monotonic() - flight.started)
            with contextlib.suppress(OSError):  # the disk may be full
                self._record_end(flight, run, problem)
        flight.report(outcome)

    async def _outcome(self, flight: _Flight, run: StepRun) -> Outcome:
        trip = _Trip(flight=flight, run=run)
        while True:
            if outcome := await self._try(trip):
                return outcome

    async def _try(self, trip: _Trip) -> Outcome | None:
        """Reach the host and start its play, or read on in it. None: try again."""
        flight, run = trip.flight, trip.run
        if flight.stop and not trip.asked:
            return self._end(flight, run, Status.FAILED, flight.stop)
        await trip.pause()
        try:
            session = await self._session(trip)
        except UnreachableError as error:
            return None if self._may_come_back(trip) else self._lost(trip, str(error))
        trip.asked, opened = True, time.monotonic()
        flight.sessions[run.node.name] = session
        try:
            if flight.stop:
                await session.cancel()
            ending = await session.play(self._ask(flight, run, trip.read), trip.take, partial(trip.start, session))
        except BrokenError as error:
            session.abort()
            if not trip.heard or time.monotonic() - opened > _STEADY_S:
                trip.heard = time.monotonic()  # a play may be silent for long
            return None if self._may_come_back(trip) else self._lost(trip, f"its session broke: {error}")
        except RefusedError as error:
            await self._pool.give(session)
            return self._end(flight, run, Status.FAILED, flight.stop or str(error))
        except BaseException:
            session.abort()
            raise
        finally:
            flight.sessions.pop(run.node.name, None)
        return await self._landed(trip, session, ending)

    async def _session(self, trip: _Trip) -> Session:
        """Return a session to the host that the play was started on. Raises UnreachableError or UnfitError."""
        session = await self._pool.take(trip.run.node)
        if not trip.asked:
            self._note_skew(trip.flight, trip.run, session)
        elif trip.boot and trip.boot != session.hello.boot:
            await self._pool.give(session)
            trip.asked = False
            raise UnreachableError(f"{trip.run.node.name} restarted in the middle of the play")
        return session

    def _may_come_back(self, trip: _Trip) -> bool:
        """Whether a play may still run there that is worth waiting for: not for too long, and not to cancel it."""
        return trip.asked and not trip.flight.stop and time.monotonic() - trip.heard < self._reattach_s

    def _lost(self, trip: _Trip, why: str) -> Outcome:
        """End with a host that cannot be asked any more."""
        if trip.boot and trip.asked:
            tried = trip.flight.stop or f"it was tried again for {self._reattach_s:g} s"
            why = f"lost {trip.run.node.name} in the middle of the play, which may go on there ({tried}): {why}"
        return self._end(trip.flight, trip.run, Status.UNREACHABLE, why)

    async def _landed(self, trip: _Trip, session: Session, ending: Ending) -> Outcome:
        """Record how a play ended, let the host forget it, and return its outcome."""
        flight, run = trip.flight, trip.run
        play = self._play_id(run)
        outcome = trip.outcome
        if outcome:
            self._record_end(flight, run, "")
        else:
            outcome = self._end(flight, run, Status.FAILED, _problem(ending, flight))
        with contextlib.suppress(BrokenError):
            await session.forget(play)
            await self._pool.give(session)
        return outcome

    def _ask(self, flight: _Flight, run: StepRun, offset: int) -> Ask:
        assert flight.cargo is not None
        return Ask(
            id=self._play_id(run),
            offset=offset,
            owner=self._owner,
            run=self._runs.name,
            about=f"{run.step} of run {self._runs.name}",
            cargo=flight.cargo,
            inventory=lambda: self._packer.inventory(flight.batch, run),
        )

    def _play_id(self, run: StepRun) -> str:
        whole = f"{self._owner}\n{self._runs.name}\n{run.step}\n{self._ends[run.step]}"
        return hashlib.sha256(whole.encode()).hexdigest()[:32]

    def _note_skew(self, flight: _Flight, run: StepRun, session: Session) -> None:
        skew = session.hello.skew_s
        if abs(skew) > _SKEW_S:
            word = "ahead of" if skew > 0 else "behind"
            flight.reader.note(run.node.name, f"the host's clock is {abs(skew):.0f} s {word} the controller's")

    def _end(self, flight: _Flight, run: StepRun, status: Status, problem: str) -> Outcome:
        if status is not Status.UNREACHABLE:
            self._record_end(flight, run, problem)
        return flight.reader.close(run.node.name, status, problem, time.monotonic() - flight.started)

    def _record_end(self, flight: _Flight, run: StepRun, problem: str) -> None:
        self._note_end(flight.record, run, problem)

    def _note_end(self, record: BinaryIO, run: StepRun, problem: str) -> None:
        end = {"end": {"problem": problem}, "host": run.node.name, "step": run.step}
        record.write(json.dumps(end).encode() + b"\n")
        self._ends[run.step] += 1

    def _hand_over(self, flight: _Flight, run: StepRun, why: str) -> None:
        """Push to a host that cannot run a play itself."""
        if self._push is None:
            todo = "set policy.executors to push to it, or give it a Python that ansible-core 2.19 supports"
            problem = f"{run.node.name} cannot run a carried play: {why}; {todo}"
            flight.report(self._end(flight, run, Status.FAILED, problem))
            return

        def report(item: Report) -> None:
            if isinstance(item, Process):
                item = replace(item, batch=flight.batch.id)
            else:
                item = replace(item, log=f"pushed, because {why}\n{item.log}")
            flight.report(item)

        part = replace(flight.batch, id=_part(flight.batch.id, run), runs=(run,))
        self._pushed.setdefault(flight.batch.id, []).append(part.id)
        self._push.submit(part, report)


def _part(batch: str, run: StepRun) -> str:
    return f"{batch}-{run.node.name}"


class _Pool:
    """Sessions by node, kept open between plays; the ones used least recently go first."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._idle: OrderedDict[str, list[Session]] = OrderedDict()
        self._kept = 0
        self._logins = asyncio.Semaphore(_LOGINS)

    async def take(self, node: PlanNode) -> Session:
        """Return a session that is open. Raises UnreachableError or UnfitError."""
        if waiting := self._idle.get(node.name):
            self._kept -= 1
            session = waiting.pop()
            if not waiting:
                del self._idle[node.name]
            if session.is_open and session.node.connection == node.connection:
                return session
            session.abort()
        async with self._logins:
            return await self._link.open(node)

    async def give(self, session: Session) -> None:
        self._idle.setdefault(session.node.name, []).append(session)
        self._idle.move_to_end(session.node.name)
        self._kept += 1
        if self._kept > _IDLE:
            node, sessions = next(iter(self._idle.items()))
            oldest = sessions.pop(0)
            self._kept -= 1
            if not sessions:
                del self._idle[node]
            await oldest.close()

    async def close(self) -> None:
        sessions = [session for found in self._idle.values() for session in found]
        self._idle.clear()
        await asyncio.gather(*(session.close() for session in sessions), return_exceptions=True)


def _make_room() -> None:
    """Raise the limit of open files as far as it goes: sessions need one each, those through a proxy two."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < (wanted := min(hard, _DESCRIPTORS)):
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _told(error: Exception) -> str:
    return str(error) if isinstance(error, OSError) else repr(error)


def _problem(ending: Ending, flight: _Flight) -> str:
    match ending.why:
        case "timeout":
            return f"timed out after {flight.batch.timeout_s:g} s"
        case "cancelled":
            return flight.stop or "cancelled on the host"
        case "":
            return last_words(ending.said) or f"Ansible ended with {ending.rc} and no result for this host"
    return ending.why


def _ends(runs: Path) -> Counter[str]:
    """Return how many plays of each step have ended in this run, by the records that its batches left."""
    return Counter(event["step"] for record in runs.glob(f"*/{_RECORD}") for event in _lines(record) if "end" in event)


def _lines(record: Path) -> Iterator[dict[str, Any]]:
    if not record.exists():
        return
    with record.open("rb") as file:
        for line in file:
            with contextlib.suppress(ValueError):  # cut short by the crash
                yield json.loads(line)
