"""The small views: status, log, events, roles, explain, lab, doctor."""

from __future__ import annotations

from orchestrator.cli.prerequisites import Finding
from orchestrator.cli.views.doctor import doctor_text
from orchestrator.cli.views.events import event_text
from orchestrator.cli.views.explain import explain_text
from orchestrator.cli.views.lab import lab_text
from orchestrator.cli.views.log import log_text
from orchestrator.cli.views.roles import role_text, roles_text
from orchestrator.cli.views.status import status_text
from orchestrator.cli.views.words import Look, duration, joined, when
from orchestrator.lab import NodeStatus
from orchestrator.model import (
    Action,
    Cardinality,
    Contract,
    Count,
    Event,
    Option,
    Output,
    Placement,
    PlacementState,
    Requirement,
    Rollout,
    Scope,
    Share,
    Snapshot,
    Status,
    Step,
    StepId,
    Wire,
)
from orchestrator.service import Explanation, Need
from orchestrator.service import Status as SiteStatus
from orchestrator.store import Run, RunStatus, StepLog

LOOK = Look()
AT = 1_740_837_909.0


def test_words() -> None:
    assert [duration(s) for s in (0.04, 9.96, 42, 60, 200, 3600, 4330)] == [
        "0.0 s",
        "10 s",
        "42 s",
        "1 min",
        "3 min 20 s",
        "1 h",
        "1 h 12 min",
    ]
    assert [joined(parts) for parts in ([], ["a"], ["a", "b"], ["a", "b", "c"])] == ["", "a", "a and b", "a, b and c"]
    assert when(AT) == "2025-03-01 14:05:09Z"


# --- status -------------------------------------------------------------------------------------------------------

STATUS = """\
lab: 4 placements on 3 nodes, revision 12
  1 ok, 2 changed and 1 failed
  At work: anna@desk (pid 7, `halligan apply`) since 2025-03-01T14:05:09Z

Runs  status     started               took           steps  outcomes
  r2  running    2025-03-01 14:05:09Z  pid 7 on desk      4
  r1  succeeded  2025-03-01 14:05:09Z  1 min 15 s         9  2 changed, 1 ok

Roles       ok  changed  failed
  base       1        2       .
  keystone   .        .       1

Needs attention
  failed      keystone on ctl-1
  See why: halligan log lab ctl-1 --step keystone@ctl-1
"""


def state(step: str, status: Status) -> tuple[StepId, PlacementState]:
    role, _, node = step.partition("@")
    return StepId(step), PlacementState(id=StepId(step), role=role, node=node, status=status, at=AT, run="r1")


def site_status(holder: object = None, runs: tuple[Run, ...] = ()) -> SiteStatus:
    placements = dict(
        [
            state("base@ctl-1", Status.OK),
            state("base@kvm-1", Status.CHANGED),
            state("base@kvm-2", Status.CHANGED),
            state("keystone@ctl-1", Status.FAILED),
        ]
    )
    snapshot = Snapshot(revision=12, placements=placements)
    return SiteStatus(site="lab", snapshot=snapshot, runs=runs, holder=holder)  # type: ignore[arg-type]


RUNNING = Run(id="r2", status=RunStatus.RUNNING, started=AT, host="desk", pid=7, steps=4)
ENDED = Run(id="r1", status=RunStatus.SUCCEEDED, started=AT, finished=AT + 75, steps=9, counts={"ok": 1, "changed": 2})


def test_status() -> None:
    holder = "anna@desk (pid 7, `halligan apply`) since 2025-03-01T14:05:09Z"
    assert status_text(site_status(holder, (RUNNING, ENDED)), LOOK) == STATUS


def test_status_tells_of_an_interrupted_run() -> None:
    text = status_text(site_status(None, (RUNNING, ENDED)), LOOK)
    assert "  A run was interrupted; go on with: halligan apply lab --resume\n" in text


def test_status_of_a_new_site_says_what_to_do() -> None:
    text = status_text(SiteStatus(site="lab", snapshot=Snapshot(), runs=(), holder=None), LOOK)
    assert text == "Nothing was applied to lab yet. Look at what would happen: halligan plan lab\n"


