"""Executors run batches: `ansible` over SSH and WinRM, `fake` for simulations and tests.

base.py   the Protocol that every executor satisfies; one test suite runs against all of them
fake.py   a behaving double: durations, failures, lost hosts, in virtual or real time
ansible/  ansible-runner, one generic playbook, per-host outcomes while the batch runs
"""

from orchestrator.executors.base import Executor, Report

__all__ = ["Executor", "Report"]
