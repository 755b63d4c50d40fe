"""The bare metal of a site: its boot service, what is known of its machines, and what operators ask of single ones."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from ipaddress import ip_address, ip_interface, ip_network
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator import files, lifecycle
from orchestrator.errors import HalliganError, Problem, ProblemsError, closest
from orchestrator.lifecycle import Signal
from orchestrator.model import (
    METAL,
    Boot,
    Connection,
    Event,
    Json,
    MachineState,
    Node,
    Plan,
    PlanNode,
    Snapshot,
    Spec,
    StepId,
    StepRun,
)
from orchestrator.service.labs import lab_of
from orchestrator.store import Store, kinds

if TYPE_CHECKING:
    from orchestrator.executors.metal import MetalExecutor
    from orchestrator.facts import Facts
    from orchestrator.lab import Lab
    from orchestrator.matching import Assignment, Judgement
    from orchestrator.netboot import Settings
    from orchestrator.seed import File
    from orchestrator.service.site import Site

__all__ = ["Machines", "Matched", "NodeView", "TraceLine"]

AGENT = files.HOME / "pxe/agent/halligan_agent.py"
RECIPE = files.HOME / "pxe/discovery"

_START_S = 60.0
_OPERATION_S = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeView:
    """A bare-metal node and its machine, or a machine that no node has (`node` is None)."""

    node: Node | None
    machine: MachineState | None
    todo: tuple[str, ...] = ()  # stages that are still before it


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceLine:
    """One thing that was seen of a machine. `at` is UTC seconds."""

    at: float
    what: str
    detail: str
    run: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Matched:
    """What rules say of the machines that are known: who would get which, and every yes and no."""

    assignment: Assignment
    judgements: Mapping[tuple[str, str], Judgement]  # (node, machine)
    machines: Mapping[str, MachineState]
    nodes: tuple[Node, ...]


class Machines:
    """The use cases of bare metal. Holds nothing but the site."""

    def __init__(self, site: Site) -> None:
        self._site = site

    def check_power(self, spec: Spec) -> None:
        """Raise ProblemsError for addresses of BMCs that their drivers cannot use."""
        found = [node for node in spec.nodes.values() if node.bmc]
        if not found:
            return
        from orchestrator import bmc

        problems = []
        for node in found:
            try:
                assert node.bmc is not None
                bmc.check(node.bmc, node=node.name)
            except HalliganError as error:
                problems.append(Problem(code="bmc.address", summary=error.summary, where=node.where, hint=error.hint))
        if problems:
            raise ProblemsError(problems)

    # --- looking --------------------------------------------------------------------------------------------------

    def overview(self) -> tuple[NodeView, ...]:
        """Return every bare-metal node with its machine, then the machines that nobody has."""
        spec, snapshot = self._site.spec(), self._site.snapshot()
        metal = [node for node in spec.nodes.values() if node.profile]
        found = lifecycle.of_nodes(metal, snapshot.machines)
        taken = {state.id for state in found.values()}
        views = [
            NodeView(node=node, machine=found.get(node.name), todo=lifecycle.pending(found.get(node.name)))
            for node in metal
        ]
        loose = sorted((m for m in snapshot.machines.values() if m.id not in taken), key=lambda m: m.id)
        return (*views, *(NodeView(node=None, machine=machine) for machine in loose))

    def show(self, name: str) -> tuple[NodeView, Facts | None]:
        """Return a node or a machine, and what its hardware is, if it was ever discovered."""
        view = self._view(name)
        return view, self._facts(view.machine) if view.machine and view.machine.facts else None

    def _facts(self, machine: MachineState) -> Facts | None:
        from orchestrator import facts

        with self._site.reading() as store:
            return facts.read(store.facts(machine.facts)) if store else None

    def document(self, machine: MachineState) -> Json:
        """Return a machine's facts as it sent them."""
        with self._site.reading() as store:
            return json.loads(store.facts(machine.facts)) if store and machine.facts else {}

    def trace(self, name: str) -> tuple[TraceLine, ...]:
        """Return everything that was seen of a node's machine, from its first DHCP request on, in order."""
        view = self._view(name)
        names = {name}
        if view.node and view.node.mac:
            names.add(view.node.mac)
        if view.machine:
            names |= {view.machine.id, *view.machine.identity.macs}
        with self._site.reading() as store:
            if store is None:
                return ()
            found = {e.seq: e for each in sorted(names) for e in store.events(node=each)}
        return tuple(line for seq in sorted(found) if (line := _traced(found[seq])))

    def match(self) -> Matched:
        """Run the site's rules on the stored facts, and explain every yes and no; nothing is changed."""
        from orchestrator import matching

        spec, snapshot = self._site.spec(), self._site.snapshot()
        nodes = tuple(node for node in spec.nodes.values() if node.profile and (node.match or node.mac or node.serial))
        facts = self._known_facts(snapshot)
        return Matched(
            assignment=self.assign(spec, snapshot),
            judgements={
                (node.name, machine): matching.judge(node.match, found)
                for node in nodes
                if node.match
                for machine, found in facts.items()
            },
            machines={key: snapshot.machines[key] for key in facts},
            nodes=nodes,
        )

    def assign(self, spec: Spec, snapshot: Snapshot) -> Assignment:
        """Return which free machines the rules of nodes without one choose."""
        from orchestrator import matching

        owned = {state.node for state in snapshot.machines.values() if state.node}
        wanted = [
            matching.Wanted(node=node.name, rule=node.match, mac=node.mac, serial=node.serial)
            for node in spec.nodes.values()
            if node.profile and node.match and node.name not in owned
        ]
        free = [
            matching.Candidate(machine=snapshot.machines[key], facts=found)
            for key, found in self._known_facts(snapshot).items()
            if not snapshot.machines[key].node
        ]
        return matching.assign(wanted, free)

    def _known_facts(self, snapshot: Snapshot) -> dict[str, Facts]:
        from orchestrator import facts

        with self._site.reading() as store:
            if store is None:
                return {}
            return {
                key: facts.read(store.facts(state.facts))
                for key, state in sorted(snapshot.machines.items())
                if state.facts and state.phase in lifecycle.USABLE
            }

    def nics(self, spec: Spec) -> dict[str, frozenset[str]]:
        """Return the network ports of each node whose hardware is known, with those that its profile makes."""
        snapshot = self._site.snapshot()
        facts = self._known_facts(snapshot)
        metal = [node for node in spec.nodes.values() if node.profile]
        return {
            node: frozenset({nic.name for nic in facts[machine.id].nics} | set(spec.profiles[profile].interfaces))
            for node, machine in lifecycle.of_nodes(metal, snapshot.machines).items()
            if (profile := spec.nodes[node].profile) and machine.id in facts
        }

    def _view(self, name: str) -> NodeView:
        views = self.overview()
        for view in views:
            if (view.node and view.node.name == name) or (view.machine and view.machine.id == name):
                return view
        known = [v.node.name if v.node else v.machine.id for v in views if v.node or v.machine]  # type: ignore[union-attr]
        raise HalliganError(
            f"site {self._site.name} has no bare-metal node or machine {name}.{closest(name, known)}",
            hint=f"`halligan nodes {self._site.name}` lists them",
        )

    # --- the boot service -----------------------------------------------------------------------------------------

    @contextmanager
    def serving(self, made: Plan | None = None) -> Iterator[None]:
        """See that machines are answered when they boot, for as long as this lasts; not for a plan without metal.

        A boot service that runs already is left alone. One that is started here ends with us, however we end.
        """
        from orchestrator import netboot

        if made is not None and not any(step.executor == METAL for step in made.steps):
            yield
            return
        if netboot.running(self._site.state_dir):
            yield
            return
        process = self._started()
        try:
            yield
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def command(self) -> list[str]:
        """Write the boot service's settings and return the command that serves in the foreground."""
        spec = self._site.plain_spec()
        lab = lab_of(spec, self._site.name, self._site.state_dir)
        settings = self.settings(spec, lab)
        self._site.state_dir.mkdir(mode=0o700, exist_ok=True)
        file = self._site.state_dir / "boot-settings.json"
        settings.write(file)
        inside: tuple[str, ...] = ()
        if _in_lab(spec):
            from orchestrator.lab import enter

            assert lab is not None
            inside = enter(lab)
        return [*inside, sys.executable, "-m", "orchestrator.netboot", str(file)]

    def _started(self) -> subprocess.Popen[bytes]:
        from orchestrator import netboot
        from orchestrator.processes import wait_for

        log = self._site.state_dir / "boot.log"
        command = ["setpriv", "--pdeathsig", "TERM", *self.command()]
        with log.open("ab") as out:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, cwd=files.HOME)
        wait_for(lambda: netboot.running(self._site.state_dir) or process.poll() is not None, _START_S)
        if process.poll() is None and netboot.running(self._site.state_dir):
            return process
        process.kill()
        process.wait()
        lines = log.read_text(errors="replace").splitlines()[-8:]
        raise HalliganError("the boot service did not start", detail=lines, hint=f"all that it said is in {log}")

    def settings(self, spec: Spec, lab: Lab | None) -> Settings:
        """Return what the boot service of the site is told."""
        from orchestrator.executors.metal.orders import public_key
        from orchestrator.images import discovery
        from orchestrator.images.library import Library
        from orchestrator.netboot import Settings

        if not spec.boot.network:
            raise HalliganError(
                f"site {self._site.name} does not say how machines boot",
                hint="boot: {network: NAME, range: FIRST-LAST} in its cluster.yml",
            )
        network = spec.networks[spec.boot.network]
        image = self.discovery_folder(spec)
        if not image.is_dir():
            raise HalliganError(
                "the discovery image is not built yet, or its recipe or agent changed since",
                hint=f"`halligan image build discovery --kernel {_kernel(spec)}` makes it, in some minutes",
            )
        complete = self._site.spec()
        metal = [node for node in complete.nodes.values() if node.profile]
        keys = sorted({public_key(node.connection) for node in metal if node.connection.private_key})
        return Settings(
            site=self._site.name,
            store=self._site.store_place,
            state_dir=self._site.state_dir,
            boot=_found(spec.boot, network.cidr, lab if _in_lab(spec) else None),
            templates=files.HOME / "pxe/templates",
            network=network.cidr,
            gateway=network.gateway,
            mtu=network.mtu,
            dns=network.dns,
            images=Library().folder,
            discovery=discovery.load(image).folder,
            known_macs=tuple(sorted(node.mac for node in metal if node.mac)),
            known_serials=tuple(sorted(node.serial for node in metal if node.serial)),
            rescue_keys=tuple(keys),
            prefix6=_prefix6(lab) if lab and _in_lab(spec) else "",
        )

    def discovery_folder(self, spec: Spec) -> Path:
        """Return where the discovery image for the site's machines is, or would be."""
        from orchestrator.images import discovery

        name = discovery.digest(kernel=_kernel(spec), agent=AGENT, recipe=RECIPE)
        return cache_dir() / "discovery" / name

    # --- doing ----------------------------------------------------------------------------------------------------

    def executor(self, run: str) -> MetalExecutor:
        """Return what runs the life-cycle steps of a run."""
        from orchestrator.executors.metal import MetalExecutor
        from orchestrator.executors.metal.orders import Orders
        from orchestrator.images.library import Library

        return MetalExecutor(
            store=lambda: Store.open(self._site.store_place),
            secret=self._site.reveal,
            orders=Orders(
                Library(), self._site.clock, certificates=self._site.state_dir / "winrm", further=self._further()
            ),
            run=run,
            clock=self._site.clock,
            console=self._consoles().get,
        )

    def _consoles(self) -> dict[str, Path]:
        """Return where lab machines' serial consoles are written to; those of others are their BMCs'."""
        spec = self._site.plain_spec()
        lab = lab_of(spec, self._site.name, self._site.state_dir) if _in_lab(spec) else None
        if lab is None:
            return {}
        from orchestrator.lab import console

        return {node.name: console(lab, node.name) for node in spec.nodes.values() if node.lab == "vm"}

    def _further(self) -> dict[str, tuple[File, ...]]:
        """Return the files that lab machines get besides: a lab has its own way to packages."""
        spec = self._site.plain_spec()
        if not _in_lab(spec):
            return {}
        from orchestrator.lab import package_access
        from orchestrator.seed import File

        lab = lab_of(spec, self._site.name, self._site.state_dir)
        assert lab is not None
        given = tuple(File(path=path, content=text) for path, text in sorted(package_access(lab).items()))
        return {node.name: given for node in spec.nodes.values() if node.lab == "vm"}

    def power(self, name: str, word: str) -> tuple[str, ...]:
        """Switch a node's machine on, off, or off and on."""
        from orchestrator.executors.metal import operations

        change = operations.CHANGES[word]
        return self._perform(name, lambda work: operations.change_power(work, change), f"power {word}", boot=False)

    def rescue(self, name: str, *, undo: bool = False) -> tuple[str, ...]:
        """Start a machine in the discovery image with a login for the operator; or end that."""
        from orchestrator.executors.metal import operations

        operation = operations.unrescue if undo else operations.rescue
        return self._perform(name, operation, "rescue", boot=not undo)

    def retire(self, name: str, *, undo: bool = False) -> tuple[str, ...]:
        """Erase a machine's disks with proof and take it out of service; or take a retired one back."""
        from orchestrator.executors.metal import operations

        if undo:
            return self._move(name, Signal.READMIT, "retire --undo")
        return self._perform(name, operations.retire, "retire", boot=True)

    def reinstall(self, names: Sequence[str]) -> tuple[str, ...]:
        """Note that these nodes are to be installed anew; the next plan says what that destroys."""
        said: list[str] = []
        for name in names:
            said += self._move(name, Signal.REINSTALL, "reinstall")
        return tuple(said)

    def release(self, name: str) -> tuple[str, ...]:
        """Let a node give its machine back, so that another one may have it."""
        return self._move(name, Signal.RELEASE, "node release")

    def _move(self, name: str, signal: Signal, command: str) -> tuple[str, ...]:
        view = self._view(name)
        if view.machine is None:
            raise HalliganError(f"no machine of node {name} is known yet", hint="`halligan nodes` shows what is")
        with self._site.working(command) as store:
            made = lifecycle.move(store.machine(view.machine.id), signal)
            store.append([kinds.machine_moved(made, at=self._site.clock(), by=command)])
        return (f"machine {made.machine}: {made.before} -> {made.after}",)

    def _perform(
        self, name: str, operation: Callable[..., Awaitable[None]], command: str, *, boot: bool
    ) -> tuple[str, ...]:
        view = self._view(name)
        run = self._run(view, name)
        with self._site.working(command):
            executor = self.executor("")
            try:
                if not boot:
                    return executor.perform(run, operation, timeout_s=_OPERATION_S)
                with self.serving():
                    return executor.perform(run, operation, timeout_s=_OPERATION_S)
            finally:
                executor.close()

    def _run(self, view: NodeView, name: str) -> StepRun:
        """Return what a step of the node would be told; of a machine without a node only which one it is."""
        if view.node is None:
            host = PlanNode(name=name, platform="", address="", connection=Connection())
            return StepRun(step=StepId(f"operation@{name}"), node=host, inputs={"machine": name})
        placement = self._site.load().placements[StepId(f"power@{view.node.name}")]
        node = view.node
        host = PlanNode(name=node.name, platform=node.platform, address=node.address, connection=node.connection)
        return StepRun(step=StepId(f"operation@{node.name}"), node=host, inputs=placement.inputs)


