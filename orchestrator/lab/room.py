"""Bring a lab up, judge it, take it down. Every step looks first and does only what is missing."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from orchestrator.lab import apt, base, bmc, machine, network
from orchestrator.lab.errors import LabError
from orchestrator.lab.host import Cgroup, locked, run, tail, write_whole
from orchestrator.lab.machine import Machine
from orchestrator.lab.node import BRIDGE, FAILED_UNITS, Disk, Node, seed_digest, seed_files
from orchestrator.lab.values import (
    CONTAINER,
    USER,
    VM,
    Lab,
    LabBoot,
    LabConnection,
    LabNode,
    NodeStatus,
    Places,
    check,
    check_places,
    machine_of,
)

__all__ = [
    "REQUIRED_COMMANDS",
    "boot_network",
    "connection",
    "console",
    "down",
    "enter",
    "machine_known_hosts",
    "package_access",
    "required_commands",
    "status",
    "up",
]

Report = Callable[[str], None]

# Command → the Debian package that has it.
REQUIRED_COMMANDS: Mapping[str, str] = {
    "apt-config": "apt",
    "ip": "iproute2",
    "mmdebstrap": "mmdebstrap",
    "mount": "mount",
    "nc": "netcat-openbsd",
    "nsenter": "util-linux",
    "ssh": "openssh-client",
    "ssh-keygen": "openssh-client",
    "systemd-nspawn": "systemd-container",
    "unshare": "util-linux",
}

INOTIFY_LIMIT = Path("/proc/sys/fs/inotify/max_user_instances")
INOTIFY_INSTANCES = 8192
TUN = Path("/dev/net/tun")

START_TIMEOUT_S = 120.0
PER_NODE_TIMEOUT_S = 20.0  # nodes boot at the same time and share the machine's cores

# Runs a command inside the lab's network, in the cgroup $1 and the namespace $2. The group is made as it is needed,
# so that the prefix stays good after another `up`.
ENTER = 'mkdir -p "$1" && echo $$ > "$1/cgroup.procs" && net="$2" && shift 2 && exec nsenter --net="$net" -- "$@"'


def up(lab: Lab, report: Report) -> tuple[NodeStatus, ...]:
    """Make what is missing of the lab and wait until all of it works; nodes no longer named are removed.

    Vms are made without power and with an empty disk, and stay as they are if they exist: they are for whoever asks the
    Redfish endpoint (`bmc_of`).
    """
    check(lab)
    require_machine(lab)
    places = Places.of(lab)
    check_places(places)
    with locked(places.run, lambda: report(f"lab: waiting for another command on {lab.site}")):
        Cgroup.of(lab.site, "build").kill()  # of an `up` that was killed
        public_key = _keys(places)
        network.ensure(lab, places, report)
        network.ensure_proxy(lab, places)
        _rack(lab, places, report)
        if _nodes(lab, places):
            _limits(report)
            _containers(lab, places, public_key, report)
        _known_hosts(lab, places)
        return _wait(lab, places, report)


def down(lab: Lab, report: Report) -> None:
    """Leave nothing: processes, mounts, the namespace, disks and keys go; the cache of packages and images stays."""
    check(lab)
    require_machine()
    places = Places.of(lab)
    with locked(places.run, lambda: report(f"lab: waiting for another command on {lab.site}")):
        report(f"lab: taking {lab.site} down")
        Cgroup.of(lab.site).kill()
        with suppress(OSError):
            Cgroup.of(lab.site).path.parent.rmdir()  # the last lab out
        network.remove(places)
        for disks in {places.disks, *network.recorded_disks(places)}:
            shutil.rmtree(disks, ignore_errors=not disks.exists())
        keys = (places.private_key, places.private_key.with_suffix(".pub"))
        for file in (*keys, places.known_hosts, places.machine_known_hosts):
            file.unlink(missing_ok=True)
        bmc.remove_secrets(places)
        base.forget_partial(places)
        shutil.rmtree(places.run)
    for folder in (places.state, places.disks.parent, places.run.parent):
        with suppress(OSError):
            folder.rmdir()  # only if empty: they may hold what is not the lab's


def status(lab: Lab) -> tuple[NodeStatus, ...]:
    """Look, and change nothing."""
    check(lab)
    require_machine()
    return tuple(_look(lab, Places.of(lab), node) for node in lab.nodes)


def _look(lab: Lab, places: Places, node: LabNode) -> NodeStatus:
    if node.kind == CONTAINER:
        return Node(lab=lab, places=places, node=node).status()
    found = _machine(lab, places, node).status()
    if found.state == "absent" or bmc.is_alive(places):
        return found
    return replace(found, detail=f"{found.detail}; the Redfish endpoint is not running, `up` starts it")


def machine_known_hosts(lab: Lab) -> Path:
    """The file of installed vms' host keys: whoever installs them writes it, and `down` removes it.

    All else of `connection` holds for them too.
    """
    check(lab)
    return Places.of(lab).machine_known_hosts


def console(lab: Lab, node: str) -> Path:
    """The file that a node's console is appended to."""
    return Places.of(lab).console(node)


