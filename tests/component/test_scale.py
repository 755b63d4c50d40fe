"""A thousand hosts over real files, service, loop and store; only the hosts are scripted. Counts, never a clock."""

from __future__ import annotations

import gc
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from support.folders import write_role
from support.stand import Recorder

from orchestrator.executors import Executor
from orchestrator.executors.fake import FakeExecutor, Script
from orchestrator.model import Batch, Event, Outcome, Status, StepRun
from orchestrator.service import Site, open_site
from orchestrator.store import RunStatus
from tests.bench.site import PER_NODE, write_site

HOSTS = 1000
CONTROLLER = 9  # placements of each of the three controllers


def script(batch: Batch, run: StepRun) -> Script:
    return Script(outputs={name: f"{name} of {run.node.name}" for name in batch.role.outputs})


@dataclass
class Yard:
    """A project with a site in it, and every executor that its runs got."""

    site: Path
    executors: list[Executor] = field(default_factory=list)

    def open(self) -> Site:
        def factory(_site: Site, _run: str) -> Executor:
            self.executors.append(Recorder(FakeExecutor(script)))
            return self.executors[-1]

        return open_site(str(self.site), executor=factory)

    def apply(self) -> list[str]:
        """Plan, apply, and return the steps that the executor got."""
        site, before = self.open(), len(self.executors)
        result = site.apply(site.plan(), on_event=lambda _: None)
        assert result.status is RunStatus.SUCCEEDED
        return sorted(step for executor in self.executors[before:] for step in executor.steps)

    def edit(self, path: str, old: str, new: str) -> None:
        file = self.site / path
        text = file.read_text()
        assert text.count(old) == 1
        file.write_text(text.replace(old, new))


@pytest.fixture(scope="module")
def applied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose site was applied once."""
    site = write_site(tmp_path_factory.mktemp("yard"), HOSTS, listed=True)
    done = Yard(site).apply()
    assert len(done) == len(set(done)) == HOSTS * PER_NODE + 3 * CONTROLLER
    return site


@pytest.fixture
def yard(applied: Path, tmp_path: Path) -> Yard:
    """A copy of it, to change."""
    shutil.copytree(applied.parents[1], tmp_path / "yard", symlinks=True)
    return Yard(tmp_path / "yard" / "inventories" / "bench")


def kvm(number: int) -> str:
    return f"kvm-{number:05}"


def test_nothing_changed_so_no_executor_gets_anything(yard):
    assert yard.open().plan().steps == ()
    assert yard.apply() == []


def test_the_command_makes_no_executor_where_nothing_is_to_do(yard, monkeypatch, capsys):
    from orchestrator import service
    from orchestrator.cli.app import app

    def none(*_: object) -> Executor:
        raise AssertionError("an executor was made")

    monkeypatch.setattr(service.Site, "_loop", none)
    app(["apply", str(yard.site), "--yes"], standalone_mode=False)
    told = capsys.readouterr()
    assert f"{HOSTS * PER_NODE + 3 * CONTROLLER:,} placements already as the spec wants" in told.out
    assert "Nothing was applied" in told.err


def test_a_changed_variable_of_one_host_touches_the_role_that_sees_it(yard):
    yard.edit("cluster.yml", "files: 1042}", "files: 9999}")
    assert yard.apply() == [f"firewall@{kvm(42)}"]
    assert yard.apply() == []


def test_a_changed_variable_of_a_group_touches_that_role_on_its_hosts(yard):
    yard.edit("cluster.yml", "hypervisor_workers: 8", "hypervisor_workers: 9")
    assert yard.apply() == [f"hypervisor@{kvm(number)}" for number in range(1, HOSTS + 1)]


def test_a_changed_role_file_touches_that_role_everywhere_and_nothing_else(yard):
    yard.edit("../../roles/logs/tasks/main.yml", "name: Write", "name: Write it")
    everywhere = [*(f"ctl-{n}" for n in (1, 2, 3)), *(kvm(number) for number in range(1, HOSTS + 1))]
    assert yard.apply() == [f"logs@{node}" for node in everywhere]


def test_a_new_host_touches_only_itself(yard):
    line = f"  {kvm(HOSTS)}:\n"
    new = f"  kvm-99999: {{groups: [compute], address: 10.1.9.9, addresses: {{tunnel: 172.17.9.9}}}}\n{line}"
    yard.edit("cluster.yml", line, new)
    roles = Counter(step.partition("@")[::2] for step in yard.apply())
    assert {node for _, node in roles} == {"kvm-99999"}
    assert len(roles) == roles.total() == PER_NODE


# --- memory ---------------------------------------------------------------------------------------------------------


def test_an_apply_keeps_what_the_plan_has_and_not_what_happened(tmp_path):
    """300 hosts x 5 roles, each step retried twice: far more events than steps."""
    for name in "abcde":
        write_role(tmp_path / "roles", name, {})
    site = tmp_path / "inventories" / "room"
    site.mkdir(parents=True)
    (site / "cluster.yml").write_text(
        "spec: 1\nnetworks: {mgmt: {cidr: 10.0.0.0/8}}\ngroups:\n  hosts: {roles: [a, b, c, d, e]}\n"
        "nodes:\n  n-[001:300]: {groups: [hosts], address: 10.0.0.1}\n"
        "policy: {retry: {failed: 2, unreachable: 2, backoff: 0.001}}\n"
    )

    def stubborn(_batch: Batch, run: StepRun) -> Script:
        return Script(status=Status.CHANGED if run.attempt == 3 else Status.FAILED, problem="not yet")

    events = 0
    alive: list[Counter[type]] = []

    def watch(event: Event) -> None:
        nonlocal events
        events += 1
        if events % 1500 == 0:
            gc.collect()  # what nobody can reach is not kept, whenever the collector comes by
            alive.append(
                Counter(type(item) for item in gc.get_objects() if isinstance(item, Event | Outcome | StepRun))
            )

    opened = open_site(str(site), executor=lambda *_: Loud(FakeExecutor(stubborn)))
    made = opened.plan()
    result = opened.apply(made, on_event=watch)
    assert result.counts == {Status.CHANGED: 1500}
    assert events == 1500 * 2 * 3 + 2  # a start and an end of each attempt, and those of the run
    slots = made.policy.limits.steps
    for found in alive:
        assert found[Outcome] <= 1500 + 2 * slots  # one final outcome per step, and what is in hand
        assert found[StepRun] <= 4 * slots  # those that are under way
        assert found[Event] <= 4 * slots  # those of a commit
    assert not [item for item in gc.get_objects() if isinstance(item, Outcome) and item.log]
    assert len(list(opened.log())) == 3 * 1500  # the store has them


class Loud(Recorder):
    """Every attempt prints something; batches are not kept."""

    def submit(self, batch: Batch, report: Callable[[object], None]) -> None:
        from dataclasses import replace

        self.inner.submit(batch, lambda item: report(replace(item, log="x" * 1000)))
