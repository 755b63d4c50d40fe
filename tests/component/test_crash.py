"""kill -9 at any moment, then resume: nothing lost, nothing that finished done again, order kept, the store whole."""

from __future__ import annotations

import json
import multiprocessing
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from support import sshd
from support.crash_child import work
from support.folders import small_cluster, write, write_role, write_site

from orchestrator.model import CARRY, EXECUTORS
from orchestrator.service import open_site
from orchestrator.store import Store

KILLS = 50
SEED = 20

_processes = multiprocessing.get_context("forkserver")  # children start in milliseconds, with everything imported
_processes.set_forkserver_preload(
    ["networkx", "jinja2", "orchestrator.service", "orchestrator.spec.schema", "orchestrator.store.migrate"]
)


def lived(
    site: Path,
    effects: Path | None,
    seed: int,
    after_s: float | None,
    *,
    at_start: bool = False,
    until: Callable[[], bool] = lambda: True,
) -> str:
    """Run an apply and kill it some time after it began (or after its process started); return what it said last.

    With `until`, the time is counted from when that came true.
    """
    mouth, ear = _processes.Pipe()
    child = _processes.Process(target=work, args=(str(site), str(effects or ""), seed, ear), daemon=True)
    child.start()
    ear.close()
    said = ""
    try:
        if not at_start:
            said = mouth.recv()
        while not until() and not mouth.poll(0.01):
            pass
        while after_s is None or mouth.poll(after_s):
            said = mouth.recv()
            if said not in ("", "begun"):
                break
    except EOFError:  # it is gone, with a traceback on stderr
        said = "died"
    child.kill()
    child.join()
    return said


def test_fifty_kills_lose_nothing_and_repeat_nothing(tmp_path):
    die = random.Random(SEED)
    kills = rounds = 0
    while kills < KILLS:
        rounds += 1
        policy = {"limits": {"steps": 12, "batches": 4, "batch": 6}, "retry": {"unreachable": 2, "backoff": 0.001}}
        site = write_site(tmp_path / f"round{rounds}", small_cluster(16, policy=policy))
        effects = site / "effects"
        while True:
            limit = die.random() * 0.3 if kills < KILLS else None
            said = lived(site, effects, rounds, limit, at_start=die.random() < 0.2)
            assert said != "died"
            if said == "succeeded":
                break
            assert said in ("", "begun"), said
            kills += 1
        assert_history(site, effects)
    assert rounds >= 2


def assert_history(site: Path, effects: Path) -> None:
    opened = open_site(str(site))
    topology = opened.load()
    lines = [line.split(" ", 2)[:2] for line in effects.read_text().splitlines()]
    ends = Counter(step for word, step in lines if word == "end")
    assert ends == dict.fromkeys(topology.placements, 1)  # none lost, none finished twice
    ended: set[str] = set()
    for word, step in lines:
        if word == "end":
            ended.add(step)
            continue
        assert step not in ended, f"{step} started again after it had finished"
        for barrier in topology.placements[step].needs:
            assert ended >= set(topology.bindings[barrier].providers), f"{step} started too early"
    assert opened.check_store() == []
    assert opened.plan().steps == ()
    assert opened.status().runs[0].status == "succeeded"


# --- the same with Ansible and real hosts -----------------------------------------------------------------------------

REAL_KILLS = 5
ROLES = ("first", "second", "third")


@pytest.mark.parametrize("executor", EXECUTORS)
def test_five_kills_of_a_real_apply_repeat_nothing_that_had_finished(tmp_path, executor):
    with sshd.running(tmp_path) as server:
        lines = tmp_path / "lines"
        lines.mkdir()
        site = write_real_site(tmp_path, server, lines, executor)
        die = random.Random(SEED)
        must_stay: dict[str, int] = {}
        last_start = len(sshd.ADDRESSES) * (len(ROLES) - 1)  # as many applied: some host has its last role before it
        for kill in range(REAL_KILLS):
            # Spread over the work, not over time: nobody knows how fast the machine is.
            progress = last_start * kill // (REAL_KILLS - 1)
            said = lived(site, None, 0, die.random() * 0.1, until=lambda least=progress: applied_in_all(lines) >= least)
            assert said == "begun"
            must_stay |= {step: applied(lines, step) for step in finished(site)}
        assert lived(site, None, 0, None) == "succeeded"
        opened = open_site(str(site))
        every = set(opened.load().placements)
        if executor == CARRY:  # a killed controller ends no play: it is read on
            assert {step: applied(lines, step) for step in every} == dict.fromkeys(every, 1)
        assert {step for step in every if applied(lines, step) >= 1} == every
        assert {step: applied(lines, step) for step in must_stay} == must_stay
        assert opened.check_store() == []
        assert opened.plan().steps == ()


