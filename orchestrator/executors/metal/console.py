"""What a machine wrote on its serial console during a step, for the step's log."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

__all__ = ["Console"]

_MOST = 64 * 1024  # bytes of one step's log: a kernel that prints without end must not fill the store


@dataclass(frozen=True, slots=True, kw_only=True)
class Console:
    """A file that a console is appended to, and how long it was once. Without a file there is nothing to say."""

    path: Path | None
    offset: int = 0

    @classmethod
    def at_its_end(cls, path: Path | None) -> Console:
        return cls(path=path, offset=path.stat().st_size if path and path.exists() else 0)

    def since(self) -> str:
        """Return what came since, its end if it is much; empty when nothing did."""
        if self.path is None or not self.path.exists():
            return ""
        with self.path.open("rb") as file:
            size = file.seek(0, 2)
            start = self.offset if size >= self.offset else 0  # a file that was begun anew
            file.seek(max(start, size - _MOST))
            text = file.read().decode(errors="replace").replace("\r\n", "\n").strip("\n")
        left_out = f"({size - start - _MOST} bytes left out)\n" if size - start > _MOST else ""
        return f"--- console ---\n{left_out}{text}\n" if text else ""
