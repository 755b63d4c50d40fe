"""What a machine has of what it must have."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from orchestrator.cli.views.words import Look, count
from orchestrator.model import Status

if TYPE_CHECKING:
    from orchestrator.cli.prerequisites import Finding

__all__ = ["doctor_text"]


def doctor_text(findings: Sequence[Finding], look: Look) -> str:
    width = max(len(finding.name) for finding in findings)
    lines = []
    for finding in findings:
        mark, style = ("ok", Status.OK) if finding.good else ("missing", Status.FAILED)
        if not finding.good and not finding.required:
            mark, style = "without", Status.CHANGED
        lines.append(
            f"{look.paint(mark.ljust(7), style)}  {finding.name.ljust(width)}  {finding.found or finding.purpose}"
        )
        if not finding.good:
            lines.append(f"{' ' * (width + 11)}{look.dim(finding.hint)}")
    missing = sum(not finding.good and finding.required for finding in findings)
    lines += ["", f"{count(missing, 'thing')} missing." if missing else "Ready."]
    return "\n".join([*lines, ""])