# --- log and events -----------------------------------------------------------------------------------------------


def test_logs_are_shown_oldest_first() -> None:
    logs = [
        StepLog(run="r1", step=StepId("base@a"), node="a", attempt=n, at=AT, text=f"try {n}\x1b[2J\n\n") for n in (2, 1)
    ]
    assert log_text(logs, LOOK) == (
        "=== base@a, attempt 1, 2025-03-01 14:05:09Z, run r1\ntry 1\n\n"
        "=== base@a, attempt 2, 2025-03-01 14:05:09Z, run r1\ntry 2\n"
    )
    assert log_text([], LOOK) == ""


def test_events_are_a_line_each() -> None:
    kinds = [
        ("run.started", "", {"steps": 3, "command": "apply"}),
        ("step.started", "base@a", {"action": "create", "batch": "b1", "attempt": 1, "executor": ""}),
        ("step.finished", "base@a", {"status": "failed", "seconds": 3.21, "problem": "no\x1b[1m space"}),
        ("step.skipped", "nova@a", {"cause": "base@a", "reason": ""}),
        ("step.retry", "base@a", {"attempt": 1, "problem": "gone", "wait_s": 5}),
        ("run.finished", "", {"status": "failed", "counts": {"failed": 1, "changed": 2}}),
    ]
    lines = [
        event_text(Event(kind=kind, at=AT, run="r1", step=step, data=data, seq=n), LOOK)
        for n, (kind, step, data) in enumerate(kinds, 1)
    ]
    assert [line.partition("Z  ")[2] for line in lines] == [
        "run.started     r1  3 steps, apply",
        "step.started    base@a  action=create attempt=1 batch=b1",
        "step.finished   base@a  failed 3.2 s: no space",
        "step.skipped    nova@a  base@a",
        "step.retry      base@a  attempt 1 failed: gone",
        "run.finished    r1  failed: 2 changed, 1 failed",
    ]
    assert lines[0].startswith("      1  2025-03-01 14:05:09Z")


# --- roles --------------------------------------------------------------------------------------------------------

KEYSTONE = Contract(
    role="keystone",
    description="Identity service.",
    path="roles/keystone",
    provides=("identity.keystone",),
    requires=(
        Requirement(capability="os.base", scope=Scope.NODE),
        Requirement(capability="database.mysql", count=Count(least=1, most=1)),
    ),
    inputs={
        "keystone_database_host": Wire(capability="database.mysql", output="mariadb_host"),
        "keystone_caches": Wire(capability="cache.memcached", output="memcached_endpoint", collect="list"),
        "keystone_hosts": Wire(site="hosts"),
    },
    outputs={
        "keystone_url": Output(name="keystone_url", description="Where it answers.", value="x"),
        "keystone_password": Output(name="keystone_password", secret="keystone_password"),
    },
    cardinality=Cardinality(count=Count(least=1, most=3), quorum=True),
    platforms=("debian",),
    rollout=Rollout(first=Share(count=1), then=Share(percent=25), stop_after=1),
    removable=True,
    destroys="Every account.",
    options={
        "keystone_password": Option(name="keystone_password", required=True, secret=True, default="never shown"),
        "keystone_port": Option(name="keystone_port", type="int", default=5000, choices=(5000, 35357)),
        "keystone_database_host": Option(name="keystone_database_host", required=True, description="A host."),
        "keystone_caches": Option(name="keystone_caches", type="list", elements="str"),
        "keystone_hosts": Option(
            name="keystone_hosts", type="dict", options={"name": Option(name="name", required=True)}
        ),
    },
)

