#!/usr/bin/python
# Copyright: the Halligan authors
# Apache License 2.0 (see LICENSE)
"""Keep a host's network links as systemd-networkd files, and take a change back that cut the host off."""

from __future__ import annotations

import hashlib
import ipaddress
import json
import shutil
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: host_network
short_description: Keep a host's network links, and take a change back that cut the host off
description:
  - Writes files of systemd-networkd for the links that are asked for, and puts them in force by a guard, a unit of its
    own that puts the old ones back unless O(state=confirmed) follows in time.
  - Everything is checked before the first change.
author: The Halligan authors
options:
  interfaces:
    description: The links. Others are left alone.
    type: list
    elements: dict
    default: []
    suboptions:
      name: {description: Name of the link., type: str, required: true}
      type: {description: Kind of the link., type: str, choices: [nic, bond, vlan, bridge], default: nic}
      members: {description: Links in a bond or bridge., type: list, elements: str, default: []}
      mode: {description: Mode of a bond., type: str, default: active-backup}
      link: {description: Link that a VLAN is on., type: str}
      id: {description: Number of a VLAN., type: int}
      mtu: {description: Largest packet., type: int}
      addresses: {description: Addresses with their prefix., type: list, elements: str, default: []}
      gateway: {description: Default router., type: str}
      dhcp: {description: Ask for an address by DHCP., type: bool, default: false}
      routes: {description: Networks with their routers (C(to), C(via))., type: list, elements: dict, default: []}
  address: {description: Address at which the controller reaches this host., type: str}
  patience: {description: Seconds to wait for the confirmation., type: int, default: 60}
  guard: {description: Path of the guard., type: path}
  state:
    description:
      - V(applied) starts a change if there is one; V(confirmed) ends it well; V(absent) removes the files and links.
    type: str
    choices: [applied, confirmed, absent]
    default: applied
attributes:
  check_mode:
    support: full
"""

EXAMPLES = r"""
- name: Keep a bridge over a port
  host_network:
    guard: /usr/local/lib/halligan/network-guard
    interfaces:
      - {name: eno2, mtu: 9000}
      - {name: br-data, type: bridge, members: [eno2], mtu: 9000, addresses: [10.0.9.5/24]}
"""

RETURN = r"""
changes:
  description: Files that were changed, or would be in check mode.
  type: list
  elements: str
  returned: always
