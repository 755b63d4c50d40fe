"""One suite over the executors' Protocol: the fake one, and push and carry over a real sshd on this machine."""

from __future__ import annotations

import os
import pickle
import queue
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from support import sshd
from support.folders import write_role

from orchestrator.executors.ansible import AnsibleExecutor
from orchestrator.executors.ansible.executor import _private_path
from orchestrator.executors.carry import CarryExecutor
from orchestrator.executors.carry.session import Link
from orchestrator.executors.fake import FakeExecutor, Script
from orchestrator.model import (
    Action,
    Batch,
    Connection,
    Outcome,
    PlanNode,
    PlanRole,
    Process,
    SecretRef,
    Status,
    StepId,
    StepRun,
)
from orchestrator.processes import start_time, users

ROOT = Path(__file__).parents[2]
PATIENCE_S = 120.0
HOSTS = ("one", "two", "three")
SECRET = SecretRef(file="group_vars/all/secrets.yml", key="probe_password", fingerprint="f")
REVEALED = "value of probe_password"

TASKS = [
    {
        "name": "Write the line",
        "ansible.builtin.lineinfile": {
            "path": "{{ probe_folder }}/{{ node_name }}",
            "line": "{{ probe_line }}",
            "create": True,
            "mode": "0644",
        },
    },
    {
        "name": "Use the secret",
        "ansible.builtin.command": "test -n '{{ probe_password }}'",
        "changed_when": False,
        "no_log": True,
    },
    {
        "name": "Break",
        "ansible.builtin.command": "sh -c 'echo looking for room; echo no space left on device >&2; exit 3'",
        "changed_when": False,
        "when": "probe_do == 'fail'",
    },
    {
        "name": "Try something",
        "when": "probe_do == 'rescue'",
        "block": [{"name": "Try", "ansible.builtin.command": "false", "changed_when": False}],
        "rescue": [{"name": "Do it the other way", "ansible.builtin.debug": {"msg": "fine"}}],
    },
    {
        "name": "Tell the secret",
        "ansible.builtin.fail": {"msg": "{{ probe_password }}"},
        "no_log": True,
        "when": "probe_do == 'tell'",
    },
    {
        "name": "Tell the secret item by item",
        "ansible.builtin.command": "sh -c 'echo {{ item }} >&2; exit 4'",
        "loop": ["{{ probe_password }}"],
        "no_log": True,
        "changed_when": False,
        "when": "probe_do == 'tell items'",
    },
    {
        "name": "Take long",
        "ansible.builtin.command": "sleep 600",
        "changed_when": False,
        "when": "probe_do == 'slow'",
    },
]


@dataclass
class World:
    """An executor and the hosts that it knows; the same batches mean the same on each."""

    executor: FakeExecutor | AnsibleExecutor | CarryExecutor
    folder: Path
    nodes: dict[str, PlanNode]
    reports: queue.Queue[Process | Outcome] = field(default_factory=queue.Queue)

    def batch(self, name: str = "b1", *, timeout_s: float = 300.0, check: bool = False, **fates: str) -> Batch:
        """Return a batch of role `probe`; every named host is in it and does as it is told."""
        runs = []
        for host, do in fates.items():
            inputs = {
                "probe_do": do,
                "probe_line": "hello",
                "probe_folder": str(self.folder),
                "probe_password": SECRET,
            }
            runs.append(StepRun(step=StepId(f"probe@{host}"), node=self.nodes[host], inputs=inputs))
        outputs = {"probe_said": "{{ probe_line }} from {{ node_name }}"}
        role = PlanRole(name="probe", digest="d", outputs=outputs)
        return Batch(id=name, role=role, action=Action.CREATE, runs=tuple(runs), timeout_s=timeout_s, check=check)

    def start(self, batch: Batch) -> None:
        self.executor.submit(batch, self.reports.put)

    def outcomes(self, count: int) -> dict[str, Outcome]:
        """Wait for so many outcomes; return them by host."""
        found: dict[str, Outcome] = {}
        while len(found) < count:
            item = self.reports.get(timeout=PATIENCE_S)
            if isinstance(item, Outcome):
                host = item.step.partition("@")[2]
                assert host not in found, f"{host} has two outcomes"
                found[host] = item
        return found

    def run(self, batch: Batch) -> dict[str, Outcome]:
        self.start(batch)
        found = self.outcomes(len(batch.runs))
        self.executor.close()  # waits for the run's end
        late = []
        while not self.reports.empty():
            late.append(self.reports.get_nowait())
        assert not [item for item in late if isinstance(item, Outcome)]
        return found