def boot_network(lab: Lab) -> LabBoot:
    """Where vms look for a boot server; true as soon as `up` has returned."""
    check(lab)
    return LabBoot(
        netns=Places.of(lab).netns,
        address=lab.gateway,
        interface=BRIDGE,
        cidr=lab.cidr,
        address6=network.ADDRESS6,
        cgroup=Cgroup.of(lab.site, "boot").name,
    )


def enter(lab: Lab) -> tuple[str, ...]:
    """What to put before a command so that it runs (as root) in the lab's network and ends with `down` at the latest.

    The process that is started becomes the command: its pid, its files and its signals are those of the command.
    """
    check(lab)
    where = boot_network(lab)
    if not where.netns.exists():
        raise LabError(f"Lab {lab.site} has no network yet", hint="Bring the lab up first.")
    return ("/bin/sh", "-c", ENTER, "enter", str(Cgroup.of(lab.site, "boot").path), str(where.netns))


def package_access(lab: Lab) -> Mapping[str, str]:
    """Absolute path → text of the files that give an installed Debian 12 the lab's package proxy and its archives."""
    check(lab)
    return {
        "/etc/apt/sources.list": "# The archives that the lab reaches are in sources.list.d/debian.sources.\n",
        "/etc/apt/sources.list.d/debian.sources": apt.deb822(apt.read_machine()),
        "/etc/apt/apt.conf.d/90halligan-lab": apt.container_conf(lab.gateway, apt.machine_settings()),
    }


def connection(lab: Lab) -> LabConnection:
    """How to reach the containers; true as soon as `up` has returned. For vms see `machine_known_hosts`."""
    check(lab)
    places = Places.of(lab)
    return LabConnection(
        user=USER,
        private_key=places.private_key,
        known_hosts=places.known_hosts,
        proxy_command=f"/bin/sh {places.connect} %h %p",
    )


def required_commands(lab: Lab | None = None) -> Mapping[str, str]:
    """Command → the Debian package that has it; a lab of containers needs no emulator."""
    has_machines = lab is not None and any(node.kind == VM for node in lab.nodes)
    return {**REQUIRED_COMMANDS, **(machine.COMMANDS if has_machines else {})}


def require_machine(lab: Lab | None = None) -> None:
    """Name everything that this machine lacks at once; with a lab, also what its vms need."""
    if os.geteuid() != 0:
        raise LabError("The lab needs root: it makes namespaces, mounts and containers", hint="Run it with sudo.")
    commands = required_commands(lab)
    missing = {command: package for command, package in commands.items() if not shutil.which(command)}
    firmwares = {node.firmware for node in lab.nodes if node.kind == VM} if lab else set()
    files = {file: package for firmware in firmwares for file, package in machine.FILES[firmware].items()}
    missing |= {str(file): package for file, package in files.items() if not file.exists()}
    if firmwares and not TUN.exists():
        raise LabError(f"The lab's vms need {TUN}, which is not there", hint="modprobe tun")
    if missing:
        raise LabError(
            f"The lab needs what this machine does not have: {', '.join(sorted(missing))}",
            hint=f"apt-get install --no-install-recommends {' '.join(sorted(set(missing.values())))}",
        )


def _nodes(lab: Lab, places: Places) -> tuple[Node, ...]:
    return tuple(Node(lab=lab, places=places, node=node) for node in lab.nodes if node.kind == CONTAINER)


def _machine(lab: Lab, places: Places, node: LabNode) -> Machine:
    return Machine(site=lab.site, places=places, node=machine_of(lab, node.name))


def _rack(lab: Lab, places: Places, report: Report) -> None:
    """Make the vms that are missing, and their Redfish endpoint.

    The endpoint first learns which machines there are: it would switch on again what is being taken out.
    """
    machines = [_machine(lab, places, node) for node in lab.nodes if node.kind == VM]
    if not machines:
        bmc.stop(lab, places)
        bmc.remove_secrets(places)
        _drop(lab, places, report)
        return
    bmc.stop_unless(lab, places, [one.node for one in machines])
    _drop(lab, places, report)
    for one in machines:
        if not one.exists():
            report(f"{one.name}: putting a machine into the rack ({one.node.firmware}, {one.node.mac})")
            one.make()
        elif one.grow():
            report(f"{one.name}: its disk grows to {one.node.disk_gib} GiB")
    bmc.ensure(lab, places, [one.node for one in machines])


def _containers(lab: Lab, places: Places, public_key: str, report: Report) -> None:
    conf = apt.container_conf(lab.gateway, apt.machine_settings())
    image = base.ensure(lab, places, conf, report)
    sources = apt.deb822(apt.read_machine())
    for node in _nodes(lab, places):
        files = seed_files(lab, node.node, sources=sources, conf=conf, public_key=public_key)
        _start(node, files, image, report)


