"""What the boot service is told by who starts it: one JSON file, readable for its owner only."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from orchestrator.errors import HalliganError, closest
from orchestrator.model import Boot, Json

__all__ = ["Settings"]

_PATHS = ("state_dir", "images", "discovery", "templates", "loaders")
_TUPLES = ("dns", "known_macs", "known_serials", "rescue_keys")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """One site's boot service.

    `store` is a path or URL, `state_dir` a folder of the site's own (keys, records, leases), `boot` the spec's section
    with `interface` and `address` filled in; `network` is the boot network ("10.77.0.0/24"), empty if DHCP is off.
    `images` holds operating systems, `discovery` one discovery image with its manifest.json, `templates` is
    pxe/templates, `loaders` where iPXE's are. A port 0 means any free one. `known_macs` and `known_serials` are those
    that the spec's nodes name: where unknown machines are ignored, these are not. `rescue_keys` are public SSH keys
    that open a machine in rescue. `new_per_minute` bounds how many machines may appear.
    """

    site: str
    store: str
    state_dir: Path
    boot: Boot
    templates: Path
    network: str = ""
    gateway: str = ""
    dns: tuple[str, ...] = ()
    mtu: int = 1500
    images: Path | None = None
    discovery: Path | None = None
    loaders: Path = Path("/usr/lib/ipxe")
    known_macs: tuple[str, ...] = ()
    known_serials: tuple[str, ...] = ()
    rescue_keys: tuple[str, ...] = ()
    new_per_minute: int = 2000
    prefix6: str = ""  # advertised without a router, so that iPXE need not wait for one; of labs only
    probe_s: float = 300.0  # how often we look for another DHCP server

    @classmethod
    def read(cls, path: Path) -> Settings:
        """Read a file that `write` made.

        Raises:
            HalliganError: it cannot be read, or a setting is missing, unknown or of the wrong kind.
        """
        try:
            data = json.loads(path.read_text())
        except OSError as error:
            raise HalliganError(f"cannot read the boot service's settings {path}: {error.strerror}") from None
        except ValueError as error:
            raise HalliganError(f"the boot service's settings {path} are no JSON: {error}") from None
        try:
            return cls._from_json(data)
        except (TypeError, ValueError, AttributeError) as error:
            raise HalliganError(
                f"the boot service's settings {path} are not right: {error}",
                hint="`halligan boot serve SITE` writes them; do not edit them",
            ) from None

    @classmethod
    def _from_json(cls, data: Mapping[str, Any]) -> Settings:
        known = {field.name for field in fields(cls)}
        if unknown := sorted(set(data) - known):
            raise ValueError(f"there is no setting {unknown[0]!r}.{closest(unknown[0], known)}")
        values = {name: value for name, value in data.items() if value is not None}
        values |= {name: Path(values[name]) for name in _PATHS if name in values}
        values |= {name: tuple(values[name]) for name in _TUPLES if name in values}
        values["boot"] = Boot(**values.get("boot", {}))
        return cls(**values)

    def write(self, path: Path) -> None:
        """Write the file for its owner only (a store's URL may hold a password), whole or not at all."""
        data: dict[str, Json] = {name: _plain(value) for name, value in asdict(self).items()}
        partial = path.with_name(f".{path.name}.{os.getpid()}")
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(json.dumps(data, indent=1, sort_keys=True) + "\n")
        partial.replace(path)


def _plain(value: Any) -> Json:
    match value:
        case Path():
            return str(value)
        case tuple():
            return list(value)
    return value
