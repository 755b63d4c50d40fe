"""A controller that is there to be killed: runs the pickled batch with the carry executor, a line per outcome."""

from __future__ import annotations

import pickle
import sys
import threading
from pathlib import Path

from orchestrator.executors.carry import CarryExecutor
from orchestrator.executors.carry.session import Link
from orchestrator.model import Outcome, Process


def main() -> None:
    options, place, batch = pickle.loads(Path(sys.argv[1]).read_bytes())

    def report(item: Process | Outcome) -> None:
        if isinstance(item, Outcome):
            print(f"outcome {item.step} {item.status}", flush=True)

    link = Link(place=place)
    CarryExecutor(**options, secret=lambda ref: f"value of {ref.key}", link=link).submit(batch, report)
    threading.Event().wait()


if __name__ == "__main__":
    main()
