"""What steps printed, as it was printed, with a line above each that says whose it is."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from orchestrator.cli.views.words import Look, plain, when

if TYPE_CHECKING:
    from orchestrator.store.values import StepLog

__all__ = ["log_text"]


def log_text(logs: Iterable[StepLog], look: Look) -> str:
    """Return the logs, oldest first as people read them. `logs` come newest first."""
    parts = []
    for log in reversed(list(logs)):
        title = f"=== {log.step}, attempt {log.attempt}, {when(log.at)}, run {log.run}"
        parts.append(f"{look.head(title)}\n{plain(log.text).rstrip()}\n")
    return "\n".join(parts)
