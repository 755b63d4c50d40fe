"""Rules over facts: which machine is for which node, which disk is written, which cable is where (docs/matching.md).

`check*` say what is wrong with a rule as written, `judge` explains a rule for one machine, `assign` gives machines to
nodes, `pick_disk` chooses the root disk, `wiring` compares cables with LLDP.
"""

from orchestrator.matching.assign import Assignment, Candidate, Wanted, assign, natural
from orchestrator.matching.conditions import Fault
from orchestrator.matching.disks import check_disk, pick_disk
from orchestrator.matching.rules import Clause, Judgement, check, judge
from orchestrator.matching.wires import check_wiring, wiring

__all__ = [
    "Assignment",
    "Candidate",
    "Clause",
    "Fault",
    "Judgement",
    "Wanted",
    "assign",
    "check",
    "check_disk",
    "check_wiring",
    "judge",
    "natural",
    "pick_disk",
    "wiring",
]
