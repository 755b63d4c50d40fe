"""What systemd tells of a unit (`systemctl show --timestamp=us+utc`), as values."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path

__all__ = ["newer_files", "parse_properties", "started_at"]


def parse_properties(output: str) -> dict[str, str]:
    """Return the properties that `systemctl show` printed, one a line."""
    return dict(line.split("=", 1) for line in output.splitlines() if "=" in line)


def started_at(properties: Mapping[str, str]) -> float | None:
    """When the main process started, in seconds since the epoch; None when the unit does not run."""
    moment = properties.get("ExecMainStartTimestamp", "")
    if properties.get("ActiveState") not in ("active", "reloading") or not moment:
        return None
    # As printed with --timestamp=us+utc: "Sat 2025-11-22 18:36:11.123456 UTC". The weekday depends on the locale.
    told = datetime.strptime(moment.split(" ", 1)[1], "%Y-%m-%d %H:%M:%S.%f UTC")
    return told.replace(tzinfo=UTC).timestamp()


def newer_files(names: Iterable[str | Path], start: float | None) -> list[str]:
    """Return the files that changed since a process started; none where it does not run. Missing files are ignored."""
    if start is None:
        return []
    return sorted(str(name) for name in names if Path(name).exists() and Path(name).stat().st_mtime > start)
