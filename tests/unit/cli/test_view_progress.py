"""What a run shows while it goes on and when it ends, fed by events."""

from __future__ import annotations

import io
import json

import pytest
from rich.console import Console

from orchestrator.apply import RunResult
from orchestrator.cli.running import JsonLines, Lines, Screen
from orchestrator.cli.views.progress import draw, event_line
from orchestrator.cli.views.result import drift_text, result_text
from orchestrator.cli.views.tally import Tally
from orchestrator.cli.views.words import Look
from orchestrator.model import Event, Outcome, Status, StepId
from orchestrator.store import RunStatus

LOOK = Look()


def happened(kind: str, step: str = "", at: float = 0.0, **data: object) -> Event:
    return Event(kind=kind, at=at, run="r1", node=step.partition("@")[2], step=step, data=data)


def finished(step: str, status: str = "changed", at: float = 0.0, **data: object) -> Event:
    return happened("step.finished", step, at, **{"status": status, "seconds": 12.34, **data})


# --- lines --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("event", "line"),
    [
        (happened("run.started", steps=12), "run r1: 12 steps"),
        (happened("step.started", "keystone@ctl-1", attempt=1), ""),
        (finished("keystone@ctl-1"), "ctl-1 keystone changed 12.3s"),
        (finished("keystone@ctl-1", attempt=2), "ctl-1 keystone changed 12.3s attempt 2"),
        (finished("keystone@ctl-1", "ok", unrun=True), "ctl-1 keystone ok not run, its inputs turned out as last time"),
        (
            finished("keystone@ctl-1", "ok", action="remove", unrun=True),
            "ctl-1 keystone ok only forgotten: the role has no removal tasks, so nothing was removed from the host",
        ),
        (finished("keystone@ctl-1", "failed", problem="no space"), "ctl-1 keystone failed 12.3s: no space"),
        (happened("step.skipped", "nova@kvm-1", cause="keystone@ctl-1"), "kvm-1 nova skipped: keystone@ctl-1 failed"),
        (happened("step.skipped", "nova@kvm-1", reason="roll-out stopped"), "kvm-1 nova skipped: roll-out stopped"),
        (
            happened("step.retry", "nova@kvm-1", attempt=1, problem="unreachable", wait_s=5.0),
            "kvm-1 nova retry in 5.0 s after attempt 1: unreachable",
        ),
        (
            happened("run.draining", running=3),
            "interrupted: 3 running steps will finish, no new ones start; Ctrl-C again stops them",
        ),
        (happened("run.stopping", running=1), "interrupted again: stopping 1 running step"),
        (happened("batch.process", pid=1), ""),
    ],
)
def test_lines(event: Event, line: str) -> None:
    assert event_line(event, Tally().record(event), LOOK) == line


def test_lines_are_written_as_they_come() -> None:
    written: list[str] = []
    with Lines(written.append, LOOK) as watch:
        watch(happened("step.started", "base@a"))
        watch(finished("base@a"))
    assert written == ["a base changed 12.3s"]


def test_no_host_writes_on_the_terminal() -> None:
    """What a host says may hold escape sequences; they are taken out."""
    line = event_line(
        finished("base@a"), Tally().record(finished("base@a", "failed", problem="\x1b]0;owned\x07\x1b[2Jboo\r!")), LOOK
    )
    assert line == "a base failed 12.3s: 0;ownedboo!"


def test_json_is_one_object_per_event() -> None:
    written: list[str] = []
    with JsonLines(written.append) as watch:
        watch(happened("run.started", at=1.5, steps=1))
        watch(finished("base@a", problem="zwei\nZeilen"))
    assert len(written) == 2
    assert json.loads(written[0]) == {
        "seq": 0,
        "at": 1.5,
        "kind": "run.started",
        "run": "r1",
        "node": "",
        "step": "",
        "data": {"steps": 1},
    }
    assert "\n" not in written[1]


