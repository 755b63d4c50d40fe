"""Batches through ansible-runner: the only room that knows it.

executor.py  starts, cancels and recovers runs
events.py    ansible-runner's events -> Outcomes, pure
"""

from orchestrator.executors.ansible.executor import AnsibleExecutor

__all__ = ["AnsibleExecutor"]