"""

NET = Path("/sys/class/net")
UNITS = Path("/etc/systemd/network")
STATE = Path("/var/lib/halligan/network")
PREFIX = "05-halligan-"
UNIT = "halligan-network-guard.service"
NOTE = "# Written by Halligan (role network_host); changes made here are lost.\n"
APPLY_S = 30
NAME_MOST = 15
VLANS = range(1, 4095)
MODES = ("balance-rr", "active-backup", "balance-xor", "broadcast", "802.3ad", "balance-tlb", "balance-alb")

Link = Mapping[str, Any]


class NetworkError(Exception):
    """What is asked for cannot be, or would cut the host off."""


def check(links: Sequence[Link], present: Collection[str], address: str, holder: str) -> None:
    """Refuse what cannot work, before anything is changed.

    `present` are the links of the host now; `holder` is the one that has `address`, by which the controller comes.
    """
    names = [str(one["name"]) for one in links]
    made = {one["name"] for one in links if one["type"] != "nic"}
    for name in names:
        if not 0 < len(name) <= NAME_MOST or "/" in name or " " in name or names.count(name) > 1:
            raise NetworkError(f"{name!r} is no name for a link, or stands there twice (1 to {NAME_MOST} characters)")
    member_of: dict[str, str] = {}
    for one in links:
        below = [*one["members"], *([one["link"]] if one.get("link") else [])]
        needed = [one["name"], *below] if one["type"] == "nic" else below
        if missing := sorted(name for name in needed if name not in present and name not in made):
            have = ", ".join(sorted(set(present) - {"lo"}))
            raise NetworkError(f"{one['name']} needs {', '.join(missing)}, and this host has only {have}")
        _check_kind(one)
        for member in one["members"]:
            if member in member_of:
                raise NetworkError(f"{member} is in {member_of[member]} and cannot be in {one['name']} as well")
            member_of[member] = one["name"]
    for one in links:
        if one["name"] in member_of and (one["addresses"] or one["dhcp"]):
            raise NetworkError(f"{one['name']} is in {member_of[one['name']]}, which has to carry its address")
    touched = {*names, *member_of}
    keeps = any(address == text.partition("/")[0] for one in links for text in one["addresses"])
    if address and holder in touched and not keeps and not any(one["dhcp"] for one in links):
        raise NetworkError(
            f"{holder} has {address}, by which the controller comes, and no link would have it any more: "
            "give it to the link that takes its place"
        )


def _check_kind(one: Link) -> None:
    kind, name = one["type"], one["name"]
    if kind == "vlan" and not (one.get("link") and one.get("id") in VLANS):
        raise NetworkError(f"VLAN {name} needs a link and an id from 1 to 4094")
    if kind == "bond" and (not one["members"] or one["mode"] not in MODES):
        raise NetworkError(f"bond {name} needs members and a mode, one of {', '.join(MODES)}")
    if kind in ("nic", "vlan") and one["members"]:
        raise NetworkError(f"{name} is no bond or bridge and has no members")
    for text in one["addresses"]:
        try:
            ipaddress.ip_interface(text)
        except ValueError:
            raise NetworkError(f"{text} of {name} is no address") from None
        if "/" not in text:
            raise NetworkError(f"{text} of {name} lacks its prefix, as in {text}/24")


def render(links: Sequence[Link]) -> dict[str, str]:
    """Return the files of systemd-networkd, by name."""
    masters = {member: one for one in links for member in one["members"]}
    tagged: dict[str, list[str]] = {}
    for one in links:
        if one["type"] == "vlan":
            tagged.setdefault(one["link"], []).append(one["name"])
    declared = {one["name"]: one for one in links}
    bare = {"type": "nic", "members": [], "addresses": [], "dhcp": False, "routes": []}
    files = {}
    for name in sorted({*declared, *masters, *tagged}):
        one = declared.get(name, {"name": name, **bare})
        if one["type"] != "nic":
            files[f"{PREFIX}{name}.netdev"] = _netdev(one)
        files[f"{PREFIX}{name}.network"] = _network(one, masters.get(name), sorted(tagged.get(name, [])))
    return files


def _netdev(one: Link) -> str:
    lines = ["[NetDev]", f"Name={one['name']}", f"Kind={one['type']}"]
    if one.get("mtu"):
        lines.append(f"MTUBytes={one['mtu']}")
    lines += {
        "bond": ["", "[Bond]", f"Mode={one.get('mode')}", "MIIMonitorSec=100ms"],
        "vlan": ["", "[VLAN]", f"Id={one.get('id')}"],
        "bridge": ["", "[Bridge]", "STP=no"],
    }[one["type"]]
    return NOTE + "\n".join(lines) + "\n"


def _network(one: Link, master: Link | None, vlans: Sequence[str]) -> str:
    lines = ["[Match]", f"Name={one['name']}", "", "[Link]"]
    lines += [f"MTUBytes={one['mtu']}"] if one.get("mtu") else []
    lines += ["RequiredForOnline=no", "", "[Network]", f"DHCP={'yes' if one['dhcp'] else 'no'}"]
    lines += ["LinkLocalAddressing=no", "IPv6AcceptRA=no", "ConfigureWithoutCarrier=yes"]
    lines += [f"Address={text}" for text in one["addresses"]]
    lines += [f"Gateway={one['gateway']}"] if one.get("gateway") else []
    lines += [f"{master['type'].capitalize()}={master['name']}"] if master else []
    lines += [f"VLAN={name}" for name in vlans]
    for route in one["routes"]:
        lines += ["", "[Route]", f"Destination={route['to']}", f"Gateway={route['via']}"]
    return NOTE + "\n".join(lines) + "\n"


def links_of(files: Iterable[str], suffix: str) -> set[str]:
    return {name.removeprefix(PREFIX).removesuffix(suffix) for name in files if name.endswith(suffix)}


def change_of(old: Mapping[str, str], new: Mapping[str, str], mtu: Mapping[str, int]) -> dict[str, Any]:
    """Return what the guard has to know beside the files: links to delete, links that are new, MTUs as they were."""
    different = {name for name in {*old, *new} if old.get(name) != new.get(name)}
    changed = links_of(different, ".netdev")
    touched = links_of(different, ".network") | changed
    return {
        "delete": sorted(changed & links_of(old, ".netdev")),
        "made": sorted(changed & links_of(new, ".netdev")),
        "touched": sorted(touched),
        "mtu": {name: mtu[name] for name in sorted(touched) if name in mtu},
        "digest": digest(new),
    }


def digest(files: Mapping[str, str]) -> str:
    return hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()


class Host:
    """The host's files, and the guard."""

    def __init__(self, module: AnsibleModule) -> None:
        self._module = module

    def files(self) -> dict[str, str]:
        return {path.name: path.read_text() for path in sorted(UNITS.glob(f"{PREFIX}*"))} if UNITS.is_dir() else {}

    def holder(self, address: str) -> str:
        """Return the link that has an address; empty when none has."""
        code, output, _ = self._module.run_command(["ip", "-json", "address", "show"])
        found = json.loads(output) if code == 0 and output.strip() else []
        for link in found:
            if any(one.get("local") == address for one in link.get("addr_info", [])):
                return str(link["ifname"])
        return ""

    def apply(self, old: Mapping[str, str], new: Mapping[str, str], guard: str, patience: int) -> None:
        """Start the guard and wait until the new files are in force."""
        if self._module.run_command(["systemctl", "is-active", "--quiet", "systemd-networkd.service"])[0]:
            raise NetworkError("systemd-networkd does not run here, and nothing else is spoken to")
        tried = STATE / "rolled-back"
        if tried.exists() and tried.read_text() == digest(new):
            raise NetworkError(
                "this very configuration was tried before and taken back, because the controller could not reach the "
                f"host with it. Correct it, or, if the cause was elsewhere, remove {tried} and apply again"
            )
        if self._module.run_command(["systemctl", "is-active", "--quiet", UNIT])[0] == 0:
            raise NetworkError(f"a change is still waiting to be confirmed or taken back; wait for {UNIT} to end")
        mtu = {path.name: int((path / "mtu").read_text()) for path in NET.iterdir() if (path / "mtu").exists()}
        shutil.rmtree(STATE, ignore_errors=True)
        for kind, files in (("old", old), ("new", new)):
            (STATE / kind).mkdir(mode=0o755, parents=True)
            for name, text in files.items():
                (STATE / kind / name).write_text(text)
        (STATE / "change.json").write_text(json.dumps(change_of(old, new, mtu)))
        command = ["systemd-run", f"--unit={UNIT}", "--collect", "--quiet", guard, str(STATE), str(patience)]
        code, _, error = self._module.run_command(command)
        if code:
            raise NetworkError(f"the guard does not start: {error.strip()}")
        for _ in range(APPLY_S * 5):
            if (STATE / "applied").exists():
                return
            time.sleep(0.2)
        raise NetworkError(f"the guard has not put the configuration in force; `journalctl -u {UNIT}` says why")

    def confirm(self) -> bool:
        """End a change well; return whether there was one. Raises NetworkError when it was taken back already."""
        if (STATE / "rolled-back").exists():
            raise NetworkError("the change was taken back: nobody reached the host in time")
        if not (STATE / "applied").exists() or (STATE / "confirmed").exists():
            return False
        (STATE / "confirmed").touch()
        for _ in range(APPLY_S * 5):
            if self._module.run_command(["systemctl", "is-active", "--quiet", UNIT])[0]:
                break
            time.sleep(0.2)
        if (STATE / "rolled-back").exists():
            raise NetworkError("the change was taken back: the confirmation came too late")
        return True