# --- the tally ----------------------------------------------------------------------------------------------------


def test_the_tally_counts_each_step_once() -> None:
    tally = Tally()
    for event in (
        happened("run.started", at=100.0, steps=4),
        happened("step.started", "base@a"),
        happened("step.started", "base@b"),
        finished("base@a"),
        finished("base@a"),
        happened("step.retry", "base@b", at=101.0, wait_s=5.0),
        happened("step.skipped", "nova@b", cause="base@b"),
    ):
        tally.record(event)
    assert (tally.done, tally.total, tally.retries) == (2, 4, 1)
    assert tally.counts == {Status.CHANGED: 1, Status.SKIPPED: 1}
    assert tally.running == {}
    assert tally.waiting == {"base@b": 106.0}


def test_the_time_left_follows_from_the_speed() -> None:
    tally = Tally()
    tally.record(happened("run.started", at=0.0, steps=100))
    for n in range(10):
        tally.record(finished(f"base@n{n}", at=10.0))
    assert tally.left_s(20.0) == 180.0


def test_a_resumed_run_is_counted_whole_and_timed_anew() -> None:
    tally = Tally()
    for event in (
        happened("run.started", at=0.0, steps=10),
        *(finished(f"base@n{n}", at=1.0) for n in range(5)),
        happened("step.started", "base@n5", at=1.0),
        happened("run.started", at=1000.0, steps=10),
    ):
        tally.record(event)
    assert (tally.done, tally.running) == (5, {})
    assert tally.left_s(1010.0) == 0.0, "nothing is known of its speed yet"
    for n in range(5, 8):
        tally.record(finished(f"base@n{n}", at=1030.0))
    assert tally.left_s(1030.0) == 20.0


# --- the live picture ---------------------------------------------------------------------------------------------


def picture(tally: Tally, now: float, notice: str = "") -> str:
    console = Console(file=io.StringIO(), width=100, no_color=True)
    with console.capture() as captured:
        console.print(draw(tally, title="Applying lab", notice=notice, now=now))
    return "\n".join(line.rstrip() for line in captured.get().splitlines()) + "\n"


def test_the_picture() -> None:
    tally = Tally()
    tally.record(happened("run.started", at=100.0, steps=40))
    for n in range(1, 13):
        tally.record(happened("step.started", f"base@kvm-{n:02d}", at=100.0))
    for n in range(1, 10):
        tally.record(finished(f"base@kvm-{n:02d}", at=110.0))
    tally.record(finished("base@kvm-10", "failed", at=110.0, problem="no space"))
    tally.record(happened("step.started", "keystone@ctl-1", at=110.0))
    tally.record(happened("step.retry", "keystone@ctl-2", at=110.0, wait_s=15.0))
    lines = picture(tally, 120.0, "interrupted").splitlines()
    assert lines[0] == "Applying lab  10 of 40 steps, 25 %, 20 s, about 1 min left"
    assert lines[2:] == [
        "done     changed 9  failed 1  retries 1",
        "running  base 2  kvm-[11:12]",
        "         keystone 1  ctl-1",
        "waiting  1 step, next attempt in 5.0 s",
        "failed   base@kvm-10  no space",
        "interrupted",
    ]


def test_the_picture_stays_small() -> None:
    tally = Tally()
    tally.record(happened("run.started", at=0.0, steps=100_000))
    for n in range(200):
        tally.record(happened("step.started", f"role{n}@n"))
        tally.record(finished(f"other@n{n}", "failed", problem="x" * 300))
    assert len(picture(tally, 1.0).splitlines()) < 20


def test_the_screen_leaves_nothing_behind() -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=80, no_color=True)
    with Screen(console, title="Applying lab", now=lambda: 1.0) as watch:
        watch(happened("run.started", steps=2))
        watch(finished("base@a"))
        watch(happened("run.draining", running=1))
    assert "Ctrl-C again" in out.getvalue()
    assert out.getvalue().rstrip().endswith("\x1b[2K"), "the last thing is to clear the picture"


