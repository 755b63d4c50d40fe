"""The executor of bare metal against machines that behave, good and bad: real store, BMCs in memory."""

from __future__ import annotations

import contextlib
import queue
import threading
import uuid
from dataclasses import replace

import pytest
from support.machines import KEY, Machine, Room

from orchestrator.bmc.base import Power
from orchestrator.errors import HalliganError
from orchestrator.executors.carry.session import UnreachableError
from orchestrator.executors.metal import MetalExecutor, Patience, operations
from orchestrator.lifecycle import STAGES, Signal
from orchestrator.model import (
    METAL,
    Action,
    Batch,
    Connection,
    Failure,
    Order,
    Outcome,
    Phase,
    PlanNode,
    PlanRole,
    Process,
    SecretRef,
    Status,
    StepId,
    StepRun,
)
from orchestrator.store import Store, kinds

LIMIT_S = 60.0
QUICK = Patience(boot_s=20, facts_s=5, pickup_s=0.6, silent_s=0.6, watch_s=0.2, login_s=20, look_s=0.02)


class Orders:
    """Stands for the library: an order without an image."""

    def image(self, _wanted):
        return type("Image", (), {"size": 1 << 20})()

    def install(self, wanted, facts, key):
        assert facts.nics
        return Order(id=key, task="install", args={"image": wanted.image})


class Login:
    """Stands for SSH: nobody gets in `refusals` times."""

    def __init__(self):
        self.refusals = 0
        self.tries = 0

    async def ask(self, node, _command):
        self.tries += 1
        if self.tries <= self.refusals:
            raise UnreachableError(f"{node.name} did not answer")
        return ""


@pytest.fixture
def store(tmp_path):
    with Store.open(tmp_path / "state.db") as opened:
        yield opened


@pytest.fixture
def room(store):
    return Room(store, 3)


@pytest.fixture
def login():
    return Login()


@pytest.fixture
def make(store, room, login, tmp_path):
    """A function that makes executors; all are closed at the end."""
    with contextlib.ExitStack() as stack:

        def made(patience=QUICK):
            executor = MetalExecutor(
                store=lambda: Store.open(tmp_path / "state.db"),
                secret=lambda ref: {"bmc": "right"}[ref.key],
                orders=Orders(),
                patience=patience,
                connect=room.rack.connect,
                link=login,
            )
            stack.callback(executor.close)
            return executor

        yield made


@pytest.fixture
def executor(make):
    return make()


def step_run(stage, name, known_hosts, number=1, attempt=1, **told):
    inputs = {
        "mac": f"52:54:00:00:00:{number:02x}",
        "bmc": {"driver": "redfish", "address": f"10.9.0.{number}"},
        "profile": {"name": "kvm", "image": "debian-12", "firmware": "uefi", "root_disk": {}, "expect": {}},
        **told,
    }
    connection = Connection(known_hosts=str(known_hosts))
    host = PlanNode(name=name, platform="debian-12", address=f"10.0.0.{number}", connection=connection)
    return StepRun(step=StepId(f"{stage}@{name}"), node=host, inputs=inputs, attempt=attempt)


@pytest.fixture
def go(executor, tmp_path):
    """A function that runs one stage on nodes and returns the outcomes by node."""
    return lambda stage, *names, **told: run(executor, tmp_path, stage, *names, **told)


def run(executor, tmp_path, stage, *names, timeout_s=LIMIT_S, **told):
    outcomes: queue.Queue[Outcome] = queue.Queue()
    batch = batch_of(stage, *names, known_hosts=tmp_path / "known_hosts", timeout_s=timeout_s, **told)
    executor.submit(batch, outcomes.put)
    found = [outcomes.get(timeout=LIMIT_S) for _ in names]
    return {outcome.step.partition("@")[2]: outcome for outcome in found}


def batch_of(stage, *names, known_hosts, timeout_s=LIMIT_S, **told):
    runs = tuple(step_run(stage, name, known_hosts, int(name[-1]), **told) for name in names)
    role = PlanRole(name=stage, digest="d")
    return Batch(id=f"b-{stage}", role=role, action=Action.CREATE, runs=runs, timeout_s=timeout_s, executor=METAL)


def up_to(go, stage, *names, **told):
    """Run the stages before one."""
    for earlier in STAGES[: STAGES.index(stage)]:
        assert all(outcome.status.good for outcome in go(earlier, *names, **told).values())


# --- the straight way ---------------------------------------------------------------------------------------------


