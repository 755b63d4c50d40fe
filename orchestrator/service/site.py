"""Use cases, one method each, shared by every door: load, plan, explain, apply, resume, check, status, forget, secrets.

The composition root: only here are files, store, vault, lab and executors put together.
"""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator import apply as loop
from orchestrator import catalog, files, graph, plan, spec, topology
from orchestrator.apply import RunResult, Watcher
from orchestrator.collector import paused
from orchestrator.errors import HalliganError, Problem, ProblemsError, StalePlanError, closest
from orchestrator.executors import Executor
from orchestrator.inventory import site_inventory
from orchestrator.lifecycle import stage_contracts
from orchestrator.model import (
    CARRY,
    METAL,
    Catalog,
    Event,
    Json,
    Outcome,
    Placement,
    PlacementState,
    Plan,
    Process,
    SecretRef,
    Snapshot,
    Spec,
    Step,
    StepId,
    Topology,
)
from orchestrator.plan import Selection
from orchestrator.schedule import Schedule
from orchestrator.service import labs
from orchestrator.service.labs import lab_of, with_lab
from orchestrator.service.metal import Machines
from orchestrator.store import Holder, InFlight, Run, RunStatus, StepLog, Store, kinds
from orchestrator.vault import Vault

if TYPE_CHECKING:
    from orchestrator.lab import Lab

__all__ = ["Explanation", "Need", "RunResult", "Selection", "Settled", "Site", "Status", "load_plan", "open_site"]

ExecutorFactory = Callable[["Site", str], Executor]
_EVERYTHING = Selection()


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """One thing a step waits for, and whether it is still to be done."""

    capability: str
    provider: StepId
    pending: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """Why a step exists and what it waits for; `planned` is None when there is nothing to do."""

    step: StepId
    placement: Placement | None
    planned: Step | None
    state: PlacementState | None
    needs: tuple[Need, ...]
    after: tuple[Need, ...]
    unlocks: tuple[StepId, ...]
    wave: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Settled:
    """What was found out about a run whose process had died."""

    run: str
    finished: tuple[Outcome, ...]  # came to an end unseen
    unknown: tuple[StepId, ...]  # in flight; planned again


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """What we believe of a site now."""

    site: str
    snapshot: Snapshot
    runs: tuple[Run, ...]
    holder: Holder | None


