"""What can go wrong between a controller and a host that runs its own play, over a real sshd on this machine.

Three addresses are three hosts, each with a place of its own. A play goes as far as a test lets it: tasks wait for
files, tests wait for what tasks leave.
"""

from __future__ import annotations

import fcntl
import io
import json
import lzma
import os
import pickle
import queue
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from support import sshd
from support.folders import write, write_role
from support.relay import Relay

from orchestrator.executors.ansible import AnsibleExecutor
from orchestrator.executors.carry import CarryExecutor, executor
from orchestrator.executors.carry.on_host import serve
from orchestrator.executors.carry.session import Link, Session
from orchestrator.model import (
    Action,
    Batch,
    Outcome,
    PlanNode,
    PlanRole,
    Process,
    SecretRef,
    Status,
    StepId,
    StepRun,
)
from orchestrator.parcels import Parcel, tree_parcel

ROOT = Path(__file__).parents[2]
PATIENCE_S = 120.0
HOSTS = ("one", "two", "three")
SECRET = SecretRef(file="group_vars/all/secrets.yml", key="probe_password", fingerprint="f")
REVEALED = "value of probe_password"
SAID = {"probe_said": "{{ probe_word }} from {{ node_name }}"}

APPEND = {"name": "Append", "ansible.builtin.shell": "echo line >> {{ probe_folder }}/{{ node_name }}"}
WAIT = {
    "name": "Wait",
    "ansible.builtin.shell": (
        "touch {{ probe_folder }}/{{ node_name }}.waits; until test -e {{ probe_folder }}/go; do sleep 0.05; done"
    ),
    "changed_when": False,
}
AFTER = {"name": "Append again", "ansible.builtin.shell": "echo after >> {{ probe_folder }}/{{ node_name }}"}
GATED = [APPEND, WAIT, AFTER]


def until(condition: Callable[[], object]) -> None:
    """Wait for something to come true."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.02)


@dataclass
class Site:
    """Hosts, and the executors that a test makes for them."""

    path: Path
    server: sshd.Sshd
    nodes: dict[str, PlanNode]
    made: list[CarryExecutor] = field(default_factory=list)
    reports: queue.Queue[Process | Outcome] = field(default_factory=queue.Queue)

    @property
    def folder(self) -> Path:
        """Where tasks leave what they did."""
        return self.path / "done"

    @property
    def place(self) -> str:
        return f"{self.path}/{{node}}"

    def run_of(self, host: str) -> Path:
        return self.path / host / "run"

    def parcels_of(self, host: str) -> Path:
        return self.path / host / "cache"

    def options(self, run: str = "r1", owner: str = "site room") -> dict[str, Any]:
        return {
            "home": ROOT,
            "site": "room",
            "runs": self.path / "runs" / run,
            "roles": [self.path / "roles"],
            "owner": owner,
        }

    def executor(
        self, run: str = "r1", owner: str = "site room", python: str = "/usr/bin/python3", **more: Any
    ) -> CarryExecutor:
        link = Link(place=self.place, python=python)
        made = CarryExecutor(**self.options(run, owner), secret=lambda ref: f"value of {ref.key}", link=link, **more)
        self.made.append(made)
        return made

    def role(self, *tasks: dict[str, Any], name: str = "probe", **files: Any) -> Path:
        options = {f"probe_{option}": {"type": "str"} for option in ("folder", "word")}
        options["probe_password"] = {"type": "str", "no_log": True}
        return write_role(self.path / "roles", name, options=options, tasks=list(tasks), **files)

    def batch(self, *hosts: str, name: str = "b1", role: str = "probe", timeout_s: float = 600.0, **more: Any) -> Batch:
        inputs = {"probe_folder": str(self.folder), "probe_word": "hello", "probe_password": SECRET}
        runs = [StepRun(step=StepId(f"{role}@{host}"), node=self.nodes[host], inputs=inputs) for host in hosts]
        digest = str(time.monotonic_ns())
        return Batch(
            id=name,
            role=PlanRole(name=role, digest=digest, outputs=more.pop("outputs", SAID)),
            action=Action.CREATE,
            runs=tuple(runs),
            timeout_s=timeout_s,
            **more,
        )

    def submit(self, made: CarryExecutor | AnsibleExecutor, batch: Batch) -> None:
        made.submit(batch, self.reports.put)

    def outcome(self) -> Outcome:
        while True:
            item = self.reports.get(timeout=PATIENCE_S)
            if isinstance(item, Outcome):
                return item

    def outcomes(self, count: int) -> dict[str, Outcome]:
        found = [self.outcome() for _ in range(count)]
        assert len({item.step for item in found}) == count
        return {item.step.partition("@")[2]: item for item in found}

    def go(self) -> None:
        (self.folder / "go").touch()

    def waits(self, *hosts: str) -> None:
        for host in hosts:
            until((self.folder / f"{host}.waits").exists)

    def lines(self, host: str) -> list[str]:
        path = self.folder / host
        return path.read_text().splitlines() if path.exists() else []

    def is_free(self, host: str) -> bool:
        """Whether a host's lock could be had."""
        with (self.run_of(host) / "lock").open() as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
        return True

    def close(self) -> None:
        self.folder.mkdir(exist_ok=True)
        self.go()  # whatever a test left behind may end
        for made in self.made:
            made.close()
        for host in HOSTS:
            for pid in (self.run_of(host) / "plays").glob("*/pid"):
                until(partial(_ended, int(pid.read_text().split()[0])))


