"""A controller with one batch: `python -m tests.bench.drive EXECUTOR PARCEL` runs it and prints what came of it."""

from __future__ import annotations

import json
import pickle
import sys
import threading
from collections import Counter
from pathlib import Path
from typing import Any

from orchestrator.model import Batch, Outcome, Process
from tests.bench.measure import ROOT


def main() -> None:
    name, parcel = sys.argv[1:]
    options, batch = pickle.loads(Path(parcel).read_bytes())
    executor = made(name, {"home": ROOT, "site": "bench", "secret": lambda ref: ref.key, **options})
    print(json.dumps(run(executor, batch)))


def made(name: str, options: dict[str, Any]) -> Any:
    if name == "carry":
        from orchestrator.executors.carry import CarryExecutor

        return CarryExecutor(owner="bench", **options)
    from orchestrator.executors.ansible import AnsibleExecutor

    return AnsibleExecutor(**options)


def run(executor: Any, batch: Batch) -> dict[str, Any]:
    """Return how many steps ended how, how many tasks changed something, and the first problem."""
    outcomes: list[Outcome] = []
    done = threading.Event()

    def report(item: Process | Outcome) -> None:
        if isinstance(item, Outcome):
            outcomes.append(item)
            if len(outcomes) == len(batch.runs):
                done.set()

    executor.submit(batch, report)
    done.wait()
    executor.close()
    changed = sum(line.startswith("  changed: ") for outcome in outcomes for line in outcome.log.splitlines())
    problem = next((outcome.problem for outcome in outcomes if outcome.problem), "")
    return {"statuses": Counter(outcome.status for outcome in outcomes), "changed": changed, "problem": problem}


if __name__ == "__main__":
    main()
