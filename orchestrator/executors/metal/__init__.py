"""The life-cycle steps of bare metal: power, discover, match, install, ready.

executor.py   the Executor: an event loop of its own, a task per step
stages.py     what each step does, and what it takes as success
ledger.py     what is believed of machines, kept up to date while steps wait
orders.py     what a machine is told to write: image, disk, first-boot data
"""

from orchestrator.executors.metal.executor import MetalExecutor
from orchestrator.executors.metal.stages import Patience

__all__ = ["MetalExecutor", "Patience"]
