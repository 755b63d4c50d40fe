"""What this machine must have, and whether it has it. Looks, and installs nothing."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

__all__ = ["Finding", "look_around"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing looked for: what it is good for, what was found, and what to do when it is not there."""

    name: str
    purpose: str
    good: bool
    found: str
    hint: str = ""
    required: bool = True


class _Program(NamedTuple):
    name: str
    purpose: str
    package: str  # Debian's
    required: bool = True


_PROGRAMS = (
    _Program("ssh", "reaches Linux nodes", "openssh-client"),
    _Program("setpriv", "ends Ansible when its controller dies", "util-linux"),
    _Program("git", "brings roles and sites", "git", required=False),
)


def look_around() -> list[Finding]:
    """Return the findings in the order in which they are best mended."""
    return [_python(), *_packages(), _yaml(), _ansible(), *_programs(), _locale(), *_boot(), *_lab()]


def _python() -> Finding:
    version = ".".join(str(part) for part in sys.version_info[:3])
    return Finding(
        name="Python 3.11",
        purpose="runs Halligan",
        good=sys.version_info >= (3, 11),
        found=version,
        hint="install Python 3.11 or newer",
    )


def _packages() -> Iterator[Finding]:
    for name, purpose in (("ansible-core", "configures hosts"), ("ansible-runner", "starts Ansible")):
        try:
            found = metadata.version(name)
        except metadata.PackageNotFoundError:
            found = ""
        yield Finding(
            name=name,
            purpose=purpose,
            good=bool(found),
            found=found,
            hint="install Halligan again, with its dependencies",
        )


def _yaml() -> Finding:
    """PyYAML without libyaml is ten times slower, and Halligan does not use it then."""
    import yaml

    good = bool(getattr(yaml, "__with_libyaml__", False))
    return Finding(
        name="libyaml",
        purpose="reads specs quickly",
        good=good,
        found=f"PyYAML {yaml.__version__}" if good else "",
        hint="install a PyYAML wheel, or build it with libyaml-dev",
    )


def _ansible() -> Finding:
    """Ansible's programs may be in Halligan's own environment, which need not be in PATH."""
    beside = Path(sys.executable).parent / "ansible-playbook"
    found = str(beside) if beside.exists() else shutil.which("ansible-playbook") or ""
    return Finding(
        name="ansible-playbook",
        purpose="configures hosts",
        good=bool(found),
        found=found,
        hint="install ansible-core 2.19 into the environment of Halligan",
    )


def _programs() -> Iterator[Finding]:
    for program in _PROGRAMS:
        found = shutil.which(program.name) or ""
        yield Finding(
            name=program.name,
            purpose=program.purpose,
            good=bool(found),
            found=found,
            hint=f"apt install {program.package}",
            required=program.required,
        )


def _locale() -> Finding:
    """Ansible refuses to start in a locale that is not UTF-8."""
    encoding = sys.getfilesystemencoding()
    return Finding(
        name="UTF-8",
        purpose="Ansible needs it",
        good=encoding.lower().replace("-", "") == "utf8",
        found=encoding,
        hint="export LC_ALL=C.UTF-8",
    )


def _boot() -> Iterator[Finding]:
    """What answers machines that start over the network."""
    found = shutil.which("dnsmasq") or ""
    yield Finding(
        name="dnsmasq",
        purpose="leases addresses and sends boot loaders to bare metal",
        good=bool(found),
        found=found,
        hint="apt install dnsmasq-base",
        required=False,
    )
    loader = Path("/usr/lib/ipxe/snponly.efi")
    yield Finding(
        name="iPXE",
        purpose="the boot loader of bare metal",
        good=loader.exists(),
        found=str(loader.parent) if loader.exists() else "",
        hint="apt install ipxe",
        required=False,
    )


def _lab() -> Iterator[Finding]:
    from orchestrator.lab import REQUIRED_COMMANDS

    missing = sorted(name for name in REQUIRED_COMMANDS if not shutil.which(name))
    root = os.geteuid() == 0
    yield Finding(
        name="lab tools",
        purpose="`halligan lab` starts containers",
        good=not missing,
        found="all there" if not missing else "",
        hint=f"not found: {', '.join(missing)}",
        required=False,
    )
    yield Finding(
        name="root",
        purpose="`halligan lab` starts containers",
        good=root,
        found="yes" if root else "",
        hint="run `halligan lab` with sudo",
        required=False,
    )