def fake_world(folder: Path) -> World:
    def script(batch: Batch, run: StepRun) -> Script:
        if run.node.name == "lost":
            return Script(status=Status.UNREACHABLE, problem="Connection refused")
        match run.inputs["probe_do"]:
            case "fail":
                return Script(status=Status.FAILED, problem="probe : Break: no space left on device")
            case "slow":
                return Script(seconds=600.0)
        again = (folder / run.node.name).exists()
        if not batch.check:
            (folder / run.node.name).write_text("hello\n")
        outputs = {} if batch.check else {"probe_said": f"hello from {run.node.name}"}
        return Script(status=Status.OK if again else Status.CHANGED, outputs=outputs)

    nodes = {
        name: PlanNode(name=name, platform="debian-12", address="-", connection=Connection())
        for name in (*HOSTS, "lost")
    }
    return World(FakeExecutor(script), folder, nodes)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[sshd.Sshd]:
    with sshd.running(tmp_path_factory.mktemp("sshd")) as started:
        yield started


@pytest.fixture
def ansible(tmp_path: Path, server: sshd.Sshd, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    monkeypatch.setenv("ANSIBLE_SSH_CONTROL_PATH_DIR", str(tmp_path / "cp"))  # no connection of an earlier test
    write_role(
        tmp_path / "roles",
        "probe",
        options={
            **{name: {"type": "str", "required": True} for name in ("probe_do", "probe_line", "probe_folder")},
            "probe_password": {"type": "str", "required": True, "no_log": True},
        },
        tasks=TASKS,
    )
    folder = tmp_path / "hosts"
    folder.mkdir()
    addresses = dict(zip(HOSTS, sshd.ADDRESSES, strict=True))
    nodes = {
        name: PlanNode(name=name, platform="debian-12", address=address, connection=server.connection())
        for name, address in addresses.items()
    }
    closed = server.connection(port=sshd.free_port())
    nodes["lost"] = PlanNode(name="lost", platform="debian-12", address=sshd.ADDRESSES[0], connection=closed)
    world = World(AnsibleExecutor(**options(tmp_path), secret=lambda ref: f"value of {ref.key}"), folder, nodes)
    yield world
    world.executor.close()


def options(folder: Path) -> dict[str, object]:
    return {"home": ROOT, "site": "test", "runs": folder / "runs", "roles": [folder / "roles"]}


@pytest.fixture
def carry(ansible: World, tmp_path: Path) -> Iterator[World]:
    """The same hosts, each with a place of its own for what is carried to it."""
    link = Link(place=f"{tmp_path}/{{node}}")
    executor = CarryExecutor(**options(tmp_path), secret=lambda ref: f"value of {ref.key}", owner="test", link=link)
    world = World(executor, ansible.folder, ansible.nodes)
    yield world
    world.executor.close()


@pytest.fixture(params=["fake", "ansible", "carry"])
def world(request: pytest.FixtureRequest, tmp_path: Path) -> World:
    if request.param == "fake":
        return fake_world(tmp_path)
    found: World = request.getfixturevalue(request.param)
    return found


@pytest.fixture(params=["ansible", "carry"])
def real(request: pytest.FixtureRequest) -> World:
    """What reaches hosts."""
    found: World = request.getfixturevalue(request.param)
    return found


# --- what every executor does -----------------------------------------------------------------------------------------


def test_every_step_has_one_outcome_with_its_outputs(world):
    found = world.run(world.batch(one="go", two="go", three="go"))
    assert {host: outcome.status for host, outcome in found.items()} == dict.fromkeys(HOSTS, Status.CHANGED)
    assert found["two"].outputs == {"probe_said": "hello from two"}
    assert (world.folder / "three").read_text() == "hello\n"


def test_what_changes_nothing_is_ok(world):
    world.run(world.batch("b1", one="go"))
    assert world.run(world.batch("b2", one="go"))["one"].status is Status.OK


def test_a_failing_step_says_why_and_the_others_go_on(world):
    found = world.run(world.batch(one="fail", two="go"))
    assert found["one"].status is Status.FAILED
    assert found["one"].problem == "probe : Break: no space left on device"
    assert found["one"].outputs == {}
    assert found["two"].status is Status.CHANGED


def test_an_unreachable_host_is_no_failed_one(world):
    found = world.run(world.batch(lost="go", two="go"))
    assert found["lost"].status is Status.UNREACHABLE
    assert "Connection refused" in found["lost"].problem
    assert found["two"].status is Status.CHANGED


def test_a_fast_host_is_reported_while_a_slow_one_runs_and_a_cancel_ends_that(world):
    world.start(world.batch(one="slow", two="go"))
    assert world.outcomes(1)["two"].status is Status.CHANGED
    world.executor.cancel("b1")
    slow = world.outcomes(1)["one"]
    assert (slow.status, slow.problem) == (Status.FAILED, "cancelled")


def test_a_time_out_ends_what_runs_and_says_so(world):
    found = world.run(world.batch(one="slow", timeout_s=0.5))
    assert (found["one"].status, found["one"].problem) == (Status.FAILED, "timed out after 0.5 s")


def test_a_check_tells_what_would_change_and_changes_nothing(world):
    found = world.run(world.batch(one="go", check=True))
    assert found["one"].status is Status.CHANGED
    assert found["one"].outputs == {}
    assert not (world.folder / "one").exists()


def test_cancelling_what_is_not_there_is_no_matter(world):
    world.executor.cancel("b99")


def test_closing_cancels_what_runs(world):
    world.start(world.batch(one="slow"))
    world.executor.close()
    assert world.outcomes(1)["one"].problem == "cancelled"


# --- what only hosts do -----------------------------------------------------------------------------------------------


def test_the_log_of_a_step_ends_with_what_failed(real):
    log = real.run(real.batch(one="fail"))["one"].log
    assert "TASK [probe : Break]" in log.splitlines()
    assert "no space left on device" in log
    assert "looking for room" in log


def test_an_ansible_that_cannot_start_says_why(ansible, tmp_path):
    homeless = {**options(tmp_path), "home": tmp_path}
    ansible.executor = AnsibleExecutor(**homeless, secret=lambda _: REVEALED)
    found = ansible.run(ansible.batch(one="go"))["one"]
    assert found.status is Status.FAILED
    assert "run_role.yml could not be found" in found.problem


def test_a_rescue_inside_a_role_is_no_failure(real):
    assert real.run(real.batch(one="rescue"))["one"].status is Status.CHANGED


def test_facts_are_gathered_when_asked_for_and_kept_until_something_changes(real):
    def gathered(name: str) -> bool:
        batch = real.batch(name, one="go")
        role = replace(batch.role, facts=("min",), outputs={"distribution": "{{ ansible_facts.distribution }}"})
        done = real.run(replace(batch, role=role, facts_age_s=3600.0))["one"]
        assert done.status.good
        assert done.outputs["distribution"] == "Debian"
        return "TASK [Gather the facts that the contract asks for]" in done.log

    assert gathered("b1")  # and it changes the host
    assert gathered("b2")
    assert not gathered("b3")
    (real.folder / "one").unlink()
    assert not gathered("b4")  # changes the host
    assert gathered("b5")


def test_a_wrong_host_key_is_told_in_words(real, tmp_path):
    other = sshd._new_key(tmp_path / "other").with_suffix(".pub").read_text()
    known = tmp_path / "known_hosts"
    connection = real.nodes["one"].connection
    known.write_text(f"[{sshd.ADDRESSES[0]}]:{connection.port} {other}")
    real.nodes["one"] = PlanNode(
        name="one",
        platform="debian-12",
        address=sshd.ADDRESSES[0],
        connection=Connection(port=connection.port, private_key=connection.private_key, known_hosts=str(known)),
    )
    found = real.run(real.batch(one="go", two="go"))
    assert found["one"].status is Status.UNREACHABLE
    assert found["one"].problem == (
        f"the SSH host key of one ({sshd.ADDRESSES[0]}) is not the one in {known}: "
        "the host was installed anew, or it is another one"
    )
    assert found["two"].status is Status.CHANGED
    known.write_text("")
    unknown = real.run(real.batch("b2", one="go"))["one"]
    assert unknown.problem == f"the SSH host key of one ({sshd.ADDRESSES[0]}) is not in {known}"


def test_secrets_are_nowhere_in_what_a_run_leaves(real, tmp_path):
    found = real.run(real.batch(one="tell items", two="fail", three="tell"))
    assert {outcome.status for outcome in found.values()} == {Status.FAILED}
    left = [path for path in tmp_path.rglob("*") if path.is_file()]  # the hosts' places, too
    assert any(path.is_relative_to(tmp_path / "runs") for path in left)
    assert [path for path in left if REVEALED.encode() in path.read_bytes()] == []
    assert not any(REVEALED in outcome.log + outcome.problem for outcome in found.values())
    assert not _private_path(tmp_path / "runs" / "b1").exists()


@pytest.mark.parametrize("recorded", [True, False], ids=["process-recorded", "process-too-young-to-be-recorded"])
def test_after_a_kill_nothing_runs_and_what_ended_is_known(ansible, tmp_path, recorded):
    batch = ansible.batch(one="slow", two="go", three="fail")
    parcel = tmp_path / "batch.pickle"
    parcel.write_bytes(pickle.dumps((options(tmp_path), batch)))
    env = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"}
    command = [sys.executable, "-m", "support.ansible_child", str(parcel)]
    controller = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env)
    pid, ended = 0, 0
    for line in controller.stdout:
        pid = int(line.split()[1]) if line.startswith("process") else pid
        ended += line.startswith("outcome")
        if ended == 2:
            break
    controller.send_signal(signal.SIGKILL)
    controller.wait()
    controller.stdout.close()
    folder = tmp_path / "runs" / "b1"
    process = Process(batch="b1", pid=0, start_time=0.0, folder="")
    if recorded:
        process = Process(batch="b1", pid=pid, start_time=start_time(pid), folder=str(folder))
    found = {outcome.step: outcome for outcome in ansible.executor.recover(process, batch.runs)}
    assert {step: outcome.status for step, outcome in found.items()} == {
        "probe@two": Status.CHANGED,
        "probe@three": Status.FAILED,
    }
    assert found["probe@two"].outputs == {"probe_said": "hello from two"}
    private = _private_path(folder)
    assert users(private) == []
    assert not private.exists()
