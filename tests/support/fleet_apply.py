"""An apply on a fleet in a process of its own, which may be killed: the real loop, store and executor of bare metal.

`python -m tests.support.fleet_apply SITE CONTROL JSON`: goes on with the open run if there is one, else plans anew. It
prints a JSON line {"begun": ...} at its first event and one with what the run came to. JSON is `Options`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from orchestrator import plan as plans
from orchestrator.bmc import Controller, connect
from orchestrator.errors import HalliganError
from orchestrator.executors.carry.session import UnreachableError
from orchestrator.executors.dispatch import Dispatch
from orchestrator.executors.fake import FakeExecutor, Script
from orchestrator.executors.metal import MetalExecutor, Patience
from orchestrator.executors.metal.orders import Orders
from orchestrator.images.library import Library
from orchestrator.model import METAL, Batch, Event, PlanNode, StepRun
from orchestrator.plan import Selection
from orchestrator.service import Site, open_site
from orchestrator.store import RunStatus, Store
from tests.support.fleet import ROOT, logged_in

__all__ = ["Apply", "Options", "applying"]

_LIMIT_S = 900.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """`images` is the library's folder, `patience` as in `Patience`, by field.

    `roles`: only these steps; `bmc_s`: how long a BMC may take.
    """

    images: str
    roles: tuple[str, ...] = ()
    patience: dict[str, float]
    bmc_s: float = 60.0


class _Login:
    """Stands for SSH: whoever's system runs in the fleet can be logged in to, if its host key is the one we know."""

    def __init__(self, control: str) -> None:
        self._control = control

    async def ask(self, node: PlanNode, _command: str) -> str:
        try:
            key = await asyncio.to_thread(logged_in, self._control, node.name)
        except OSError as error:
            raise UnreachableError(str(error)) from None
        if f"{node.address},{node.name} {key}" not in Path(node.connection.known_hosts).read_text().splitlines():
            raise HalliganError(f"the host key of {node.name} is not the one that it made")
        return ""


def _factory(control: str, options: Options) -> Callable[[Site, str], Dispatch]:
    def quick(*arguments: Any, **further: Any) -> Controller:
        return connect(*arguments, **{**further, "timeout_s": options.bmc_s})

    def executor(site: Site, run: str) -> Dispatch:
        def metal() -> MetalExecutor:
            return MetalExecutor(
                store=lambda: Store.open(site.store_place),
                secret=site.reveal,
                orders=Orders(Library(Path(options.images)), site.clock, certificates=site.state_dir / "winrm"),
                run=run,
                patience=Patience(**options.patience),
                connect=quick,
                link=_Login(control),  # type: ignore[arg-type]  # a double
            )

        return Dispatch(FakeExecutor(_nothing), {METAL: metal})

    return executor


def _nothing(_batch: Batch, _run: StepRun) -> Script:
    return Script()


def main(folder: str, control: str, told: str) -> None:
    options = Options(**json.loads(told))
    begun = False

    def watch(_event: Event) -> None:
        nonlocal begun
        if not begun:
            begun = True
            print(json.dumps({"begun": True}), flush=True)

    site = open_site(folder, executor=_factory(control, options))
    runs = site.status().runs
    text = ""
    if runs and runs[0].status is RunStatus.RUNNING:
        result = site.resume(on_event=watch)
    else:
        made = site.plan(Selection(roles=tuple(options.roles)))
        text = plans.dump(made).decode()
        result = site.apply(made, on_event=watch, consent=("install@*",))
    used = resource.getrusage(resource.RUSAGE_SELF)
    found = {
        "status": str(result.status),
        "counts": {str(status): count for status, count in result.counts.items()},
        "failures": {outcome.step: outcome.problem for outcome in result.failures},
        "skipped": dict(result.skipped),
        "plan": text,
        "cpu_s": used.ru_utime + used.ru_stime,
    }
    print(json.dumps(found), flush=True)


# --- who uses it --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Apply:
    """An apply that runs."""

    process: subprocess.Popen[bytes]

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def result(self) -> dict[str, Any]:
        """Wait for its end; return status, counts, failures (step -> problem), skipped, plan and cpu_s."""
        out, _ = self.process.communicate(timeout=_LIMIT_S)
        assert self.process.returncode == 0, out[-2000:]
        found: dict[str, Any] = json.loads(out.splitlines()[-1])
        return found


@contextlib.contextmanager
def applying(site: Path, control: str, options: Options) -> Iterator[Apply]:
    """Apply, or go on with the open run; returns after its first event. Killed at the end if it still runs."""
    told = json.dumps(asdict(options))
    with (site.parent / "apply.log").open("ab") as log:
        process = subprocess.Popen(
            [
                *("setpriv", "--pdeathsig", "KILL", sys.executable, "-m", "tests.support.fleet_apply"),
                *(str(site), control, told),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            cwd=ROOT,
        )
    assert process.stdout is not None
    try:
        assert process.stdout.readline(), (site.parent / "apply.log").read_text()[-4000:]
        yield Apply(process)
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        process.stdout.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
