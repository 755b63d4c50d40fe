"""What has to happen: Topology + Snapshot -> Plan, its summary, its document and the reasons of each step.

make.py       the comparison with the last success: create, update, remove, check, or nothing
summary.py    counts, waves, critical path, expected duration, destructive steps
consent.py    destruction, lost quorums and blast radius that apply refuses without agreement
quorum.py     roles that need a majority of their members: what a plan may touch at once
document.py   Plan <-> JSON, with the digest that signs it
select.py     patterns that narrow a plan to nodes, groups or roles
"""

from orchestrator.plan.consent import refusals
from orchestrator.plan.document import dump, parse
from orchestrator.plan.make import make, make_check
from orchestrator.plan.quorum import losses
from orchestrator.plan.select import Selection
from orchestrator.plan.summary import ActionCount, Summary, step_graph, summarize

__all__ = [
    "ActionCount",
    "Selection",
    "Summary",
    "dump",
    "losses",
    "make",
    "make_check",
    "parse",
    "refusals",
    "step_graph",
    "summarize",
]
