"""What a host needs for a play: parcels that it may have already, settings, and an inventory that only it gets."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from orchestrator import parcels
from orchestrator.inventory import Reveal, batch_inventory
from orchestrator.model import Batch, Connection, Json, StepRun
from orchestrator.parcels import Parcel

__all__ = ["Cargo", "Packer"]

_ON_HOST = Path(__file__).parent / "on_host"
_PLUGINS = ("action", "callback", "filter", "lookup", "module_utils", "modules", "test")
_ENVIRONMENT = {
    "ANSIBLE_STDOUT_CALLBACK": "halligan_events",
    "ANSIBLE_INVENTORY_ENABLED": "ansible.builtin.yaml",
    "ANSIBLE_FORKS": "1",
    "ANSIBLE_PIPELINING": "true",
    "ANSIBLE_NOCOLOR": "true",
    "ANSIBLE_DISPLAY_SKIPPED_HOSTS": "false",
    "ANSIBLE_LOCALHOST_WARNING": "false",
    # How often Ansible looks for a worker's result, in seconds: at its default it spends more CPU on looking than on
    # the work.
    "ANSIBLE_INTERNAL_POLL_INTERVAL": "0.004",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Cargo:
    """What all hosts of a batch need: parcels by name, and how the play is started."""

    parcels: Mapping[str, Parcel]
    start: Mapping[str, Json]


class Packer:
    """Packs what batches need; each role, the tools and ansible-core once."""

    def __init__(self, *, home: Path, roles: Sequence[Path], cache: Path, site: str, secret: Reveal) -> None:
        self._home = home
        self._roles = roles
        self._cache = cache
        self._site = site
        self._secret = secret
        self._packed: dict[str, Parcel] = {}

    def cargo(self, batch: Batch) -> Cargo:
        """Return what every host of a batch needs. Raises FileNotFoundError for a role that is not there."""
        names = (batch.role.name, *batch.role.includes)
        roles = [self._kept(f"role {name} {batch.role.digest}", partial(self._role, name)) for name in names]
        tools = self._kept("tools", self._tools)
        ansible = self._kept("ansible", lambda: parcels.ansible_parcel(self._cache))
        start: dict[str, Json] = {
            "roles": [parcel.name for parcel in roles],
            "tools": tools.name,
            "ansible": ansible.name,
            "options": ["--check", "--diff"] if batch.check else [],
            "env": dict(_ENVIRONMENT),
            "facts": bool(batch.role.facts),
            "timeout": batch.timeout_s,
        }
        return Cargo(parcels={parcel.name: parcel for parcel in (ansible, tools, *roles)}, start=start)

    def inventory(self, batch: Batch, run: StepRun) -> bytes:
        """Return a host's own inventory, secrets in place: its variables and nobody else's."""
        here = replace(run, node=replace(run.node, connection=Connection(transport="local")))
        return json.dumps(batch_inventory(replace(batch, runs=(here,)), self._site, self._secret)).encode()

    def _kept(self, key: str, pack: Callable[[], Parcel]) -> Parcel:
        if key not in self._packed:
            self._packed[key] = pack()
        return self._packed[key]

    def _role(self, name: str) -> Parcel:
        for folder in self._roles:
            if (folder / name).is_dir():
                return _pack("role", {f"{name}/{path}": file for path, file in parcels.role_files(folder / name)})
        raise FileNotFoundError(f"there is no role {name} in {', '.join(map(str, self._roles))}")

    def _tools(self) -> Parcel:
        files = {"play.py": _ON_HOST / "play.py"}
        for name in ("ansible.cfg", "playbooks/run_role.yml"):
            files[name] = self._home / name
        for kind in _PLUGINS:
            folder = self._home / "plugins" / kind
            files |= {f"plugins/{kind}/{path.relative_to(folder)}": path for path in sorted(folder.rglob("*.py"))}
        return _pack("tools", files)


def _pack(kind: str, files: Mapping[str, Path]) -> Parcel:
    return parcels.tree_parcel(kind, parcels.read_tree(files))
