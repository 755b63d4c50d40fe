"""A lab site as its operator sees it: commands on its nodes, its secrets."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import yaml

from support.shell import run

_SSH_CONFIG = """
import sys
from orchestrator.lab import connection
from orchestrator.service import open_site
lab = open_site(sys.argv[1]).lab()
link = connection(lab)
for node in lab.nodes:
    print(f"Host {node.name}\\n  HostName {node.address}\\n  User {link.user}\\n  IdentityFile {link.private_key}")
    print(f"  UserKnownHostsFile {link.known_hosts}\\n  ProxyCommand {link.proxy_command}")
"""


def on(node, site, *command):
    """Run a command on a node as root, the way an operator would who changes something by hand."""
    file = site / "ssh.conf"
    file.write_text(run(sys.executable, "-c", _SSH_CONFIG, site).stdout)
    return run("ssh", "-F", file, node, "sudo", *command)


def secrets_of(site: Path) -> dict[str, str]:
    """Return the generated secrets of a site; not through `run`, which shows what it read to the test's report."""
    done = subprocess.run(
        [
            Path(sys.executable).parent / "ansible-vault",
            "view",
            "--vault-password-file",
            site / ".vault-password",
            site / "group_vars" / "all" / "secrets.yml",
        ],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    return {name: value for name, value in yaml.safe_load(done.stdout).items() if isinstance(value, str)}
