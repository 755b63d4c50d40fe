"""An apply in a process that is there to be killed: goes on with the open run if there is one, else plans anew."""

from __future__ import annotations

import random
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path

from orchestrator.executors.carry import executor as carry
from orchestrator.executors.carry.session import Link
from orchestrator.executors.fake import FakeExecutor, Script
from orchestrator.model import Batch, Event, Status, StepRun
from orchestrator.service import open_site
from orchestrator.store import RunStatus

OUTPUTS = {"db": {"db_host": "10.0.0.1"}, "api": {"api_url": "http://10.0.0.1"}}


def work(folder: str, effects: str, seed: int, ear: Connection) -> None:
    """Say "begun" at the first event and the run's status at the end.

    What the fake hosts did goes to the file `effects`; without one, roles are carried and pushed to real hosts. What
    is carried lies below the site, in a folder per host.
    """
    carry.Link = partial(Link, place=f"{folder}/hosts/{{node}}")  # type: ignore[misc]

    def script(batch: Batch, run: StepRun) -> Script:
        die = random.Random(f"{seed} {run.step} {run.attempt}")
        if run.attempt < 2 and die.random() < 0.1:
            return Script(seconds=0.001, status=Status.UNREACHABLE, problem="no route to host")
        return Script(seconds=die.random() * 0.03, outputs=OUTPUTS.get(batch.role.name, {}))

    told = False

    def tell(event: Event) -> None:
        nonlocal told
        if not told:
            told = True
            ear.send("begun")

    site = open_site(folder, executor=(lambda *_: FakeExecutor(script, Path(effects))) if effects else None)
    runs = site.status().runs
    if runs and runs[0].status is RunStatus.RUNNING:
        result = site.resume(on_event=tell)
    else:
        result = site.apply(site.plan(), on_event=tell)
    ear.send(str(result.status))
