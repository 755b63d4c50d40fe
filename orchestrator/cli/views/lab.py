"""The machines of a local lab."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from orchestrator.cli.views.words import Look, table

if TYPE_CHECKING:
    from orchestrator.lab import NodeStatus

__all__ = ["lab_text"]


def lab_text(nodes: Iterable[NodeStatus], look: Look) -> str:
    rows = [(node.name, node.address, node.state, node.detail) for node in nodes]
    return "\n".join([*table(("node", "address", "state", "detail"), rows, look), ""])