def test_from_power_off_to_ready(go, room, tmp_path):
    for stage in STAGES:
        outcomes = go(stage, *room)
        assert {outcome.status for outcome in outcomes.values()} <= {Status.CHANGED, Status.OK}, outcomes
    assert room.in_phase(Phase.READY) == list(room)
    assert [machine.boots for machine in room.values()] == [1, 1, 1]
    assert sorted((tmp_path / "known_hosts").read_text().splitlines()) == [
        f"10.0.0.{number},kvm-{number} {KEY}" for number in (1, 2, 3)
    ]
    assert room["kvm-1"].state.node == "kvm-1"


def test_what_is_done_is_not_done_again(go, room):
    up_to(go, "install", "kvm-1")
    presses = room["kvm-1"].bmc.presses
    assert go("power", "kvm-1")["kvm-1"].status is Status.OK
    assert go("match", "kvm-1")["kvm-1"].status is Status.OK
    assert room["kvm-1"].bmc.presses == presses


def test_a_machine_that_runs_its_system_is_started_from_the_network_for_a_reinstall(go, room):
    for stage in STAGES:
        go(stage, "kvm-1")
    room["kvm-1"].move(Signal.REINSTALL)
    for stage in STAGES:
        assert go(stage, "kvm-1")["kvm-1"].status.good
    assert room["kvm-1"].boots == 2
    assert [order.task for order in room["kvm-1"].orders].count("install") == 2


def test_the_log_tells_what_was_seen(go):
    up_to(go, "match", "kvm-1")
    log = go("match", "kvm-1")["kvm-1"].log
    assert "root disk: /dev/vda" in log
    assert "discovered -> claimed" in log


def test_without_a_bmc_a_person_switches_it_on(go, room):
    told = go("power", "kvm-1", bmc={})["kvm-1"]
    assert told.status is Status.OK
    assert "by hand" in told.log
    room["kvm-1"].come_up()
    assert go("discover", "kvm-1", bmc={})["kvm-1"].status.good


def test_a_person_as_driver_is_told_what_to_do(go):
    told = go("power", "kvm-1", bmc={"driver": "manual", "address": "ask Ada"})["kvm-1"]
    assert told.status is Status.OK
    assert "by hand" in told.log


def test_a_bmc_that_swaps_the_bytes_of_a_uuid_is_the_same_machine(go, room):
    up_to(go, "install", "kvm-1")
    swapped = str(uuid.UUID(bytes=uuid.UUID(room["kvm-1"].uuid).bytes_le))
    room["kvm-1"].bmc.identity = replace(room["kvm-1"].bmc.identity, uuid=swapped)
    assert go("power", "kvm-1")["kvm-1"].status is Status.OK


def test_a_rule_waits_for_such_a_machine_and_takes_each_once(go, room):
    rule = {"mac": "", "match": {"cpus": ">= 1"}}
    for machine in room.values():
        machine.come_up()
    assert all(outcome.status.good for outcome in go("discover", *room, **rule).values())
    logs = go("discover", "kvm-1", mac="", match={"cpus": ">= 1000"}, timeout_s=1)["kvm-1"]
    assert logs.status is Status.FAILED


# --- power --------------------------------------------------------------------------------------------------------


def test_a_wrong_password_is_tried_once_and_stalls_nobody(go, room):
    room["kvm-2"].bmc.password = "other"
    credential = {"user": "admin", "password": SecretRef(file="f", key="bmc", fingerprint="x")}
    bmcs = {"driver": "redfish", "address": "10.9.0.2", "credential": credential}
    assert go("power", "kvm-2", bmc=bmcs)["kvm-2"].status is Status.FAILED
    told = go("power", "kvm-2", bmc=bmcs)["kvm-2"]
    assert "not accepted" in told.problem
    assert "right" not in told.log + told.problem
    assert room["kvm-2"].bmc.logins == 1
    assert go("power", "kvm-1", "kvm-3")["kvm-3"].status.good


def test_a_silent_bmc_holds_nobody_up(executor, room, tmp_path):
    room["kvm-2"].bmc.silent = True
    outcomes: queue.Queue[Outcome] = queue.Queue()
    executor.submit(batch_of("power", *room, known_hosts=tmp_path / "known_hosts"), outcomes.put)
    assert {outcomes.get(timeout=LIMIT_S).step for _ in range(2)} == {"power@kvm-1", "power@kvm-3"}
    executor.cancel("b-power")
    assert outcomes.get(timeout=LIMIT_S).problem == "cancelled"


def test_a_bmc_that_lies_is_told_apart(go, room):
    room["kvm-1"].bmc.lies = True
    told = run_with_time(go, "kvm-1")
    assert told.status in (Status.FAILED, Status.UNREACHABLE)
    assert not room["kvm-1"].boots


