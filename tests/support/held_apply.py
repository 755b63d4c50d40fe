"""A child process for tests of signals: applies the small site with an executor that its standard input releases.

It prints a line per event (`KIND STEP`), and last the run's status. A line on its input lets what runs then succeed.
"""

from __future__ import annotations

import sys
import threading

from orchestrator.errors import StoreError
from orchestrator.store import Store
from support.sites import small_topology
from support.stand import Held, Stand


class Talkative(list):  # type: ignore[type-arg]
    """A list of events that prints what it is given."""

    def append(self, event):  # type: ignore[no-untyped-def]
        super().append(event)
        print(event.kind, event.step, flush=True)


def main() -> None:
    executor = Held()

    def listen() -> None:
        for _ in sys.stdin:
            executor.release()

    threading.Thread(target=listen, daemon=True).start()
    with Store.open(sys.argv[1]) as store:
        stand = Stand(store, events=Talkative())
        try:
            result = stand.apply(stand.plan(small_topology(2)), executor=executor)
        except StoreError as error:
            sys.exit(str(error))
        print("result", result.status, result.left, flush=True)


if __name__ == "__main__":
    main()
