"""One measurement in a process of its own: `python -m tests.bench.measure NAME ARG...` prints its figures as JSON."""

from __future__ import annotations

import atexit
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

__all__ = ["Figures", "in_fresh_process"]

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True, kw_only=True)
class Figures:
    """CPU seconds of the process (imports included), its highest resident memory, and what it says of its work."""

    cpu_s: float
    peak_mb: float
    facts: Mapping[str, Any]


def in_fresh_process(name: str, *arguments: object) -> Figures:
    command = [sys.executable, "-m", "tests.bench.measure", name, *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True, env=_environment())
    return Figures(**json.loads(done.stdout.splitlines()[-1]))


@cache
def _environment() -> Mapping[str, str]:
    """Modules are compiled once, as for every user, even where Python is told to leave no compiled files behind."""
    compiled = tempfile.mkdtemp(prefix="halligan-bench-")
    atexit.register(shutil.rmtree, compiled, ignore_errors=True)
    return {**os.environ, "PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": compiled}


def plan(site: str, out: str) -> dict[str, Any]:
    """A plan from the files on disk, written as plan.json."""
    from orchestrator import plan as plans
    from orchestrator.service import open_site

    made = open_site(site).plan()
    Path(out).write_bytes(plans.dump(made))
    return {"steps": len(made.steps), "unchanged": made.unchanged, "bytes": Path(out).stat().st_size}


def noop(site: str) -> dict[str, Any]:
    """`halligan apply SITE --yes`, as a user runs it, where there is nothing to do."""
    from orchestrator.cli.app import app

    app(["apply", site, "--yes"], standalone_mode=False)
    return {}


def record(site: str) -> dict[str, Any]:
    """Success of every step of the site's plan, as the apply loop would record it, into the site's store."""
    from tests.bench.simulation import succeed

    return succeed(site)


def simulate(nodes: str, roles: str, executor: str, steps: str, batches: str, store: str = "") -> dict[str, Any]:
    """An apply in virtual time, with limits on steps and pushed batches; committed if there is a path for a store."""
    from orchestrator.model import Limits
    from tests.bench.simulation import simulate as run

    limits = Limits(steps=int(steps), batches=int(batches))
    return run(int(nodes), int(roles), executor=executor, limits=limits, store=store or None)


def apply(site: str) -> dict[str, Any]:
    """A first apply of a site by the real loop into its store, on hosts that do nothing."""
    from tests.bench.simulation import apply as run

    return run(site)


def inventory(site: str, plain: str) -> dict[str, Any]:
    """What `ansible-inventory --list` takes for the same nodes, groups and variables as a plain YAML inventory."""
    from tests.bench.site import write_plain_inventory

    write_plain_inventory(site, Path(plain))
    command = [str(Path(sys.executable).parent / "ansible-inventory"), "-i", plain, "--list"]
    environment = {**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg")}
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True, env=environment)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return {"cpu_s": used.ru_utime + used.ru_stime, "peak_mb": used.ru_maxrss / 1024}


def append(events: str, batch: str, folder: str) -> dict[str, Any]:
    """Events into a new store."""
    from tests.bench.simulation import append as run

    return run(int(events), int(batch), Path(folder))


MEASURES: Mapping[str, Callable[..., dict[str, Any]]] = {
    "plan": plan,
    "noop": noop,
    "record": record,
    "simulate": simulate,
    "apply": apply,
    "append": append,
    "inventory": inventory,
}


def main() -> None:
    facts = MEASURES[sys.argv[1]](*sys.argv[2:])
    used = resource.getrusage(resource.RUSAGE_SELF)
    print(json.dumps({"cpu_s": used.ru_utime + used.ru_stime, "peak_mb": used.ru_maxrss / 1024, "facts": facts}))


if __name__ == "__main__":
    main()
