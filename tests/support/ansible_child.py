"""A controller that is there to be killed: runs the pickled batch with the Ansible executor, a line per report."""

from __future__ import annotations

import pickle
import sys
import threading
from pathlib import Path

from orchestrator.executors.ansible import AnsibleExecutor
from orchestrator.model import Outcome, Process


def main() -> None:
    options, batch = pickle.loads(Path(sys.argv[1]).read_bytes())

    def report(item: Process | Outcome) -> None:
        told = f"outcome {item.step} {item.status}" if isinstance(item, Outcome) else f"process {item.pid}"
        print(told, flush=True)

    AnsibleExecutor(**options, secret=lambda ref: f"value of {ref.key}").submit(batch, report)
    threading.Event().wait()


if __name__ == "__main__":
    main()
