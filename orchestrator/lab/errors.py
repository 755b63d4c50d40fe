"""What can go wrong in the lab, told to the person who typed the command."""

from __future__ import annotations

from orchestrator.errors import HalliganError

__all__ = ["LabError"]


class LabError(HalliganError):
    """The lab could not be brought into the wanted state; the detail holds the evidence (a log's tail)."""
