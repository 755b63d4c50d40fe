"""Use cases, one method each, shared by every door. The composition root: only here are the edges put together.

site.py    a site: load, plan, explain, apply, resume, check, status, forget, secrets
metal.py   its machines: boot service, what is known of them, power, rescue, reinstall, retire, match
labs.py    its local lab: which machines that is, and how they are reached
"""

from orchestrator.service.metal import Machines, Matched, NodeView, TraceLine
from orchestrator.service.site import (
    Explanation,
    Need,
    RunResult,
    Selection,
    Settled,
    Site,
    Status,
    load_plan,
    open_site,
)

__all__ = [
    "Explanation",
    "Machines",
    "Matched",
    "Need",
    "NodeView",
    "RunResult",
    "Selection",
    "Settled",
    "Site",
    "Status",
    "TraceLine",
    "load_plan",
    "open_site",
]
