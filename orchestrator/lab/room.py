"""Bring a lab up, judge it, take it down. Every step looks first and does only what is missing."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

from orchestrator.lab import apt, base, network
from orchestrator.lab.errors import LabError
from orchestrator.lab.host import Cgroup, locked, run, tail, write_whole
from orchestrator.lab.node import FAILED_UNITS, Disk, Node, seed_digest, seed_files
from orchestrator.lab.values import USER, Lab, LabConnection, LabNode, NodeStatus, Places, check, check_places

__all__ = ["REQUIRED_COMMANDS", "connection", "down", "status", "up"]

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

START_TIMEOUT_S = 120.0
PER_NODE_TIMEOUT_S = 20.0  # nodes boot at the same time and share the machine's cores


def up(lab: Lab, report: Report) -> tuple[NodeStatus, ...]:
    """Make what is missing of the lab and wait until all of it works; nodes no longer named are removed."""
    check(lab)
    require_machine()
    places = Places.of(lab)
    check_places(places)
    with locked(places.run, lambda: report(f"lab: waiting for another command on {lab.site}")):
        Cgroup.of(lab.site, "build").kill()  # of an `up` that was killed
        _limits(report)
        public_key = _keys(places)
        network.ensure(lab, places, report)
        network.ensure_proxy(lab, places)
        conf = apt.container_conf(lab.gateway, apt.machine_settings())
        image = base.ensure(lab, places, conf, report)
        _drop(lab, places, report)
        sources = apt.deb822(apt.read_machine())
        for node in _nodes(lab, places):
            files = seed_files(lab, node.node, sources=sources, conf=conf, public_key=public_key)
            _start(node, files, image, report)
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
        for file in (places.private_key, places.private_key.with_suffix(".pub"), places.known_hosts):
            file.unlink(missing_ok=True)
        base.forget_partial(places)
        shutil.rmtree(places.run)
    for folder in (places.state, places.disks.parent, places.run.parent):
        with suppress(OSError):
            folder.rmdir()  # only if empty: they may hold what is not the lab's


def status(lab: Lab) -> tuple[NodeStatus, ...]:
    """Look, and change nothing."""
    check(lab)
    require_machine()
    return tuple(node.status() for node in _nodes(lab, Places.of(lab)))


def connection(lab: Lab) -> LabConnection:
    """How to reach the nodes; true as soon as `up` has returned."""
    check(lab)
    places = Places.of(lab)
    return LabConnection(
        user=USER,
        private_key=places.private_key,
        known_hosts=places.known_hosts,
        proxy_command=f"/bin/sh {places.connect} %h %p",
    )


def require_machine() -> None:
    """Name everything that this machine lacks at once."""
    if os.geteuid() != 0:
        raise LabError("The lab needs root: it makes namespaces, mounts and containers", hint="Run it with sudo.")
    missing = sorted(command for command in REQUIRED_COMMANDS if not shutil.which(command))
    if missing:
        packages = " ".join(sorted({REQUIRED_COMMANDS[command] for command in missing}))
        raise LabError(
            f"The lab needs commands that this machine does not have: {', '.join(missing)}",
            hint=f"apt-get install --no-install-recommends {packages}",
        )


def _nodes(lab: Lab, places: Places) -> tuple[Node, ...]:
    return tuple(Node(lab=lab, places=places, node=node) for node in lab.nodes)


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
    """Remove nodes that the lab no longer names."""
    wanted = {node.name for node in lab.nodes}
    for disk in sorted(places.disks.glob("*")) if places.disks.exists() else []:
        if disk.name.startswith("."):
            shutil.rmtree(disk)  # half made by an `up` that was killed
        elif disk.name not in wanted:
            report(f"{disk.name}: removing, no longer part of the lab")
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
    """Look at all nodes in turn until each has finished starting and its sshd answers; one that died ends the wait."""
    limit = START_TIMEOUT_S + PER_NODE_TIMEOUT_S * len(lab.nodes)
    deadline = time.monotonic() + limit
    found: dict[str, NodeStatus] = {}
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
        for key in Disk(path=places.disks / node.name).host_keys()
    ]
    write_whole(places.known_hosts, "".join(lines))
