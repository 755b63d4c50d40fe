"""The nouns of a lab and where its things live. No process, socket or mount is touched here."""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from orchestrator.lab.errors import LabError

__all__ = ["USER", "Lab", "LabConnection", "LabNode", "NodeStatus", "Places", "check", "check_places", "network_of"]

RUN_DIR = Path("/run/halligan-lab")
USER = "halligan"

_SITE = re.compile(r"[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?")
_NODE = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")


@dataclass(frozen=True, slots=True, kw_only=True)
class LabNode:
    """One container: a host name and its IPv4 address in the lab's network."""

    name: str
    address: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Lab:
    """What should be. `state_dir` is the site's private folder; the lab keeps its keys and `known_hosts` there."""

    site: str
    cidr: str
    gateway: str
    nodes: tuple[LabNode, ...]
    state_dir: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeStatus:
    """What is: `state` is running, degraded, stopped (has a disk, no processes) or absent."""

    name: str
    address: str
    state: str
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LabConnection:
    """What OpenSSH needs to reach a node from outside the lab's network namespace."""

    user: str
    private_key: Path
    known_hosts: Path
    proxy_command: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """Every path of one lab, so that tearing down and building up name the same ones.

    `run` vanishes with a reboot of the machine and `disks` does not; `cache` is shared by all labs and outlives them.
    """

    run: Path
    disks: Path
    cache: Path
    state: Path

    @classmethod
    def of(cls, lab: Lab, environ: Mapping[str, str] = os.environ) -> Places:
        """Resolve the folders, which the environment may move."""
        disks = Path(environ.get("HALLIGAN_LAB_DIR") or "/var/lib/halligan/lab").absolute()
        cache = Path(environ.get("HALLIGAN_CACHE_DIR") or "/var/cache/halligan").absolute()
        return cls(run=RUN_DIR / lab.site, disks=disks / lab.site, cache=cache, state=lab.state_dir.absolute())

    @property
    def netns(self) -> Path:
        """A file on which the lab's network namespace is pinned: a stable name that needs no sleeping process."""
        return self.run / "netns"

    @property
    def connect(self) -> Path:
        """The script behind the ProxyCommand."""
        return self.run / "connect"

    @property
    def private_key(self) -> Path:
        return self.state / "id_ed25519"

    @property
    def known_hosts(self) -> Path:
        return self.state / "known_hosts"

    def record(self, node: str) -> Path:
        """Pid and start time of a node's keeper; the prefix keeps a node called "proxy" apart from the proxy."""
        return self.run / f"node-{node}.pid"

    def console(self, node: str) -> Path:
        return self.run / f"node-{node}.console"


def check_places(places: Places) -> None:
    """Refuse folders that an overlay mount or a container's private /run would trip over."""
    for folder in (places.disks, places.cache):
        if folder.is_relative_to("/run") or set(",:\\ \n\"'") & set(str(folder)):
            raise _bad(f"folder {folder}", "Use a path outside of /run, without spaces, quotes, commas and colons.")


def check(lab: Lab) -> None:
    """Refuse values that would fail later and less clearly (or escape their folder: names become paths)."""
    if not _SITE.fullmatch(lab.site):
        raise _bad(f"site name {lab.site!r}", "Use 1 to 32 of a-z, 0-9 and '-', without '-' at either end.")
    network = network_of(lab.cidr)
    taken = {_address(lab.gateway, network, "the gateway"): "the gateway"}
    names: set[str] = set()
    for node in lab.nodes:
        if not _NODE.fullmatch(node.name) or node.name in names:
            raise _bad(f"node name {node.name!r}", "Use each name once: 1 to 63 of a-z, 0-9 and '-'.")
        names.add(node.name)
        address = _address(node.address, network, node.name)
        if address in taken:
            raise _bad(f"address {address} of {node.name}", f"It already belongs to {taken[address]}; choose another.")
        taken[address] = node.name


def network_of(cidr: str) -> ipaddress.IPv4Network:
    """The network a text stands for."""
    try:
        return ipaddress.IPv4Network(cidr)
    except ValueError as error:
        raise _bad(f"network {cidr!r}", f"Give an IPv4 network such as 10.77.0.0/24 ({error}).") from error


def _address(text: str, network: ipaddress.IPv4Network, owner: str) -> ipaddress.IPv4Address:
    try:
        address = ipaddress.IPv4Address(text)
    except ValueError as error:
        raise _bad(f"address {text!r} of {owner}", "Give an IPv4 address such as 10.77.0.11.") from error
    if address not in network or address in (network.network_address, network.broadcast_address):
        raise _bad(f"address {address} of {owner}", f"It is not a host address of the lab's network {network}.")
    return address


def _bad(what: str, hint: str) -> LabError:
    return LabError(f"The lab cannot use {what}", hint=hint)