def main() -> None:
    text, texts = {"type": "str"}, {"type": "list", "elements": "str", "default": []}
    module = AnsibleModule(
        argument_spec={
            "interfaces": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": {
                    "name": {"type": "str", "required": True},
                    "type": {"type": "str", "choices": ["nic", "bond", "vlan", "bridge"], "default": "nic"},
                    "members": texts,
                    "mode": {"type": "str", "default": "active-backup"},
                    "link": text,
                    "id": {"type": "int"},
                    "mtu": {"type": "int"},
                    "addresses": texts,
                    "gateway": text,
                    "dhcp": {"type": "bool", "default": False},
                    "routes": {"type": "list", "elements": "dict", "default": []},
                },
            },
            "address": text,
            "patience": {"type": "int", "default": 60},
            "guard": {"type": "path"},
            "state": {"type": "str", "choices": ["applied", "confirmed", "absent"], "default": "applied"},
        },
        required_if=[("state", "applied", ["guard"]), ("state", "absent", ["guard"])],
        supports_check_mode=True,
    )
    options, host = module.params, Host(module)
    try:
        if options["state"] == "confirmed":
            if not module.check_mode:
                host.confirm()
            module.exit_json(changed=False, changes=[])
        links = options["interfaces"] if options["state"] == "applied" else []
        address = options["address"] or ""
        if links:
            check(links, [path.name for path in NET.iterdir()], address, host.holder(address) if address else "")
        old, new = host.files(), render(links)
        changes = sorted(name for name in {*old, *new} if old.get(name) != new.get(name))
        if changes and not module.check_mode:
            host.apply(old, new, options["guard"], options["patience"])
    except (NetworkError, OSError) as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=bool(changes), changes=changes)


if __name__ == "__main__":
    main()