def run_with_time(go, name):
    return go("power", name, timeout_s=5)[name]


def test_the_bmc_of_another_machine_is_noticed(go, room):
    up_to(go, "install", "kvm-1")
    room["kvm-1"].bmc.identity = replace(room["kvm-1"].bmc.identity, uuid=room["kvm-2"].uuid)
    told = go("power", "kvm-1")["kvm-1"]
    assert told.status is Status.FAILED
    assert "wrong BMC" in told.problem


# --- discovery and match ------------------------------------------------------------------------------------------


def test_a_machine_that_never_comes_up_is_told_with_what_was_seen_last(make, room, store, tmp_path):
    executor = make(replace(QUICK, boot_s=0.5))
    room["kvm-1"].comes_up = False
    run(executor, tmp_path, "power", "kvm-1")
    mac = room["kvm-1"].mac
    store.append([kinds.machine_boot("", at=1.0, mac=mac, what="dhcp", detail="DHCPDISCOVER, no address left")])
    told = run(executor, tmp_path, "discover", "kvm-1")["kvm-1"]
    assert told.status is Status.UNREACHABLE
    assert "dhcp: DHCPDISCOVER, no address left" in told.problem


def test_a_second_try_switches_it_off_and_on(go, room):
    room["kvm-1"].bmc.power = Power.ON  # hangs in something else
    told = go("discover", "kvm-1", attempt=2)["kvm-1"]
    assert told.status is Status.CHANGED
    assert room["kvm-1"].boots == 1


@pytest.mark.parametrize(
    ("told", "words"),
    [
        ({"profile": {"expect": {"cpus": ">= 1000"}}}, "cpus"),
        ({"profile": {"firmware": "bios"}}, "uefi mode"),
        ({"profile": {"root_disk": {"size": ">= 900 TB"}}}, "disk"),
        ({"wiring": {"eth0": {"switch": "leaf-*"}}}, "eth0"),
        ({"match": {"vendor": "Nobody"}}, "vendor"),
    ],
)
def test_a_machine_that_is_not_as_wanted_is_not_claimed(go, room, told, words):
    profile = {"name": "kvm", "image": "debian-12", "firmware": "uefi", **told.pop("profile", {})}
    up_to(go, "match", "kvm-1")
    refused = go("match", "kvm-1", profile=profile, **told)["kvm-1"]
    assert refused.status is Status.FAILED
    assert words in refused.problem
    assert room["kvm-1"].state.phase is Phase.DISCOVERED
    assert not room["kvm-1"].orders


# --- install ------------------------------------------------------------------------------------------------------


def loses_power_once(machine: Machine, order: Order) -> None:
    machine.progress(30)
    if len(machine.orders) == 1:
        machine.bmc.power = Power.OFF  # pulled: nobody is told
        machine._life += 1
    else:
        machine.install(order)


def restarts(machine: Machine, _order: Order) -> None:
    machine.progress(30)
    machine.come_up()


def fails(machine: Machine, _order: Order) -> None:
    machine.progress(90)
    machine.move(Signal.FAIL, failure=str(Failure.IMAGE), reason="the checksum of the image is wrong")


def test_a_machine_that_loses_power_is_switched_on_and_told_again(go, room):
    room["kvm-1"].acts = loses_power_once
    up_to(go, "install", "kvm-1")
    told = go("install", "kvm-1")["kvm-1"]
    assert told.status is Status.CHANGED, told.problem
    assert "its BMC says that it is off" in told.log
    assert (room["kvm-1"].boots, len(room["kvm-1"].orders)) == (2, 2)
    assert room["kvm-1"].state.phase is Phase.INSTALLED


def test_a_machine_that_restarts_in_the_middle_is_told_once_more_and_no_further(go, room):
    room["kvm-1"].acts = restarts
    up_to(go, "install", "kvm-1")
    told = go("install", "kvm-1")["kvm-1"]
    assert told.status is Status.FAILED
    assert "restarted in the middle of the install 2 times" in told.problem
    assert len(room["kvm-1"].orders) == 2


def test_what_the_agent_says_of_a_failure_is_the_reason(go, room):
    room["kvm-1"].acts = fails
    up_to(go, "install", "kvm-1")
    assert go("install", "kvm-1")["kvm-1"].problem == "the checksum of the image is wrong"
    assert room["kvm-1"].state.phase is Phase.FAILED
    room["kvm-1"].acts = None
    assert go("install", "kvm-1")["kvm-1"].status is Status.CHANGED  # its agent still waits for orders


