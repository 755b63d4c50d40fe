"""Roles with a quorum: which plans are refused, and what a run may touch at once."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.sites import after_success, catalog, role, site, with_digest

from orchestrator import plan
from orchestrator.cli.views.text import plan_text
from orchestrator.model import (
    Action,
    Cardinality,
    Connection,
    Count,
    MachineState,
    Outcome,
    Phase,
    Plan,
    PlanNode,
    PlanRole,
    Policy,
    Retry,
    Rollout,
    Share,
    Snapshot,
    Status,
    Step,
    StepId,
)
from orchestrator.plan import Selection, losses, refusals
from orchestrator.plan.quorum import spare
from orchestrator.schedule import Schedule
from orchestrator.topology import resolve

EVERYTHING = Selection()
ALL_AT_ONCE = Rollout(first=Share(percent=100.0))
CONTRACTS = catalog(
    role("base", provides=["os.base"]),
    role(
        "db",
        provides=["database"],
        requires=["os.base/node"],
        options=["db_size"],
        cardinality=Cardinality(count=Count(least=0), quorum=True),
        removable=True,
    ),
)


def cluster(count=3, groups=("all",), **rest):
    nodes = {f"ctl-{n}": ["dbs"] for n in range(1, count + 1)}
    return site({"all": ["base"], "dbs": ["db"]}, nodes, policy=Policy(rollout={"db": ALL_AT_ONCE}), **rest)


def running(count=3):
    """Return the snapshot of a cluster that was applied."""
    return after_success(plan.make(resolve(cluster(count), CONTRACTS), Snapshot()))


def fallen(snapshot, status=Status.UNREACHABLE, *nodes, role="db"):
    placements = dict(snapshot.placements)
    for node in nodes:
        key = StepId(f"{role}@{node}")
        placements[key] = replace(placements[key], status=status)
    return replace(snapshot, placements=placements)


def changed(snapshot, spec=None, selection=EVERYTHING):
    """Return the plan of a change that every member has to take over."""
    return plan.make(resolve(spec or cluster(3), with_digest(CONTRACTS, "db", "new")), snapshot, selection)


def told(made):
    return [problem.summary for problem in losses(made)]


# --- the plan -----------------------------------------------------------------------------------------------------


def test_a_change_of_all_members_is_no_loss_while_all_are_up():
    made = changed(running())
    assert made.roles["db"].members == ("db@ctl-1", "db@ctl-2", "db@ctl-3")
    assert told(made) == []


def test_a_change_while_a_member_is_unreachable_is_refused():
    made = changed(fallen(running(), Status.UNREACHABLE, "ctl-2"))
    (problem,) = losses(made)
    assert problem.code == "apply.quorum"
    assert problem.summary == "the plan changes db@ctl-1, ctl-3 while db@ctl-2 is down: db would lose its majority"
    assert problem.detail == (
        "it has 3 members (db@ctl-[1:3]), of which 1 may be away at once",
        "db@ctl-2: unreachable when last heard of",
    )
    assert "`--role db --node ctl-2` first" in problem.hint
    assert "--allow-quorum-loss db" in problem.hint
    assert problem in refusals(made, ("*",))
    assert refusals(made, ("*",), ("d*",)) == ()


def test_the_way_out_that_the_refusal_names_is_open():
    snapshot = fallen(running(), Status.UNREACHABLE, "ctl-2")
    assert told(changed(snapshot, selection=Selection(nodes=("ctl-2",), roles=("db",)))) == []


def test_a_member_whose_step_failed_is_mended_by_the_same_plan():
    assert told(changed(fallen(running(), Status.FAILED, "ctl-2"))) == []


def test_a_failed_member_that_the_plan_leaves_out_is_as_good_as_gone():
    made = changed(fallen(running(), Status.FAILED, "ctl-2"), selection=Selection(nodes=("ctl-1",)))
    assert told(made) == ["the plan changes db@ctl-1 while db@ctl-2 is down: db would lose its majority"]


def test_a_host_is_down_when_another_role_found_it_unreachable():
    made = changed(fallen(running(), Status.UNREACHABLE, "ctl-3", role="base"))
    assert made.roles["db"].down == {"db@ctl-3": "unreachable"}
    assert len(told(made)) == 1


def test_what_was_unreachable_before_it_worked_is_up():
    snapshot = fallen(running(), Status.UNREACHABLE, "ctl-3", role="base")
    placements = dict(snapshot.placements)
    placements[StepId("db@ctl-3")] = replace(placements[StepId("db@ctl-3")], at=5.0)
    assert changed(replace(snapshot, placements=placements)).roles["db"].down == {}


@pytest.mark.parametrize(("phase", "refused"), [(Phase.RESCUE, 1), (Phase.FAILED, 1), (Phase.READY, 0)])
def test_a_machine_that_is_not_in_service_is_down(phase, refused):
    machine = MachineState(id="m", phase=phase, node="ctl-1")
    assert len(told(changed(replace(running(), machines={"m": machine})))) == refused


def test_of_five_one_may_be_down_while_another_is_changed():
    assert told(changed(fallen(running(5), Status.UNREACHABLE, "ctl-2"), cluster(5))) == []
    assert len(told(changed(fallen(running(5), Status.UNREACHABLE, "ctl-2", "ctl-3"), cluster(5)))) == 1


@pytest.mark.parametrize(("before", "after", "refused"), [(3, 1, True), (5, 3, False), (5, 1, True), (1, 3, False)])
def test_members_are_removed_down_to_the_majority_only(before, after, refused):
    made = plan.make(resolve(cluster(after), CONTRACTS), running(before))
    gone = {1: "ctl-[2:3]", 3: "ctl-[4:5]"} if before == 3 else {1: "ctl-[2:5]"}
    wanted = [f"the plan removes db@{gone[after]}: db would lose its majority"] if refused else []
    assert told(made) == wanted


def test_a_removal_while_another_member_is_down_is_refused():
    spec = cluster(3)
    less = replace(spec, nodes={name: node for name, node in spec.nodes.items() if name != "ctl-1"})
    contracts = {**CONTRACTS, "db": replace(CONTRACTS["db"], cardinality=Cardinality(count=Count(least=0)))}
    made = plan.make(resolve(less, contracts), fallen(running(), Status.UNREACHABLE, "ctl-2"))
    made = replace(made, roles={**made.roles, "db": replace(made.roles["db"], **members_of(made, running(), "ctl-2"))})
    assert told(made) == ["the plan removes db@ctl-1 while db@ctl-2 is down: db would lose its majority"]


def members_of(made, snapshot, *lost):
    keys = tuple(sorted(key for key, state in snapshot.placements.items() if state.role == "db"))
    return {"members": keys, "down": {StepId(f"db@{node}"): "unreachable" for node in lost}}


def test_the_removal_of_a_dead_member_takes_nothing_away():
    made = hand_made(3, down={"db@n2": "unreachable"}, removes=["db@n2"])
    assert told(made) == []


def test_a_role_that_goes_altogether_is_no_accident():
    assert told(plan.make(resolve(cluster(0), CONTRACTS), running())) == []


def test_machines_that_are_installed_anew_are_away():
    assert told(hand_made(3, installs=["n1"], updates=["db@n1"])) == []
    assert told(hand_made(3, installs=["n1", "n2"])) == ["the plan installs anew db@n[1:2]: db would lose its majority"]


def test_the_plan_says_so_before_apply_does():
    made = changed(fallen(running(), Status.UNREACHABLE, "ctl-2"))
    text = plan_text(made, plan.summarize(made))
    assert "LOSES A QUORUM" in text
    assert "db would lose its majority" in text


def test_a_plan_tells_members_after_it_was_saved():
    made = changed(fallen(running(), Status.UNREACHABLE, "ctl-2"))
    assert plan.parse(plan.dump(made), "p") == made


def test_a_role_without_quorum_has_no_members():
    contracts = {**CONTRACTS, "db": replace(CONTRACTS["db"], cardinality=Cardinality())}
    made = plan.make(resolve(cluster(), with_digest(contracts, "db", "new")), fallen(running(), Status.FAILED, "ctl-2"))
    assert made.roles["db"].members == ()
    assert told(made) == []


def test_a_role_with_quorum_rolls_out_one_by_one_unless_somebody_says_otherwise():
    spec = replace(cluster(), policy=Policy())
    made = plan.make(resolve(spec, CONTRACTS), Snapshot())
    assert made.roles["db"].rollout == Rollout(first=Share(count=1), then=Share(count=1), stop_after=1)


# --- the run ------------------------------------------------------------------------------------------------------


def hand_made(count, *, down=None, updates=(), removes=(), installs=(), retry=0):
    """Return a plan of members n1 to nN of a role db that have all worked."""
    steps = [
        *(
            step(key, Action.UPDATE, needs=[f"install@{n}"] if (n := key.partition("@")[2]) in installs else [])
            for key in updates
        ),
        *(step(key, Action.REMOVE) for key in removes),
        *(step(f"install@{node}", Action.UPDATE) for node in installs),
    ]
    names = [f"n{i}" for i in range(1, count + 1)]
    return Plan(
        id="",
        site="s",
        base_revision=0,
        spec_digest="",
        complete=True,
        steps=tuple(sorted(steps, key=lambda s: s.id)),
        barriers=(),
        nodes={n: PlanNode(name=n, platform="debian-12", address="", connection=Connection()) for n in names},
        roles={
            "db": PlanRole(
                name="db",
                digest="d",
                removable=True,
                rollout=ALL_AT_ONCE,
                members=tuple(StepId(f"db@{n}") for n in names),
                down={StepId(key): why for key, why in (down or {}).items()},
            ),
            "install": PlanRole(name="install", digest="d"),
        },
        policy=Policy(retry=Retry(unreachable=retry, failed=retry, backoff_s=1.0)),
    )


def step(key, action, needs=()):
    role_, _, node = key.partition("@")
    return Step(
        id=StepId(key), action=action, role=role_, node=node, reasons=("r",), inputs={}, digest="x", needs=tuple(needs)
    )


def start(schedule, now=0.0):
    decision = schedule.next(now)
    return [run.step for batch in decision.batches for run in batch.runs], decision.settled


def end(schedule, key, status=Status.CHANGED, attempt=1, now=0.0):
    return schedule.record(schedule.verdict(Outcome(step=StepId(key), status=status, attempt=attempt)), now)


def test_members_are_touched_one_at_a_time_whatever_the_rollout_says():
    schedule = Schedule(hand_made(5, updates=[f"db@n{i}" for i in range(1, 6)]))
    for number in range(1, 6):
        assert start(schedule) == ([f"db@n{number}"], ())
        assert start(schedule) == ([], ())
        end(schedule, f"db@n{number}")
    assert schedule.done


def test_new_members_are_not_held_back():
    made = hand_made(3, updates=["db@n1", "db@n2", "db@n3"])
    made = replace(made, roles={**made.roles, "db": replace(made.roles["db"], members=("db@n1",))})
    assert start(Schedule(made)) == (["db@n1", "db@n2", "db@n3"], ())


def test_a_member_that_is_down_is_mended_before_any_other_is_touched():
    schedule = Schedule(hand_made(3, updates=["db@n1", "db@n2", "db@n3"], down={"db@n3": "failed"}))
    assert start(schedule) == (["db@n3"], ())
    end(schedule, "db@n3")
    assert start(schedule) == (["db@n1"], ())


def test_what_would_lose_the_majority_after_a_failure_is_skipped_with_the_reason():
    schedule = Schedule(hand_made(3, updates=["db@n1", "db@n2", "db@n3"]))
    start(schedule)
    assert end(schedule, "db@n1", Status.FAILED) == ()
    begun, settled = start(schedule)
    assert begun == []
    assert [(s.step, s.status, s.cause) for s in settled] == [
        ("db@n2", Status.SKIPPED, "db@n1"),
        ("db@n3", Status.SKIPPED, "db@n1"),
    ]
    assert settled[0].problem == "without db@n1 and n2, db would lose its majority"
    assert schedule.done


def test_a_member_that_waits_for_its_next_try_is_still_away():
    schedule = Schedule(hand_made(3, updates=["db@n1", "db@n2", "db@n3"], retry=1))
    start(schedule)
    end(schedule, "db@n1", Status.UNREACHABLE)
    assert start(schedule) == ([], ())
    assert start(schedule, now=2.0) == (["db@n1"], ())
    end(schedule, "db@n1", attempt=2)
    assert start(schedule, now=2.0) == (["db@n2"], ())


def test_a_member_that_left_counts_no_more():
    """From five to three: one leaves after the other, then each of the three is changed."""
    schedule = Schedule(hand_made(5, updates=["db@n1", "db@n2", "db@n3"], removes=["db@n4", "db@n5"]))
    order = []
    while not schedule.done:
        begun, settled = start(schedule)
        assert len(begun) == 1
        assert not settled
        order += begun
        end(schedule, begun[0])
    assert sorted(order) == [f"db@n{i}" for i in range(1, 6)]


def test_a_member_that_is_installed_anew_comes_back_before_another_goes():
    schedule = Schedule(hand_made(3, updates=["db@n1", "db@n2", "db@n3"], installs=["n2"]))
    assert start(schedule) == (["install@n2"], ())
    end(schedule, "install@n2")
    assert start(schedule) == (["db@n2"], ())
    end(schedule, "db@n2")
    assert start(schedule) == (["db@n1"], ())


def test_consent_lets_the_rollout_decide():
    made = hand_made(3, updates=["db@n1", "db@n2", "db@n3"], down={"db@n3": "unreachable"})
    assert start(Schedule(made, quorum_loss=("d*",))) == (["db@n1", "db@n2", "db@n3"], ())


def test_a_run_that_goes_on_remembers_who_failed():
    made = hand_made(3, updates=["db@n1", "db@n2", "db@n3"])
    schedule = Schedule(made, finished=[Outcome(step=StepId("db@n1"), status=Status.FAILED)])
    begun, settled = start(schedule)
    assert begun == []
    assert [s.step for s in settled] == ["db@n2", "db@n3"]
    assert schedule.done


@st.composite
def clusters(draw):
    count = draw(st.integers(1, 7))
    keys = [f"db@n{i}" for i in range(1, count + 1)]
    kinds = draw(st.lists(st.sampled_from(["update", "remove", "none"]), min_size=count, max_size=count))
    lost = draw(st.lists(st.sampled_from(keys), unique=True, max_size=count))
    return hand_made(
        count,
        updates=[key for key, kind in zip(keys, kinds, strict=True) if kind == "update"],
        removes=[key for key, kind in zip(keys, kinds, strict=True) if kind == "remove"],
        installs=draw(
            st.lists(
                st.sampled_from([k[3:] for k, kind in zip(keys, kinds, strict=True) if kind == "update"] or ["n1"]),
                unique=True,
                max_size=2,
            )
        ),
        down={key: draw(st.sampled_from(["failed", "unreachable"])) for key in lost},
        retry=draw(st.integers(0, 1)),
    )


@settings(max_examples=200)
@given(clusters(), st.data())
def test_no_run_takes_the_majority_away(made, data):
    """Every step comes to an end, and no member that is up is touched unless the rest stays a majority."""
    members = set(made.roles["db"].members)
    away = set(made.roles["db"].down) | {f"db@{s.node}" for s in made.steps if s.role == "install"}
    steps = {s.id: s for s in made.steps}
    schedule, now, attempts = Schedule(made), 0.0, dict.fromkeys(steps, 0)
    for _ in range(200):
        if schedule.done:
            break
        for key in start(schedule, now)[0]:
            attempts[key] += 1
            if key not in members:
                continue
            busy = [other for other in schedule.in_flight if other in members]
            assert busy == [key]
            assert key in away or len(away) + 1 <= spare(len(members))
        if not schedule.in_flight:
            now = schedule.wake_at() or now
            continue
        key = data.draw(st.sampled_from(sorted(schedule.in_flight)))
        status = data.draw(st.sampled_from([Status.CHANGED, Status.OK, Status.FAILED, Status.UNREACHABLE]))
        end(schedule, key, status, attempts[key], now)
        if key in members and status.good:
            away.discard(key)
            if steps[key].action is Action.REMOVE:
                members.discard(key)
        elif key in members:
            away.add(key)
    assert schedule.done
    assert set(schedule.outcomes) == set(steps)


@given(clusters())
def test_what_a_plan_is_not_refused_for_it_can_do(made):
    """When all goes well, a plan that is not refused ends with every step done."""
    if losses(made):
        return
    schedule = Schedule(made)
    for _ in range(100):
        if schedule.done:
            break
        for key in start(schedule)[0]:
            end(schedule, key)
    assert all(outcome.status.good for outcome in schedule.outcomes.values())
    assert len(schedule.outcomes) == len(made.steps)
