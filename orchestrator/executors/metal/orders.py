"""What a machine is told to write: the image, the disk that the rule picks, and what its system is told at first start.

An order holds no secret: the host's private keys are made on the machine, and people log in with keys of their own.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator import matching, seed
from orchestrator.certificates import client_certificate
from orchestrator.errors import HalliganError, Problem, ProblemsError
from orchestrator.executors.metal.wanted import Wanted
from orchestrator.facts import Facts
from orchestrator.model import Connection, Network, Node, Order, Profile
from orchestrator.seed import File, Seed

if TYPE_CHECKING:
    from orchestrator.images.library import Image, Library

__all__ = ["Orders", "public_key"]


class Orders:
    """Makes orders from the images of a library. `further` are files that some nodes get besides, by node.

    `certificates` is the folder with the certificates by which we log in to Windows hosts.
    """

    def __init__(
        self,
        library: Library,
        clock: Callable[[], float],
        *,
        certificates: Path,
        further: Mapping[str, tuple[File, ...]] | None = None,
    ) -> None:
        self._library = library
        self._clock = clock
        self._certificates = certificates
        self._further = further or {}

    def image(self, wanted: Wanted) -> Image:
        """Return the node's image; raises HalliganError when it is not there or does not fit the firmware."""
        image = self._library.current(wanted.image)
        if wanted.firmware not in image.firmware:
            raise HalliganError(
                f"the image {image.name} does not start in {wanted.firmware} mode, which the profile "
                f"{wanted.profile.get('name', '')} asks for",
                hint=f"it starts in {' or '.join(image.firmware)} mode: change the profile's firmware, or the image",
            )
        return image

    def install(self, wanted: Wanted, facts: Facts, key: str) -> Order:
        """Return the order to install. Raises HalliganError: no image, no disk, or interfaces that do not fit."""
        image = self.image(wanted)
        disk = matching.pick_disk(wanted.profile.get("root_disk", {}), facts, min_bytes=image.size)
        if isinstance(disk, Problem):
            raise ProblemsError([disk])
        told = self._seed(wanted, facts, image)
        return Order(
            id=key,
            task="install",
            args={
                "image": {
                    "name": image.name,
                    "path": f"/files/images/{image.file}",
                    "sha256": image.sha256,
                    "size": image.size,
                },
                "disk": {
                    "name": disk.name,
                    "serial": disk.serial,
                    "wwn": disk.wwn,
                    "size": disk.size,
                    "by_path": disk.by_path,
                },
                "firmware": wanted.firmware,
                "seed": {"kind": told.kind, "files": dict(told.files)},
                "host_keys": ["ed25519"] if image.os == "linux" else [],
                "grow": True,
            },
        )

    def _seed(self, wanted: Wanted, facts: Facts, image: Image) -> Seed:
        addresses = {str(network["name"]): str(network["address"]) for network in wanted.networks}
        main = str(wanted.networks[0]["address"]) if wanted.networks else ""
        named = {field.name for field in dataclasses.fields(Profile)}
        windows = image.os == "windows"
        user = wanted.host.connection.user or "halligan"
        host = seed.host(
            node=Node(
                name=wanted.node,
                platform=wanted.host.platform,
                address=main,
                addresses={name: address for name, address in addresses.items() if address != main},
                connection=wanted.host.connection,
            ),
            profile=Profile(**{name: value for name, value in wanted.profile.items() if name in named}),
            networks={
                str(network["name"]): Network(
                    name=str(network["name"]),
                    cidr=str(network["cidr"]),
                    gateway=str(network["gateway"]),
                    vlan=int(network["vlan"]),
                    mtu=int(network["mtu"]),
                )
                for network in wanted.networks
                if "cidr" in network
            },
            boot_network=wanted.boot_network,
            ports=tuple(seed.Port(mac=nic.mac, name=nic.name) for nic in facts.nics),
            boot_mac=_boot_mac(wanted, facts),
            generation=int(self._clock()),
            authorized_keys=() if windows else (public_key(wanted.host.connection),),
            client_certificate=client_certificate(self._certificates, user, now=self._clock()) if windows else "",
            dns=tuple(dict.fromkeys(str(server) for network in wanted.networks for server in network.get("dns", ()))),
            write_files=self._further.get(wanted.node, ()),
        )
        if image.seed == "nocloud":
            return seed.linux(host)
        return seed.windows(host) if windows else seed.openstack(host)


def _boot_mac(wanted: Wanted, facts: Facts) -> str:
    """Return the MAC of the port that the machine booted from, as it says, or as the spec says."""
    told = facts.document.get("inventory", {}).get("boot", {}).get("pxe_interface", "")
    return str(told or wanted.mac).lower()


def public_key(connection: Connection) -> str:
    """Return the public half of the key that nodes are logged in to with, as authorized_keys has it."""
    if not connection.private_key:
        raise HalliganError(
            "the connection of a bare-metal node names no private_key: nobody could log in after the install",
            hint="set connection.private_key in cluster.yml",
        )
    public = Path(f"{connection.private_key}.pub")
    if public.exists():
        return " ".join(public.read_text().split()[:2])
    import asyncssh  # takes a while to load, and most keys have their public half beside them

    try:
        return asyncssh.read_private_key(connection.private_key).export_public_key().decode().strip()
    except (OSError, asyncssh.KeyImportError) as error:
        raise HalliganError(
            f"cannot read the private key {connection.private_key}: {error}",
            hint="`ssh-keygen -t ed25519 -f FILE` makes one",
        ) from None
