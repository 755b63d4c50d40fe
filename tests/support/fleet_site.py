"""A site whose nodes are a fleet's machines, on disk, and the boot service's settings for it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from orchestrator.images.library import Library
from orchestrator.model import Boot
from orchestrator.netboot import Settings
from orchestrator.vault import PASSWORD_FILE
from tests.support.bootservice import TEMPLATES, discovery_image
from tests.support.fleet import BMC_PASSWORD, BMC_USER
from tests.support.fleet_cast import PROFILES, Character
from tests.support.folders import write_role

__all__ = ["IMAGE", "boot_settings", "by_mac", "write_metal_site"]

IMAGE = "debian-12"
_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIExampleExampleExampleExampleExampleExampleExam fleet\n"
_POLICY: Mapping[str, Any] = {
    "limits": {"steps": 5000, "batches": 100},
    "retry": {"unreachable": 0},
}


def by_mac(cast: Sequence[Character], bmc: Callable[[str], str] | None = None, *, wired: bool = True) -> dict[str, Any]:
    """Return a node per machine, named by its MAC; `bmc` tells the address of its BMC, without it there is none."""
    nodes: dict[str, Any] = {}
    for at, who in enumerate(cast):
        node: dict[str, Any] = {
            "groups": ["metal"],
            "address": f"10.20.{at // 250}.{at % 250 + 1}",
            "profile": who.template,
            "mac": who.mac,
        }
        if wired:
            node["wiring"] = {who.nic: {"switch": who.switch, "port": who.port}}
        if bmc:
            node["bmc"] = {"driver": "redfish", "address": bmc(who.name), "credential": "bmc_login"}
        nodes[who.name] = node
    return nodes


def write_metal_site(
    project: Path, nodes: Mapping[str, Any], *, roles: Sequence[str] = (), policy: Mapping[str, Any] | None = None
) -> Path:
    """Write a site with these nodes below `project`; return its folder."""
    for name in roles:
        write_role(project / "roles", name)
    site = project / "inventories" / "fleet"
    (site / "keys").mkdir(parents=True, exist_ok=True)
    (site / "keys/id").write_text("not used: nobody logs in for real\n")
    (site / "keys/id.pub").write_text(_KEY)
    cluster = {
        "spec": 1,
        "networks": {"boot": {"cidr": "10.20.0.0/16"}},
        "boot": {"network": "boot", "dhcp": "off"},
        "connection": {"private_key": "keys/id"},
        "profiles": {name: {"image": IMAGE, **profile} for name, profile in PROFILES.items()},
        "groups": {"metal": {"roles": list(roles)}},
        "nodes": dict(nodes),
        "policy": {**_POLICY, **(policy or {})},
    }
    (site / "cluster.yml").write_text(yaml.dump(cluster, Dumper=yaml.CSafeDumper, sort_keys=False))
    _keep_secret(site, {"bmc_login": {"user": BMC_USER, "password": BMC_PASSWORD}})
    return site


def _keep_secret(site: Path, variables: Mapping[str, Any]) -> None:
    """Write variables of all nodes into a vaulted file, and the password beside it."""
    from ansible.parsing.vault import VaultLib, VaultSecret

    password = b"of-the-vault"
    path = site / PASSWORD_FILE
    path.write_bytes(password)
    path.chmod(0o600)
    (site / "group_vars").mkdir()
    sealed = VaultLib([("default", VaultSecret(password))]).encrypt(yaml.safe_dump(dict(variables)))
    (site / "group_vars/all.yml").write_bytes(sealed)


def boot_settings(site: Path, folder: Path, **changes: Any) -> Settings:
    """Return the settings of a boot service for a site, on loopback, with a small discovery image and a small image."""
    images, discovery = folder / "images", folder / "discovery"
    if not images.exists():
        raw = folder / "disk.raw"
        raw.write_bytes(hashlib.shake_256(b"image").digest(200_000))
        both = ("bios", "uefi")
        Library(images).add(raw, name=IMAGE, firmware=both, os="linux", seed="nocloud", root="ext4", source="made up")
        discovery_image(discovery)
    return Settings(
        site=site.name,
        store=str(site / ".halligan/state.db"),
        state_dir=site / ".halligan",
        boot=changes.pop("boot", None) or Boot(dhcp="off", address="127.0.0.1", http_port=0, https_port=0),
        templates=TEMPLATES,
        images=images,
        discovery=discovery,
        **changes,
    )