def _limits(report: Report) -> None:
    """Raise what the kernel counts for all containers together: systemd watches files, and all of them are root's.

    An idle node needs 7: with the usual 128 the nineteenth does not start. A higher limit costs nothing, so it is not
    taken back.
    """
    current = int(INOTIFY_LIMIT.read_text())
    if current < INOTIFY_INSTANCES:
        report(f"lab: raising this machine's {INOTIFY_LIMIT.name} from {current} to {INOTIFY_INSTANCES}")
        INOTIFY_LIMIT.write_text(f"{INOTIFY_INSTANCES}\n")


def _keys(places: Places) -> str:
    """The lab's own key pair; the state folder is private to its owner."""
    places.state.mkdir(parents=True, exist_ok=True)
    places.state.chmod(0o700)
    public = places.private_key.with_suffix(".pub")
    if not (places.private_key.exists() and public.exists()):
        places.private_key.unlink(missing_ok=True)
        run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "halligan-lab", "-f", places.private_key)
    return public.read_text()


def _drop(lab: Lab, places: Places, report: Report) -> None:
    """Remove nodes that the lab no longer names, or names as another kind of node."""
    wanted = {(node.name, node.kind) for node in lab.nodes}
    for disk in sorted(places.disks.glob("*")) if places.disks.exists() else []:
        kind = VM if disk.joinpath(machine.DISK).exists() else CONTAINER
        if disk.name.startswith("."):
            shutil.rmtree(disk)  # half made by an `up` that was killed
        elif (disk.name, kind) not in wanted:
            report(f"{disk.name}: removing, no longer part of the lab")
            # (For both kinds: end the group of processes, delete the folder and the console.)
            Node(lab=lab, places=places, node=LabNode(name=disk.name, address=lab.gateway)).remove()


def _start(node: Node, files: Mapping[str, str], image: str, report: Report) -> None:
    name = node.node.name
    disk = node.disk
    if disk.exists() and not base.folder(node.places, disk.base()).is_dir():
        report(f"{name}: its base image left the cache, making it anew")
        node.remove()
    is_new = not disk.exists()
    is_current = not is_new and disk.seed() == seed_digest(files)
    if is_current and node.is_alive():
        return
    report(f"{name}: {'creating' if is_new else 'starting'} ({node.node.address})")
    node.stop()
    if is_new:
        disk.make(image)
    if not is_current:
        node.write_seed(files)
    node.start()


def _wait(lab: Lab, places: Places, report: Report) -> tuple[NodeStatus, ...]:
    """Look at all nodes in turn until each has finished starting and its sshd answers; one that died ends the wait.

    Vms are not waited for: whether they are on is not the lab's business.
    """
    limit = START_TIMEOUT_S + PER_NODE_TIMEOUT_S * len(lab.nodes)
    deadline = time.monotonic() + limit
    found = {node.name: _look(lab, places, node) for node in lab.nodes if node.kind == VM}
    for seen in found.values():
        report(f"{seen.name}: {seen.state}")
    while pending := [node for node in _nodes(lab, places) if node.node.name not in found]:
        for node in pending:
            seen = node.status()
            if _is_up(seen):
                report(f"{seen.name}: {seen.state}{f' ({seen.detail})' if seen.detail else ''}")
                found[seen.name] = seen
            elif seen.state == "stopped" or time.monotonic() > deadline:
                node.stop()  # so that the next `up` starts it again, instead of waiting for what hangs
                raise _not_up(node, seen, limit)
        time.sleep(0.1 if len(found) < len(lab.nodes) else 0)
    return tuple(found[node.name] for node in lab.nodes)


def _is_up(found: NodeStatus) -> bool:
    """A unit that fails is for a role or its test to judge; a node that cannot be logged in to is ours."""
    return found.state == "running" or (found.state == "degraded" and found.detail.startswith(FAILED_UNITS))


def _not_up(node: Node, found: NodeStatus, limit: float) -> LabError:
    what = "ended while it started" if found.state == "stopped" else f"did not come up within {limit:.0f} s"
    return LabError(
        f"Node {found.name} of lab {node.lab.site} {what} ({found.state}: {found.detail})",
        detail=tail(node.console),
        hint=f"The whole console is in {node.console}. `up` starts the node again, `down` and `up` make it anew.",
    )


def _known_hosts(lab: Lab, places: Places) -> None:
    """One line for each host key, under the node's name and its address."""
    lines = [
        f"{node.name},{node.address} {key}\n"
        for node in lab.nodes
        if node.kind == CONTAINER
        for key in Disk(path=places.disks / node.name).host_keys()
    ]
    write_whole(places.known_hosts, "".join(lines))