def test_a_new_apply_waits_for_the_plays_of_the_one_that_was_killed(tmp_path):
    """Settled instead of resumed: what still runs is not known to the new run, yet both never run at once."""
    with sshd.running(tmp_path) as server:
        lines = tmp_path / "lines"
        lines.mkdir()
        gate = tmp_path / "gate"
        site = write_real_site(
            tmp_path, server, lines, CARRY, f"; until test -e {gate}; do sleep 0.05; done; echo end >> "
        )
        first = {f"{ROLES[0]}@node-{number}" for number in range(len(sshd.ADDRESSES))}
        assert lived(site, None, 0, 0.0, until=lambda: applied_in_all(lines) == len(first)) == "begun"
        settled = open_site(str(site)).settle()
        assert settled is not None
        assert set(settled.unknown) == first

        def came_again() -> bool:
            with Store.open(site / ".halligan" / "state.db", create=False) as store:
                run = store.open_run()
                if run is None or {item.step for item in store.in_flight(run.id)} != first:
                    return False
            gate.touch()  # only now may what the first apply left go on
            return True

        assert lived(site, None, 0, None, until=came_again) == "succeeded"
        for step in open_site(str(site)).load().placements:
            node = step.partition("@")[2]
            again = [node, "end"] * (2 if step in first else 1)
            assert (lines / step).read_text().splitlines() == again, step


def write_real_site(project: Path, server: sshd.Sshd, lines: Path, executor: str, then: str = "") -> Path:
    """Write a site of the addresses of `server`, on which three roles in a chain each append a line to a file."""
    for number, name in enumerate(ROLES):
        file = f"{lines}/{name}@{{{{ node_name }}}}"
        append = f"echo {{{{ node_name }}}} >> {file}" + (then and f"{then}{file}")
        write_role(
            project / "roles",
            name,
            {"provides": [name], "requires": [{"capability": ROLES[number - 1], "scope": "node"}] if number else []},
            tasks=[{"name": "Append", "ansible.builtin.shell": append, "changed_when": True}],
        )
    cluster = {
        "spec": 1,
        "connection": {
            "port": server.port,
            "private_key": str(server.key),
            "known_hosts": str(server.known_hosts),
        },
        "groups": {"hosts": {"roles": list(ROLES)}},
        "nodes": {f"node-{n}": {"groups": ["hosts"], "address": a} for n, a in enumerate(sshd.ADDRESSES)},
        "policy": {"limits": {"batches": 2, "batch": 2}, "executors": {"default": executor}},
    }
    site = project / "inventories" / "real"
    write(site / "cluster.yml", cluster)
    return site


def applied(lines: Path, step: str) -> int:
    """Return how often a step was applied, by what the hosts themselves say."""
    path = lines / step
    return len(path.read_text().splitlines()) if path.exists() else 0


def applied_in_all(lines: Path) -> int:
    """Return how many steps have been applied at least once."""
    return sum(1 for _ in lines.iterdir())


def finished(site: Path) -> set[str]:
    """Return the steps that had come to their end by now: committed, or known only to what Ansible left."""
    with Store.open(site / ".halligan" / "state.db", create=False) as store:
        run = store.open_run()
        assert run is not None
        ended = {str(step) for step in store.finished(run.id)}
        for item in store.in_flight(run.id):
            batch = site / ".halligan" / "runs" / run.id / item.batch
            events = [path.read_text() for path in batch.glob("job_events/*.json")]
            if (carried := batch / "events.jsonl").exists():
                events += carried.read_text().splitlines()
            if any(_ends(event, item.node) for event in events):
                ended.add(item.step)
    return ended


def _ends(text: str, node: str) -> bool:
    try:
        event = json.loads(text)
    except ValueError:  # cut short by the kill
        return False
    data = event.get("event_data", {})
    return event.get("event") == "runner_on_ok" and data.get("task") == "Halligan done" and data.get("host") == node
