"""Batches through ansible-runner: the only room that knows it.

executor.py starts, cancels and recovers runs; what its events mean is in ../events.py, shared with `carry`.
"""

from orchestrator.executors.ansible.executor import AnsibleExecutor

__all__ = ["AnsibleExecutor"]