def cache_dir() -> Path:
    """Return the folder of what can be made again: discovery images, packages, the lab's base."""
    return Path(os.environ.get("HALLIGAN_CACHE_DIR") or "/var/cache/halligan").absolute()


def _kernel(spec: Spec) -> str:
    """Return the kernel of the discovery image: a lab's machines are virtual, others may have any hardware."""
    return "cloud" if all(node.lab for node in spec.nodes.values() if node.profile) else "generic"


def _in_lab(spec: Spec) -> bool:
    return any(node.lab == "vm" for node in spec.nodes.values())


def _prefix6(lab: Lab) -> str:
    from orchestrator.lab import boot_network

    return str(ip_interface(boot_network(lab).address6).network)


def _found(boot: Boot, cidr: str, lab: Lab | None) -> Boot:
    """Return the boot section with the interface and address that the spec leaves to us."""
    if lab is not None:
        from orchestrator.lab import boot_network

        where = boot_network(lab)
        return replace(boot, interface=where.interface, address=where.address)
    if boot.interface and boot.address:
        return boot
    told = subprocess.run(["ip", "-json", "address", "show"], capture_output=True, text=True, check=True).stdout
    network = ip_network(cidr)
    for link in json.loads(told):
        for info in link.get("addr_info", ()):
            here = ip_address(info["local"]) in network
            if here and boot.interface in ("", link["ifname"]) and boot.address in ("", info["local"]):
                return replace(boot, interface=link["ifname"], address=info["local"])
    raise HalliganError(
        f"no network interface of this machine has an address in the boot network {cidr}",
        hint="run this on a machine in that network, or set boot.interface and boot.address",
    )


def _traced(event: Event) -> TraceLine | None:
    data = event.data
    match event.kind:
        case kinds.MACHINE_BOOT:
            what, detail = data["what"], data["detail"]
        case kinds.MACHINE_MOVED:
            what = "life"
            reason = data["changes"].get("reason", "")
            detail = f"{data['from'] or 'unknown'} -> {data['to']} ({data['signal']}, by {data['by'] or 'unknown'})"
            detail += f": {reason}" if reason else ""
        case kinds.MACHINE_PROGRESS:
            what = data["task"] or "progress"
            percent = f" {data['percent']:.0f} %" if data["percent"] else ""
            detail = f"{data['step']}{percent} {data['message']}".rstrip()
        case kinds.MACHINE_CONFLICT:
            what, detail = "conflict", data["reason"]
        case kinds.STEP_STARTED:
            what, detail = "step", f"{event.step} starts"
        case kinds.STEP_FINISHED:
            what, detail = "step", f"{event.step} {data['status']} {data['problem']}".rstrip()
        case _:
            return None
    return TraceLine(at=event.at, what=what, detail=detail, run=event.run)
