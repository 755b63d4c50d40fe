"""A controller with one batch: `python -m tests.bench.drive EXECUTOR PARCEL` runs it and prints what came of it.

`python -m tests.bench.drive pack FOLDER` packs ansible-core for carry into a cache and prints what that took.
"""

from __future__ import annotations

import json
import pickle
import resource
import sys
import threading
from collections import Counter
from pathlib import Path
from typing import Any

from orchestrator.model import Batch, Outcome, Process
from tests.bench.measure import ROOT

PARCELS = ROOT / ".cache" / "bench" / "parcels"


def main() -> None:
    name, parcel = sys.argv[1:]
    if name == "pack":
        print(json.dumps(pack(Path(parcel))))
        return
    options, batch = pickle.loads(Path(parcel).read_bytes())
    executor = made(name, {"home": ROOT, "site": "bench", "secret": lambda ref: ref.key, **options})
    found = run(executor, batch)
    print(json.dumps(found))
    if found["problem"]:
        raise SystemExit(found["problem"])


def made(name: str, options: dict[str, Any]) -> Any:
    place = options.pop("place")
    if name == "carry":
        from orchestrator.executors.carry import CarryExecutor
        from orchestrator.executors.carry.session import Link

        return CarryExecutor(owner="bench", cache=PARCELS, link=Link(place=place), **options)
    from orchestrator.executors.ansible import AnsibleExecutor

    return AnsibleExecutor(**options)


def pack(cache: Path) -> dict[str, float]:
    """Pack ansible-core as carry sends it, which a controller does once per version of it."""
    from orchestrator.parcels import ansible_parcel

    parcel = ansible_parcel(cache)
    used = resource.getrusage(resource.RUSAGE_SELF)
    return {"cpu_s": used.ru_utime + used.ru_stime, "mb": len(parcel.content) / 2**20}


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