def _ended(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[sshd.Sshd]:
    with sshd.running(tmp_path_factory.mktemp("sshd")) as started:
        yield started


@pytest.fixture
def site(tmp_path: Path, server: sshd.Sshd, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setenv("ANSIBLE_SSH_CONTROL_PATH_DIR", str(tmp_path / "cp"))
    (tmp_path / "done").mkdir()
    nodes = {name: _node(name, address, server) for name, address in zip(HOSTS, sshd.ADDRESSES, strict=True)}
    made = Site(path=tmp_path, server=server, nodes=nodes)
    yield made
    made.close()


def _node(name: str, address: str, server: sshd.Sshd, **changes: Any) -> PlanNode:
    return PlanNode(name=name, platform="debian-12", address=address, connection=server.connection(**changes))


def _fake_python(path: Path, before: str) -> str:
    """Write a Python that does something before it runs what it is given, as a host with other ways would."""
    lines = ["#!/usr/bin/python3", "import sys, time, pathlib", before]
    lines += ["code, sys.argv = sys.argv[3], ['-c', *sys.argv[4:]]", "exec(code, {'__name__': '__main__'})"]
    path.write_text("\n".join(lines) + "\n")
    path.chmod(0o755)
    return str(path)


# --- the network ------------------------------------------------------------------------------------------------------


@pytest.fixture
def relay(site: Site) -> Relay:
    """Stands before host "one"."""
    port, address = sshd.free_port(), sshd.ADDRESSES[0]
    known = site.path / "known_hosts"
    key = site.server.known_hosts.read_text().splitlines()[0].partition(" ")[2]
    known.write_text(f"[{address}]:{port} {key}\n")
    site.nodes["one"] = _node("one", address, site.server, port=port, known_hosts=str(known))
    return Relay(address, port, site.server.port)


def test_a_cut_network_costs_nothing_but_a_session(site, relay):
    site.role(*GATED)
    made = site.executor()
    site.submit(made, site.batch("one"))
    site.waits("one")
    until(lambda: b"Append" in (site.path / "runs/r1/b1/events.jsonl").read_bytes())
    relay.cut()
    site.go()  # the play goes on alone
    until(lambda: site.lines("one") == ["line", "after"])
    relay.mend()
    done = site.outcome()
    assert (done.status, done.problem) == (Status.CHANGED, "")
    assert done.outputs == {"probe_said": "hello from one"}
    assert [line for line in done.log.splitlines() if line.startswith("TASK")][1:] == [  # the first checks the inputs
        "TASK [probe : Append]",
        "TASK [probe : Wait]",
        "TASK [probe : Append again]",
    ]
    assert site.lines("one") == ["line", "after"]
    assert made.sessions == 2


def test_a_network_that_is_cut_again_and_again_is_no_matter(site, relay):
    site.role(*GATED)
    made = site.executor()
    site.submit(made, site.batch("one"))
    site.waits("one")
    for count in (2, 3, 4):
        relay.cut()
        relay.mend()
        until(lambda least=count: made.sessions >= least)
    site.go()
    assert site.outcome().status is Status.CHANGED
    assert site.lines("one") == ["line", "after"]


def test_a_network_that_never_comes_back_leaves_a_host_unreachable_and_says_so(site, relay):
    site.role(*GATED)
    site.submit(site.executor(reattach_s=0.5), site.batch("one", "two"))
    site.waits("one", "two")
    relay.cut()
    lost = site.outcome()
    assert (lost.step, lost.status) == ("probe@one", Status.UNREACHABLE)
    assert lost.problem.startswith("lost one in the middle of the play, which may go on there")
    assert "Connection refused" in lost.problem
    site.go()
    assert site.outcome().status is Status.CHANGED
    until(lambda: site.lines("one") == ["line", "after"])
    relay.mend()
    site.submit(site.executor(), site.batch("one", name="b2"))  # tried again: it is read, not run again
    assert site.outcome().status is Status.CHANGED
    assert site.lines("one") == ["line", "after"]


def test_a_play_that_was_silent_for_long_is_still_asked_for(site, relay, monkeypatch):
    later = [0.0]
    real = time.monotonic
    monkeypatch.setattr(executor, "time", SimpleNamespace(monotonic=lambda: real() + later[0]))
    site.role(*GATED)
    made = site.executor()
    site.submit(made, site.batch("one"))
    site.waits("one")
    later[0] = 10_000.0
    relay.cut()
    relay.mend()
    until(lambda: made.sessions == 2)
    site.go()
    assert site.outcome().status is Status.CHANGED


def test_a_cancel_does_not_wait_for_a_host_that_is_gone(site, relay):
    site.role(*GATED)
    made = site.executor()
    site.submit(made, site.batch("one"))
    site.waits("one")
    relay.cut()
    made.cancel("b1")
    lost = site.outcome()
    assert lost.status is Status.UNREACHABLE
    assert "which may go on there (cancelled)" in lost.problem


def test_a_cancel_reaches_a_play_that_is_read_on(site, relay):
    site.role(*GATED)
    first = site.executor(reattach_s=0.0)
    site.submit(first, site.batch("one"))
    site.waits("one")
    relay.cut()
    assert site.outcome().status is Status.UNREACHABLE
    relay.mend()
    second = site.executor()
    site.submit(second, site.batch("one", name="b2"))
    until(lambda: second.sessions == 1)
    second.cancel("b2")
    found = site.outcome()
    assert (found.status, found.problem) == (Status.FAILED, "cancelled")
    assert site.is_free("one")


# --- the controller ---------------------------------------------------------------------------------------------------


def killed(site: Site, batch: Batch, when: Callable[[], object], *, outcomes: int = 0) -> None:
    """Run a batch in a process of its own and kill that when something is true."""
    parcel = site.path / "batch.pickle"
    parcel.write_bytes(pickle.dumps((site.options(), site.place, batch)))
    env = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"}
    command = [sys.executable, "-m", "support.carry_child", str(parcel)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env) as controller:
        try:
            for _ in range(outcomes):
                assert controller.stdout.readline().startswith("outcome")
            until(when)
        finally:
            controller.send_signal(signal.SIGKILL)


def test_after_a_kill_what_ended_is_known_and_what_runs_is_read_on(site):
    wait_on_one = {**WAIT, "when": "node_name == 'one'"}
    broken = {"name": "Break", "ansible.builtin.fail": {"msg": "broken"}, "when": "node_name == 'three'"}
    site.role(APPEND, broken, wait_on_one, AFTER)
    batch = site.batch("one", "two", "three")
    killed(site, batch, (site.folder / "one.waits").exists, outcomes=2)
    fresh = site.executor()
    found = {
        item.step: item for item in fresh.recover(Process(batch="b1", pid=0, start_time=0.0, folder=""), batch.runs)
    }
    assert {step: item.status for step, item in found.items()} == {
        "probe@two": Status.CHANGED,
        "probe@three": Status.FAILED,
    }
    assert found["probe@two"].outputs == {"probe_said": "hello from two"}
    site.submit(fresh, replace(batch, id="r1-b1", runs=batch.runs[:1]))
    until(lambda: fresh.sessions == 1)
    site.go()
    done = site.outcome()
    assert done.outputs == {"probe_said": "hello from one"}
    assert "TASK [probe : Append]" in done.log
    assert [site.lines(host) for host in HOSTS] == [["line", "after"], ["line", "after"], ["line"]]
    site.submit(fresh, replace(batch, id="r1-b2", runs=batch.runs[2:]))  # and a failed step is tried anew
    assert site.outcome().status is Status.FAILED
    assert site.lines("three") == ["line", "line"]


def test_an_end_that_was_not_recorded_is_still_an_end(site):
    """Killed between a play's last event and the note that it ended: the next play of the step is another one."""
    site.role(APPEND)
    batch = site.batch("one")
    first = site.executor()
    site.submit(first, batch)
    assert site.outcome().status is Status.CHANGED
    first.close()
    record = site.path / "runs/r1/b1/events.jsonl"
    record.write_text("".join(line for line in record.read_text().splitlines(True) if not line.startswith('{"end"')))
    second = site.executor()
    process = Process(batch="b1", pid=0, start_time=0.0, folder="")
    assert [item.status for item in second.recover(process, batch.runs)] == [Status.CHANGED]
    assert [item.status for item in site.executor().recover(process, batch.runs)] == [Status.CHANGED]
    site.submit(second, replace(batch, id="b2"))
    assert site.outcome().status is Status.CHANGED
    assert site.lines("one") == ["line", "line"]


@pytest.fixture
def messages(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What hosts said beside events."""
    said: list[dict[str, Any]] = []
    heard = Session._message

    async def message(self: Session) -> dict[str, Any]:
        said.append(await heard(self))
        return said[-1]

    monkeypatch.setattr(Session, "_message", message)
    return said


def test_a_new_run_waits_for_what_an_earlier_one_left(site, messages):
    site.role(APPEND, WAIT, AFTER)
    killed(site, site.batch("one"), (site.folder / "one.waits").exists)
    made = site.executor(run="r2")
    site.submit(made, site.batch("one"))
    until(lambda: any("waits" in message for message in messages))
    assert site.lines("one") == ["line"]
    site.go()
    assert site.outcome().status is Status.CHANGED
    assert site.lines("one") == ["line", "after", "line", "after"]
    made.close()
    until(lambda: not list((site.run_of("one") / "plays").iterdir()))  # nobody will ask for the first one


def test_a_run_that_waits_can_be_cancelled(site, messages):
    site.role(APPEND, WAIT, AFTER)
    killed(site, site.batch("one"), (site.folder / "one.waits").exists)
    made = site.executor(run="r2")
    site.submit(made, site.batch("one"))
    until(lambda: any("waits" in message for message in messages))
    made.cancel("b1")
    found = site.outcome()
    assert (found.status, found.problem) == (Status.FAILED, "cancelled")
    site.go()
    until(lambda: site.lines("one") == ["line", "after"])


def test_two_controllers_at_once_the_second_is_told_who_holds_the_host(site):
    site.role(*GATED)
    site.submit(site.executor(owner="site room"), site.batch("one"))
    site.waits("one")
    other = site.executor(owner="site hall", run="r9")
    site.submit(other, site.batch("one", "two"))
    refused = site.outcome()
    assert (refused.step, refused.status) == ("probe@one", Status.FAILED)
    start = f"the host is held by site room on {socket.gethostname()}, which runs probe@one of run r1 since "
    assert refused.problem.startswith(start)
    assert refused.problem.removeprefix(start).startswith(time.strftime("%Y-"))
    site.go()
    assert sorted(site.outcomes(2)) == ["one", "two"]
    assert site.lines("one") == ["line", "after"]
    site.submit(other, site.batch("one", name="b2"))  # free again as soon as the end is known
    assert site.outcome().status is Status.CHANGED


def test_plays_of_one_run_share_a_host(site):
    site.role(*GATED)
    site.role({"name": "Go", "ansible.builtin.file": {"path": "{{ probe_folder }}/go", "state": "touch"}}, name="other")
    made = site.executor()
    site.submit(made, site.batch("one"))
    site.waits("one")
    site.submit(made, site.batch("one", name="b2", role="other"))  # without it the first would wait for ever
    assert [site.outcome().status for _ in range(2)] == [Status.CHANGED, Status.CHANGED]


def test_a_controller_with_a_full_disk_still_gives_every_step_an_outcome(site, monkeypatch):
    site.role(APPEND)
    (site.path / "runs").write_text("no folder")
    site.submit(site.executor(), site.batch("one", "two"))
    found = site.outcomes(2)
    assert {item.status for item in found.values()} == {Status.FAILED}
    assert "cannot be recorded" in found["one"].problem


# --- the host ---------------------------------------------------------------------------------------------------------


def test_a_host_that_restarts_in_the_middle_is_unreachable(site, relay):
    boot = site.path / "boot_id"
    boot.write_text("first")
    python = _fake_python(
        site.path / "python",
        f"pathlib.Path.read_text = lambda path: open({str(boot)!r} if path.name == 'boot_id' else path).read()",
    )
    site.role(*GATED)
    made = site.executor(python=python)
    site.submit(made, site.batch("one"))
    site.waits("one")
    relay.cut()
    boot.write_text("second")
    relay.mend()
    lost = site.outcome()
    assert (lost.status, lost.problem) == (Status.UNREACHABLE, "one restarted in the middle of the play")


def test_a_wrong_clock_is_told_and_does_not_matter(site):
    site.role(APPEND)
    python = _fake_python(site.path / "python", "real = time.time; time.time = lambda: real() - 86_400 * 400")
    site.submit(site.executor(python=python), site.batch("one"))
    done = site.outcome()
    assert done.status is Status.CHANGED
    behind = done.log.splitlines()[0]
    assert behind.startswith(("the host's clock is 3455", "the host's clock is 3456"))
    assert behind.endswith("s behind the controller's")


OLD = "sys.version_info = (3, 9, 2)"


def test_an_old_python_is_pushed_to_and_the_log_says_why(site):
    site.role(APPEND)
    options = {name: value for name, value in site.options().items() if name != "owner"}
    push = AnsibleExecutor(**options, secret=lambda ref: f"value of {ref.key}")
    try:
        site.submit(site.executor(python=_fake_python(site.path / "python", OLD), push=push), site.batch("one"))
        done = site.outcome()
    finally:
        push.close()
    assert (done.status, done.outputs) == (Status.CHANGED, {"probe_said": "hello from one"})
    assert done.log.splitlines()[0] == "pushed, because its Python is 3.9, and ansible-core 2.19 needs 3.11"
    assert site.lines("one") == ["line"]


def test_after_a_kill_push_is_asked_for_what_it_took_over(site):
    asked = []
    push = SimpleNamespace(recover=lambda process, runs: asked.append((process.batch, runs)) or ())
    batch = site.batch("one", "two")
    (site.path / "runs/r1/b1-two").mkdir(parents=True)
    left = Process(batch="b1", pid=0, start_time=0.0, folder="")
    assert site.executor(push=push).recover(left, batch.runs) == ()
    assert asked == [("b1-two", batch.runs[1:])]
    known = replace(left, folder=str(site.path / "runs/r1/b1-two"))  # whoever recorded that asks push for it, too
    site.executor(push=push).recover(known, batch.runs)
    assert len(asked) == 1


@pytest.mark.parametrize(
    ("python", "why"),
    [
        (OLD, "its Python is 3.9, and ansible-core 2.19 needs 3.11"),
        ("", "there is no Python at {path}"),
        ("sys.exit('this Python is broken')", "this Python is broken"),
    ],
    ids=["old", "missing", "broken"],
)
def test_a_host_without_a_fit_python_says_what_to_do(site, python, why):
    site.role(APPEND)
    path = site.path / "python"
    if python:
        _fake_python(path, python)
    site.submit(site.executor(python=str(path)), site.batch("one"))
    failed = site.outcome()
    assert failed.status is Status.FAILED
    assert failed.problem == (
        f"one cannot run a carried play: {why.format(path=path)}; set policy.executors to push to it, or give it a "
        "Python that ansible-core 2.19 supports"
    )


def test_what_a_login_prints_is_no_answer(site):
    site.role(APPEND)
    python = _fake_python(site.path / "python", "print('Welcome!\\n{\\n42', flush=True)")
    site.submit(site.executor(python=python), site.batch("one"))
    assert site.outcome().status is Status.CHANGED


def test_parcels_that_were_tampered_with_are_noticed_and_sent_again(site, messages):
    site.role(APPEND)
    made = site.executor()
    site.submit(made, site.batch("one"))
    assert site.outcome().status is Status.CHANGED
    kept = site.parcels_of("one")
    (ansible,), (tools,), (role,) = (sorted(kept.glob(f"{kind}-*")) for kind in ("ansible", "tools", "role"))
    changed = ansible / "ansible/constants.py"
    content = changed.read_bytes()
    changed.write_bytes(content[:-1] + b" ")
    (tools / "ansible.cfg").unlink()
    (role / "probe/library").mkdir()
    (role / "probe/library/command.py").write_text("from ansible.module_utils.basic import AnsibleModule\n")
    half = kept / f".{role.name}.999999999"
    (half / "probe").mkdir(parents=True)
    messages.clear()
    site.submit(made, site.batch("one", name="b2"))
    assert site.outcome().status is Status.CHANGED
    assert [sorted(said["lacks"]) for said in messages if "lacks" in said] == [[ansible.name, role.name, tools.name]]
    assert changed.read_bytes() == content
    assert not (role / "probe/library").exists()
    assert not half.exists()
    shutil.rmtree(role)
    role.write_text("a file, no folder")
    shutil.rmtree(tools / "plugins")
    (tools / "plugins").symlink_to("/nowhere")
    site.submit(made, site.batch("one", name="b3"))
    assert site.outcome().status is Status.CHANGED
    assert site.lines("one") == ["line"] * 3


# --- full and closed file systems, in a mount namespace of their own --------------------------------------------------


@dataclass
class Namespaced:
    site: Site
    root: Path  # how its file system looks from outside


@pytest.fixture
def namespaced(site: Site, request: pytest.FixtureRequest) -> Iterator[Namespaced]:
    """Hosts whose sshd runs in a mount namespace in which a script has mounted things; {} is their place."""
    if subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False).returncode:
        pytest.skip("no mount namespace can be made here (needs root)")
    outside = Path(tempfile.mkdtemp(dir="/var/tmp", prefix="halligan-test-"))
    process = None
    try:
        server = sshd.prepare(outside, sshd.ADDRESSES)
        place = outside / "places"
        (place / "one/cache").mkdir(parents=True)
        (place / "one/run").mkdir()
        (outside / "done").mkdir()
        script = f'set -e; {request.param.format(place / "one")}; exec "$@"'
        log = outside / "log"
        with log.open("w") as printed:
            process = subprocess.Popen(
                ["unshare", "-m", "--propagation", "private", "sh", "-c", script, "sh", *server.commands[0]],
                stdout=printed,
                stderr=printed,
            )
        sshd._wait(process, sshd.ADDRESSES[0], server.port, log)
        inside = _Outside(path=site.path, server=server, nodes={"one": _node("one", sshd.ADDRESSES[0], server)})
        inside.outside = outside
        yield Namespaced(inside, Path(f"/proc/{process.pid}/root"))
        inside.close()
    finally:
        if process:
            process.terminate()
            process.wait()
        shutil.rmtree(outside)


class _Outside(Site):
    outside = Path()

    @property
    def folder(self) -> Path:
        return self.outside / "done"

    @property
    def place(self) -> str:
        return f"{self.outside}/places/{{node}}"

    def run_of(self, host: str) -> Path:
        return self.outside / "places" / host / "run"

    def parcels_of(self, host: str) -> Path:
        return self.outside / "places" / host / "cache"


TMP = "mount -t tmpfs -o size=64k,noexec,mode=1777 tmpfs /tmp; head -c 1M /dev/zero > /tmp/full 2> /dev/null || true"
HARD = [
    {"name": "A script", "ansible.builtin.script": "said.sh"},
    {"name": "A file", "ansible.builtin.copy": {"content": "x", "dest": "{{ probe_folder }}/copied", "mode": "0644"}},
    {
        "name": "In the background",
        "ansible.builtin.command": "true",
        "async": 60,
        "poll": 1,
    },
    {"name": "As another", "ansible.builtin.command": "id -un", "become": True, "become_user": "nobody"},
]


@pytest.mark.parametrize(
    "namespaced", [f"{TMP}; mount -t tmpfs -o noexec tmpfs {{0}}/run"], indirect=True, ids=["full-and-noexec"]
)
def test_a_full_noexec_tmp_and_a_noexec_run_are_no_matter(namespaced):
    site = namespaced.site
    role = site.role(*HARD, APPEND)
    write(role / "files/said.sh", "#!/bin/sh\necho said\n")
    site.submit(site.executor(), site.batch("one"))
    done = site.outcome()
    assert (done.status, done.problem) == (Status.CHANGED, "")
    site.made[0].close()
    seen = namespaced.root / site.parcels_of("one").relative_to("/")
    assert not list((seen / "tmp").iterdir())


@pytest.mark.parametrize("namespaced", ["mount -t tmpfs -o size=1M tmpfs {0}/cache"], indirect=True, ids=["1M"])
def test_a_full_disk_is_told_with_its_place_and_nothing_half_stays(namespaced):
    site = namespaced.site
    site.role(APPEND)
    made = site.executor()
    site.submit(made, site.batch("one"))
    failed = site.outcome()
    assert failed.status is Status.FAILED
    assert failed.problem.startswith("ansible-")
    assert failed.problem.endswith(f"could not be kept in {site.parcels_of('one')}: No space left on device")
    seen = namespaced.root / site.parcels_of("one").relative_to("/")
    assert not list(seen.glob("ansible-*"))
    assert not list(seen.glob(".*"))


@pytest.mark.parametrize(
    "namespaced", ["mount -t tmpfs -o size=16k,nr_inodes=3 tmpfs {0}/run"], indirect=True, ids=["3"]
)
def test_a_full_memory_is_told_with_its_place(namespaced):
    site = namespaced.site
    site.role(APPEND)
    site.submit(site.executor(), site.batch("one"))
    failed = site.outcome()
    where = site.run_of("one")
    assert failed.problem == f"the play could not be started in {where}: No space left on device"
    assert failed.status is Status.FAILED


# --- bounds, ends, secrets --------------------------------------------------------------------------------------------


def test_a_role_that_prints_without_end_floods_nobody(site):
    big = "head -c 10000000 /dev/zero | tr '\\0' x"  # ten times: Ansible's reading of one output is quadratic
    tasks = [
        {
            "name": "Print",
            "ansible.builtin.command": f'sh -c "{big}"',
            "register": "probe_big",
            "loop": "{{ range(10) | list }}",
        },
        {"name": "Show", "ansible.builtin.debug": {"msg": "{{ probe_big.results | map(attribute='stdout') | join }}"}},
        {
            "name": "Count",
            "ansible.builtin.debug": {"msg": "{{ 'y' * 400 }}"},
            "loop": "{{ range(4000) | list }}",
        },
        WAIT,
    ]
    site.role(*tasks)
    site.submit(site.executor(), site.batch("one"))
    tracemalloc.start()
    try:
        site.waits("one")
        (events,) = (site.run_of("one") / "plays").glob("*/events")
        size = events.stat().st_size
        site.go()
        done = site.outcome()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert done.status is Status.CHANGED
    assert size < 4_000_000
    assert len(done.log) < 4_000_000
    assert "characters cut ..." in done.log
    assert "the rest is left out: this play printed more than 1048576 characters" in done.log
    assert peak < 60_000_000


def marked(mark: str) -> list[int]:
    """Return the processes that have a mark in their environment."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                if mark.encode() in (entry / "environ").read_bytes() and not _ended(int(entry.name)):
                    found.append(int(entry.name))
            except OSError:
                continue
    return found


def spreading(mark: str) -> list[dict[str, Any]]:
    """Tasks that leave processes in every way that processes can be left."""
    own = {"environment": {"PROBE_MARK": mark}}
    return [
        {"name": "Later", "ansible.builtin.command": "sleep 600", "async": 600, "poll": 0, **own},
        {"name": "Behind", "ansible.builtin.shell": "setsid sleep 600 > /dev/null 2>&1 < /dev/null &", **own},
        {
            "name": "Wait",
            "ansible.builtin.shell": "trap '' TERM; touch {{ probe_folder }}/{{ node_name }}.waits; sleep 600; sleep 9",
            **own,
        },
    ]


def test_a_cancel_leaves_nothing_of_a_play_on_its_host(site):
    mark = f"mark of {site.path}"
    site.role(*spreading(mark))
    made = site.executor()
    site.submit(made, site.batch("one"))
    site.waits("one")
    assert len(marked(mark)) >= 3
    made.cancel("b1")
    assert site.outcome().problem == "cancelled"
    assert marked(mark) == []
    assert site.is_free("one")
    made.close()
    until(lambda: not list((site.run_of("one") / "plays").iterdir()))


def test_a_time_out_leaves_nothing_either(site):
    mark = f"mark of {site.path}"
    site.role(*spreading(mark))
    site.submit(site.executor(), site.batch("one", timeout_s=10.0))  # wherever the play is by then
    assert site.outcome().problem == "timed out after 10 s"
    assert marked(mark) == []
    assert site.is_free("one")


def test_what_a_play_started_on_purpose_outlives_it(site):
    mark = f"mark of {site.path}"
    site.role(spreading(mark)[1])
    site.submit(site.executor(), site.batch("one"))
    assert site.outcome().status is Status.CHANGED
    (left,) = marked(mark)
    os.kill(left, signal.SIGKILL)


def test_secrets_are_in_no_file_argument_or_environment_of_a_play(site):
    use = {"ansible.builtin.command": "test -n '{{ probe_password }}'", "no_log": True, "changed_when": False}
    fail = {"ansible.builtin.fail": {"msg": "{{ probe_password }}"}, "no_log": True, "ignore_errors": True}
    loop = {"ansible.builtin.debug": {"msg": "{{ item }}"}, "loop": ["{{ probe_password }}"], "no_log": True}
    site.role(
        {"name": "Use it", **use}, {"name": "Fail with it", **fail}, {"name": "Loop over it", **loop}, WAIT, APPEND
    )
    site.submit(site.executor(), site.batch("one"))
    site.waits("one")

    def seen() -> list[str]:
        files = [path for path in site.path.rglob("*") if path.is_file()]
        assert any(path.name == "events" for path in files)
        assert any(path.name == "events.jsonl" for path in files)
        for entry in Path("/proc").iterdir():
            if entry.name.isdecimal():
                files += [entry / "cmdline", entry / "environ"]
        return [str(path) for path in files if REVEALED.encode() in _content(path)]

    assert seen() == []
    events = (site.path / "runs/r1/b1/events.jsonl").read_text()
    assert "censored" in events
    assert "Fail with it" in events
    site.go()
    done = site.outcome()
    assert done.status is Status.CHANGED
    assert REVEALED not in done.log + done.problem
    (site.run_of("one") / "plays/another").mkdir()
    (site.run_of("one") / "plays/another/events").touch()
    assert seen() == []


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:  # gone
        return b""


# --- the same as by push ----------------------------------------------------------------------------------------------

MODULE = """
from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.probe_tools import shout
import atexit, os

def main():
    module = AnsibleModule(argument_spec=dict(word=dict(type="str"), leave=dict(type="path")), supports_check_mode=True)
    os.chdir("/")
    os.umask(0o077)
    os.environ["PROBE_LEFT"] = "left"
    atexit.register(open(module.params["leave"], "a").write, "at exit\\n")
    module.exit_json(changed=True, shouted=shout(module.params["word"]), env=os.environ.get("PROBE_ENV", ""),
                     ours=sorted(key for key in os.environ if key.startswith(("ANSIBLE_", "HALLIGAN_"))))

main()
"""
SILENT = """
from ansible.module_utils.basic import AnsibleModule
import sys
print("no JSON at all")
sys.exit(3)
AnsibleModule(argument_spec={})
"""
SCRIPT = '#!/bin/sh\necho \'{"changed": false, "msg": "an old module"}\'\n'
FILTER = "class FilterModule:\n    def filters(self):\n        return {'probe_backwards': lambda text: text[::-1]}\n"


def _kept(name: str, **task: Any) -> dict[str, Any]:
    return {"name": name.capitalize(), "register": f"probe_{name}", **task}


FIDELITY: list[dict[str, Any]] = [
    _kept("nobody", **{"ansible.builtin.command": "id -un", "become": True, "become_user": "nobody"}),
    _kept("later", **{"ansible.builtin.command": "echo later", "async": 60, "poll": 1}),
    _kept("packages", **{"ansible.builtin.package_facts": {"manager": "apt"}, "no_log": True}),
    _kept("apt", **{"ansible.builtin.apt": {"name": "bash"}, "check_mode": True}),
    _kept("own", probe_module={"word": "hey", "leave": "{{ probe_mine }}/left"}, environment={"PROBE_ENV": "set"}),
    _kept("after", **{"ansible.builtin.shell": "pwd; umask; echo ${PROBE_LEFT:-nothing} ${PROBE_ENV:-unset}"}),
    _kept("silent", probe_silent={}, ignore_errors=True),
    _kept("script", probe_script={}),
    _kept("stdin", **{"ansible.builtin.command": {"cmd": "tr a-z A-Z", "stdin": "from stdin"}}),
    _kept(
        "loop",
        **{"ansible.builtin.command": "echo {{ item }}", "loop": [1, 2, 3], "changed_when": "item == 2"},
    ),
    _kept("retries", **{"ansible.builtin.command": "false", "retries": 1, "delay": 0, "ignore_errors": True}),
    _kept("template", **{"ansible.builtin.template": {"src": "t.j2", "dest": "{{ probe_mine }}/t", "mode": "0640"}})
    | {"notify": "Tell"},
    _kept(
        "line",
        **{"ansible.builtin.lineinfile": {"path": "{{ probe_mine }}/t", "line": "more"}, "diff": True},
        check_mode=True,
    ),
    _kept("missing", **{"ansible.builtin.command": "/no/such/program", "ignore_errors": True}),
    {"name": "Include", "ansible.builtin.include_tasks": "more.yml", "loop": ["a", "b"]},
    {
        "name": "Rescue",
        "block": [{"name": "Fail", "ansible.builtin.fail": {"msg": "on purpose"}}],
        "rescue": [_kept("rescued", **{"ansible.builtin.debug": {"msg": "{{ ansible_failed_result.msg }}"}})],
    },
    _kept("filtered", **{"ansible.builtin.debug": {"msg": "{{ 'abc' | probe_backwards }}"}}),
    _kept("stat", **{"ansible.builtin.stat": {"path": "/etc/passwd"}}),
    _kept("user", **{"ansible.builtin.shell": "echo $HOME $USER $LOGNAME $SHELL; id -u"}),
]
_CHANGING = {"src", "start", "end", "delta", "ansible_job_id", "results_file", "stat", "before_header", "after_header"}


def _comparable(value: Any, mine: str) -> Any:
    match value:
        case dict():
            return {name: _comparable(item, mine) for name, item in value.items() if name not in _CHANGING}
        case list():
            return [_comparable(item, mine) for item in value]
        case str():
            return value.replace(mine, "MINE")
    return value


def test_a_carried_role_does_what_a_pushed_one_does(site):
    names = [task["register"] for task in FIDELITY if "register" in task]
    names.remove("probe_packages")
    write_all = {
        "name": "Keep what was registered",
        "ansible.builtin.copy": {
            "content": "{{ {" + ", ".join(f"'{name}': {name}" for name in names) + "} | to_json }}",
            "dest": "{{ probe_mine }}.json",
            "mode": "0644",
        },
    }
    role = site.role(
        {
            "name": "A folder",
            "ansible.builtin.file": {"path": "{{ probe_mine }}", "state": "directory", "mode": "0755"},
        },
        *FIDELITY,
        write_all,
        vars={"probe_mine": "{{ probe_folder }}/{{ node_name }}"},
        handlers=[{"name": "Tell", "ansible.builtin.shell": "echo told > {{ probe_mine }}/told"}],
    )
    write(role / "library/probe_module.py", MODULE)
    write(role / "library/probe_silent.py", SILENT)
    write(role / "library/probe_script", SCRIPT)
    write(role / "module_utils/probe_tools.py", "def shout(word):\n    return word.upper() + '!'\n")
    write(role / "filter_plugins/probe.py", FILTER)
    write(role / "templates/t.j2", "{{ node_name | length }} of {{ probe_word }}\n")
    write(role / "tasks/more.yml", [{"name": "More", "ansible.builtin.debug": {"msg": "{{ item }} included"}}])
    outputs = {"bash": "{{ ansible_facts.packages.bash | length }}", "shouted": "{{ probe_own.shouted }}"}
    options = {name: value for name, value in site.options("pushed").items() if name != "owner"}
    push = AnsibleExecutor(**options, secret=lambda _: REVEALED)
    try:
        site.submit(push, site.batch("two", outputs=outputs))
        pushed = site.outcome()
    finally:
        push.close()
    site.submit(site.executor(), site.batch("one", outputs=outputs))
    carried = site.outcome()
    assert (pushed.status, pushed.problem) == (Status.CHANGED, "")
    assert (carried.status, carried.problem) == (pushed.status, pushed.problem)
    assert carried.outputs == pushed.outputs == {"bash": 1, "shouted": "HEY!"}
    found = {}
    for host in ("one", "two"):
        text = (site.folder / f"{host}.json").read_text()
        found[host] = _comparable(json.loads(text), str(site.folder / host))
        assert (site.folder / host / "left").read_text() == "at exit\n"
        assert (site.folder / host / "told").read_text() == "told\n"
        assert (site.folder / host / "t").stat().st_mode & 0o777 == 0o640
    for name in names:
        assert found["one"][name] == found["two"][name], name


# --- what a host keeps ------------------------------------------------------------------------------------------------


def packed(number: int, kind: str = "role") -> Parcel:
    return tree_parcel(kind, {"file": (0o644, str(number).encode())})


def test_old_parcels_go_and_those_in_use_stay_whatever_the_clock_says(tmp_path, monkeypatch):
    monkeypatch.setitem(serve.KEPT_PARCELS, "role", 3)
    store = serve.Store(tmp_path / "cache")
    parcels = [packed(number) for number in range(6)]
    for parcel in parcels[:5]:
        store.add(parcel.name, parcel.content)
    os.utime(store.path(parcels[0].name), (4_000_000_000, 4_000_000_000))  # kept when the clock was wrong
    assert store.has(parcels[1].name)
    store.add(parcels[5].name, parcels[5].content)
    (store.folder / "pyc" / parcels[2].name).mkdir(parents=True)
    store.prune({parcels[3].name})
    left = {number for number, parcel in enumerate(parcels) if store.path(parcel.name).exists()}
    assert left == {0, 1, 5, 3}
    assert not list((store.folder / "pyc").iterdir())


def test_a_parcel_that_is_another_one_is_not_kept(tmp_path):
    store = serve.Store(tmp_path / "cache")
    with pytest.raises(OSError, match="did not arrive as it was sent"):
        store.add(packed(1).name, packed(2).content)
    outside = io.BytesIO()
    with tarfile.open(fileobj=outside, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("../../out"))
    with pytest.raises(OSError, match="which is no plain file"):
        store.add(packed(1).name, lzma.compress(outside.getvalue()))
    assert list(store.folder.iterdir()) == []


def test_a_host_and_its_controller_agree_on_digests(tmp_path):
    store = serve.Store(tmp_path)
    parcel = tree_parcel("role", {"a/b.yml": (0o644, b"b"), "a.sh": (0o755, b"#!"), "ü": (0o644, b"")})
    store.add(parcel.name, parcel.content)
    assert store.has(parcel.name)
    (store.path(parcel.name) / "a.sh").chmod(0o644)
    assert not store.has(parcel.name)
    assert not store.path(parcel.name).exists()
