"""Bring a lab up, judge it, take it down. Every step looks first and does only what is missing."""

from __future__ import annotations

import ipaddress
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

from orchestrator.lab import apt, aptproxy, base
from orchestrator.lab.errors import LabError
from orchestrator.lab.host import Cgroup, Process, locked, run, socket_inside, spawn, tail, wait_until
from orchestrator.lab.node import BRIDGE, Disk, Node, seed_digest, seed_files
from orchestrator.lab.values import USER, Lab, LabConnection, LabNode, NodeStatus, Places, check

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

START_TIMEOUT_S = 120.0
PER_NODE_TIMEOUT_S = 20.0  # nodes boot at the same time and share the machine's cores

# Idempotent, so that it also mends what a killed `up` left half made. Forwarding is on so that a packet for the
# outside is refused at once ("no route") instead of being lost in silence.
NETWORK = """
set -eu
ip link set lo up
ip link show dev "$1" >/dev/null 2>&1 || ip link add "$1" type bridge stp_state 0 forward_delay 0
ip address replace "$2" dev "$1"
ip link set "$1" up
echo 1 > /proc/sys/net/ipv4/ip_forward
"""

# What OpenSSH runs to reach a node. It joins a cgroup of the lab, so that `down` also ends connections that linger.
CONNECT = """#!/bin/sh
echo $$ > {procs} || exit 1
exec nsenter --net={netns} nc -N "$1" "$2"
"""


def up(lab: Lab, report: Report) -> tuple[NodeStatus, ...]:
    """Make what is missing of the lab and wait until all of it works; nodes no longer named are removed."""
    check(lab)
    require_machine()
    places = Places.of(lab)
    with locked(places.run):
        Cgroup.of(lab.site, "build").kill()  # of an `up` that was killed
        public_key = _keys(places)
        _network(lab, places, report)
        _proxy(lab, places)
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
    with locked(places.run):
        report(f"lab: taking {lab.site} down")
        Cgroup.of(lab.site).kill()
        with suppress(OSError):
            Cgroup.of(lab.site).path.parent.rmdir()  # the last lab out
        _unpin(places)
        for disks in {places.disks, *_recorded_disks(places)}:
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


def _keys(places: Places) -> str:
    """The lab's own key pair; the state folder is private to its owner."""
    places.state.mkdir(parents=True, exist_ok=True)
    places.state.chmod(0o700)
    public = places.private_key.with_suffix(".pub")
    if not (places.private_key.exists() and public.exists()):
        places.private_key.unlink(missing_ok=True)
        run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "halligan-lab", "-f", places.private_key)
    return public.read_text()


def _network(lab: Lab, places: Places, report: Report) -> None:
    """The namespace, pinned on a file, and its bridge with the gateway's address."""
    wanted = {"cidr": lab.cidr, "gateway": lab.gateway, "disks": str(places.disks)}
    record = places.run / "lab.json"
    before = json.loads(record.read_text()) if record.exists() else wanted
    if (before["cidr"], before["gateway"]) != (lab.cidr, lab.gateway):
        report(f"lab: the network changes from {before['cidr']} to {lab.cidr}, nodes start anew")
        Cgroup.of(lab.site).kill()
        _unpin(places)
    record.write_text(json.dumps(wanted, indent=2) + "\n")
    if not _is_pinned(places.netns):
        Cgroup.of(lab.site).kill()  # whatever lives without a network it can be reached by
        places.netns.touch(mode=0o600)
        run("unshare", f"--net={places.netns}", "true")
    prefix = ipaddress.IPv4Network(lab.cidr).prefixlen
    run("nsenter", f"--net={places.netns}", "sh", "-c", NETWORK, "network", BRIDGE, f"{lab.gateway}/{prefix}")
    connections = Cgroup.of(lab.site, "connections")
    connections.make()
    places.connect.write_text(CONNECT.format(procs=connections.path / "cgroup.procs", netns=places.netns))


def _is_pinned(netns: Path) -> bool:
    return any(f" {netns} " in line and " nsfs " in line for line in Path("/proc/self/mountinfo").read_text().split("\n"))


def _unpin(places: Places) -> None:
    while _is_pinned(places.netns):
        run("umount", places.netns)
    places.netns.unlink(missing_ok=True)


def _proxy(lab: Lab, places: Places) -> None:
    """The package proxy: outside the namespace, with a listening socket inside."""
    record, log, config = (places.run / f"proxy.{suffix}" for suffix in ("pid", "log", "json"))
    upstreams = apt.upstreams(apt.read_machine())
    wanted = {"upstreams": dict(upstreams), "cache": str(places.cache / "apt"), "proxy": apt.upstream_proxy()}
    text = json.dumps(wanted, indent=2) + "\n"
    process = Process.read(record)
    if process and process.is_alive() and config.exists() and config.read_text() == text:
        return
    cgroup = Cgroup.of(lab.site, "proxy")
    cgroup.kill()
    config.touch(mode=0o600)  # a proxy's URL may hold a password
    config.write_text(text)
    with socket_inside(places.netns) as listener:
        listener.setsockopt(*aptproxy.REUSE_ADDRESS)
        listener.bind((lab.gateway, apt.PROXY_PORT))
        listener.listen(64)
        command = (sys.executable, "-I", aptproxy.__file__, config)
        spawn(command, cgroup=cgroup, log=log, record=record, stdin=listener.fileno())


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
    """Wait for each node until its systemd has finished starting and its sshd answers."""
    begin = time.monotonic()
    limit = START_TIMEOUT_S + PER_NODE_TIMEOUT_S * len(lab.nodes)
    statuses = []
    for node in _nodes(lab, places):
        wait_until(lambda node=node: _is_settled(node), limit - (time.monotonic() - begin), every_s=0.2)  # type: ignore[misc]
        found = node.status()
        if not _is_up(found):
            raise _not_up(node, found, limit)
        report(f"{found.name}: {found.state}{f' ({found.detail})' if found.detail else ''}")
        statuses.append(found)
    return tuple(statuses)


def _is_settled(node: Node) -> bool:
    return not node.is_alive() or _is_up(node.status())


def _is_up(found: NodeStatus) -> bool:
    """A unit that fails is for a role or its test to judge; a node that cannot be logged in to is ours."""
    return found.state == "running" or (found.state == "degraded" and found.detail.startswith("failed units"))


def _not_up(node: Node, found: NodeStatus, limit: float) -> LabError:
    what = "ended while it started" if found.state == "stopped" else f"did not come up within {limit:.0f} s"
    return LabError(
        f"Node {found.name} of lab {node.lab.site} {what} ({found.state}: {found.detail})",
        detail=tail(node.console),
        hint=f"The whole console is in {node.console}. Run `up` again to retry, `down` to start afresh.",
    )


def _known_hosts(lab: Lab, places: Places) -> None:
    """One name for each host key, written whole or not at all: ssh may be reading it."""
    lines = [
        f"{node.name},{node.address} {key}\n"
        for node in lab.nodes
        for key in Disk(path=places.disks / node.name).host_keys()
    ]
    partial = places.known_hosts.with_suffix(".part")
    partial.write_text("".join(lines))
    partial.rename(places.known_hosts)


def _recorded_disks(places: Places) -> tuple[Path, ...]:
    """Where `up` put the disks, should HALLIGAN_LAB_DIR say something else by now."""
    record = places.run / "lab.json"
    try:
        return (Path(json.loads(record.read_text())["disks"]),)
    except (OSError, ValueError, KeyError):
        return ()