KEYSTONE_TEXT = """\
keystone
  Identity service.
  provides   identity.keystone
  requires   os.base (1.. within the node); database.mysql (1 within the site)
  placed     1..3 per site, odd
  platforms  debian
  rollout    1 first, then 25% at a time, stops after 1 failed
  removal    erases: Every account.
  files      roles/keystone

Inputs
  keystone_caches  list of str, from every cache.memcached provider's memcached_endpoint unless the site sets it
  keystone_database_host  str, from a database.mysql provider's mariadb_host unless the site sets it
      A host.
  keystone_hosts  dict, from the site's hosts unless the site sets it
    name  str, required
  keystone_password  str, secret, required
  keystone_port  int, one of 5000, 35357, default 5000

Outputs
  keystone_password  secret, as a reference
  keystone_url  str
      Where it answers.
"""


def test_a_role_in_full() -> None:
    assert role_text(KEYSTONE, LOOK) == KEYSTONE_TEXT


def test_the_list_of_roles() -> None:
    text = roles_text({"keystone": KEYSTONE, "base": Contract(role="base", provides=("os.base",))}, LOOK)
    assert text.splitlines()[:3] == [
        "role      provides           requires                platforms  description",
        "base      os.base            .                       any",
        "keystone  identity.keystone  os.base database.mysql  debian     Identity service.",
    ]
    assert roles_text({}, LOOK) == "No roles found.\n"


# --- explain ------------------------------------------------------------------------------------------------------

EXPLAINED = """\
~ update  nova@kvm-1  (wave 3)
  because   input nova_url changed
  erases    Nothing much.
  expected  42 s
  executor  push
  last      changed, 2025-03-01 14:05:09Z, run r1

Needs
  waits for  identity.keystone from keystone@ctl-[1:3]
  done       os.base from base@kvm-1

Waiting for it
  2 steps: audit@kvm-1 and smoke@prb-1
"""


def test_explain() -> None:
    nova = StepId("nova@kvm-1")
    found = Explanation(
        step=nova,
        placement=Placement(id=nova, role="nova", node="kvm-1", inputs={}),
        planned=Step(
            id=nova,
            action=Action.UPDATE,
            role="nova",
            node="kvm-1",
            reasons=("input nova_url changed",),
            inputs={},
            destroys="Nothing much.",
            expected_s=42.0,
        ),
        state=state("nova@kvm-1", Status.CHANGED)[1],
        needs=(
            *(
                Need(capability="identity.keystone", provider=StepId(f"keystone@ctl-{n}"), pending=True)
                for n in (1, 2, 3)
            ),
            Need(capability="os.base", provider=StepId("base@kvm-1"), pending=False),
        ),
        after=(),
        unlocks=(StepId("audit@kvm-1"), StepId("smoke@prb-1")),
        wave=3,
    )
    assert explain_text(found, LOOK) == EXPLAINED


def test_explain_of_what_is_done() -> None:
    found = Explanation(
        step=StepId("base@a"), placement=None, planned=None, state=None, needs=(), after=(), unlocks=(), wave=0
    )
    assert explain_text(found, LOOK) == (
        "base@a: nothing to do, it is as the spec wants it\n"
        "  The spec does not place it any more.\n"
        "  last      it never ran\n"
    )


# --- lab and doctor -----------------------------------------------------------------------------------------------


def test_lab() -> None:
    nodes = [NodeStatus(name="ctl-1", address="10.77.0.11", state="running", detail="")]
    assert lab_text(nodes, LOOK) == "node   address     state    detail\nctl-1  10.77.0.11  running\n"


def test_doctor() -> None:
    findings = [
        Finding(name="ssh", purpose="reaches nodes", good=True, found="/usr/bin/ssh"),
        Finding(name="setpriv", purpose="ends Ansible", good=False, found="", hint="apt install util-linux"),
        Finding(name="root", purpose="lab", good=False, found="", hint="use sudo", required=False),
    ]
    assert doctor_text(findings, LOOK) == (
        "ok       ssh      /usr/bin/ssh\n"
        "missing  setpriv  ends Ansible\n"
        "                  apt install util-linux\n"
        "without  root     lab\n"
        "                  use sudo\n"
        "\n"
        "1 thing missing.\n"
    )
    assert doctor_text(findings[:1], LOOK).endswith("\n\nReady.\n")
