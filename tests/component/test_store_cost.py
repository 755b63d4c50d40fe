"""What an event costs does not grow with what happened before. Statements, rows and calls are counted, not seconds."""

from __future__ import annotations

import sqlite3
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

import pytest

from orchestrator.cli.views.progress import event_line
from orchestrator.cli.views.tally import Tally
from orchestrator.cli.views.words import Look
from orchestrator.fingerprint import digest_of, fingerprint
from orchestrator.model import Action, Connection, Event, Outcome, PlanNode, Status, Step, StepId
from orchestrator.store import Run, Store, kinds

MANY = 3003  # the first step of another node, as the seventh is
PRINT = fingerprint("role", "debian-12", {"port": 5000})
DIGEST = digest_of(PRINT)


def step(number: int) -> Step:
    role, node = f"role{number % 7}", f"n{number // 7}"
    return Step(id=StepId(f"{role}@{node}"), action=Action.CREATE, role=role, node=node, reasons=(), inputs={})


def started(number: int) -> Event:
    return kinds.step_started(step(number), run="r1", at=1.0, batch="b1")


def retried(number: int) -> Event:
    return kinds.step_retry(step(number), run="r1", at=1.0, attempt=1, problem="no route to host", wait_s=5.0)


def ended(number: int) -> Event:
    node = PlanNode(name=step(number).node, platform="debian-12", address="10.0.0.1", connection=Connection())
    outcome = Outcome(step=step(number).id, status=Status.CHANGED, outputs={"url": "u"}, seconds=2.0)
    return kinds.step_finished(step(number), outcome, run="r1", at=2.0, digest=DIGEST, node=node)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """SQLite only: it can be asked what it does for each statement."""
    with Store.open(tmp_path / "state.db") as opened:
        opened.save_plan("p1", b"")
        opened.begin_run(Run(id="r1", plan_id="p1", steps=MANY, started=1.0))
        yield opened


class Spy:
    """Notes each statement of a store's only connection."""

    def __init__(self, store: Store) -> None:
        self.statements: list[str] = []
        with store._database.engine.connect() as connection:  # goes back to the pool, and is what it gives next
            raw = connection.connection.dbapi_connection
        assert isinstance(raw, sqlite3.Connection)
        self._raw = raw

    def work(self, action: Callable[[], object]) -> tuple[list[str], int]:
        """Return the statements that an action takes, without their values, and the rows that it writes."""
        self.statements, before = [], self._raw.total_changes
        self._raw.set_trace_callback(self.statements.append)
        action()
        self._raw.set_trace_callback(None)
        return [" ".join(text.split()[:3]) for text in self.statements], self._raw.total_changes - before

    def scans(self) -> list[str]:
        """Return which tables the last action looked through as a whole; `head` has one row."""
        asked = [text for text in self.statements if text.startswith(("SELECT", "UPDATE", "INSERT", "DELETE"))]
        plans = [self._raw.execute(f"EXPLAIN QUERY PLAN {text}").fetchall() for text in asked]
        return [row[3] for rows in plans for row in rows if row[3].startswith("SCAN") and row[3] != "SCAN head"]


@pytest.mark.parametrize(
    ("event", "statements"),
    [(started, 2), (retried, 2), (ended, 9)],  # beside BEGIN and COMMIT
)
def test_an_event_costs_the_same_in_a_small_store_and_in_a_big_one(store, event, statements):
    spy = Spy(store)
    append = store.append

    def commit(number: int) -> tuple[list[str], int]:
        prints = {DIGEST: PRINT} if event is ended else {}
        return spy.work(lambda: append([event(number)], fingerprints=prints))

    append([ended(number) for number in range(7)], fingerprints={DIGEST: PRINT})
    first = commit(7)
    append([started(number) for number in range(8, MANY)])
    append([ended(number) for number in range(8, MANY)])
    assert commit(MANY) == first
    assert len(first[0]) == statements + 2
    assert spy.scans() == []
    assert store.check() == []


def test_following_the_events_reads_the_new_ones_only(store):
    spy = Spy(store)
    store.append([started(number) for number in range(MANY)])
    last = store.last_seq()
    store.append([ended(0)], fingerprints={DIGEST: PRINT})
    found: list[Event] = []
    statements, _ = spy.work(lambda: found.extend(store.events(after=last)))
    assert [event.step for event in found] == ["role0@n0"]
    assert len(statements) == 3  # one page in its transaction
    assert spy.scans() == []


def test_a_commit_of_many_takes_as_many_statements_as_its_kinds_of_rows(store):
    """Executing many rows is one statement that is bound again; what is read is read by 512 keys at a time."""
    spy = Spy(store)
    statements, _ = spy.work(lambda: store.append([started(number) for number in range(512)]))
    assert len(set(statements)) == 4
    statements, _ = spy.work(
        lambda: store.append([ended(number) for number in range(512)], fingerprints={DIGEST: PRINT})
    )
    assert sum(text.startswith("SELECT") for text in statements) == 3


# --- the picture of a run -------------------------------------------------------------------------------------------


def calls(action: Callable[[], object]) -> int:
    """Return how many Python functions and builtins an action calls."""
    count = 0

    def note(_frame: FrameType, word: str, _argument: object) -> None:
        nonlocal count
        count += word in ("call", "c_call")

    sys.setprofile(note)
    action()
    sys.setprofile(None)
    return count


@pytest.mark.parametrize("event", [started, retried, ended])
def test_progress_costs_the_same_at_the_beginning_and_at_the_end(event):
    tally, look = Tally(), Look()
    tally.record(kinds.run_started(Run(id="r1", plan_id="p1", steps=MANY)))

    def show(shown: Event) -> None:
        event_line(shown, tally.record(shown), look)

    show(event(0))  # whatever is made once
    first = calls(lambda: show(event(1)))
    for number in range(2, MANY):
        show(started(number))
        show(ended(number))
    assert calls(lambda: show(event(MANY))) == first
    tally.left_s(10.0)