class Site:
    """A site's folder with everything that belongs to it. Opening one reads nothing yet."""

    def __init__(
        self,
        path: Path,
        *,
        roles: tuple[str, ...] = (),
        state: str = "",
        vault_password_file: str = "",
        executor: ExecutorFactory | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.path = path
        self.name = path.name
        self.role_paths = files.role_paths(path, roles)
        self.state_dir = (path / ".halligan").absolute()
        self.vault = Vault(path, password_file=vault_password_file)
        self._state = state or str(self.state_dir / "state.db")
        self.warnings: tuple[Problem, ...] = ()  # of the last `load`
        self._executor = executor or _executor
        self._clock = clock

    # --- reading --------------------------------------------------------------------------------------------------

    def spec(self) -> Spec:
        """Return what the site should be, lab machines with the connection that the lab gives them."""
        return self._completed(self.plain_spec())

    def plain_spec(self) -> Spec:
        """Return what the site's files say, without what a lab adds."""
        return spec.read(files.read_site(self.path), self.vault)

    def catalog(self) -> Catalog:
        return catalog.read(files.read_roles(self.role_paths))

    def load(self) -> Topology:
        """Return the site's topology.

        Raises:
            ProblemsError: everything that is wrong with the spec, the roles and how they fit together.
        """
        problems: list[ProblemsError] = []
        found: list[object] = []
        for read in (self.spec, self.catalog):
            try:
                found.append(read())
            except ProblemsError as error:
                problems.append(error)
        if problems:
            raise ProblemsError([problem for error in problems for problem in error.problems])
        self.machines.check_power(found[0])  # type: ignore[arg-type]  # in the order above
        nics = self.machines.nics(found[0]) if topology.ask_for_ports(found[1]) else {}  # type: ignore[arg-type]
        resolved = topology.resolve(found[0], found[1], nics)  # type: ignore[arg-type]
        self.warnings = resolved.problems
        return resolved

    @paused()
    def plan(self, selection: Selection = _EVERYTHING, *, check: bool = False) -> Plan:
        """Return what has to happen, or with `check` what can be checked; touches no machine."""
        site = self.load()
        unmatched = selection.unmatched(site.spec.nodes, site.spec.groups, site.catalog)
        if unmatched:
            names = [*site.spec.nodes, *site.spec.groups, *site.catalog]
            raise HalliganError(
                f"nothing is called {unmatched[0]}.{closest(unmatched[0], names)}",
                hint="patterns are shell globs on the names of nodes, groups or roles",
            )
        snapshot = self.snapshot()
        if check:
            return plan.make_check(site, snapshot, selection)
        return plan.make(site, snapshot, selection, self._chosen(site, snapshot))

    def _chosen(self, site: Topology, snapshot: Snapshot) -> dict[str, str]:
        """Return the machines that rules choose, by node; most sites have no rules and pay nothing."""
        if not any(node.match for node in site.spec.nodes.values()):
            return {}
        return dict(self.machines.assign(site.spec, snapshot).chosen)

    def inventory(self) -> dict[str, Any]:
        """Return the whole site as plain Ansible sees it, secrets revealed."""
        return site_inventory(self.load(), self.reveal)

    def snapshot(self) -> Snapshot:
        with self.reading() as store:
            return store.snapshot() if store else Snapshot()

    def status(self) -> Status:
        with self.reading() as store:
            if store is None:
                return Status(site=self.name, snapshot=Snapshot(), runs=(), holder=None)
            return Status(
                site=self.name,
                snapshot=store.snapshot(),
                runs=tuple(store.runs(limit=10)),
                holder=store.holder(self.name),
            )

    def events(self, *, after: int = 0, run: str = "", node: str = "") -> Iterator[Event]:
        with self.reading() as store:
            if store:
                yield from store.events(after=after, run=run, node=node)

    def log(self, *, node: str = "", step: str = "", run: str = "", limit: int | None = None) -> Iterator[StepLog]:
        with self.reading() as store:
            if store:
                yield from store.log(node=node, step=step, run=run, limit=limit)

    def check_store(self) -> list[str]:
        with self.reading() as store:
            return store.check() if store else []

    def explain(self, name: str) -> Explanation:
        """Return why a step exists and what it waits for."""
        site = self.load()
        snapshot = self.snapshot()
        made = plan.make(site, snapshot, chosen=self._chosen(site, snapshot))
        steps = {step.id: step for step in made.steps}
        key = StepId(name)
        placement, planned = site.placements.get(key), steps.get(key)
        if placement is None and planned is None:
            raise HalliganError(
                f"there is no step {name}.{closest(name, site.placements)}",
                hint="a step is called role@node; `halligan plan --verbose` lists them",
            )
        return Explanation(
            step=key,
            placement=placement,
            planned=planned,
            state=snapshot.placements.get(key),
            needs=_needs(site, placement.needs, steps) if placement else (),
            after=_needs(site, placement.after, steps) if placement else (),
            unlocks=_unlocks(made, key) if planned else (),
            wave=plan.summarize(made).wave_of.get(key, 0),
        )

    def reveal(self, ref: SecretRef) -> Json:
        """Return the value that a reference stands for."""
        return labs.password(ref) if ref.file == labs.PASSWORD else self.vault.resolve(ref)

    # --- doing ----------------------------------------------------------------------------------------------------

    def apply(
        self,
        made: Plan,
        *,
        consent: tuple[str, ...] = (),
        quorum_loss: tuple[str, ...] = (),
        on_event: Watcher,
        command: str = "apply",
        check: bool = False,
    ) -> RunResult:
        """Carry out a plan. `consent` and `quorum_loss` are what the user agrees to lose (`plan.refusals`).

        Raises:
            LockedError: somebody else works on this site.
            StalePlanError: the store or a role changed since the plan was made.
            ProblemsError: the plan destroys or costs a quorum without consent, or touches more than the policy allows.
            StoreError: the store refused a commit; everything committed before is kept.
        """
        self._of_this_site(made)
        if refused := plan.refusals(made, consent, quorum_loss):
            raise ProblemsError(refused)
        self._roles_unchanged(made)
        with self.working(command) as store:
            self._refuse_open_run(store)
            if store.revision() != made.base_revision and not check:
                raise StalePlanError(
                    f"the plan was made at revision {made.base_revision} of site {self.name}, "
                    f"which is at revision {store.revision()} now",
                    hint="something was applied in between; make the plan again and review it",
                )
            with self._serving(made):
                run = Run(
                    id=self._new_run_id(),
                    plan_id=made.id,
                    command=command,
                    started=self._clock(),
                    host=socket.gethostname(),
                    pid=os.getpid(),
                    steps=len(made.steps),
                )
                store.save_plan(made.id, plan.dump(made))
                on_event(self._begin(store, run))
                outputs = _outputs(store.snapshot())
                schedule = Schedule(made, outputs=outputs, check=check, quorum_loss=quorum_loss)
                return self._loop(made, schedule, store, run.id, on_event, check=check)

    def resume(self, *, quorum_loss: tuple[str, ...] = (), on_event: Watcher) -> RunResult:
        """Go on with the run whose process died: nothing that finished runs again, nothing in flight is lost."""
        with self.working("apply --resume") as store:
            run = store.open_run()
            if run is None:
                last = store.last_run()
                told = f"its last run, {last.id}, {last.status}" if last else "it has never been applied"
                raise HalliganError(
                    f"site {self.name} has no interrupted run: {told}", hint=f"use `halligan apply {self.name}`"
                )
            made = plan.parse(store.load_plan(run.plan_id), f"the plan of run {run.id}")
            self._roles_unchanged(made)
            finished = tuple(store.finished(run.id).values())
            schedule = Schedule(
                made,
                outputs=_outputs(store.snapshot()),
                finished=finished,
                attempts=store.attempts(run.id),
                prefix=f"r{store.revision()}-",
                quorum_loss=quorum_loss,
            )
            recovered = self._recover(store, run, schedule)
            with self._serving(made):
                on_event(
                    self._begin(store, replace(run, started=self._clock(), host=socket.gethostname(), pid=os.getpid()))
                )
                return self._loop(made, schedule, store, run.id, on_event, recovered=recovered)

    def settle(self) -> Settled | None:
        """Close a run whose process died, keeping every outcome it had reached; None if there is none.

        What was in flight and left no outcome is planned again: roles are idempotent, so running one is how the host
        is asked.
        """
        if not self._exists():
            return None
        with self.working("settle") as store:
            run = store.open_run()
            if run is None:
                return None
            made = plan.parse(store.load_plan(run.plan_id), f"the plan of run {run.id}")
            schedule = Schedule(
                made, outputs=_outputs(store.snapshot()), finished=tuple(store.finished(run.id).values())
            )
            lost = {item.step for item in store.in_flight(run.id)}
            recovered = self._recover(store, run, schedule)
            steps = {step.id: step for step in made.steps}
            now = self._clock()
            events, prints = [], {}
            for outcome in recovered:
                found = schedule.step_run(outcome.step)
                digest = found.digest if found else ""
                if found and found.fingerprint:
                    prints[digest] = found.fingerprint
                step = steps[outcome.step]
                events.append(
                    kinds.step_finished(step, outcome, run=run.id, at=now, digest=digest, node=made.nodes[step.node])
                )
            events.append(kinds.run_finished(run.id, RunStatus.INTERRUPTED, at=now))
            store.append(events, fingerprints=prints)
            shutil.rmtree(self.runs_dir / run.id, ignore_errors=True)
            unknown = tuple(sorted(lost - {outcome.step for outcome in recovered}))
            return Settled(run=run.id, finished=tuple(recovered), unknown=unknown)

    def forget(self, node: str) -> None:
        """Drop all that is believed of a node that is gone for good."""
        with self.working("forget") as store:
            known = _remembered(store.snapshot())
            if node not in known:
                raise HalliganError(f"nothing is recorded of a node {node}.{closest(node, known)}")
            store.append([kinds.node_forgotten(node, at=self._clock(), reason="asked by the user")])

    def secrets_init(self) -> tuple[str, ...]:
        """Generate every secret that a placed role requires and the site does not set; return their names."""
        wanted = topology.wanted_secrets(self.spec(), self.catalog())
        return tuple(self.vault.init(wanted))

    def lab(self) -> Lab:
        """Return the site's local lab: its nodes with `lab: container`."""
        found = lab_of(self.plain_spec(), self.name, self.state_dir)
        if found is None:
            raise HalliganError(
                f"site {self.name} has no lab nodes", hint="give nodes `lab: container` or `lab: vm` in its cluster.yml"
            )
        return found

    def lab_down(self, report: Callable[[str], None]) -> None:
        """Take the local lab down, and drop what is believed of its machines: the next ones are new."""
        from orchestrator import lab

        gone = self.lab()
        lab.down(gone, report)
        if not self._exists():
            return
        self.settle()
        with self.working("lab down") as store:
            known = store.snapshot()
            names = sorted(_remembered(known) & {node.name for node in gone.nodes})
            macs = {node.mac for node in gone.nodes if node.mac}
            loose = [m.id for m in known.machines.values() if not m.node and macs & set(m.identity.macs)]
            store.append(
                [
                    kinds.node_forgotten(name, at=self._clock(), reason="the lab is down")
                    for name in [*names, *sorted(loose)]
                ]
            )

    # --- inside ---------------------------------------------------------------------------------------------------

    def _loop(
        self,
        made: Plan,
        schedule: Schedule,
        store: Store,
        run: str,
        on_event: Watcher,
        *,
        recovered: tuple[Outcome, ...] = (),
        check: bool = False,
    ) -> RunResult:
        executor = self._executor(self, run)
        try:
            result = loop.run(
                made,
                schedule,
                executor,
                store,
                run=run,
                clock=self._clock,
                watch=on_event,
                recovered=recovered,
                check=check,
            )
        finally:
            executor.close()
        # All of it is in the store by now; a run that ended otherwise keeps its folder for resume.
        shutil.rmtree(self.runs_dir / run, ignore_errors=True)
        return result

    def _serving(self, made: Plan) -> AbstractContextManager[None]:
        """Whoever brings an executor of his own has no machines that boot."""
        return self.machines.serving(made) if self._executor is _executor else nullcontext()

    def _begin(self, store: Store, run: Run) -> Event:
        store.begin_run(run)
        return kinds.run_started(run)

    def _recover(self, store: Store, run: Run, schedule: Schedule) -> tuple[Outcome, ...]:
        """Ask what a dead controller's batches came to: their processes are ended, their outcome files read.

        A batch may have begun and even ended before its process was recorded; the executor knows its traces by its id.
        """
        executor = self._executor(self, run.id)
        by_batch: dict[str, list[InFlight]] = {}
        for item in store.in_flight(run.id):
            by_batch.setdefault(item.batch, []).append(item)
        outcomes: list[Outcome] = []
        for batch, items in by_batch.items():
            process = items[0].process or Process(batch=batch, pid=0, start_time=0.0, folder="")
            runs = [replace(found, attempt=item.attempt) for item in items if (found := schedule.step_run(item.step))]
            outcomes.extend(executor.recover(process, runs))
        return tuple(outcomes)

    def _of_this_site(self, made: Plan) -> None:
        if made.site != self.name:
            raise StalePlanError(f"the plan is for site {made.site}, not for {self.name}")

    def _roles_unchanged(self, made: Plan) -> None:
        known = self.catalog()
        ours = stage_contracts()
        digests = {name: found.digest for name, found in {**known, **ours}.items()}
        changed = [name for name, role in made.roles.items() if role.digest and digests.get(name) != role.digest]
        if changed:
            raise StalePlanError(
                f"the files of role {', '.join(sorted(changed))} changed since the plan was made",
                hint="make the plan again and review it",
            )

    def _refuse_open_run(self, store: Store) -> None:
        if run := store.open_run():
            raise HalliganError(
                f"run {run.id} of site {self.name} was interrupted (its process {run.pid} on {run.host} is gone)",
                hint=f"go on with `halligan apply {self.name} --resume`, or plan anew without --resume",
            )

    def _new_run_id(self) -> str:
        at = datetime.fromtimestamp(self._clock(), UTC)
        return f"{at:%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"

    def _exists(self) -> bool:
        return "://" in self._state or Path(self._state).exists()

    @contextmanager
    def reading(self) -> Iterator[Store | None]:
        """The store, or None when nothing was ever applied: looking must leave nothing behind."""
        if not self._exists():
            yield None
            return
        with Store.open(self._state, create=False) as store:
            yield store

    @contextmanager
    def working(self, command: str) -> Iterator[Store]:
        self.state_dir.mkdir(mode=0o700, exist_ok=True)
        with Store.open(self._state) as store, store.lock(self.name, command=f"halligan {command}", at=self._clock()):
            yield store

    def _completed(self, found: Spec) -> Spec:
        """Return the spec with what the lab gives its nodes, and with a file for the host keys of bare metal."""
        lab = lab_of(found, self.name, self.state_dir)
        if lab is not None:
            found = with_lab(found, lab)
        known_hosts = str(self.state_dir / "machines_known_hosts")
        nodes = {
            name: replace(node, connection=replace(node.connection, known_hosts=known_hosts))
            if node.profile and not node.connection.known_hosts
            else node
            for name, node in found.nodes.items()
        }
        return replace(found, nodes=nodes)

    @cached_property
    def machines(self) -> Machines:
        """The site's bare metal."""
        return Machines(self)

    @property
    def store_place(self) -> str:
        """The path or URL of the site's store."""
        return self._state

    @property
    def clock(self) -> Callable[[], float]:
        return self._clock

    @cached_property
    def runs_dir(self) -> Path:
        return self.state_dir / "runs"


def open_site(
    site: str,
    *,
    roles: tuple[str, ...] = (),
    state: str = "",
    vault_password_file: str = "",
    executor: ExecutorFactory | None = None,
) -> Site:
    """Return a site by its name under inventories/, its folder or its cluster.yml."""
    path = files.find_site(site)
    return Site(path, roles=roles, state=state, vault_password_file=vault_password_file, executor=executor)


def load_plan(path: str) -> Plan:
    """Return the plan in a file."""
    try:
        return plan.parse(Path(path).read_bytes(), path)
    except OSError as error:
        raise HalliganError(f"cannot read the plan {path}: {error.strerror}") from None


def _executor(site: Site, run: str) -> Executor:
    from orchestrator.executors.ansible import AnsibleExecutor
    from orchestrator.executors.dispatch import Dispatch

    common: dict[str, Any] = {
        "home": files.HOME,
        "site": site.name,
        "runs": site.runs_dir / run,
        "secret": site.reveal,
        "roles": site.role_paths,
    }
    push = AnsibleExecutor(**common)

    def carry() -> Executor:
        from orchestrator.executors.carry import CarryExecutor

        return CarryExecutor(**common, owner=f"site {site.name} ({site.state_dir})", push=push)

    return Dispatch(push, {CARRY: carry, METAL: lambda: site.machines.executor(run)})


def _remembered(snapshot: Snapshot) -> set[str]:
    """Return the nodes of which anything is believed, those gone from the spec included."""
    claimed = {state.node for state in snapshot.machines.values() if state.node}
    return {state.node for state in snapshot.placements.values()} | set(snapshot.nodes) | claimed


def _outputs(snapshot: Snapshot) -> dict[StepId, Mapping[str, object]]:
    return {key: state.outputs for key, state in snapshot.placements.items()}


def _needs(site: Topology, bindings: tuple[str, ...], steps: Mapping[StepId, Step]) -> tuple[Need, ...]:
    return tuple(
        Need(capability=binding.capability, provider=provider, pending=provider in steps)
        for binding in (site.bindings[name] for name in bindings)  # type: ignore[index]  # ids of bindings
        for provider in binding.providers
    )


def _unlocks(made: Plan, key: StepId) -> tuple[StepId, ...]:
    steps = {step.id for step in made.steps}
    return tuple(sorted(StepId(i) for i in graph.descendants(plan.step_graph(made), [key]) if i in steps))
