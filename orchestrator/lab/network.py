"""The lab's network: a namespace pinned on a file, a bridge in it, and two ways through its wall.

Packages come in through the caching proxy, logins through the ProxyCommand. Nothing on the machine's own network
changes: there is no route, no forwarding rule and no interface outside of the namespace.
"""

from __future__ import annotations

import ipaddress
import json
import sys
from collections.abc import Callable
from pathlib import Path

from orchestrator.lab import apt, aptproxy
from orchestrator.lab.host import Cgroup, Process, run, socket_inside, spawn, write_whole
from orchestrator.lab.node import BRIDGE
from orchestrator.lab.values import Lab, Places

__all__ = ["ADDRESS6", "ensure", "ensure_proxy", "recorded_disks", "remove"]

# Idempotent, so that it also mends what a killed `up` left half made. Forwarding is on so that a packet for the
# outside is refused at once ("no route") instead of being lost in silence. The bridge has an address of its own: it
# would take that of one of its ports, and nodes would lose their gateway when that port's machine is switched off.
NETWORK = """
set -eu
ip link set lo up
ip link show dev "$1" >/dev/null 2>&1 || ip link add "$1" type bridge stp_state 0 forward_delay 0
ip link set dev "$1" address "$3"
ip address replace "$2" dev "$1"
ip -6 address replace "$4" dev "$1" nodad 2>/dev/null || :
ip link set "$1" up
echo 1 > /proc/sys/net/ipv4/ip_forward
"""

BRIDGE_MAC = "02:00:00:6c:61:62"  # locally administered

# For a boot server that sends router advertisements: iPXE asks for one after DHCP, and waits 16 s if none comes.
ADDRESS6 = "fd00:6c61:62::1/64"

# What OpenSSH runs to reach a node. It joins a cgroup of the lab, so that `down` also ends connections that linger.
CONNECT = """#!/bin/sh
echo $$ > {procs} || exit 1
exec nsenter --net={netns} nc -N "$1" "$2"
"""


def ensure(lab: Lab, places: Places, report: Callable[[str], None]) -> None:
    """The namespace, pinned on a file, and its bridge with the gateway's address."""
    wanted = {"cidr": lab.cidr, "gateway": lab.gateway, "disks": str(places.disks)}
    record = _record(places)
    before = json.loads(record.read_text()) if record.exists() else wanted
    if (before["cidr"], before["gateway"]) != (lab.cidr, lab.gateway):
        report(f"lab: the network changes from {before['cidr']} to {lab.cidr}, nodes start anew")
        Cgroup.of(lab.site).kill()
        remove(places)
    write_whole(record, json.dumps(wanted, indent=2) + "\n")
    if not _is_pinned(places.netns):
        Cgroup.of(lab.site).kill()  # whatever lives without a network it can be reached by
        places.netns.touch(mode=0o600)
        run("unshare", f"--net={places.netns}", "true")
    prefix = ipaddress.IPv4Network(lab.cidr).prefixlen
    inside = ("nsenter", f"--net={places.netns}", "sh", "-c", NETWORK, "network")
    run(*inside, BRIDGE, f"{lab.gateway}/{prefix}", BRIDGE_MAC, ADDRESS6)
    connections = Cgroup.of(lab.site, "connections")
    connections.make()
    write_whole(places.connect, CONNECT.format(procs=connections.path / "cgroup.procs", netns=places.netns))


def _is_pinned(netns: Path) -> bool:
    mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    return any(f" {netns} " in line and " - nsfs " in line for line in mounts)


def remove(places: Places) -> None:
    """The namespace itself ends with the last process in it."""
    while _is_pinned(places.netns):
        run("umount", places.netns)
    places.netns.unlink(missing_ok=True)


def ensure_proxy(lab: Lab, places: Places) -> None:
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


def recorded_disks(places: Places) -> tuple[Path, ...]:
    """Where `up` put the disks, should HALLIGAN_LAB_DIR say something else by now."""
    try:
        return (Path(json.loads(_record(places).read_text())["disks"]),)
    except (OSError, ValueError, KeyError):
        return ()


def _record(places: Places) -> Path:
    return places.run / "lab.json"
