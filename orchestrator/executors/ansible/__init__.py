"""Batches through ansible-runner: the only room that knows it.

executor.py  starts, cancels and recovers runs
events.py    ansible-runner's events -> Outcomes, pure
process.py   telling a child process from a later one with its pid, and ending it
"""

from orchestrator.executors.ansible.executor import AnsibleExecutor

__all__ = ["AnsibleExecutor"]
