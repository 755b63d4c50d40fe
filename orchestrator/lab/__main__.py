"""`python -m orchestrator.lab`: the lab by itself, without a site's spec."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from orchestrator.errors import HalliganError
from orchestrator.lab import Lab, LabNode, NodeStatus, bmc_of, connection, down, machine_known_hosts, status, up
from orchestrator.lab.values import network_of

__all__ = ["main"]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m orchestrator.lab", description=__doc__)
    parser.add_argument("action", choices=("up", "down", "status", "ssh-config"))
    parser.add_argument("--site", required=True, help="name of the lab: a-z, 0-9 and '-'")
    parser.add_argument("--cidr", default="10.77.0.0/24", help="the lab's network (default: %(default)s)")
    parser.add_argument("--gateway", help="the lab's own address in it (default: the first one)")
    parser.add_argument("--node", action="append", default=[], metavar="NAME=ADDRESS", help="may be repeated")
    parser.add_argument(
        "--vm", action="append", default=[], metavar="NAME=ADDRESS", help="UEFI machine; may be repeated"
    )
    parser.add_argument("--bios-vm", action="append", default=[], metavar="NAME=ADDRESS", help="BIOS machine")
    parser.add_argument("--state", type=Path, required=True, metavar="DIR", help="folder for the key and known_hosts")
    return parser


def _lab(words: argparse.Namespace) -> Lab:
    nodes = (
        *(_node(text, kind="container", firmware="uefi") for text in words.node),
        *(_node(text, kind="vm", firmware="uefi") for text in words.vm),
        *(_node(text, kind="vm", firmware="bios") for text in words.bios_vm),
    )
    return Lab(
        site=words.site,
        cidr=words.cidr,
        gateway=words.gateway or str(network_of(words.cidr).network_address + 1),
        nodes=nodes,
        state_dir=words.state,
    )


def _node(text: str, *, kind: str, firmware: str) -> LabNode:
    name, _, address = text.partition("=")
    return LabNode(name=name, address=address, kind=kind, firmware=firmware)


def _ssh_config(lab: Lab) -> str:
    """A file for `ssh -F`: every node under its name."""
    how = connection(lab)
    known = {"container": how.known_hosts, "vm": machine_known_hosts(lab)}
    blocks = [
        f"Host {node.name}\n  HostName {node.address}\n  User {how.user}\n  IdentityFile {how.private_key}\n"
        f"  IdentitiesOnly yes\n  UserKnownHostsFile {known[node.kind]}\n  StrictHostKeyChecking yes\n"
        f"  ProxyCommand {how.proxy_command}\n"
        for node in lab.nodes
    ]
    return "\n".join(blocks)


def _bmcs(lab: Lab) -> list[str]:
    """How to switch each vm on, with any Redfish client."""
    found = ((node.name, bmc_of(lab, node.name)) for node in lab.nodes if node.kind == "vm")
    return [f"{name}: {bmc.address} (user {bmc.user}, {bmc.password_file}, {bmc.ca})" for name, bmc in found]


def _table(found: Sequence[NodeStatus]) -> str:
    return "".join(f"{node.name:20} {node.address:15} {node.state:9} {node.detail}".rstrip() + "\n" for node in found)


def _report(line: str) -> None:
    sys.stderr.write(f"{line}\n")


def main(words: Sequence[str] | None = None) -> int:
    """Run one action; 0 if it came to what was asked."""
    arguments = _parser().parse_args(words)
    try:
        lab = _lab(arguments)
        if arguments.action == "up":
            sys.stdout.write(_table(up(lab, _report)))
            sys.stdout.write(f"proxy command: {shlex.quote(connection(lab).proxy_command)}\n")
            sys.stdout.write("".join(f"power of {line}\n" for line in _bmcs(lab)))
        elif arguments.action == "down":
            down(lab, _report)
        elif arguments.action == "ssh-config":
            sys.stdout.write(_ssh_config(lab))
        else:
            sys.stdout.write(_table(status(lab)))
    except HalliganError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
