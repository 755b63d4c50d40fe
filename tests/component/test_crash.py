"""kill -9 at any moment, then resume: nothing lost, nothing that finished done again, order kept, the store whole."""

from __future__ import annotations

import multiprocessing
import random
from collections import Counter
from pathlib import Path

from support.crash_child import work
from support.folders import small_cluster, write_site

from orchestrator.service import open_site

KILLS = 50
SEED = 20

_processes = multiprocessing.get_context("forkserver")  # children start in milliseconds, with everything imported
_processes.set_forkserver_preload(
    ["networkx", "jinja2", "orchestrator.service", "orchestrator.spec.schema", "orchestrator.store.migrate"]
)


def lived(site: Path, effects: Path, seed: int, after_s: float | None, *, at_start: bool) -> str:
    """Run an apply and kill it some time after it began (or after its process started); return what it said last."""
    mouth, ear = _processes.Pipe()
    child = _processes.Process(target=work, args=(str(site), str(effects), seed, ear), daemon=True)
    child.start()
    ear.close()
    said = ""
    try:
        if not at_start:
            said = mouth.recv()
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