# --- the end ------------------------------------------------------------------------------------------------------


def result(status: RunStatus, outcomes: list[Outcome], **more: object) -> RunResult:
    counts = {kind: sum(outcome.status is kind for outcome in outcomes) for kind in Status}
    failures = tuple(o for o in outcomes if o.status in (Status.FAILED, Status.UNREACHABLE))
    values = {"run": "r1", "status": status, "counts": counts, "failures": failures, "skipped": {}, **more}
    return RunResult(**values)  # type: ignore[arg-type]  # a test may set any field


def outcome(step: str, status: Status = Status.FAILED, problem: str = "no space", log: str = "") -> Outcome:
    return Outcome(step=StepId(step), status=status, problem=problem, log=log)


def test_success_is_short() -> None:
    text = result_text(
        result(RunStatus.SUCCEEDED, [outcome("base@a", Status.CHANGED)]), site="lab", seconds=75.0, look=LOOK
    )
    assert text == "Done: 1 step in 1 min 15 s (run r1)\n  changed           1\n"


FAILED = """\
Failed: 6 steps in 8.0 s (run r1)
  changed           1
  failed            3
  unreachable       1
  skipped           1

nova on kvm-[001:003] failed: no space
    | df: full
    | giving up
    skipped because of it: 12 steps
    halligan log lab kvm-001 --step nova@kvm-001

base on ctl-1 unreachable: no route to host
    halligan log lab ctl-1 --step base@ctl-1

Next: mend the cause, then plan what is left: halligan apply lab
"""


def test_every_cause_is_told_once_with_its_last_output() -> None:
    outcomes = [outcome(f"nova@kvm-{n:03d}", log="df: full\r\ngiving up\n\n") for n in (2, 1, 3)]
    outcomes += [
        outcome("base@ctl-1", Status.UNREACHABLE, "no route to host"),
        outcome("base@b", Status.CHANGED),
        outcome("x@b", Status.SKIPPED),
    ]
    skipped = {StepId("nova@kvm-001"): 5, StepId("nova@kvm-003"): 7}
    text = result_text(result(RunStatus.FAILED, outcomes, skipped=skipped), site="lab", seconds=8.0, look=LOOK)
    assert text == FAILED


def test_a_cancelled_run_says_how_to_go_on() -> None:
    text = result_text(result(RunStatus.CANCELLED, [], left=7), site="./lab", seconds=0.0, look=LOOK)
    assert text == "Cancelled: 0 steps, 7 not started (run r1)\n\nNext: plan what is left: halligan apply ./lab\n"


def test_many_different_failures_are_cut() -> None:
    text = result_text(
        result(RunStatus.FAILED, [outcome(f"r{n}@a") for n in range(30)]), site="lab", seconds=1.0, look=LOOK
    )
    assert "and 18 more kinds of failures: halligan status lab" in text


def test_drift_is_told_per_host() -> None:
    found = result(
        RunStatus.SUCCEEDED,
        [],
        drift=(outcome("base@b", Status.CHANGED), outcome("base@a", Status.CHANGED), outcome("time@a", Status.CHANGED)),
    )
    assert drift_text(found, site="lab", look=LOOK) == (
        "Drift on 2 nodes\n  a: base, time\n  b: base\n  What would change: halligan log lab a --step base@a --run r1\n"
    )


def test_drift_of_many_hosts_is_told_per_role() -> None:
    drift = tuple(outcome(f"base@kvm-{n:03d}", Status.CHANGED) for n in range(1, 900))
    text = drift_text(result(RunStatus.SUCCEEDED, [], drift=drift), site="lab", look=LOOK)
    assert "  base: 899 on kvm-[001:899]\n" in text


def test_no_drift_says_nothing() -> None:
    assert drift_text(result(RunStatus.SUCCEEDED, []), site="lab", look=LOOK) == ""