def test_a_machine_without_a_bmc_that_falls_silent_is_given_up(go, room):
    room["kvm-1"].acts = lambda machine, _order: machine.progress(10)
    up_to(go, "install", "kvm-1")
    told = go("install", "kvm-1", bmc={})["kvm-1"]
    assert told.status is Status.UNREACHABLE
    assert "nothing was heard" in told.problem
    assert room["kvm-1"].state.failure == Failure.TIMEOUT


def test_an_install_goes_on_under_a_new_controller(make, room, tmp_path):
    """The first controller is gone; the machine never noticed. One order, one write."""
    begun, may_end = threading.Event(), threading.Event()

    def slow(machine: Machine, order: Order) -> None:
        machine.progress(10)
        begun.set()
        assert may_end.wait(LIMIT_S)
        machine.install(order)

    patient = replace(QUICK, pickup_s=30, silent_s=30)
    first = make(patient)
    room["kvm-1"].acts = slow
    up_to(lambda stage, *names: run(first, tmp_path, stage, *names), "install", "kvm-1")
    outcomes: queue.Queue[Outcome] = queue.Queue()
    batch = batch_of("install", "kvm-1", known_hosts=tmp_path / "known_hosts")
    first.submit(batch, outcomes.put)
    assert begun.wait(LIMIT_S)
    first.close()
    second = make(patient)
    process = Process(batch="b-install", pid=0, start_time=0.0, folder="")
    assert second.recover(process, batch.runs) == ()
    second.submit(batch, outcomes.put)
    may_end.set()
    ends = [outcomes.get(timeout=LIMIT_S) for _ in range(2)]
    assert [end.problem for end in ends] == ["cancelled", ""]
    assert "is installing already" in ends[1].log
    assert (len(room["kvm-1"].orders), room["kvm-1"].boots) == (1, 1)
    [recovered] = second.recover(process, batch.runs)
    assert recovered.status is Status.CHANGED


# --- ready --------------------------------------------------------------------------------------------------------


def test_the_first_login_is_waited_for(go, room, login):
    login.refusals = 5
    up_to(go, "ready", "kvm-1")
    assert go("ready", "kvm-1")["kvm-1"].status is Status.CHANGED
    assert login.tries == 6
    assert room["kvm-1"].state.phase is Phase.READY


def test_a_system_that_lets_nobody_in_keeps_its_disk(make, room, login, tmp_path):
    executor = make(replace(QUICK, login_s=0.3))
    up_to(lambda stage, *names: run(executor, tmp_path, stage, *names), "ready", "kvm-1")
    login.refusals = 10**9
    told = run(executor, tmp_path, "ready", "kvm-1")["kvm-1"]
    assert told.status is Status.UNREACHABLE
    assert "did not answer" in told.problem
    assert room["kvm-1"].state.failure == Failure.LOGIN
    assert room["kvm-1"].bmc.boot is not None  # it was switched off and on to its disk before giving up
    login.refusals = 0
    assert run(executor, tmp_path, "ready", "kvm-1")["kvm-1"].status is Status.CHANGED


# --- operators ----------------------------------------------------------------------------------------------------


def test_an_operator_switches_power(executor, room, tmp_path):
    host = step_run("operation", "kvm-1", tmp_path / "known_hosts")
    said = executor.perform(
        host, lambda work: operations.change_power(work, operations.CHANGES["on"]), timeout_s=LIMIT_S
    )
    assert said == ("it was off, it is on",)
    assert room["kvm-1"].bmc.power is Power.ON


def test_rescue_and_back(executor, go, room, tmp_path):
    for stage in STAGES:
        go(stage, "kvm-1")
    host = step_run("operation", "kvm-1", tmp_path / "known_hosts")
    executor.perform(host, operations.rescue, timeout_s=LIMIT_S)
    assert room["kvm-1"].state.phase is Phase.RESCUE
    assert room["kvm-1"].boots == 2
    executor.perform(host, operations.unrescue, timeout_s=LIMIT_S)
    assert room["kvm-1"].state.phase is Phase.READY


def test_a_retired_machine_is_erased_and_off(executor, go, room, tmp_path):
    for stage in STAGES:
        go(stage, "kvm-1")
    host = step_run("operation", "kvm-1", tmp_path / "known_hosts")
    executor.perform(host, operations.retire, timeout_s=LIMIT_S)
    assert room["kvm-1"].state.phase is Phase.RETIRED
    tasks = [order.task for order in room["kvm-1"].orders]
    assert (tasks[0], tasks[-1]) == ("install", "erase")
    assert room["kvm-1"].bmc.power is Power.OFF
    with pytest.raises(HalliganError, match="not possible now"):
        executor.perform(host, operations.rescue, timeout_s=LIMIT_S)
